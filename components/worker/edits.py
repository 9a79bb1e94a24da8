"""The way back: what was edited on the search side is applied to the objects.

Edits are append-only documents of one shard, so (primary term, sequence number) puts them into one order. They are
read in it, up to the global checkpoint and after a refresh: anything less was seen to miss some.

**The rule for conflicts**: field by field the last edit in that order wins; an edit that replaced a value which its
author had not seen is applied, and says so; an edit of a record that is deleted is refused, and says so.

**Once, whatever dies**: the object's own metadata holds the position of the last edit applied to it, written by the
same conditional copy as the change. The cursor and the outcomes only save work and tell people: read again from the
very beginning, edits come to the same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .annotations import (
    ANNOTATIONS,
    CONTENT_REVISION,
    EDITED,
    METADATA_LIMIT_BYTES,
    Field,
    MalformedEdit,
    annotated,
    checked,
    is_text,
    weight,
    written,
)
from .document import NotIndexable, content_revision, is_searchable, revision_of

PAGE = 100
ATTEMPTS = 5
COPY_LIMIT_BYTES = 5 * 1024**3
"""S3 copies no larger object in one request (API_CopyObject)."""

APPLIED, UNCHANGED, REFUSED = "applied", "unchanged", "refused"


class Busy(Exception):
    """The object was changed by somebody else at every attempt; the next poll goes on with this edit."""


@dataclass(frozen=True, order=True)
class Position:
    """Where an edit stands in the order of all edits of a search."""

    term: int
    seq: int


@dataclass(frozen=True)
class Edit:
    """One edit as it was written: nothing about `source` is known to be right."""

    id: str
    position: Position
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What an edit came to. `overrode`: fields whose value its author had not seen. `revision`: the object's, after it."""

    edit: Edit
    outcome: str
    reason: str = ""
    revision: int | None = None
    overrode: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """An object as a copy onto itself has to know it. `headers`: what a copy does not keep by itself."""

    metadata: Mapping[str, str]
    size: int
    etag: str
    version_id: str
    headers: Mapping[str, Any] = field(default_factory=dict)


class Objects(Protocol):
    def held(self, key: str) -> Held | None:
        """The object under `key`, or None when there is none now."""
        ...

    def annotate(self, key: str, held: Held, metadata: Mapping[str, str]) -> bool:
        """Give the object other metadata; False if it is not the one that was `held` any more."""
        ...


class Edits(Protocol):
    """The edits of one search, and what is kept about them."""

    def checkpoint(self) -> int:
        """The highest sequence number below which nothing can appear any more; -1 for none."""
        ...

    def page(self, since: int, upto: int) -> Sequence[Edit]:
        """The first edits whose sequence number is in [since, upto], in order; what was acknowledged is seen."""
        ...

    def cursor(self) -> Position | None: ...

    def known(self, ids: Collection[str]) -> Collection[str]:
        """Those of `ids` whose outcome is kept."""
        ...

    def keep(self, outcome: Outcome) -> None:
        """Keep what an edit came to; one that is kept already stays as it is."""
        ...

    def advance(self, position: Position) -> None: ...


@dataclass
class Polled:
    """What one poll did. `is_done`: nothing was left up to the checkpoint."""

    outcomes: list[Outcome] = field(default_factory=list)
    is_done: bool = False
    is_rewound: bool = False
    """The edit at the cursor is not the one it was (a restored search): everything was read again."""


def poll(edits: Edits, objects: Objects, search: str, may_go_on: Callable[[], bool] = lambda: True) -> Polled:
    """Apply what is new. `search`: the number of the search (`e1`), which no other search ever has.

    Raises Busy, and whatever the index and the storage raise; what was applied by then stays applied.
    """
    polled = Polled()
    upto = edits.checkpoint()
    cursor = edits.cursor()
    page = edits.page(cursor.seq if cursor else 0, upto)
    if cursor and not (page and page[0].position == cursor):
        polled.is_rewound, cursor = True, None
        page = edits.page(0, upto)
    if cursor:
        page = page[1:] or edits.page(cursor.seq + 1, upto)
    while page:
        known = edits.known([edit.id for edit in page])
        for edit in page:
            if not may_go_on():
                return polled
            if edit.id not in known:
                outcome = settled(edit, objects, search)
                edits.keep(outcome)
                polled.outcomes.append(outcome)
        edits.advance(page[-1].position)
        page = edits.page(page[-1].position.seq + 1, upto)
    polled.is_done = True
    return polled


