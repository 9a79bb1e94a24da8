"""Enable, change, remove: one move of a living tenant from the storage that serves to a new one."""

from __future__ import annotations

from dataclasses import dataclass

from migrate.errors import RefusedInput
from migrate.operations import Move, Phase, Request
from migrate.plan.parts import (
    activated,
    archived,
    checked,
    fit_wait,
    material_wait,
    next_id,
    prove_empty,
    purge_search,
    released,
    search_key,
    unused_key,
    usable_wait,
    watched,
    with_new_key,
    with_pipeline,
    without,
)
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

ONBOARD_WITH = {Mode.BYOKMS: "--alias ARN", Mode.BYOKV: "--vault URI --key NAME --directory ID"}


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Where a tenant moves to. `key` is None for the vendor's, under which the storage is shared."""

    mode: Mode
    key: str | None

    @property
    def kind(self) -> StorageKind:
        return StorageKind.SHARED if self.key is None else StorageKind.DEDICATED

    @property
    def words(self) -> str:
        return "the vendor's key" if self.key is None else self.key


def enable(request: Request, layout: Layout) -> list[Phase]:
    """From the vendor's key to the customer's."""
    mode = _offered_mode(request, layout)
    if layout.mode is not Mode.STANDARD:
        raise RefusedInput(
            f"tenant {layout.tenant} is already in mode {layout.mode}; enable starts from {Mode.STANDARD}",
            hint=f"see what serves: keyshift tenant show {layout.tenant}; another mode: keyshift change {layout.tenant}",
            code="not-standard",
        )
    if mode is Mode.STANDARD:
        raise RefusedInput(
            f"tenant {layout.tenant} is in mode {Mode.STANDARD} already",
            hint=f"keyshift enable {layout.tenant} --mode {Mode.BYOK}",
            code="same-mode",
        )
    return _to_customer_key(request, layout, mode)


def change(request: Request, layout: Layout) -> list[Phase]:
    """From any mode to any other."""
    mode = _offered_mode(request, layout)
    if mode is layout.mode:
        way = (
            f"keyshift rotate {layout.tenant}" if mode is not Mode.STANDARD else f"keyshift tenant show {layout.tenant}"
        )
        raise RefusedInput(
            f"tenant {layout.tenant} is in mode {mode} already",
            hint=f"a new key of the same mode is a rotation: {way}" if mode is not Mode.STANDARD else way,
            code="same-mode",
        )
    if mode is Mode.STANDARD:
        return blue_green(request, layout, Goal(mode=mode, key=None))
    return _to_customer_key(request, layout, mode)


def remove(request: Request, layout: Layout) -> list[Phase]:
    """From the customer's key back to the vendor's."""
    if layout.mode is Mode.STANDARD:
        raise RefusedInput(
            f"tenant {layout.tenant} is in mode {Mode.STANDARD}: there is no customer key to remove",
            hint=f"keyshift tenant show {layout.tenant}",
            code="no-customer-key",
        )
    return blue_green(request, layout, Goal(mode=Mode.STANDARD, key=None))


def _offered_mode(request: Request, layout: Layout) -> Mode:
    wanted = request.mode or Mode.BYOK
    if wanted not in OFFERED[layout.cloud]:
        offered = ", ".join(sorted(m for m in OFFERED[layout.cloud] if m is not Mode.STANDARD))
        raise RefusedInput(
            f"tenant {layout.tenant} is on {layout.cloud}, which does not offer the mode {wanted}",
            hint=f"choose one of {offered}: keyshift {request.kind} {layout.tenant} --mode {Mode.BYOK}",
            code="mode-not-offered",
        )
    return Mode(wanted)


def _to_customer_key(request: Request, layout: Layout, mode: Mode) -> list[Phase]:
    """A key that we make waits for its material; one in the customer's account must be bound beforehand."""
    keyed = layout
    if (key := unused_key(layout, mode)) is None:
        if mode is not Mode.BYOK:
            raise RefusedInput(
                f"tenant {layout.tenant} has no key of its customer for the mode {mode} yet",
                hint=f"bind one first: keyshift key onboard {layout.tenant} {ONBOARD_WITH[mode]}",
                code="no-key-bound",
            )
        keyed = with_new_key(layout)
        key = keyed.keys[-1]
    return [*_awaited(keyed, key), *blue_green(request, keyed, Goal(mode=mode, key=key.id))]


def _awaited(layout: Layout, key: Key) -> list[Phase]:
    if key.state is not KeyState.PENDING:
        return []
    if key.arn is not None:
        title = f"see that {key.id}, a key of the customer's own, can be used"
        return [Phase(name="key", title=title, layout=layout, waits=(fit_wait(layout, key.id),))]
    title = f"make {key.id} and wait for its material"
    return [Phase(name="key", title=title, layout=layout, waits=(material_wait(key.id),))]


