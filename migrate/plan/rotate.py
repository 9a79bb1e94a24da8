"""Rotate, and what it is made of: a new search on the storage that serves, with or without a new key under both."""

from __future__ import annotations

from dataclasses import dataclass

from migrate.errors import RefusedInput
from migrate.operations import Move, Phase, Request
from migrate.plan.parts import (
    activated,
    archived,
    checked,
    material_wait,
    next_id,
    number,
    purge_search,
    released,
    search_key,
    unused_key,
    usable_wait,
    with_new_key,
    with_pipeline,
    without,
)
from stacks.layout import (
    Dropped,
    Gate,
    KeyState,
    Layout,
    Mode,
    Pipeline,
    PipelineState,
    Search,
    Serves,
    Storage,
)


def rotate(request: Request, layout: Layout) -> list[Phase]:
    """A new key in our account: the storage is re-keyed in place, the search is made anew, the old key put away.

    With `request.vendor_key` the stamp has a new key and has re-keyed the shared storage: what is left is the search.
    """
    if request.vendor_key is not None and layout.mode is Mode.STANDARD:
        return rebuild_search(request, layout)
    _refuse_unless_ours(layout)
    keyed = layout if unused_key(layout) else with_new_key(layout)
    key = unused_key(keyed)
    assert key is not None  # noqa: S101 - just made
    awaited = []
    if key.state is KeyState.PENDING:
        title = f"make {key.id} and wait for its material"
        awaited = [Phase(name="key", title=title, layout=keyed, waits=(material_wait(key.id),))]
    searched = search_key(keyed, key.id)
    if searched is None:
        return [*awaited, *_redirected(request, keyed, key.id)]
    return [*awaited, *_on_the_same_storage(request, keyed, search_key=searched, storage_key=key.id)]


def _refuse_unless_ours(layout: Layout) -> None:
    if layout.mode is Mode.BYOK:
        return
    if layout.mode is Mode.STANDARD:
        raise RefusedInput(
            f"tenant {layout.tenant} is in mode {Mode.STANDARD}: it is under the vendor's key, which is its stamp's",
            hint=f"keyshift stamp rotate {layout.stamp}; or under its customer's key: keyshift enable {layout.tenant}",
            code="no-customer-key",
        )
    raise RefusedInput(
        f"tenant {layout.tenant} is in mode {layout.mode}: its customer rotates the key, in an account of their own",
        hint=f"once they have: keyshift status {layout.tenant}",
        code="key-in-their-account",
    )


def rebuild_search(request: Request, layout: Layout, *, version: str | None = None) -> list[Phase]:
    """A new search under the same key, filled from the storage that serves; nothing of the storage changes.

    `version`: of the new search, that of the old one if none is given.
    """
    now = _serving(layout)
    return _on_the_same_storage(
        request, layout, search_key=now.search_key, storage_key=now.storage_key, version=version
    )


def _redirected(request: Request, layout: Layout, key: str) -> list[Phase]:
    """Where the cloud wraps a storage's own keys anew and the search lies under no key of the customer's.

    Nothing is moved and nothing closed: the storage is pinned to the new key, proved to have come to it, and only then
    is the old one put out of use.
    """
    now = _serving(layout)
    old, verdict = now.storage_key, f"{request.operation}-drained"
    redirected = _stored_under(activated(layout, key, request.materials), now.serves.storage, key)
    put_away = redirected if old is None else archived(redirected, old, verdict)
    _, drain = _in_place(now.serves.storage, old, key)
    return [
        Phase(
            name="redirect",
            title=f"pin {now.serves.storage} to {key}; see that it has come to it",
            layout=checked(redirected),
            waits=tuple(usable_wait(layout, one) for one in (old,) if one is not None),
            moves=(drain.model_copy(update={"verdict": verdict}),),
        ),
        Phase(
            name="retire",
            title=f"put {old} out of use",
            layout=checked(put_away),
            moves=(Move(kind="retire-key", title=f"disable {old}", key=old, verdict=verdict),),
            reversible=False,
        ),
    ]


