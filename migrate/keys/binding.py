"""Whose key is it? One key may serve several tenants of its customer, never two customers."""

from __future__ import annotations

from collections.abc import Iterable

from migrate.bindings import references
from migrate.errors import RefusedInput
from stacks.layout import Layout
from stacks.record import TenantRecord


def bound_elsewhere(held: Iterable[TenantRecord], layout: Layout, names: set[str]) -> str | None:
    """The tenant of another customer that holds one of these aliases or keys, or ever did; None if there is none."""
    for other in held:
        theirs = references(other.layout)
        if other.layout.customer != layout.customer and theirs & names:
            return other.name
    return None


def refuse_foreign(held: Iterable[TenantRecord], layout: Layout, names: set[str]) -> None:
    """Raises RefusedInput; it does not say whose the key is: that is nobody else's business."""
    if bound_elsewhere(held, layout, names) is not None:
        raise RefusedInput(
            f"this key is bound to another customer than {layout.customer}; one key never serves two. Nothing was changed",
            hint=f"{layout.customer} makes a key of their own: keyshift key policy {layout.tenant}",
            code="key-of-another-customer",
        )


def shared_with(held: Iterable[TenantRecord], layout: Layout, alias: str) -> list[str]:
    """The customer's tenants that hold this alias, this one included: they share one policy."""
    sharing = {
        one.name
        for one in held
        if one.layout.customer == layout.customer and any(key.alias == alias for key in one.layout.keys)
    }
    return sorted(sharing | {layout.tenant})
