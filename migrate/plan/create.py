"""The plans of a new tenant and of a new, empty key."""

from __future__ import annotations

from migrate.errors import RefusedInput
from migrate.operations import Phase, Request
from migrate.plan.parts import (
    activated,
    checked,
    fit_wait,
    material_wait,
    search_key,
    unused_key,
    usable_wait,
    with_key,
    with_new_key,
)
from stacks.layout import Layout, Mode, Pipeline, PipelineState, Search, Serves, Storage, StorageKind


def request_key(_: Request, layout: Layout) -> list[Phase]:
    key = unused_key(layout)
    if key is None and layout.mode in {Mode.BYOKMS, Mode.BYOKV}:
        raise RefusedInput(
            f"tenant {layout.tenant} is in mode {layout.mode}: its key is made and rotated by its customer, not here",
            hint=f"a key that we hold is a change of mode: keyshift change {layout.tenant}",
            code="key-in-their-account",
        )
    if key is None:
        layout = with_new_key(layout)
        key = layout.keys[-1]
    return [Phase(name="key", title=f"make the key {key.id}, empty, to be imported into", layout=layout)]


def onboard(request: Request, layout: Layout) -> list[Phase]:
    """A key of the customer's own account is bound to the tenant: its runner may try it from now on."""
    key = request.key
    if layout.mode not in {Mode.STANDARD, Mode.BYOK} and layout.serves is not None:
        raise RefusedInput(
            f"tenant {layout.tenant} is under its customer's own key already; another one is a rotation, "
            "which the customer begins by moving the alias",
            hint=f"look where the alias leads now: keyshift key follow {layout.tenant}",
            code="key-bound",
        )
    if key is None or key.alias is None:
        raise RefusedInput(
            f"no key was named that tenant {layout.tenant} could be bound to",
            hint=f"keyshift key onboard {layout.tenant} --alias ARN",
            code="no-key-named",
        )
    bound = with_key(layout, key)
    if request.on_rotation is not None:
        bound = bound.model_copy(update={"on_rotation": request.on_rotation})
    return [Phase(name="onboard", title=f"let the tenant's runner try {key.id}", layout=checked(bound))]


def create(request: Request, layout: Layout) -> list[Phase]:
    """A new tenant: standard is whole at once; one under its customer's key gets its storage once that key is in.

    Where the key is the customer's own, the roles come first: without them nobody can try it.
    """
    if layout.mode is Mode.STANDARD or layout.serves is not None:
        return [Phase(name="create", title="make the tenant", layout=layout, reversible=False)]
    if not layout.keys:
        return [Phase(name="roles", title="make the roles that will try the customer's key", layout=layout)]
    key, is_theirs = layout.keys[-1].id, layout.keys[-1].arn is not None
    whole = activated(layout, key, request.materials).model_copy(
        update={
            "storages": (Storage(id="s1", kind=StorageKind.DEDICATED, key=key),),
            "searches": (Search(id="e1", key=search_key(layout, key)),),
            "pipelines": (Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
            "serves": Serves(storage="s1", search="e1", pipeline="p1"),
        }
    )
    first = (
        Phase(name="key", title=f"see that {key} can be used", layout=layout, waits=(fit_wait(layout, key),))
        if is_theirs
        else Phase(name="key", title=f"make the key {key}", layout=layout, waits=(material_wait(key),))
    )
    title, waits = f"make the tenant under {key}", (usable_wait(layout, key),) if is_theirs else ()
    return [first, Phase(name="create", title=title, layout=checked(whole), waits=waits, reversible=False)]
