"""The manifest: one row an object version, in a SQLite file of the move's own.

It is what makes a copy resumable (a row is done or it is not), a verification complete (every row,
and nothing but the rows) and a purge safe (only what stands here is deleted). One thread uses it.

A row's life: `listed` → `copying` → `copied` → `verified` → `purged`. `copying` is written before
the call, so that after a kill exactly these rows are looked at again. `vanished`: a later listing no
longer found it at the source.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Self

from migrate.copy.places import as_place
from migrate.copy.store import Entry, Place
from migrate.errors import Conflict, RefusedInput, VerificationFailed

FORMAT = "1"
PAGE = 500
EXAMPLES = 10
NULL_VERSION = "null"
NEWER = "is there, but not in the manifest"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,                 -- UTF-8: sorts as S3 sorts
    version_id TEXT NOT NULL,
    age INTEGER NOT NULL,              -- its place in the last listing: the higher, the older
    etag TEXT NOT NULL,
    size INTEGER NOT NULL,
    last_modified TEXT NOT NULL,
    is_latest INTEGER NOT NULL,
    is_delete_marker INTEGER NOT NULL,
    storage_class TEXT NOT NULL,
    seen INTEGER NOT NULL,             -- the last pass that listed it
    state TEXT NOT NULL,
    target_version_id TEXT,
    target_etag TEXT,
    checksum TEXT,                     -- of the whole object, as both sides have it
    verified_in TEXT,                  -- the verification that compared it
    UNIQUE (key, version_id)
);
CREATE INDEX IF NOT EXISTS by_state ON versions (state, key);
CREATE UNIQUE INDEX IF NOT EXISTS by_target ON versions (key, target_version_id);
"""


class State(StrEnum):
    LISTED = "listed"
    COPYING = "copying"
    COPIED = "copied"
    VERIFIED = "verified"
    PURGED = "purged"
    VANISHED = "vanished"


class Where(StrEnum):
    """Which of the two storages a version id belongs to."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True)
class Row:
    """An object version at the source and, once copied, at the target. `ordinal`: 1 is the key's oldest."""

    id: int
    key: str
    version_id: str
    ordinal: int
    etag: str
    size: int
    is_latest: bool
    is_delete_marker: bool
    storage_class: str
    state: State
    target_version_id: str | None
    target_etag: str | None
    checksum: str | None
    verified_in: str | None


@dataclass(frozen=True)
class Copied:
    """A row that is at the target now."""

    id: int
    target_version_id: str
    target_etag: str


@dataclass(frozen=True)
class Totals:
    """What the manifest holds. `objects` are keys whose latest version is not a delete marker."""

    versions: int
    delete_markers: int
    objects: int
    bytes: int
    pending: int
    pending_bytes: int


@dataclass(frozen=True)
class Differences:
    """What a listing has that the manifest has not (`unknown`), and the reverse (`missing`).

    `disordered`: there, but not in the same place among the versions of its key.
    """

    compared: int
    unknown: int
    missing: int
    disordered: int
    examples: tuple[str, ...]

    @property
    def none(self) -> bool:
        return not (self.unknown or self.missing or self.disordered)


