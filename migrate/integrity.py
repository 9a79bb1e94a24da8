"""Is what comes back what was closed? Counted and digested when a tenant is closed, compared and read before it opens.

A listing needs no key, so it can be taken while the key is gone; reading needs it, so it is done before
anybody else gets in.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sql
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

from migrate import aws, failures
from migrate.copy.store import Content, Entry, Store
from migrate.denials import Estate
from migrate.errors import NEVER_MADE, CloudError, KeyshiftError, VerificationFailed
from migrate.progress import Meter, Progress, Report
from stacks.layout import Layout
from stacks.record import METADATA

Data = dict[str, Any]

COUNTED_AT_MOST = 100_000
"""Versions of a storage that an emergency seal lists: a hundred calls. A revocation lists them all."""
SAMPLE = 20
ASLEEP = frozenset({"InvalidObjectState", "BlobArchived"})

INVENTORIES = sql.Table(
    "inventories",
    METADATA,
    sql.Column("seal", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("storage", sql.String, primary_key=True),
    sql.Column("versions", sql.Integer, nullable=False),
    sql.Column("objects", sql.Integer, nullable=False),
    sql.Column("bytes", sql.BigInteger, nullable=False),
    sql.Column("digest", sql.String, nullable=False),
    sql.Column("at_most", sql.Integer),
)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What lies in a storage. `objects`: the current ones. `digest`: over key, version, ETag and size, in order.

    `at_most`: only so many versions were listed; None: all.
    """

    storage: str
    versions: int
    objects: int
    bytes: int
    digest: str
    at_most: int | None = None

    def __str__(self) -> str:
        return f"{self.versions} versions of {self.objects} objects, {self.bytes} bytes"


class Inventories:
    """The inventories that were taken when tenants were closed, by seal."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine, tables=[INVENTORIES])

    def of(self, seal: int) -> dict[str, Inventory]:
        """Storage -> what lay in it."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(INVENTORIES).where(INVENTORIES.c.seal == seal)).mappings().all()
        return {row["storage"]: Inventory(**{k: v for k, v in row.items() if k != "seal"}) for row in rows}

    def put(self, seal: int, found: Iterable[Inventory]) -> None:
        """Writes those that are not there yet: what lay there when it was first closed is what counts.

        One that is whole takes the place of one that was cut off.
        """
        held = self.of(seal)
        with self._engine.begin() as connection:
            for one in found:
                stands = held.get(one.storage)
                if stands is not None and (stands.at_most is None or one.at_most is not None):
                    continue
                place = (INVENTORIES.c.seal == seal, INVENTORIES.c.storage == one.storage)
                connection.execute(INVENTORIES.delete().where(*place))
                connection.execute(INVENTORIES.insert().values(seal=seal, **asdict(one)))


def take(estate: Estate, at_most: int | None, report: Report) -> tuple[list[Inventory], list[str]]:
    """(what lies in each storage, why one could not be listed). As the runner, whom no seal shuts out."""
    found, problems = list[Inventory](), list[str]()
    for unit in estate.layout.storages:
        try:
            found.append(inventory(estate.side(unit.id, "runner"), unit.id, at_most, report))
        except (KeyshiftError, ClientError, BotoCoreError) as error:
            said = failures.explained(error)
            if _code(error) not in NEVER_MADE:
                problems.append(f"{unit.id} could not be counted: {said.message}")
    return found, problems


