"""Access withdrawn and given back: the layouts that agree with what a seal has done by direct calls."""

from __future__ import annotations

from migrate.errors import RefusedInput
from migrate.operations import Phase, Request
from migrate.plan.parts import checked
from stacks.layout import KeyState, Layout

WITHDRAWN = frozenset({KeyState.ACTIVE, KeyState.ARCHIVED})
"""Keys that may hold material: something may still be read with them."""


def revoke(request: Request, layout: Layout) -> list[Phase]:
    """Nobody but the runner gets in, and every key that could open something is withdrawn. All units stay."""
    if is_revoked(layout):
        raise RefusedInput(
            f"tenant {layout.tenant} is revoked already",
            hint=f"once it may be opened again: keyshift restore {layout.tenant}",
            code="revoked-already",
        )
    gate = layout.gate.model_copy(update={"access": "closed", "reason": f"{request.operation}: access is revoked"})
    keys = tuple(
        key.model_copy(update={"state": KeyState.REVOKED}) if key.state in WITHDRAWN else key for key in layout.keys
    )
    shut = checked(layout.model_copy(update={"gate": gate, "keys": keys}))
    return [Phase(name="close", title="withdraw every key and close all access", layout=shut, reversible=False)]


def restore(request: Request, layout: Layout) -> list[Phase]:
    """Access open, the keys as they are in `layout`: what they were is in the record of the revocation."""
    gate = layout.gate.model_copy(update={"access": "open"})
    opened = checked(layout.model_copy(update={"gate": gate}))
    title = f"{request.operation}: open access, once the runner has read what lies there"
    return [Phase(name="open", title=title, layout=opened, reversible=False)]


def is_revoked(layout: Layout) -> bool:
    """Whether a revocation stands: access is closed and no key is left that could open anything."""
    return layout.gate.access == "closed" and (layout.gate.reason or "").endswith(": access is revoked")


def given_back(layout: Layout, before: Layout) -> Layout:
    """`layout` with the keys and the gate's reason as they were `before` the revocation; access stays closed.

    Whatever else has changed since stays as it is.
    """
    states = {key.id: key.state for key in before.keys}
    keys = tuple(key.model_copy(update={"state": states.get(key.id, key.state)}) for key in layout.keys)
    gate = layout.gate.model_copy(update={"reason": before.gate.reason})
    return checked(layout.model_copy(update={"keys": keys, "gate": gate}))
