"""The planner: operation + layout -> phases. Pure: no I/O, no clock.

Blue-green falls out of it: the middle layouts hold both storages and both searches; destroying the
old is the last layout, without them. Verdict ids are made here from the operation's id, so that a
layout can name the verdict that frees a unit before that verdict exists; the runner refuses to go
on while the named verdict is not stored.
"""

from __future__ import annotations

from typing import TypeVar

from migrate.errors import RefusedInput
from migrate.operations import Move, OperationKind, Phase, Plan, Request, Wait
from stacks.layout import (
    OFFERED,
    Dropped,
    Gate,
    Key,
    KeyState,
    Layout,
    Mode,
    Pipeline,
    PipelineState,
    Search,
    Serves,
    Storage,
    StorageKind,
)

Unit = TypeVar("Unit", Storage, Search)


def plan(request: Request, layout: Layout) -> Plan:
    """The phases that carry `layout` to where `request` wants it.

    Raises RefusedInput when the operation does not fit the layout; nothing has been changed then.
    """
    phases = _PLANNERS[request.kind](request, layout)
    return Plan(operation=request.operation, kind=request.kind, start=layout, phases=tuple(phases))


def _request_key(_: Request, layout: Layout) -> list[Phase]:
    key = _unused_key(layout)
    if key is None and layout.mode is not Mode.STANDARD:
        raise RefusedInput(
            f"tenant {layout.tenant} is already under its customer's key; another key would be a rotation, "
            "and this version has none: nothing could use the key yet",
            hint=f"see the key in use: keyshift key list {layout.tenant}; "
            f"a later version begins with keyshift rotate {layout.tenant}",
            code="rotation-not-built",
        )
    if key is None:
        layout = _with_new_key(layout)
        key = layout.keys[-1]
    return [Phase(name="key", title=f"make the key {key.id}, empty, to be imported into", layout=layout)]