def blue_green(request: Request, layout: Layout, goal: Goal) -> list[Phase]:
    """A new storage, search and pipeline beside those that serve; copy, verify, switch; purge and drop the old.

    `layout` holds the goal's key already. Raises RefusedInput while nothing serves.
    """
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so there is nothing to move",
            hint=f"keyshift tenant show {layout.tenant}",
            code="serves-nothing",
        )
    serves, old_key = layout.serves, layout.storage(layout.serves.storage).key
    verdict = {name: f"{request.operation}-{name}" for name in ("storage", "index", "purge")}
    s, e, p = (
        next_id(units, letter, layout.dropped)
        for units, letter in ((layout.storages, "s"), (layout.searches, "e"), (layout.pipelines, "p"))
    )

    keyed = layout if goal.key is None else activated(layout, goal.key, request.materials)
    built = keyed.model_copy(
        update={
            "storages": (
                *watched(layout.storages, serves.storage, is_watched=True),
                Storage(id=s, kind=goal.kind, key=goal.key),
            ),
            "searches": (
                *layout.searches,
                Search(id=e, key=search_key(layout, goal.key), version=layout.search(serves.search).version),
            ),
            "pipelines": (
                *layout.pipelines,
                Pipeline(id=p, storage=s, search=e, state=PipelineState.DETACHED),
            ),
        }
    )
    frozen = built.model_copy(
        update={"gate": Gate(jobs="closed", search_cutoff=request.cutoff, reason=f"{request.operation}: final copy")}
    )
    attached = with_pipeline(frozen, p, PipelineState.RUNNING)
    served = with_pipeline(attached, serves.pipeline, PipelineState.DETACHED).model_copy(
        update={
            "mode": goal.mode,
            "storages": watched(attached.storages, serves.storage, is_watched=False),
            "serves": Serves(storage=s, search=e, pipeline=p),
            "gate": Gate(),
        }
    )
    freed = served.model_copy(
        update={
            "storages": released(served.storages, serves.storage, verdict["storage"]),
            "searches": released(served.searches, serves.search, verdict["index"]),
        }
    )
    dropped = without(
        freed,
        Dropped(id=serves.storage, verdict=verdict["purge"]),
        Dropped(id=serves.search, verdict=verdict["index"]),
        Dropped(id=serves.pipeline, verdict=verdict["index"]),
    )
    if old_key is not None:
        dropped = archived(dropped, old_key)

    between = {"storage": serves.storage, "target": s}
    copy = Move(kind="copy", title=f"copy {serves.storage} to {s}", **between)
    fill = Move(kind="fill", title=f"fill {e} from {s}", search=e, **between)
    return [
        Phase(
            name="build",
            title=f"make {s}, {e} and {p} under {goal.words}; copy while jobs run",
            layout=checked(built),
            waits=tuple(usable_wait(layout, key) for key in (old_key, goal.key) if key is not None),
            moves=(
                Move(kind="preflight", title=f"look for what cannot be moved in {serves.storage}", **between),
                copy,
                Move(kind="verify-copied", title="compare what is copied so far", **between),
                fill,
                copy.model_copy(update={"title": "copy what jobs wrote meanwhile"}),
            ),
        ),
        Phase(
            name="freeze",
            title="close the gate; copy what changed; prove both copies",
            layout=checked(frozen),
            moves=(
                Move(kind="limit-search", title="limit searches to what was archived before", search=serves.search),
                Move(
                    kind="settle",
                    title="wait until every write is refused and nothing moves",
                    pipeline=serves.pipeline,
                    **between,
                ),
                copy.model_copy(update={"title": f"copy what changed in {serves.storage}"}),
                Move(
                    kind="verify-storage",
                    title=f"verify {s} against {serves.storage}",
                    verdict=verdict["storage"],
                    **between,
                ),
                fill.model_copy(update={"title": f"fill {e} with what changed"}),
                Move(
                    kind="verify-index",
                    title=f"verify {e} against {s}",
                    search=e,
                    verdict=verdict["index"],
                    **between,
                ),
            ),
        ),
        Phase(
            name="attach",
            title=f"let events of {s} reach {e}",
            layout=checked(attached),
            moves=(
                Move(kind="limit-search", title=f"limit {e} to the same cut-off", search=e),
                Move(kind="canary", title=f"send one object through {p}", target=s, search=e, pipeline=p),
                Move(
                    kind="still-settled",
                    title=f"see that {serves.storage} is what it was when it settled",
                    **between,
                ),
            ),
        ),
        Phase(
            name="serve",
            title=f"serve {s} and {e}; open the gate",
            layout=checked(served),
            moves=(Move(kind="open-search", title=f"show all of {e}", search=e),),
            reversible=False,
        ),
        Phase(
            name="purge",
            title=f"purge {serves.storage} and {serves.search}",
            layout=checked(freed),
            moves=(
                Move(
                    kind="purge-storage",
                    title=f"delete the verified versions from {serves.storage}",
                    verdict=verdict["storage"],
                    **between,
                ),
                purge_search(serves.search, verdict["index"]),
                prove_empty(serves.storage, serves.search, verdict["purge"]),
            ),
            reversible=False,
        ),
        Phase(
            name="drop",
            title=f"drop {serves.storage}, {serves.search} and {serves.pipeline}",
            layout=checked(dropped),
            reversible=False,
        ),
    ]
