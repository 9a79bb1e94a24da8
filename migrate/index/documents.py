"""What the objects of a storage say about their documents, and how the index compares: in the manifest's file.

A row is written once the index has acknowledged the document, so a resumed fill reads no object twice.
`indexed` is the last scan of the index, in a temporary table: both are joined by SQLite, on disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from components.worker.document import Document, document_id, is_searchable, tombstone
from migrate.copy.manifest import Manifest, Where
from migrate.copy.store import Place
from migrate.index.scan import Indexed

PAGE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY,              -- the document's
    key BLOB NOT NULL,
    version_id TEXT NOT NULL,         -- the object version that it was made from
    revision INTEGER NOT NULL,
    content_hash TEXT NOT NULL
) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS expected (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, version_id TEXT NOT NULL, size INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS indexed (
    id TEXT PRIMARY KEY, version INTEGER NOT NULL, content_hash TEXT NOT NULL, archived_at TEXT NOT NULL,
    is_tombstone INTEGER NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ObjectRef:
    """The current version of an object that has a document."""

    key: str
    version_id: str
    size: int


@dataclass(frozen=True)
class Made:
    """A document that the index holds, and the object version that it was made from."""

    ref: ObjectRef
    document: Document


@dataclass(frozen=True)
class Pair:
    """One expected document: what its object says (None: never read by a fill) and what the index holds."""

    id: str
    revision: int | None
    content_hash: str | None
    indexed: Indexed | None


class Documents:
    """The documents that a storage's current objects should have. Uses the manifest's connection and thread."""

    def __init__(self, manifest: Manifest, storage: Place) -> None:
        self._manifest = manifest
        self._db: sqlite3.Connection = manifest.connection
        self._db.executescript(_SCHEMA)
        self._expect(manifest.where(storage))

    def _expect(self, where: Where) -> None:
        """Every object whose latest version is not a delete marker, if its key has a document at all."""
        with self._manifest.transaction() as database:
            database.execute("DELETE FROM temp.expected")
            for row in self._manifest.rows():
                version_id = row.version_id if where is Where.SOURCE else row.target_version_id
                if row.is_latest and not row.is_delete_marker and version_id and is_searchable(row.key):
                    database.execute(
                        "INSERT INTO temp.expected VALUES (?, ?, ?, ?)",
                        (document_id(row.key), row.key, version_id, row.size),
                    )

    def take(self, pages: Iterable[list[Indexed]]) -> None:
        """Take in a whole scan of the index, replacing the one before."""
        self._db.execute("DELETE FROM temp.indexed")
        for page in pages:
            with self._manifest.transaction() as database:
                database.executemany(
                    "INSERT INTO temp.indexed VALUES (?, ?, ?, ?, ?)",
                    [(i.id, i.version, i.content_hash, i.archived_at, i.is_tombstone) for i in page],
                )

    def to_send(self) -> Iterator[ObjectRef]:
        """Objects whose document the index does not hold, or holds of an earlier revision."""
        after = ""
        while True:
            found = self._db.execute(_TO_SEND, (after,)).fetchall()
            if not found:
                return
            yield from (ObjectRef(key, version_id, size) for _, key, version_id, size in found)
            after = found[-1][0]

    def to_hide(self) -> list[Document]:
        """Tombstones for live documents of an earlier fill whose object is deleted now."""
        found = self._db.execute(_TO_HIDE).fetchall()
        return [tombstone(key.decode(), version) for _, key, version in found]

    def count(self, of: str) -> int:
        """The number of objects `expected`, or of documents `indexed`."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM temp.{of}").fetchone()[0])  # noqa: S608 - two constants

    def key_of(self, id: str) -> str:
        """The key of the object that an expected document is of."""
        return str(self._db.execute("SELECT key FROM temp.expected WHERE id = ?", (id,)).fetchone()[0])

    def sent(self, made: Iterable[Made]) -> None:
        """The index has acknowledged these."""
        rows = [
            (
                m.document.id,
                m.ref.key.encode(),
                m.ref.version_id,
                m.document.revision,
                m.document.source["content_hash"],
            )
            for m in made
        ]
        with self._manifest.transaction() as database:
            database.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?)", rows)

    def pairs(self) -> Iterator[Pair]:
        """Every expected document by id, with what its object says and what the last scan found."""
        for values in self._db.execute(_PAIRS):
            id_, revision, content_hash, *found = values
            indexed = None if found[0] is None else Indexed(id_, *found[:3], is_tombstone=bool(found[3]))
            yield Pair(id_, revision, content_hash, indexed)

    def unexpected(self) -> Iterator[Indexed]:
        """Live documents of the last scan that no object stands for."""
        for id_, version, content_hash, archived_at in self._db.execute(_UNEXPECTED):
            yield Indexed(id_, version, content_hash, archived_at, is_tombstone=False)


_TO_SEND = f"""
SELECT e.id, e.key, e.version_id, e.size FROM temp.expected e
LEFT JOIN main.documents d ON d.id = e.id AND d.version_id = e.version_id
LEFT JOIN temp.indexed i ON i.id = e.id
WHERE (d.id IS NULL OR i.id IS NULL OR i.version < d.revision) AND e.id > ? ORDER BY e.id LIMIT {PAGE}
"""  # noqa: S608 - a constant
_TO_HIDE = """
SELECT d.id, d.key, i.version FROM main.documents d
JOIN temp.indexed i ON i.id = d.id LEFT JOIN temp.expected e ON e.id = d.id
WHERE e.id IS NULL AND NOT i.is_tombstone ORDER BY d.id
"""
_PAIRS = """
SELECT e.id, d.revision, d.content_hash, i.version, i.content_hash, i.archived_at, i.is_tombstone
FROM temp.expected e LEFT JOIN main.documents d ON d.id = e.id AND d.version_id = e.version_id
LEFT JOIN temp.indexed i ON i.id = e.id ORDER BY e.id
"""
_UNEXPECTED = """
SELECT i.id, i.version, i.content_hash, i.archived_at FROM temp.indexed i
LEFT JOIN temp.expected e ON e.id = i.id WHERE e.id IS NULL AND NOT i.is_tombstone ORDER BY i.id
"""