def _create(_: Request, layout: Layout) -> list[Phase]:
    """A new tenant: standard is whole at once; byok waits for its key and then gets its storage."""
    if layout.mode is Mode.STANDARD or layout.serves is not None:
        return [Phase(name="create", title="make the tenant", layout=layout, reversible=False)]
    key = layout.keys[-1].id
    whole = _active(layout, key).model_copy(
        update={
            "storages": (Storage(id="s1", kind=StorageKind.DEDICATED, key=key),),
            "searches": (Search(id="e1", key=key),),
            "pipelines": (Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
            "serves": Serves(storage="s1", search="e1", pipeline="p1"),
        }
    )
    return [
        Phase(name="key", title=f"make the key {key}", layout=layout, waits=(_material(key),)),
        Phase(name="create", title=f"make the tenant under {key}", layout=_checked(whole), reversible=False),
    ]


def _enable(request: Request, layout: Layout) -> list[Phase]:
    _refuse_unfit_enable(request, layout)
    assert layout.serves is not None  # noqa: S101 - _refuse_unfit_enable has said so to the user
    serves = layout.serves
    verdict = {name: f"{request.operation}-{name}" for name in ("storage", "index", "purge")}

    keyed = layout if _unused_key(layout) else _with_new_key(layout)
    key = _key_to_use(keyed)
    s, e, p = (
        _next(units, letter, layout.dropped)
        for units, letter in ((layout.storages, "s"), (layout.searches, "e"), (layout.pipelines, "p"))
    )
    new_pipeline = Pipeline(id=p, storage=s, search=e, state=PipelineState.DETACHED)

    built = _active(keyed, key).model_copy(
        update={
            "storages": (
                *_watched(layout.storages, serves.storage, is_watched=True),
                Storage(id=s, kind=StorageKind.DEDICATED, key=key),
            ),
            "searches": (*layout.searches, Search(id=e, key=key)),
            "pipelines": (*layout.pipelines, new_pipeline),
        }
    )
    frozen = built.model_copy(
        update={"gate": Gate(jobs="closed", search_cutoff=request.cutoff, reason=f"{request.operation}: final copy")}
    )
    attached = _with_pipeline(frozen, p, PipelineState.RUNNING)
    served = _with_pipeline(attached, serves.pipeline, PipelineState.DETACHED).model_copy(
        update={
            "mode": Mode.BYOK,
            "storages": _watched(attached.storages, serves.storage, is_watched=False),
            "serves": Serves(storage=s, search=e, pipeline=p),
            "gate": Gate(),
        }
    )
    released = served.model_copy(
        update={
            "storages": _released(served.storages, serves.storage, verdict["storage"]),
            "searches": _released(served.searches, serves.search, verdict["index"]),
        }
    )
    dropped = _without(
        released,
        Dropped(id=serves.storage, verdict=verdict["purge"]),
        Dropped(id=serves.search, verdict=verdict["index"]),
        Dropped(id=serves.pipeline, verdict=verdict["index"]),
    )

    copy = Move(kind="copy", title=f"copy {serves.storage} to {s}", storage=serves.storage, target=s)
    fill = Move(kind="fill", title=f"fill {e} from {s}", storage=serves.storage, target=s, search=e)
    key_phase = Phase(name="key", title=f"make {key} and wait for its material", layout=keyed, waits=(_material(key),))
    return [
        *([key_phase] if keyed.key(key).state is KeyState.PENDING else []),
        Phase(
            name="build",
            title=f"make {s}, {e} and {p} under {key}; copy while jobs run",
            layout=_checked(built),
            waits=(_usable(layout, key),),
            moves=(
                Move(
                    kind="preflight",
                    title=f"look for what cannot be moved in {serves.storage}",
                    storage=serves.storage,
                    target=s,
                ),
                copy,
                Move(kind="verify-copied", title="compare what is copied so far", storage=serves.storage, target=s),
                fill,
                copy.model_copy(update={"title": "copy what jobs wrote meanwhile"}),
            ),
        ),
        Phase(
            name="freeze",
            title="close the gate; copy what changed; prove both copies",
            layout=_checked(frozen),
            moves=(
                Move(kind="limit-search", title="limit searches to what was archived before", search=serves.search),
                Move(
                    kind="settle",
                    title="wait until every write is refused and nothing moves",
                    storage=serves.storage,
                    target=s,
                    pipeline=serves.pipeline,
                ),
                copy.model_copy(update={"title": f"copy what changed in {serves.storage}"}),
                Move(
                    kind="verify-storage",
                    title=f"verify {s} against {serves.storage}",
                    storage=serves.storage,
                    target=s,
                    verdict=verdict["storage"],
                ),
                fill.model_copy(update={"title": f"fill {e} with what changed"}),
                Move(
                    kind="verify-index",
                    title=f"verify {e} against {s}",
                    storage=serves.storage,
                    target=s,
                    search=e,
                    verdict=verdict["index"],
                ),
            ),
        ),
        Phase(
            name="attach",
            title=f"let events of {s} reach {e}",
            layout=_checked(attached),
            moves=(
                Move(kind="limit-search", title=f"limit {e} to the same cut-off", search=e),
                Move(kind="canary", title=f"send one object through {p}", target=s, search=e, pipeline=p),
                Move(
                    kind="still-settled",
                    title=f"see that {serves.storage} is what it was when it settled",
                    storage=serves.storage,
                    target=s,
                ),
            ),
        ),
        Phase(
            name="serve",
            title=f"serve {s} and {e}; open the gate",
            layout=_checked(served),
            moves=(Move(kind="open-search", title=f"show all of {e}", search=e),),
            reversible=False,
        ),
        Phase(
            name="purge",
            title=f"purge {serves.storage} and {serves.search}",
            layout=_checked(released),
            moves=(
                Move(
                    kind="purge-storage",
                    title=f"delete the verified versions from {serves.storage}",
                    storage=serves.storage,
                    target=s,
                    verdict=verdict["storage"],
                ),
                Move(
                    kind="purge-search",
                    title=f"delete the indices of {serves.search} and their snapshots",
                    search=serves.search,
                    verdict=verdict["index"],
                ),
                Move(
                    kind="prove-empty",
                    title=f"prove that nothing is left in {serves.storage} and {serves.search}",
                    storage=serves.storage,
                    search=serves.search,
                    verdict=verdict["purge"],
                ),
            ),
            reversible=False,
        ),
        Phase(
            name="drop",
            title=f"drop {serves.storage}, {serves.search} and {serves.pipeline}",
            layout=_checked(dropped),
            reversible=False,
        ),
    ]


def _abort(request: Request, layout: Layout) -> list[Phase]:
    """Back to what served all along, from whatever layout an operation before its cut-over has reached.

    Jobs and searches are let in first: the source has been whole throughout. A key that is not used any more stays,
    as after `key request`: the next operation takes it.
    """
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so there is nothing to go back to",
            hint=f"keyshift resume {layout.tenant}",
            code="serves-nothing",
        )
    serves, verdict = layout.serves, {name: f"{request.operation}-{name}" for name in ("untouched", "purge")}
    reopened = layout.model_copy(
        update={
            "gate": Gate(),
            "storages": _watched(layout.storages, serves.storage, is_watched=False),
            "pipelines": tuple(
                p.model_copy(
                    update={"state": PipelineState.RUNNING if p.id == serves.pipeline else PipelineState.DETACHED}
                )
                for p in layout.pipelines
            ),
        }
    )
    made = {u.id for u in (*layout.storages, *layout.searches, *layout.pipelines)} - set(serves.model_dump().values())
    storage = next((u.id for u in layout.storages if u.id in made), None)
    search = next((u.id for u in layout.searches if u.id in made), None)
    open_search = Move(kind="open-search", title=f"show all of {serves.search}", search=serves.search)
    reopen = Phase(
        name="reopen",
        title=f"serve {serves.storage} and {serves.search} as before; open the gate",
        layout=_checked(reopened),
        moves=(open_search,),
        reversible=False,
    )
    if storage is None or search is None:
        return [reopen]
    released = reopened.model_copy(
        update={
            "storages": _released(reopened.storages, storage, verdict["untouched"]),
            "searches": _released(reopened.searches, search, verdict["untouched"]),
        }
    )
    dropped = _without(released, *(Dropped(id=id, verdict=verdict["purge"]) for id in sorted(made)))
    between = {"storage": serves.storage, "target": storage}
    return [
        reopen.model_copy(
            update={
                "moves": (
                    open_search,
                    Move(
                        kind="prove-untouched",
                        title=f"prove that {serves.storage} still holds all that was copied to {storage}",
                        verdict=verdict["untouched"],
                        **between,
                    ),
                )
            }
        ),
        Phase(
            name="purge",
            title=f"purge {storage} and {search}",
            layout=_checked(released),
            moves=(
                Move(
                    kind="purge-target",
                    title=f"delete what was copied to {storage}",
                    verdict=verdict["untouched"],
                    **between,
                ),
                Move(
                    kind="purge-search",
                    title=f"delete the indices of {search} and their snapshots",
                    search=search,
                    verdict=verdict["untouched"],
                ),
                Move(
                    kind="prove-empty",
                    title=f"prove that nothing is left in {storage} and {search}",
                    storage=storage,
                    search=search,
                    verdict=verdict["purge"],
                ),
            ),
            reversible=False,
        ),
        Phase(name="drop", title=f"drop {', '.join(sorted(made))}", layout=_checked(dropped), reversible=False),
    ]