def _redirected_back(request: Request, layout: Layout) -> list[Phase] | None:
    """From a redirection that was not proved yet; None for a layout in which nothing was redirected."""
    now = _serving(layout)
    if search_key(layout, now.storage_key) is not None or len(layout.storages) + len(layout.searches) > 2:
        return None
    ours = [k.id for k in layout.keys if k.arn is None and k.state is KeyState.ACTIVE and k.id != now.storage_key]
    if now.storage_key is None or layout.key(now.storage_key).arn is not None or not ours:
        return None
    old = ours[-1] if number(ours[-1]) < number(now.storage_key) else None
    if old is None:
        return None
    reopened = _stored_under(layout, now.serves.storage, old).model_copy(update={"gate": Gate()})
    _, drain = _in_place(now.serves.storage, now.storage_key, old)
    verdict = f"{request.operation}-drained"
    return [
        Phase(
            name="reopen",
            title=f"pin {now.serves.storage} to {old} again",
            layout=checked(reopened),
            moves=(drain.model_copy(update={"verdict": verdict}),),
            reversible=False,
        )
    ]


def abort_rotation(request: Request, layout: Layout) -> list[Phase] | None:
    """Back to the old key and search, proved, from whatever phase was reached; None for a layout of another kind.

    The serving search is under the old key until the new one serves: that tells which key to go back to.
    """
    now = _serving(layout)
    made = next((unit for unit in layout.searches if unit.id != now.serves.search), None)
    if made is None and (back := _redirected_back(request, layout)) is not None:
        return back
    if made is None or len(layout.storages) > 1:
        return None
    pipelines = [unit.id for unit in layout.pipelines if unit.search == made.id]
    verdict = f"{request.operation}-drained"
    is_rekeyed = made.key != now.search_key
    stays = now.search_key if is_rekeyed or search_key(layout, now.storage_key) is not None else now.storage_key
    reopened = _stored_under(layout, now.serves.storage, stays).model_copy(update={"gate": Gate()})
    reopened = with_pipeline(reopened, now.serves.pipeline, PipelineState.RUNNING)
    for id in pipelines:
        reopened = with_pipeline(reopened, id, PipelineState.DETACHED)
    freed = reopened.model_copy(update={"searches": released(reopened.searches, made.id, verdict)})
    gone = [made.id, *pipelines]
    dropped = without(freed, *(Dropped(id=id, verdict=verdict) for id in gone))
    opened = Move(kind="open-search", title=f"show all of {now.serves.search}", search=now.serves.search)
    rekey, drain = _in_place(now.serves.storage, made.key if is_rekeyed else None, stays)
    return [
        Phase(
            name="reopen",
            title=f"serve {now.serves.storage} and {now.serves.search} as before; back to {_named(stays)}",
            layout=checked(reopened),
            moves=(opened, *((rekey,) if is_rekeyed else ()), drain.model_copy(update={"verdict": verdict})),
            reversible=False,
        ),
        Phase(
            name="purge",
            title=f"purge {made.id}",
            layout=checked(freed),
            moves=(purge_search(made.id, verdict),),
            reversible=False,
        ),
        Phase(name="drop", title=f"drop {', '.join(gone)}", layout=checked(dropped), reversible=False),
    ]


