"""Under which key each object version was last seen: in the manifest's file, so that a resume asks for none twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from migrate.copy.manifest import Manifest

PAGE = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keyed (
    key BLOB NOT NULL,
    version_id TEXT NOT NULL,
    key_arn TEXT NOT NULL,            -- the KMS key it was last seen or put under, "" for none
    seen_in TEXT,                     -- the drain whose HEAD saw it there
    PRIMARY KEY (key, version_id)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Version:
    """One object version of the last listing; never a delete marker, which no key encrypts."""

    key: str
    version_id: str
    size: int


class Keyed:
    """Uses the manifest's connection and thread."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._db = manifest.connection
        self._db.executescript(_SCHEMA)

    def not_under(self, key_arn: str) -> Iterator[Version]:
        """Versions that are not known to be under this key, in the order of their keys. Flat in memory."""
        return self._pages("k.key_arn IS NULL OR k.key_arn <> ?", key_arn)

    def not_seen_in(self, run: str) -> Iterator[Version]:
        """Versions that the drain `run` has not seen under its key yet."""
        return self._pages("k.seen_in IS NULL OR k.seen_in <> ?", run)

    def count_not_under(self, key_arn: str) -> int:
        return self._count("k.key_arn IS NULL OR k.key_arn <> ?", key_arn)

    def count_not_seen_in(self, run: str) -> int:
        return self._count("k.seen_in IS NULL OR k.seen_in <> ?", run)

    def note(self, versions: Iterable[Version], key_arn: str, *, seen_in: str | None = None) -> None:
        """These are under this key now."""
        rows = [(v.key.encode(), v.version_id, key_arn, seen_in) for v in versions]
        with self._manifest.transaction() as database:
            database.executemany("INSERT OR REPLACE INTO keyed VALUES (?, ?, ?, ?)", rows)

    def leaves(self) -> Iterator[tuple[str, str, int, bool, str]]:
        """(key, version id, size, is delete marker, key ARN) of the last listing, for the Merkle tree."""
        found = self._db.execute(
            """SELECT v.key, v.version_id, v.size, v.is_delete_marker, COALESCE(k.key_arn, '') FROM versions v
               LEFT JOIN keyed k ON k.key = v.key AND k.version_id = v.version_id
               WHERE v.state <> 'vanished' ORDER BY v.key, v.age DESC"""
        )
        for key, version_id, size, is_marker, key_arn in found:
            yield key.decode(), version_id, size, bool(is_marker), key_arn

    def by_key(self) -> Counter[str]:
        """How many versions of the last listing were last seen under which key."""
        return Counter(key_arn for _, _, _, is_marker, key_arn in self.leaves() if not is_marker)

    def _pages(self, condition: str, value: str) -> Iterator[Version]:
        after: tuple[bytes, str] = (b"", "")
        while True:
            found = self._db.execute(
                f"{_VERSIONS} AND ({condition}) AND (v.key, v.version_id) > (?, ?)"
                " ORDER BY v.key, v.version_id LIMIT ?",
                (value, *after, PAGE),
            ).fetchall()
            if not found:
                return
            yield from (Version(key.decode(), version_id, size) for key, version_id, size in found)
            after = found[-1][0], found[-1][1]

    def _count(self, condition: str, value: str) -> int:
        query = f"SELECT COUNT(*) FROM ({_VERSIONS} AND ({condition}))"  # noqa: S608 - constants
        return int(self._db.execute(query, (value,)).fetchone()[0])


_VERSIONS = """
SELECT v.key, v.version_id, v.size FROM versions v
LEFT JOIN keyed k ON k.key = v.key AND k.version_id = v.version_id
WHERE v.state <> 'vanished' AND NOT v.is_delete_marker
"""
