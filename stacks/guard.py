"""Whether this run may go on: what the stack file says against what the tenant record says.

A stale stack file in someone's checkout would otherwise delete a live bucket by a plain `pulumi up`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime

import pulumi
import sqlalchemy as sql

from stacks import record as records
from stacks.config import TenantSettings
from stacks.errors import GuardError
from stacks.first import first_layout
from stacks.layout import Layout
from stacks.record import TenantRecord

FENCE_VARIABLE = "KEYSHIFT_FENCE"
PROPOSED_VARIABLE = "KEYSHIFT_PROPOSED"
"""Set by a dry run: the stack file holds a layout that the record does not (yet). For previews only."""
VERDICT_HOOK = "keyshift-verdict-before-delete"
STAMP_HOOK = "keyshift-empty-stamp-before-delete"


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The layout to build, its generation, and whether the record has to be made first."""

    layout: Layout
    generation: int
    is_new: bool


def admit(settings: TenantSettings, engine: sql.Engine, *, is_preview: bool) -> Admitted:
    """Judges the run and, on a real one, makes the record of a new tenant. Raises GuardError.

    `is_preview` is the engine's word, which no variable of the caller's can change.
    """
    is_proposed = PROPOSED_VARIABLE in os.environ
    if is_proposed and not is_preview:
        raise GuardError(
            f"{PROPOSED_VARIABLE} is set, which lets a layout of tenant {settings.tenant} be previewed that is not "
            "its own; this run is no preview",
            hint=f"unset {PROPOSED_VARIABLE}",
        )
    admitted = judge(
        settings,
        records.find(engine, settings.tenant),
        fence=_fence(settings.tenant, os.environ.get(FENCE_VARIABLE)),
        now=datetime.now(UTC),
        is_proposed=is_proposed,
    )
    if admitted.is_new and not is_preview:
        try:
            records.insert(engine, admitted.layout)
        except records.NameTaken as error:
            raise GuardError(
                f"somebody else has just made the tenant {settings.tenant}", hint=_render(settings.tenant)
            ) from error
    return admitted


def judge(
    settings: TenantSettings,
    record: TenantRecord | None,
    *,
    fence: int | None,
    now: datetime,
    is_proposed: bool = False,
) -> Admitted:
    """What to build, from the stack's settings and the tenant's record alone. Raises GuardError.

    `fence` is the number under which the caller acts; None for a person's run. `is_proposed`: a preview of
    a layout that follows on the record's, so only the generation that it follows on has to agree.
    """
    if record is not None:
        _refuse_archived(record)
        _refuse_without_lease(record, fence=fence, now=now)
    admitted = (
        _rendered(settings, record, is_proposed=is_proposed) if settings.rendered else _unrendered(settings, record)
    )
    if record is not None and record.sealed and admitted.layout.gate.access != "closed":
        raise GuardError(
            f"tenant {record.name} is sealed, and this layout would open it again",
            hint=f"keyshift restore {record.name}",
        )
    return admitted


def verdict_hook(layout: Layout) -> pulumi.ResourceHook:
    """Refuses every delete of a stateful resource whose unit the layout has not dropped under a verdict.

    One hook by one constant name: the engine runs the hooks recorded in the state, and a delete
    happens when the resource is no longer in the program.
    """

    def refuse(args: pulumi.ResourceHookArgs) -> None:
        unit = args.name.split("-")[0]
        if layout.verdict_for_drop(unit) is None:
            raise GuardError(
                f"{args.name} of tenant {layout.tenant} would be deleted, and no verdict covers {unit}",
                hint=f"keyshift status {layout.tenant}",
            )

    return pulumi.ResourceHook(VERDICT_HOOK, refuse, pulumi.ResourceHookOptions(on_dry_run=False))


def stamp_hook(stamp: str, engine: sql.Engine) -> pulumi.ResourceHook:
    """Refuses to delete the shared bucket or the vendor's key of a stamp that still holds tenants."""

    def refuse(args: pulumi.ResourceHookArgs) -> None:
        tenants = records.living_on(engine, stamp)
        if tenants:
            raise GuardError(
                f"{args.name} of {stamp} would be deleted, and {len(tenants)} tenants sit on it: {', '.join(tenants)}",
                hint="move or delete the tenants first",
            )

    return pulumi.ResourceHook(STAMP_HOOK, refuse, pulumi.ResourceHookOptions(on_dry_run=False))


