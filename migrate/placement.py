"""Which tenant sits on which stamp, and how much room there is, by the quotas of the accounts that stamps lie in.

A quota is the account's, or the account's in a region, not the stamp's: stamps of one account and region
share one event bus. Counted is what Keyshift makes; a record, not the cloud, is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql

from components import naming
from components.audiences import AUDIENCES
from components.index import SECRET_AUDIENCES
from migrate.errors import RefusedInput
from migrate.stack import Project, Stack, brought_up
from stacks.config import StampSettings
from stacks.errors import ConfigError
from stacks.layout import Layout, PipelineState, StorageKind
from stacks.record import METADATA, TENANTS

PLACEMENTS = sql.Table(
    "placements",
    METADATA,
    sql.Column("tenant", sql.String, primary_key=True),
    sql.Column("stamp", sql.String, nullable=False),
    sql.Column("needs", sql.Text, nullable=False),  # the layout that it is made room for, canonical JSON
    sql.Column("at", sql.String, nullable=False),
)
QUOTAS = sql.Table(
    "quotas",
    METADATA,
    sql.Column("scope", sql.String, primary_key=True),
    sql.Column("name", sql.String, primary_key=True),
    sql.Column("value", sql.Integer, nullable=False),
)
TURNS = sql.Table(
    "placement_turns", METADATA, sql.Column("id", sql.Integer, primary_key=True), sql.Column("turn", sql.Integer)
)


@dataclass(frozen=True, kw_only=True)
class Quota:
    """`default`: AWS's own, before it is raised. `kept`: left free for the moves of tenants that are placed already."""

    name: str
    default: int
    is_regional: bool
    kept: int = 0
    source: str


MOVES = 10
"""How many moves at a time there is room for: each has a second pipeline and hears tag changes, three rules."""
AWS_QUOTAS = (
    Quota(
        name="rules",
        default=300,
        is_regional=True,
        kept=3 * MOVES,
        source="https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html",
    ),
    Quota(
        name="roles",
        default=1000,
        is_regional=False,
        source="https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html",
    ),
    Quota(
        name="buckets",
        default=10_000,
        is_regional=False,
        kept=MOVES,
        source="https://docs.aws.amazon.com/AmazonS3/latest/userguide/BucketRestrictions.html",
    ),
    Quota(
        name="keys",
        default=100_000,
        is_regional=True,
        kept=MOVES,
        source="https://docs.aws.amazon.com/kms/latest/developerguide/resource-limits.html",
    ),
    Quota(
        name="secrets",
        default=500_000,
        is_regional=True,
        kept=len(SECRET_AUDIENCES) * MOVES,
        source="https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html",
    ),
)
SMALL_BUSES = {"af-south-1": 100, "eu-south-1": 100}
"""Regions with fewer rules a bus (the same page)."""


def uses(layout: Layout) -> Counter[str]:
    """What of each quota a layout takes. A pipeline has a rule that ticks, also one that no event reaches."""
    attached = sum(unit.state is not PipelineState.DETACHED for unit in layout.pipelines)
    return Counter(
        rules=attached + len(layout.pipelines) + sum(storage.watched for storage in layout.storages),
        roles=len(AUDIENCES),
        buckets=sum(storage.kind is StorageKind.DEDICATED for storage in layout.storages),
        keys=sum(key.arn is None for key in layout.keys),
        secrets=len(SECRET_AUDIENCES) * len(layout.searches),
    )


