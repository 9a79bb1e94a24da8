"""What the watch saw last, in a table of its own: a watch that is started anew goes on counting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sql

from migrate.watching.findings import Canary, Cause, Finding, Known
from stacks.record import METADATA

SEEN = sql.Table(
    "watch_seen",
    METADATA,
    sql.Column("tenant", sql.String, primary_key=True),
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("arn", sql.String, nullable=False),
    sql.Column("material", sql.String, nullable=False),
    sql.Column("valid_to", sql.String),
    sql.Column("cause", sql.String, nullable=False),
    sql.Column("since", sql.String, nullable=False),
    sql.Column("refusals", sql.Integer, nullable=False),
    sql.Column("told_arn", sql.String, nullable=False),
    sql.Column("told_material", sql.String, nullable=False),
    sql.Column("looked_at", sql.String, nullable=False),
)

NOTHING = Known()


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`whole`: the key when it was last found whole. `refusals`: how many looks in a row found the data unreadable.

    `told`: the rotation that was handed on; it is not handed on twice.
    """

    tenant: str
    key: str
    whole: Known = NOTHING
    cause: Cause = Cause.OK
    since: datetime
    refusals: int = 0
    told: Known = NOTHING
    looked_at: datetime

    @classmethod
    def never(cls, tenant: str, key: str, now: datetime) -> Seen:
        return cls(tenant=tenant, key=key, since=now, looked_at=now)


def after(before: Seen, finding: Finding, now: datetime) -> Seen:
    """What is remembered after one more look. Pure.

    An unclear look neither counts as a refusal nor takes one back: the network says nothing about a key.
    """
    refusals = before.refusals
    if finding.is_lost:
        refusals += 1
    elif finding.canary is Canary.OK:
        refusals = 0
    whole = finding.now if finding.cause is Cause.OK else before.whole
    return replace(
        before,
        whole=whole,
        cause=finding.cause,
        since=before.since if finding.cause is before.cause else now,
        refusals=refusals,
        looked_at=now,
    )


class Memory:
    """All reads and writes of what was seen."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine, tables=[SEEN])

    def of(self, tenant: str) -> dict[str, Seen]:
        """Key -> what was seen of it last."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(SEEN).where(SEEN.c.tenant == tenant)).mappings()
            return {row["key"]: _seen(row) for row in rows}

    def put(self, seen: Seen) -> None:
        values = {
            "tenant": seen.tenant,
            "key": seen.key,
            "arn": seen.whole.arn,
            "material": seen.whole.material,
            "valid_to": seen.whole.valid_to and seen.whole.valid_to.isoformat(),
            "cause": str(seen.cause),
            "since": seen.since.isoformat(),
            "refusals": seen.refusals,
            "told_arn": seen.told.arn,
            "told_material": seen.told.material,
            "looked_at": seen.looked_at.isoformat(),
        }
        with self._engine.begin() as connection:
            is_it = (SEEN.c.tenant == seen.tenant, SEEN.c.key == seen.key)
            if connection.execute(SEEN.update().where(*is_it).values(values)).rowcount == 0:
                connection.execute(SEEN.insert().values(values))


def _seen(row: sql.RowMapping) -> Seen:
    valid_to = row["valid_to"]
    return Seen(
        tenant=row["tenant"],
        key=row["key"],
        whole=Known(row["arn"], row["material"], _instant(valid_to) if valid_to else None),
        cause=Cause(row["cause"]),
        since=_instant(row["since"]),
        refusals=row["refusals"],
        told=Known(row["told_arn"], row["told_material"]),
        looked_at=_instant(row["looked_at"]),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