def _refuse_archived(record: TenantRecord) -> None:
    if record.archived:
        raise GuardError(
            f"the tenant {record.name} was deleted; its name is not used again, so that nothing of it comes back",
            hint="choose another name",
        )


def _refuse_without_lease(record: TenantRecord, *, fence: int | None, now: datetime) -> None:
    if fence is not None:
        if fence != record.lease_fence:
            raise GuardError(
                f"this run acts on tenant {record.name} under fence {fence}, but the lease has gone on "
                f"to {record.lease_owner or 'nobody'} with fence {record.lease_fence}",
                hint=f"keyshift status {record.name}",
            )
        return
    if record.lease_until is not None and record.lease_until > now:
        raise GuardError(
            f"tenant {record.name} is being worked on by {record.lease_owner} "
            f"(lease until {record.lease_until:%H:%M:%S} UTC)",
            hint=f"keyshift status {record.name} --watch",
        )


def _rendered(settings: TenantSettings, record: TenantRecord | None, *, is_proposed: bool) -> Admitted:
    rendered = settings.rendered
    if rendered is None:
        raise ValueError("only for settings that hold a layout")
    layout, tenant = rendered.layout, settings.tenant
    if layout.tenant != tenant:
        raise GuardError(
            f"the stack file of tenant {tenant} holds the layout of tenant {layout.tenant}", hint=_render(tenant)
        )
    if layout.digest() != rendered.digest:
        raise GuardError(
            f"the layout in the stack file of tenant {tenant} was edited by hand: it does not match its own digest",
            hint=_render(tenant),
        )
    if record is None:
        raise GuardError(
            f"the stack file of tenant {tenant} holds a layout, but there is no record of that tenant here",
            hint="point KEYSHIFT_DATABASE_URL at the record database",
        )
    known = rendered.digest if is_proposed else record.digest
    if (rendered.generation, rendered.digest) != (record.generation, known):
        raise GuardError(
            f"the stack file of tenant {tenant} is at generation {rendered.generation} ({rendered.digest[:8]}), "
            f"the record at generation {record.generation} ({record.digest[:8]})",
            hint=_render(tenant),
        )
    _refuse_other_words(settings, layout)
    return Admitted(layout=layout, generation=rendered.generation, is_new=False)


def _unrendered(settings: TenantSettings, record: TenantRecord | None) -> Admitted:
    layout = first_layout(settings)
    if record is None:
        return Admitted(layout=layout, generation=1, is_new=True)
    if layout.digest() != record.digest:
        raise GuardError(
            f"the stack file of tenant {settings.tenant} describes a new tenant in mode {layout.mode}, but the tenant "
            f"exists at generation {record.generation} in mode {record.layout.mode}",
            hint=_render(settings.tenant),
        )
    return Admitted(layout=layout, generation=record.generation, is_new=False)


def _refuse_other_words(settings: TenantSettings, layout: Layout) -> None:
    """The scalars beside a layout only repeat it; a changed one is a wish that needs an operation."""
    if settings.key_mode is not layout.mode:
        raise GuardError(
            f"keyshift:keyMode is {settings.key_mode}, but tenant {layout.tenant} is in mode {layout.mode}; "
            "an existing tenant changes its mode by an operation, not by configuration",
            hint=f"keyshift enable {layout.tenant} --mode {settings.key_mode}, or {_render(layout.tenant)}",
        )
    said = {"cloud": settings.cloud, "region": settings.region, "stamp": settings.stamp, "customer": settings.customer}
    for name, value in said.items():
        if value != getattr(layout, name):
            raise GuardError(
                f"keyshift:{name} is {value}, but tenant {layout.tenant} has {getattr(layout, name)}",
                hint=_render(layout.tenant),
            )


def _fence(tenant: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise GuardError(f"{FENCE_VARIABLE} is {text!r} for tenant {tenant}; it must be a whole number")
    return int(text)


def _render(tenant: str) -> str:
    return f"keyshift stack render {tenant}"