class Manifest:
    """The rows of one move. Open it with `Manifest.open`, close it when the step ends."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    @classmethod
    def open(cls, path: Path, source: Place, target: Place | None = None) -> Self:
        """Open the manifest at `path`, or begin it. Raises Conflict if it belongs to other storages."""
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        manifest = cls(database)
        about = {"format": FORMAT, "source": asdict(source), "target": asdict(target) if target else None}
        mine = json.dumps(about, sort_keys=True)
        found = manifest.note_once("about", mine)
        if found != mine:
            database.close()
            raise Conflict(
                f"the manifest {path.name} is of another move ({found}), this one is {mine}",
                hint="a manifest serves one move; name another file",
                code="manifest-of-another-move",
            )
        return manifest

    @classmethod
    def existing(cls, path: Path) -> Self:
        """Open the manifest of a move that is over. Raises VerificationFailed if it is not there any more."""
        if not path.is_file():
            raise VerificationFailed(
                f"the manifest {path.parent.name}/{path.name} is gone; without it nothing can be recomputed",
                hint="bring it back from a copy of the state folder",
                code="no-manifest",
            )
        return cls(sqlite3.connect(path, isolation_level=None))

    def storage(self, where: Where) -> Place:
        """One of the two storages that the manifest is about."""
        about = json.loads(self.noted("about") or "{}")
        return as_place(about[where])

    @property
    def connection(self) -> sqlite3.Connection:
        """For the tables that other moves keep in this file."""
        return self._db

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself has rolled back where the disk is full
                self._db.execute("ROLLBACK")
            raise

    def note(self, name: str, value: str) -> None:
        """Keep one fact of the move, replacing what stood under `name`."""
        self._db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def note_once(self, name: str, value: str) -> str:
        """Keep `value` under `name` unless something stands there; returns what stands there."""
        self._db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, value))
        return str(self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()[0])

    def noted(self, name: str) -> str | None:
        found = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def forget_note(self, name: str) -> None:
        self._db.execute("DELETE FROM about WHERE name = ?", (name,))

    # listing ----------------------------------------------------------------------------------

    def take(self, entries: Iterable[Entry], listed: Callable[[int], None]) -> int:
        """Take one whole listing of the source in; returns the number of this pass.

        What is new becomes `listed`. What an earlier pass knew and this one did not find becomes
        `vanished`, but only once the listing has come to its end. Raises RefusedInput for a version
        without an id: it was written before the bucket kept versions, and nothing pins it.
        """
        number = int(self.noted("pass") or 0) + 1
        self.note("pass", str(number))
        age = 0
        for page in _pages(entries, PAGE):
            with self.transaction() as database:
                database.executemany(
                    """INSERT INTO versions (key, version_id, age, etag, size, last_modified, is_latest,
                                             is_delete_marker, storage_class, seen, state)
                       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'listed')
                       ON CONFLICT (key, version_id) DO UPDATE SET age = excluded.age, seen = excluded.seen,
                           is_latest = excluded.is_latest,
                           storage_class = CASE WHEN target_version_id IS NULL THEN excluded.storage_class
                                                ELSE storage_class END""",
                    [_listed(entry, age + n, number) for n, entry in enumerate(page)],
                )
            age += len(page)
            listed(len(page))
        with self.transaction() as database:
            database.execute("UPDATE versions SET state = 'vanished' WHERE seen < ?", (number,))
            database.execute("DELETE FROM versions WHERE state = 'vanished' AND target_version_id IS NULL")
        return number

    # copying ----------------------------------------------------------------------------------

    def hand_out(self, keys: int = 64) -> Iterator[list[Row]]:
        """The keys that have something to copy, each as all its rows, the oldest first.

        Rows to copy are marked `copying` before they are given out. A key is given out once a call.
        """
        after = b""
        while True:
            found = self._db.execute(
                """SELECT DISTINCT key FROM versions INDEXED BY by_state
                   WHERE state = 'listed' AND key >= ? ORDER BY key LIMIT ?""",
                (after, keys),
            ).fetchall()
            if not found:
                return
            with self.transaction() as database:
                database.executemany("UPDATE versions SET state = 'copying' WHERE key = ? AND state = 'listed'", found)
            after = found[-1][0] + b"\0"
            for (key,) in found:
                yield self.of_key(key.decode())

    def interrupted(self) -> list[list[Row]]:
        """The keys whose copying was cut off: what was handed out and never marked as done."""
        found = self._db.execute("SELECT DISTINCT key FROM versions WHERE state = 'copying' ORDER BY key").fetchall()
        return [self.of_key(key.decode()) for (key,) in found]

    def copied(self, rows: Iterable[Copied]) -> None:
        """These rows are at the target."""
        with self.transaction() as database:
            database.executemany(
                "UPDATE versions SET state = 'copied', target_version_id = ?, target_etag = ? WHERE id = ?",
                [(row.target_version_id, row.target_etag, row.id) for row in rows],
            )

    def put_back(self, key: str) -> None:
        """What is `copying` of this key has not happened: it is to be copied."""
        self._db.execute("UPDATE versions SET state = 'listed' WHERE key = ? AND state = 'copying'", (key.encode(),))

    def vanished(self) -> list[Row]:
        """Rows that were copied and have been deleted at the source since."""
        return [
            row
            for (key,) in self._db.execute("SELECT DISTINCT key FROM versions WHERE state = 'vanished'").fetchall()
            for row in self.of_key(key.decode(), with_vanished=True)
            if row.state is State.VANISHED
        ]

    def forget(self, row: Row) -> None:
        """The row is at neither side any more."""
        self._db.execute("DELETE FROM versions WHERE id = ?", (row.id,))

    # reading ----------------------------------------------------------------------------------

    def of_key(self, key: str, *, with_vanished: bool = False) -> list[Row]:
        """All rows of a key, the oldest first."""
        states = "" if with_vanished else "AND state <> 'vanished'"
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM versions WHERE key = ? {states} ORDER BY age DESC",  # noqa: S608 - constants
            (key.encode(),),
        )
        return [_row(values, ordinal) for ordinal, values in enumerate(found.fetchall(), 1)]

    def rows(self) -> Iterator[Row]:
        """Every row by key, the oldest version first: the order of the Merkle tree. Flat in memory."""
        after = b""
        while True:
            keys = self._db.execute(
                "SELECT DISTINCT key FROM versions WHERE key >= ? ORDER BY key LIMIT ?", (after, PAGE)
            ).fetchall()
            if not keys:
                return
            found = self._db.execute(
                f"""SELECT {_COLUMNS} FROM versions WHERE key BETWEEN ? AND ? AND state <> 'vanished'
                    ORDER BY key, age DESC""",  # noqa: S608 - constants
                (keys[0][0], keys[-1][0]),
            ).fetchall()
            for _, versions in groupby(found, key=lambda values: values[1]):
                yield from (_row(values, ordinal) for ordinal, values in enumerate(versions, 1))
            after = keys[-1][0] + b"\0"

    def totals(self) -> Totals:
        values = self._db.execute(
            """SELECT COUNT(*), COALESCE(SUM(is_delete_marker), 0),
                      COALESCE(SUM(is_latest AND NOT is_delete_marker), 0), COALESCE(SUM(size), 0),
                      COALESCE(SUM(state IN ('listed', 'copying')), 0),
                      COALESCE(SUM(CASE WHEN state IN ('listed', 'copying') THEN size END), 0)
               FROM versions WHERE state <> 'vanished'"""
        ).fetchone()
        return Totals(*values)

    def digest(self) -> str:
        """SHA-256 over what the rows say of both storages: what a verdict signs. States do not count."""
        whole = hashlib.sha256((self.noted("about") or "").encode())
        for row in self.rows():
            facts = (row.key, row.ordinal, row.version_id, row.etag, row.size, row.is_delete_marker)
            line = json.dumps((*facts, row.target_version_id, row.checksum), ensure_ascii=True)
            whole.update(line.encode() + b"\n")
        return whole.hexdigest()

    def where(self, storage: Place) -> Where:
        """Which of the manifest's two storages this one is. Raises Conflict if it is neither."""
        about = json.loads(self.noted("about") or "{}")
        for where in Where:
            known = about.get(where)
            if known and str(as_place(known)) == str(storage):
                return where
        raise Conflict(f"the manifest is not about {storage}", code="manifest-of-another-move")

    def holds(self, where: Where, key: str, version_id: str) -> bool:
        """True if this version of this storage stands in the manifest."""
        found = self._db.execute(
            f"SELECT 1 FROM versions WHERE key = ? AND {_ID[where]} = ?",  # noqa: S608 - constants
            (key.encode(), version_id),
        )
        return found.fetchone() is not None

    # comparing --------------------------------------------------------------------------------

    def compare(
        self, where: Where, entries: Iterable[Entry], listed: Callable[[int], None], *, with_purged: bool = False
    ) -> Differences:
        """Hold a whole listing of one storage against the rows: which are there, which not, in which order.

        `with_purged`: rows whose version was purged at one side are expected here too, at the other.
        """
        self._db.execute("DROP TABLE IF EXISTS temp.found")
        self._db.execute(
            """CREATE TEMP TABLE found (key BLOB, version_id TEXT, age INTEGER, is_delete_marker INTEGER,
                                        PRIMARY KEY (key, version_id)) WITHOUT ROWID"""
        )
        age = 0
        for page in _pages(entries, PAGE):
            rows = [(e.key.encode(), e.version_id, age + n, e.is_delete_marker) for n, e in enumerate(page)]
            with self.transaction() as database:
                database.executemany("INSERT INTO temp.found VALUES (?, ?, ?, ?)", rows)
            age += len(page)
            listed(len(page))
        unknown, unknown_examples = self._select(_UNKNOWN[where], NEWER)
        missing_query = _MISSING[where] if not with_purged else _MISSING[where].replace(_NOT_PURGED, "")
        missing, missing_examples = self._select(missing_query, "is in the manifest, but not there")
        disordered, order_examples = self._select(_DISORDERED[where], "is there in another order or kind")
        self._db.execute("DROP TABLE temp.found")
        return Differences(age, unknown, missing, disordered, (*unknown_examples, *missing_examples, *order_examples))

    def _select(self, query: str, what: str) -> tuple[int, tuple[str, ...]]:
        count = self._db.execute(f"SELECT COUNT(*) FROM ({query})").fetchone()[0]  # noqa: S608 - constants
        found = self._db.execute(f"{query} LIMIT {EXAMPLES}").fetchall()
        return count, tuple(f"{key.decode()} (version {version_id}) {what}" for key, version_id in found)

    # verifying and purging --------------------------------------------------------------------

    def verified(self, rows: Iterable[tuple[int, str | None]], run: str) -> None:
        """(row id, checksum) of rows that verification `run` found equal on both sides."""
        with self.transaction() as database:
            database.executemany(
                "UPDATE versions SET state = 'verified', checksum = ?, verified_in = ? WHERE id = ?",
                [(checksum, run, id_) for id_, checksum in rows],
            )

    def unverified(self, rows: Iterable[int]) -> None:
        """These rows have changed at the target: what was compared of them counts no more."""
        with self.transaction() as database:
            database.executemany(
                """UPDATE versions SET state = CASE state WHEN 'verified' THEN 'copied' ELSE state END,
                          verified_in = NULL WHERE id = ?""",
                [(id_,) for id_ in rows],
            )

    def purged(self, where: Where, gone: Iterable[tuple[str, str]]) -> None:
        """(key, version id) of versions that are deleted at this storage."""
        with self.transaction() as database:
            database.executemany(
                f"UPDATE versions SET state = 'purged' WHERE key = ? AND {_ID[where]} = ?",  # noqa: S608 - constants
                [(key.encode(), version_id) for key, version_id in gone],
            )