AT_LEAST = Counter(rules=2, roles=len(AUDIENCES), secrets=len(SECRET_AUDIENCES))
"""What every tenant comes to, also one that still waits for its key."""
NEW_TENANT = AT_LEAST + Counter(buckets=1, keys=1)
STAMP = Counter(buckets=1, keys=1)
"""What a stamp itself takes."""


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A stamp that was brought up; `account` is "" where its stack does not say."""

    name: str
    cloud: str
    region: str
    number: int
    account: str

    def scope(self, quota: Quota) -> str:
        account = self.account or self.name
        return f"{account}/{self.region}" if quota.is_regional else account

    def default(self, quota: Quota) -> int:
        return SMALL_BUSES.get(self.region, quota.default) if quota.name == "rules" else quota.default


@dataclass(frozen=True, kw_only=True)
class Room:
    """One quota as a stamp sees it."""

    name: str
    scope: str
    used: int
    kept: int
    limit: int

    def fits(self, needed: int) -> bool:
        return self.used + needed <= self.limit - self.kept

    def __str__(self) -> str:
        kept = f", {self.kept} kept for moves" if self.kept else ""
        return f"{self.used} of {self.limit} {self.name} in {self.scope}{kept}"


def stamps(project: Project) -> list[Stamp]:
    """The stamps that were brought up in this project, by name. A stack whose name is no stamp's is none."""
    found = []
    for name in sorted(name for name in brought_up(project) if name.startswith("stamp-")):
        try:
            settings = StampSettings.parse(name)
        except ConfigError:
            continue
        account = str(Stack(project, name).outputs().get("account_id", ""))
        found.append(
            Stamp(
                name=name,
                cloud=str(settings.cloud),
                region=settings.region,
                number=settings.number,
                account=account,
            )
        )
    return found


class Placements:
    """All reads and writes of placements and quotas."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine, tables=[TENANTS, PLACEMENTS, QUOTAS, TURNS])

    def rooms(self, every: Sequence[Stamp]) -> dict[str, list[Room]]:
        """Each stamp's quotas."""
        with self._engine.connect() as connection:
            return _rooms(connection, every)

    def seated(self) -> dict[str, str]:
        """Tenant -> stamp: of every tenant that lives, however it was made, and of those about to be made."""
        with self._engine.connect() as connection:
            return {name: stamp for name, (stamp, _) in _seats(connection).items()}

    def place(self, layout: Layout, every: Sequence[Stamp], wanted: str | None = None) -> str:
        """Makes room for a new tenant and returns its stamp: `wanted`, else the first of its region that has room.

        One at a time, whoever asks. A tenant whose creation was cut off keeps its place. Raises RefusedInput.
        """
        offered = [one for one in every if (one.cloud, one.region) == (str(layout.cloud), layout.region)]
        with self._engine.begin() as connection:
            _take_turn(connection)
            connection.execute(PLACEMENTS.delete().where(PLACEMENTS.c.tenant == layout.tenant))
            rooms = _rooms(connection, every)
            fitting = [one.name for one in offered if all(room.fits(NEW_TENANT[room.name]) for room in rooms[one.name])]
            chosen = next((name for name in fitting if wanted in (None, name)), None)
            if chosen is None:
                raise _full(layout, [one for one in offered if wanted in (None, one.name)], every, rooms)
            needs = layout.model_copy(update={"stamp": chosen}).canonical()
            connection.execute(
                PLACEMENTS.insert().values(
                    tenant=layout.tenant, stamp=chosen, needs=needs, at=datetime.now(UTC).isoformat()
                )
            )
        return chosen

    def release(self, tenant: str) -> None:
        """Gives the room back of a tenant that came to nothing."""
        with self._engine.begin() as connection:
            connection.execute(PLACEMENTS.delete().where(PLACEMENTS.c.tenant == tenant))

    def set_quota(self, stamp: Stamp, name: str, value: int) -> None:
        """Notes a quota that the cloud has granted. Raises RefusedInput for less than what is used."""
        quota = next(quota for quota in AWS_QUOTAS if quota.name == name)
        with self._engine.begin() as connection:
            _take_turn(connection)
            room = next(room for room in _rooms(connection, [stamp])[stamp.name] if room.name == name)
            if value < room.used:
                raise RefusedInput(
                    f"a quota of {value} {name} for {stamp.name} is less than the {room.used} in use; nothing was changed",
                    hint="keyshift stamp list",
                    code="quota-below-use",
                )
            scope = stamp.scope(quota)
            connection.execute(QUOTAS.delete().where(QUOTAS.c.scope == scope, QUOTAS.c.name == name))
            connection.execute(QUOTAS.insert().values(scope=scope, name=name, value=value))


def overview(project: Project, held: Placements) -> dict[str, Any]:
    """Every stamp with its tenants and its room."""
    every = stamps(project)
    rooms, seated = held.rooms(every), held.seated()
    rows = []
    for one in every:
        quotas = [{**vars(room), "has_room": room.fits(NEW_TENANT[room.name])} for room in rooms[one.name]]
        rows.append(
            {
                "stamp": one.name,
                "account": one.account,
                "region": one.region,
                "tenants": sorted(tenant for tenant, stamp in seated.items() if stamp == one.name),
                "quotas": quotas,
                "has_room": all(quota["has_room"] for quota in quotas),
            }
        )
    return {"stamps": rows}