def settled(edit: Edit, objects: Objects, search: str) -> Outcome:
    """Apply one edit, or say why not. Raises Busy if others kept changing the object."""
    try:
        key, changes = _asked(edit)
        for _ in range(ATTEMPTS):
            held = objects.held(key)
            if held is None:
                return Outcome(edit, REFUSED, "deleted: the record is not there any more")
            change = _change(edit, held, search, changes)
            if isinstance(change, Outcome):
                return change
            if objects.annotate(key, held, change.metadata):
                return Outcome(edit, APPLIED, revision=change.revision, overrode=change.overrode)
    except (NotIndexable, MalformedEdit) as error:
        return Outcome(edit, REFUSED, f"unreadable: {error}")
    except _RefusedEdit as refused:
        return Outcome(edit, REFUSED, str(refused))
    raise Busy(f"{key!r} was changed by others {ATTEMPTS} times while an edit was applied")


class _RefusedEdit(Exception):
    """No retry applies it; the text says why."""


def _asked(edit: Edit) -> tuple[str, Mapping[str, Any]]:
    """Key and changes, if they are what can be applied at all."""
    key, base = edit.source.get("key"), edit.source.get("base_revision")
    if not is_text(key) or not is_searchable(str(key)):
        raise _RefusedEdit("malformed: its key is no record's and no attachment's")
    if base is not None and (not isinstance(base, int) or isinstance(base, bool)):
        raise _RefusedEdit("malformed: base_revision is not a number")
    try:
        return str(key), checked(edit.source.get("changes"))
    except MalformedEdit as error:
        raise _RefusedEdit(f"malformed: {error}") from error


@dataclass(frozen=True)
class _Change:
    metadata: Mapping[str, str]
    revision: int
    overrode: tuple[str, ...]


def _change(edit: Edit, held: Held, search: str, changes: Mapping[str, Any]) -> _Change | Outcome:
    """The metadata that the edit makes of the object's, or the outcome where there is nothing to change."""
    key, metadata = edit.source["key"], held.metadata
    revision = revision_of(key, metadata)
    marked = _Mark.read(metadata.get(EDITED, ""))
    if marked is not None and marked.search == search and edit.position <= marked.position:
        is_the_last = edit.position == marked.position
        return Outcome(edit, APPLIED, "", revision if is_the_last else None, marked.overrode if is_the_last else ())
    fields = annotated(metadata)
    differing = {name: value for name, value in changes.items() if _value(fields, name) != value}
    if not differing:
        return Outcome(edit, UNCHANGED, revision=revision)
    base = edit.source.get("base_revision")
    overrode = tuple(sorted(n for n in differing if base is not None and n in fields and fields[n].revision > base))
    revision += 1
    fields |= {name: Field(value, revision) for name, value in differing.items()}
    made = {
        **metadata,
        "revision": str(revision),
        CONTENT_REVISION: str(content_revision(key, metadata)),
        ANNOTATIONS: written(fields),
        EDITED: str(_Mark(search, edit.position, overrode)),
    }
    if weight(made) > METADATA_LIMIT_BYTES:
        raise _RefusedEdit(f"too long: S3 keeps {METADATA_LIMIT_BYTES} bytes of metadata with an object")
    if held.size > COPY_LIMIT_BYTES:
        raise _RefusedEdit("too large: S3 gives an object above 5 GiB no other metadata")
    return _Change(made, revision, overrode)


def _value(fields: Mapping[str, Field], name: str) -> Any:
    return fields[name].value if name in fields else None


@dataclass(frozen=True)
class _Mark:
    """What an object remembers of the last edit applied to it."""

    search: str
    position: Position
    overrode: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> _Mark | None:
        """Raises MalformedEdit for what was never written here."""
        if not text:
            return None
        try:
            search, term, seq, overrode = text.split(":")
            return cls(search, Position(int(term), int(seq)), tuple(overrode.split("+")) if overrode else ())
        except ValueError as error:
            raise MalformedEdit(f"{text[:80]!r} is no position of an edit") from error

    def __str__(self) -> str:
        return f"{self.search}:{self.position.term}:{self.position.seq}:{'+'.join(self.overrode)}"