def inventory(side: Store, storage: str, at_most: int | None, report: Report) -> Inventory:
    """Lists a storage, flat in memory. Raises CloudError where S3 refuses."""
    digest, versions, objects, size, is_cut = hashlib.sha256(), 0, 0, 0, False
    meter = Meter(report, Progress(move="count"))
    for entry in side.list_versions():
        if is_cut := versions == at_most:
            break
        line = (entry.key, entry.version_id, entry.etag, str(entry.size), str(entry.is_delete_marker))
        digest.update("\0".join(line).encode() + b"\n")
        versions, size = versions + 1, size + entry.size
        objects += entry.is_latest and not entry.is_delete_marker
        meter.add(1, entry.size)
    return Inventory(
        storage=storage,
        versions=versions,
        objects=objects,
        bytes=size,
        digest=digest.hexdigest(),
        at_most=at_most if is_cut else None,
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a storage is looked at before it opens. `read_all`: every object whole, not a sample.

    `accept`: what differs from what was closed is reported and not refused.
    """

    read_all: bool = False
    accept: bool = False


def read_back(estate: Estate, storage: str, before: Inventory | None, wanted: Wanted, report: Report) -> Data:
    """Compares a storage with what was closed and reads objects of it whole, as the runner.

    Raises VerificationFailed when something is missing, added or unreadable: the tenant then stays closed.
    """
    side = estate.side(storage, "runner")
    at_most = before.at_most if before else COUNTED_AT_MOST
    try:
        now = inventory(side, storage, at_most, report)
    except CloudError as error:
        if error.cloud_code in NEVER_MADE:  # an update was cut off before it made it
            return {"storage": storage, "objects_read": 0, "bytes": 0, "same": None}
        raise
    same = None if before is None else (now.digest, now.versions) == (before.digest, before.versions)
    if same is False and not wanted.accept:
        raise VerificationFailed(
            f"{storage} of tenant {estate.layout.tenant} is not what was closed: {now} lie there, {before} did; "
            "it stays closed",
            hint=f"find out who wrote there; if that is as it should be: keyshift restore {estate.layout.tenant} "
            "--accept-changes",
            code="changed-while-closed",
        )
    meter = Meter(report, Progress(move="read", objects_total=now.objects if wanted.read_all else None))
    read = size = asleep = 0
    for entry in side.list_versions() if wanted.read_all else _sample(side.list_versions(), now.versions):
        if entry.is_delete_marker or not entry.is_latest:
            continue
        length = _read(side, entry, storage, estate.layout)
        asleep += length is None
        read += length is not None
        size += length or 0
        meter.add(1, entry.size)
    return {
        "storage": storage,
        "versions": now.versions,
        "objects": now.objects,
        "versions_then": before.versions if before else None,
        "same": same,
        "listed_at_most": now.at_most,
        "objects_read": read,
        "asleep": asleep,
        "read_all": wanted.read_all,
        "bytes": size,
    }


def _sample(entries: Iterator[Entry], versions: int) -> list[Entry]:
    """So many current objects, each as likely as any other (reservoir sampling), in one pass."""
    chosen: list[Entry] = []
    chance = random.SystemRandom()
    current = 0
    for number, entry in enumerate(entries):
        if number >= versions:
            break
        if entry.is_delete_marker or not entry.is_latest:
            continue
        current += 1
        if len(chosen) < SAMPLE:
            chosen.append(entry)
        elif (place := chance.randrange(current)) < SAMPLE:
            chosen[place] = entry
    return chosen


def _read(side: Store, entry: Entry, storage: str, layout: Layout) -> int | None:
    """Its length; None for one in an archived class, which nobody reads.

    boto3 compares the stored checksum while the body is read, and raises if it does not fit.
    """

    def measured(content: Content) -> int:
        return sum(len(chunk) for chunk in content.chunks)

    try:
        length = side.read_version(entry.key, entry.version_id, measured)
    except (CloudError, FlexibleChecksumError) as error:
        if _code(error) in ASLEEP:
            return None
        said = _code(error) or "its checksum does not fit"
        raise _unreadable(layout, f"{storage}: {entry.key} cannot be read: {said}") from error
    if length != entry.size:
        raise _unreadable(layout, f"{storage}: {entry.key} has {length} bytes, the listing says {entry.size}")
    return length


def _unreadable(layout: Layout, what: str) -> VerificationFailed:
    return VerificationFailed(
        f"{what}; tenant {layout.tenant} stays closed",
        hint=f"find out why, then: keyshift restore {layout.tenant}",
        code="unreadable",
    )


def _code(error: Exception) -> str:
    return getattr(error, "cloud_code", "") or aws.code_of(error)