_PLANNERS = {
    OperationKind.ABORT: _abort,
    OperationKind.CREATE: _create,
    OperationKind.REQUEST: _request_key,
    OperationKind.ENABLE: _enable,
}


def _refuse_unfit_enable(request: Request, layout: Layout) -> None:
    mode = request.mode or Mode.BYOK
    if mode not in OFFERED[layout.cloud]:
        offered = ", ".join(sorted(m for m in OFFERED[layout.cloud] if m is not Mode.STANDARD))
        raise RefusedInput(
            f"tenant {layout.tenant} is on {layout.cloud}, which does not offer the mode {mode}",
            hint=f"choose one of {offered}: keyshift enable {layout.tenant} --mode {Mode.BYOK}",
            code="mode-not-offered",
        )
    if layout.mode is not Mode.STANDARD:
        raise RefusedInput(
            f"tenant {layout.tenant} is already in mode {layout.mode}; enable starts from {Mode.STANDARD}",
            hint=f"see what serves: keyshift tenant show {layout.tenant}",
            code="not-standard",
        )
    if mode != Mode.BYOK:
        raise RefusedInput(
            f"this version cannot enable the mode {mode} yet, only {Mode.BYOK}",
            hint=f"keyshift enable {layout.tenant} --mode {Mode.BYOK}",
            code="mode-not-built",
        )
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so there is nothing to move",
            hint=f"keyshift tenant show {layout.tenant}",
            code="serves-nothing",
        )