_COLUMNS = (
    "id, key, version_id, etag, size, is_latest, is_delete_marker, storage_class, state,"
    " target_version_id, target_etag, checksum, verified_in"
)
_ID = {Where.SOURCE: "version_id", Where.TARGET: "target_version_id"}
_UNKNOWN = {
    where: f"""SELECT f.key, f.version_id FROM temp.found f LEFT JOIN main.versions v
                 ON v.key = f.key AND v.{column} = f.version_id AND v.state <> 'vanished'
               WHERE v.id IS NULL"""  # noqa: S608 - constants
    for where, column in _ID.items()
}
_NOT_PURGED = " AND v.state <> 'purged'"
_MISSING = {
    where: f"""SELECT v.key, COALESCE(v.{column}, 'not copied yet') FROM main.versions v LEFT JOIN temp.found f
                 ON f.key = v.key AND f.version_id = v.{column}
               WHERE f.key IS NULL AND v.state <> 'vanished'{_NOT_PURGED}"""  # noqa: S608 - constants
    for where, column in _ID.items()
}
_DISORDERED = {
    where: f"""SELECT key, version_id FROM (
                 SELECT f.key, f.version_id, f.is_delete_marker AS there, v.is_delete_marker AS here,
                        ROW_NUMBER() OVER (PARTITION BY f.key ORDER BY f.age) AS place_there,
                        ROW_NUMBER() OVER (PARTITION BY v.key ORDER BY v.age) AS place_here
                 FROM temp.found f JOIN main.versions v ON v.key = f.key AND v.{column} = f.version_id
                 WHERE v.state <> 'vanished')
               WHERE place_there <> place_here OR there <> here"""  # noqa: S608 - constants
    for where, column in _ID.items()
}


def _listed(entry: Entry, age: int, number: int) -> tuple[Any, ...]:
    if entry.version_id == NULL_VERSION:
        raise RefusedInput(
            f"{entry.key} has a version without an id: it was written before its bucket kept versions",
            hint="write it anew, then delete the version named null",
            code="null-version",
        )
    facts = (entry.etag, entry.size, entry.last_modified, entry.is_latest, entry.is_delete_marker, entry.storage_class)
    return (entry.key.encode(), entry.version_id, age, *facts, number)


def _row(values: tuple[Any, ...], ordinal: int) -> Row:
    id_, key, version_id, etag, size, is_latest, is_marker, storage_class, state, *rest = values
    kind = (bool(is_latest), bool(is_marker), storage_class, State(state))
    return Row(id_, key.decode(), version_id, ordinal, etag, size, *kind, *rest)


def _pages(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while page := list(islice(rest, size)):
        yield page
