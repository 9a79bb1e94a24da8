"""The seals of tenants: who closed one, when and why, what was denied, who opened it again.

A tenant's newest seal that was not lifted is the one in force. The flag that the program's guard reads
is in the tenant's own row and changes in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql

from migrate.errors import Conflict
from stacks.layout import Layout
from stacks.record import METADATA, TENANTS

SEALS = sql.Table(
    "seals",
    METADATA,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("tenant", sql.String, nullable=False, index=True),
    sql.Column("reason", sql.Text, nullable=False),
    sql.Column("by", sql.String, nullable=False),
    sql.Column("at", sql.String, nullable=False),
    sql.Column("denied", sql.Text, nullable=False),  # JSON: the denials that hold
    sql.Column("lifted_by", sql.String),
    sql.Column("lifted_at", sql.String),
    sql.Column("open_at", sql.String),  # when Archive was seen to read again
)

LOST_KEYS = sql.Table(
    "seals_for_lost_keys",
    METADATA,
    sql.Column("seal", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("key", sql.String, nullable=False),
    sql.Column("cause", sql.String, nullable=False),
)
"""The seals that the watch put, and why: what is not in here is opened by a person only."""


@dataclass(frozen=True)
class Lost:
    """The customer's key for whose loss the watch closed a tenant."""

    key: str
    cause: str


@dataclass(frozen=True, kw_only=True)
class Seal:
    """`denied`: ids of the denials that were carried out and not undone. `lost`: the watch put it, for that key."""

    id: int
    tenant: str
    reason: str
    by: str
    at: datetime
    denied: frozenset[str] = frozenset()
    lifted_by: str | None = None
    lifted_at: datetime | None = None
    open_at: datetime | None = None
    lost: Lost | None = None

    def __str__(self) -> str:
        return f"sealed since {self.at:%Y-%m-%d %H:%M:%S} UTC by {self.by}: {self.reason}"


class Seals:
    """All reads and writes of the seals."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine, tables=[TENANTS, SEALS, LOST_KEYS])

    def newest(self, tenant: str) -> Seal | None:
        """The tenant's last seal, in force or not."""
        with self._engine.connect() as connection:
            return newest(connection, tenant)

    def in_force(self, tenant: str) -> Seal | None:
        """The seal that closes the tenant now."""
        seal = self.newest(tenant)
        return seal if seal is not None and seal.lifted_at is None else None

    def put(self, tenant: str, reason: str, by: str, lost: Lost | None = None) -> Seal:
        """Seals the tenant: from here on no runner holds its lease and its layout has no access.

        A tenant that is sealed keeps its seal and reason; only one that the watch put (`lost`) gives way to a
        person's, so that no key that comes back opens it. The fence grows in any case: a restore that is
        under way loses the lease too.
        """
        closed = {"sealed": True, "lease_fence": TENANTS.c.lease_fence + 1, "lease_owner": None, "lease_until": None}
        with self._engine.begin() as connection:
            # First, because it locks the row: no runner writes a layout between our look and our write.
            connection.execute(TENANTS.update().where(TENANTS.c.name == tenant).values(closed))
            _give_access(connection, tenant, "closed")
            seal = newest(connection, tenant)
            is_open = seal is None or seal.lifted_at is not None
            is_overruled = seal is not None and seal.lost is not None and lost is None
            if is_open or is_overruled:
                held = sorted(seal.denied) if seal and is_overruled and not is_open else []
                values = {"tenant": tenant, "reason": reason, "by": by, "at": _now(), "denied": json.dumps(held)}
                made = connection.execute(SEALS.insert().values(values)).inserted_primary_key
                if lost is not None and made is not None:
                    connection.execute(LOST_KEYS.insert().values(seal=made[0], key=lost.key, cause=lost.cause))
            found = newest(connection, tenant)
        assert found is not None  # noqa: S101 - it was written in this transaction
        return found

    def lift(self, tenant: str, by: str, fence: int) -> tuple[Layout, int]:
        """Ends the seal in force; returns the layout, open again, and its generation.

        Raises Conflict when `fence` is no longer the lease's: it was sealed again, or somebody else acts.
        """
        with self._engine.begin() as connection:
            lifted = connection.execute(
                TENANTS.update().where(TENANTS.c.name == tenant, TENANTS.c.lease_fence == fence).values(sealed=False)
            )
            seal = newest(connection, tenant)
            if lifted.rowcount != 1 or seal is None:
                raise Conflict(
                    f"tenant {tenant} was sealed again while it was restored; it stays sealed",
                    hint=f"keyshift tenant show {tenant}",
                    code="sealed",
                )
            layout, generation = _give_access(connection, tenant, "open")
            connection.execute(
                SEALS.update().where(SEALS.c.id == seal.id).values(lifted_by=by, lifted_at=_now(), denied="[]")
            )
        return layout, generation

    def note_denied(self, seal: Seal, denied: Collection[str]) -> None:
        """Writes which denials hold."""
        self._set(seal, denied=json.dumps(sorted(denied)))

    def note_open(self, seal: Seal) -> None:
        """Archive was seen to read again: nothing is left to do."""
        self._set(seal, open_at=_now())

    def _set(self, seal: Seal, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(SEALS.update().where(SEALS.c.id == seal.id).values(values))


def newest(connection: sql.Connection, tenant: str) -> Seal | None:
    """The tenant's last seal, read in the caller's transaction."""
    query = (
        sql.select(SEALS, LOST_KEYS.c.key, LOST_KEYS.c.cause)
        .outerjoin(LOST_KEYS, LOST_KEYS.c.seal == SEALS.c.id)
        .where(SEALS.c.tenant == tenant)
        .order_by(SEALS.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _seal(row)


def _give_access(connection: sql.Connection, tenant: str, access: str) -> tuple[Layout, int]:
    """Writes the tenant's layout with this access, under a new generation if it is another one."""
    row = connection.execute(sql.select(TENANTS).where(TENANTS.c.name == tenant)).mappings().one()
    held, generation = Layout.model_validate_json(row["layout"]), int(row["generation"])
    layout = held.model_copy(update={"gate": held.gate.model_copy(update={"access": access})})
    if layout == held:
        return held, generation
    connection.execute(
        TENANTS.update()
        .where(TENANTS.c.name == tenant)
        .values(generation=generation + 1, digest=layout.digest(), layout=layout.canonical())
    )
    return layout, generation + 1


def _seal(row: sql.RowMapping) -> Seal:
    instants = {
        name: datetime.fromisoformat(row[name]) if row[name] else None for name in ("at", "lifted_at", "open_at")
    }
    facts = {column.name: row[column.name] for column in SEALS.c}
    lost = Lost(row["key"], row["cause"]) if row["key"] else None
    return Seal(**{**facts, **instants, "denied": frozenset(json.loads(row["denied"])), "lost": lost})


def _now() -> str:
    return datetime.now(UTC).isoformat()
