"""What the plans are put together from: layouts with one thing changed, and the waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from migrate.operations import Move, Wait
from stacks.layout import (
    SEARCHES_UNDER_CUSTOMER_KEYS,
    Dropped,
    Key,
    KeyState,
    Layout,
    Mode,
    PipelineState,
    Search,
    Storage,
)

Unit = TypeVar("Unit", Storage, Search)


def checked(layout: Layout) -> Layout:
    """`model_copy` does not validate; a layout that leaves the planner is whole."""
    return Layout.model_validate(layout.model_dump())


def with_new_key(layout: Layout) -> Layout:
    key = Key(id=next_id(layout.keys, "k"), state=KeyState.PENDING)
    return checked(layout.model_copy(update={"keys": (*layout.keys, key)}))


def activated(layout: Layout, key: str, materials: Mapping[str, str] | None = None) -> Layout:
    """With a key in use, and the material that it was filled with where the cloud pins a storage to it."""
    material = (materials or {}).get(key)
    keys = tuple(k.model_copy(update={"material": material}) if k.id == key and material else k for k in layout.keys)
    return _with_key_state(layout.model_copy(update={"keys": keys}), key, KeyState.ACTIVE)


def search_key(layout: Layout, key: str | None) -> str | None:
    """The key that a search lies under where its storage lies under `key`."""
    return key if layout.cloud in SEARCHES_UNDER_CUSTOMER_KEYS else None


def _with_key_state(layout: Layout, key: str, state: KeyState) -> Layout:
    keys = tuple(k.model_copy(update={"state": state}) if k.id == key else k for k in layout.keys)
    return layout.model_copy(update={"keys": keys})


def watched(storages: tuple[Storage, ...], id: str, *, is_watched: bool) -> tuple[Storage, ...]:
    return tuple(u.model_copy(update={"watched": is_watched}) if u.id == id else u for u in storages)


def without(layout: Layout, *dropped: Dropped) -> Layout:
    gone = {one.id for one in dropped}
    return layout.model_copy(
        update={
            "storages": tuple(u for u in layout.storages if u.id not in gone),
            "searches": tuple(u for u in layout.searches if u.id not in gone),
            "pipelines": tuple(u for u in layout.pipelines if u.id not in gone),
            "dropped": (*layout.dropped, *dropped),
        }
    )


def released(units: tuple[Unit, ...], id: str, verdict: str) -> tuple[Unit, ...]:
    return tuple(u.model_copy(update={"release": verdict}) if u.id == id else u for u in units)


def with_pipeline(layout: Layout, id: str, state: PipelineState) -> Layout:
    pipelines = tuple(p.model_copy(update={"state": state}) if p.id == id else p for p in layout.pipelines)
    return layout.model_copy(update={"pipelines": pipelines})


def unused_key(layout: Layout, mode: Mode = Mode.BYOK) -> Key | None:
    """The newest key of `mode` that may still be taken into use and that nothing uses yet."""
    used, is_theirs = _used_keys(layout), mode is not Mode.BYOK
    states = {KeyState.PENDING, KeyState.ACTIVE}
    fit = [k for k in layout.keys if k.id not in used and k.state in states and (k.arn is not None) is is_theirs]
    return fit[-1] if fit else None


def archived(layout: Layout, key: str, verdict: str | None = None) -> Layout:
    """`layout` with a key that nothing in it uses any more put away, under the verdict that says so."""
    if key in _used_keys(layout):
        return layout
    keys = tuple(k.model_copy(update={"archived_under": verdict}) if k.id == key else k for k in layout.keys)
    return _with_key_state(layout.model_copy(update={"keys": keys}), key, KeyState.ARCHIVED)


def _used_keys(layout: Layout) -> set[str | None]:
    return {unit.key for unit in (*layout.storages, *layout.searches)}


def with_key(layout: Layout, key: Key) -> Layout:
    """`layout` with `key` in the place of the one of its id, or behind the others."""
    ids = [k.id for k in layout.keys]
    keys = tuple(key if k.id == key.id else k for k in layout.keys) if key.id in ids else (*layout.keys, key)
    return layout.model_copy(update={"keys": keys})


def number(id: str) -> int:
    return int(id[1:])


def next_id(units: tuple, letter: str, dropped: tuple[Dropped, ...] = ()) -> str:
    numbers = [int(unit.id[1:]) for unit in units] + [int(d.id[1:]) for d in dropped if d.id[0] == letter]
    return f"{letter}{max(numbers, default=0) + 1}"


def purge_search(search: str, verdict: str) -> Move:
    title = f"delete the indices of {search} and their snapshots"
    return Move(kind="purge-search", title=title, search=search, verdict=verdict)


def prove_empty(storage: str, search: str, verdict: str) -> Move:
    title = f"prove that nothing is left in {storage} and {search}"
    return Move(kind="prove-empty", title=title, storage=storage, search=search, verdict=verdict)


def material_wait(key: str) -> Wait:
    return Wait(
        kind="key-material",
        subject=key,
        person=True,
        reason=f"the customer's wrapped key for {key}",
    )


def fit_wait(layout: Layout, key: str) -> Wait:
    return Wait(kind="key-fit", subject=key, person=True, reason=f"{key} of {layout.tenant} to be fit for use")


def usable_wait(layout: Layout, key: str) -> Wait:
    return Wait(kind="key-usable", subject=key, person=True, reason=f"{key} of {layout.tenant} cannot be used")