def _checked(layout: Layout) -> Layout:
    """`model_copy` does not validate; a layout that leaves the planner is whole."""
    return Layout.model_validate(layout.model_dump())


def _with_new_key(layout: Layout) -> Layout:
    key = Key(id=_next(layout.keys, "k"), state=KeyState.PENDING)
    return _checked(layout.model_copy(update={"keys": (*layout.keys, key)}))


def _active(layout: Layout, key: str) -> Layout:
    keys = tuple(k.model_copy(update={"state": KeyState.ACTIVE}) if k.id == key else k for k in layout.keys)
    return layout.model_copy(update={"keys": keys})


def _watched(storages: tuple[Storage, ...], id: str, *, is_watched: bool) -> tuple[Storage, ...]:
    return tuple(u.model_copy(update={"watched": is_watched}) if u.id == id else u for u in storages)


def _without(layout: Layout, *dropped: Dropped) -> Layout:
    gone = {one.id for one in dropped}
    return layout.model_copy(
        update={
            "storages": tuple(u for u in layout.storages if u.id not in gone),
            "searches": tuple(u for u in layout.searches if u.id not in gone),
            "pipelines": tuple(u for u in layout.pipelines if u.id not in gone),
            "dropped": (*layout.dropped, *dropped),
        }
    )


def _released(units: tuple[Unit, ...], id: str, verdict: str) -> tuple[Unit, ...]:
    return tuple(u.model_copy(update={"release": verdict}) if u.id == id else u for u in units)


def _with_pipeline(layout: Layout, id: str, state: PipelineState) -> Layout:
    pipelines = tuple(p.model_copy(update={"state": state}) if p.id == id else p for p in layout.pipelines)
    return layout.model_copy(update={"pipelines": pipelines})


def _unused_key(layout: Layout) -> Key | None:
    """The newest key that may still be taken into use and that nothing uses yet."""
    used = {unit.key for unit in (*layout.storages, *layout.searches)}
    fit = [k for k in layout.keys if k.id not in used and k.state in {KeyState.PENDING, KeyState.ACTIVE}]
    return fit[-1] if fit else None


def _key_to_use(layout: Layout) -> str:
    key = _unused_key(layout)
    assert key is not None  # noqa: S101 - the caller has just made one
    return key.id


def _next(units: tuple, letter: str, dropped: tuple[Dropped, ...] = ()) -> str:
    numbers = [int(unit.id[1:]) for unit in units] + [int(d.id[1:]) for d in dropped if d.id[0] == letter]
    return f"{letter}{max(numbers, default=0) + 1}"


def _material(key: str) -> Wait:
    return Wait(
        kind="key-material",
        subject=key,
        person=True,
        reason=f"the customer's wrapped key for {key}",
    )


def _usable(layout: Layout, key: str) -> Wait:
    return Wait(kind="key-usable", subject=key, person=True, reason=f"{key} of {layout.tenant} cannot be used")