def find(project: Project, name: str) -> Stamp:
    """The stamp of this name. Raises RefusedInput when it was not brought up."""
    found = next((one for one in stamps(project) if one.name == name), None)
    if found is None:
        raise RefusedInput(
            f"the stamp {name} has not been brought up in this project", hint="keyshift stamp list", code="no-stamp"
        )
    return found


def refuse_nowhere(layout: Layout, every: Iterable[Stamp]) -> None:
    """Raises RefusedInput when no stamp at all is where the tenant should be."""
    if not any((one.cloud, one.region) == (str(layout.cloud), layout.region) for one in every):
        raise RefusedInput(
            f"there is no stamp in {layout.region} on {layout.cloud} for tenant {layout.tenant}",
            hint=_make(str(layout.cloud), layout.region, 1),
            code="no-stamp",
        )


def _take_turn(connection: sql.Connection) -> None:
    """Locks out every other placement until the transaction ends: a write first, on any database."""
    if connection.execute(TURNS.update().values(turn=TURNS.c.turn + 1)).rowcount == 0:
        connection.execute(TURNS.insert().values(id=1, turn=1))


def _seats(connection: sql.Connection) -> dict[str, tuple[str, Counter[str]]]:
    """Tenant -> its stamp and what it takes there."""
    tenants = connection.execute(sql.select(TENANTS.c.name, TENANTS.c.layout, TENANTS.c.archived)).all()
    layouts = {name: Layout.model_validate_json(text) for name, text, archived in tenants if not archived}
    placed = connection.execute(sql.select(PLACEMENTS.c.tenant, PLACEMENTS.c.needs)).all()
    known = {name for name, _, _ in tenants}
    layouts |= {name: Layout.model_validate_json(text) for name, text in placed if name not in known}
    return {name: (layout.stamp, uses(layout)) for name, layout in layouts.items()}


def _rooms(connection: sql.Connection, every: Sequence[Stamp]) -> dict[str, list[Room]]:
    raised = {(row.scope, row.name): row.value for row in connection.execute(sql.select(QUOTAS))}
    seats = _seats(connection).values()
    used: dict[str, Counter[str]] = {
        one.name: sum((takes | AT_LEAST for stamp, takes in seats if stamp == one.name), Counter(STAMP))
        for one in every
    }
    return {one.name: [_room(one, quota, every, used, raised) for quota in AWS_QUOTAS] for one in every}


def _room(
    stamp: Stamp,
    quota: Quota,
    every: Iterable[Stamp],
    used: Mapping[str, Counter[str]],
    raised: Mapping[tuple[str, str], int],
) -> Room:
    scope = stamp.scope(quota)
    return Room(
        name=quota.name,
        scope=scope,
        used=sum(used[other.name][quota.name] for other in every if other.scope(quota) == scope),
        kept=quota.kept,
        limit=raised.get((scope, quota.name), stamp.default(quota)),
    )


def _full(
    layout: Layout, offered: Sequence[Stamp], every: Sequence[Stamp], rooms: Mapping[str, Sequence[Room]]
) -> RefusedInput:
    short = {str(room): room for one in offered for room in rooms[one.name] if not room.fits(NEW_TENANT[room.name])}
    number = max(one.number for one in every if (one.cloud, one.region) == (str(layout.cloud), layout.region)) + 1
    first = next(iter(short.values()))
    return RefusedInput(
        f"no room for tenant {layout.tenant} on {', '.join(one.name for one in offered)}: {'; '.join(short)}; "
        "nothing was made",
        hint=f"with another account's credentials, {_make(str(layout.cloud), layout.region, number)}; or, once the "
        f"quota is raised, keyshift stamp quota {offered[0].name} {first.name} {2 * first.limit}",
        code="stamps-full",
    )


def _make(cloud: str, region: str, number: int) -> str:
    name = naming.stamp_stack(cloud, region, number)
    return f"pulumi stack init {name}, then pulumi up -s {name}"