def _on_the_same_storage(
    request: Request, layout: Layout, *, search_key: str | None, storage_key: str | None, version: str | None = None
) -> list[Phase]:
    """A new search and pipeline under `search_key` beside those that serve; the storage comes under `storage_key`.

    The search is made, and the key used, before the storage is redirected: what is wrong with the key shows while
    nothing depends on it, and searches are limited for no longer than the fill takes.
    """
    now = _serving(layout)
    key, serves, rekeys = storage_key, now.serves, storage_key != now.storage_key
    verdict = {name: f"{request.operation}-{name}" for name in ("index", "drained")}
    e, p = next_id(layout.searches, "e", layout.dropped), next_id(layout.pipelines, "p", layout.dropped)
    new = Search(id=e, key=search_key, version=version or layout.search(serves.search).version)
    keyed = layout if key is None else activated(layout, key, request.materials)
    built = keyed.model_copy(
        update={
            "searches": (*layout.searches, new),
            "pipelines": (
                *layout.pipelines,
                Pipeline(id=p, storage=serves.storage, search=e, state=PipelineState.DETACHED),
            ),
        }
    )
    gate = layout.gate.model_copy(
        update={"search_cutoff": request.cutoff, "reason": f"{request.operation}: a new search is filled"}
    )
    redirected = with_pipeline(_stored_under(built, serves.storage, key), p, PipelineState.RUNNING)
    redirected = redirected.model_copy(update={"gate": gate})
    served = with_pipeline(redirected, serves.pipeline, PipelineState.DETACHED).model_copy(
        update={"serves": Serves(storage=serves.storage, search=e, pipeline=p), "gate": Gate()}
    )
    freed = served.model_copy(update={"searches": released(served.searches, serves.search, verdict["index"])})
    dropped = without(
        freed,
        Dropped(id=serves.search, verdict=verdict["index"]),
        Dropped(id=serves.pipeline, verdict=verdict["index"]),
    )
    if rekeys and now.storage_key is not None:
        dropped = archived(dropped, now.storage_key, verdict["drained"])

    filled = _of(serves.storage)
    rekey, drain = _in_place(serves.storage, now.storage_key, key)
    keys = dict.fromkeys(k for k in (now.storage_key, key) if k is not None)
    preflight = Move(kind="preflight", title=f"look for what cannot be re-keyed in {serves.storage}", **filled)
    listed = Move(kind="list", title=f"list {serves.storage}", **filled)
    return [
        Phase(
            name="build",
            title=f"make {e}{f' ({version})' if version else ''} and {p} under {_named(search_key)}",
            layout=checked(built),
            waits=tuple(usable_wait(layout, one) for one in keys),
            moves=(preflight,) if rekeys else (),
        ),
        Phase(
            name="redirect" if rekeys else "fill",
            title=f"{f'redirect {serves.storage} to {key}; re-key what lies in it; ' if rekeys else ''}fill {e}",
            layout=checked(redirected),
            moves=(
                Move(kind="limit-search", title="limit searches to what was archived before", search=serves.search),
                *((rekey, drain) if rekeys else (listed,)),
                Move(kind="fill", title=f"fill {e} from {serves.storage}", search=e, **filled),
                Move(
                    kind="verify-live-index",
                    title=f"verify {e} against {serves.storage} while jobs write",
                    search=e,
                    verdict=verdict["index"],
                    **filled,
                ),
            ),
        ),
        Phase(
            name="serve",
            title=f"serve {e}; searches see all",
            layout=checked(served),
            moves=(
                Move(kind="open-search", title=f"show all of {e}", search=e),
                *((drain.model_copy(update={"verdict": verdict["drained"]}),) if rekeys else ()),
            ),
            reversible=False,
        ),
        Phase(
            name="purge",
            title=f"purge {serves.search}",
            layout=checked(freed),
            moves=(purge_search(serves.search, verdict["index"]),),
            reversible=False,
        ),
        Phase(
            name="drop",
            title=f"drop {serves.search} and {serves.pipeline}{f'; archive {now.storage_key}' if rekeys else ''}",
            layout=checked(dropped),
            reversible=False,
        ),
    ]


@dataclass(frozen=True)
class _Now:
    """What serves, and the keys under it."""

    serves: Serves
    storage_key: str | None
    search_key: str | None


def _serving(layout: Layout) -> _Now:
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so there is nothing to rotate",
            hint=f"keyshift resume {layout.tenant}",
            code="serves-nothing",
        )
    serves = layout.serves
    return _Now(serves, layout.storage(serves.storage).key, layout.search(serves.search).key)


def _in_place(storage: str, old: str | None, new: str | None) -> tuple[Move, Move]:
    """The two moves by which a storage comes from one key to another."""
    into = f"re-key every version of {storage} to {_named(new)}, in place"
    left = f"see that nothing of {storage} is under {old or f'another key than {_named(new)}'}"
    return (
        Move(kind="rekey", title=into, key=old, **_of(storage)),
        Move(kind="drain", title=left, key=old, **_of(storage)),
    )


def _of(storage: str) -> dict[str, str]:
    """In place: the storage is its own target."""
    return {"storage": storage, "target": storage}


def _stored_under(layout: Layout, storage: str, key: str | None) -> Layout:
    storages: tuple[Storage, ...] = tuple(
        unit.model_copy(update={"key": key}) if unit.id == storage else unit for unit in layout.storages
    )
    return layout.model_copy(update={"storages": storages})


def _named(key: str | None) -> str:
    return key or "the vendor's key"
