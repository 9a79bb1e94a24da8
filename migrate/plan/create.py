"""The plans of a new tenant and of a new, empty key."""

from __future__ import annotations

from migrate.errors import RefusedInput
from migrate.operations import Phase, Request
from migrate.plan.parts import activated, checked, material_wait, unused_key, with_new_key
from stacks.layout import Layout, Mode, Pipeline, PipelineState, Search, Serves, Storage, StorageKind


def request_key(_: Request, layout: Layout) -> list[Phase]:
    key = unused_key(layout)
    if key is None and layout.mode is Mode.BYOK:
        raise RefusedInput(
            f"tenant {layout.tenant} is already under its customer's key; another key would be a rotation, "
            "and this version has none: nothing could use the key yet",
            hint=f"see the key in use: keyshift key list {layout.tenant}; "
            f"a later version begins with keyshift rotate {layout.tenant}",
            code="rotation-not-built",
        )
    if key is None:
        layout = with_new_key(layout)
        key = layout.keys[-1]
    return [Phase(name="key", title=f"make the key {key.id}, empty, to be imported into", layout=layout)]


def create(_: Request, layout: Layout) -> list[Phase]:
    """A new tenant: standard is whole at once; byok waits for its key and then gets its storage."""
    if layout.mode is Mode.STANDARD or layout.serves is not None:
        return [Phase(name="create", title="make the tenant", layout=layout, reversible=False)]
    key = layout.keys[-1].id
    whole = activated(layout, key).model_copy(
        update={
            "storages": (Storage(id="s1", kind=StorageKind.DEDICATED, key=key),),
            "searches": (Search(id="e1", key=key),),
            "pipelines": (Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
            "serves": Serves(storage="s1", search="e1", pipeline="p1"),
        }
    )
    return [
        Phase(name="key", title=f"make the key {key}", layout=layout, waits=(material_wait(key),)),
        Phase(name="create", title=f"make the tenant under {key}", layout=checked(whole), reversible=False),
    ]
