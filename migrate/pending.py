"""Rotations that an upload has asked for and nobody has begun yet.

An upload may come while another operation of the tenant runs; it is imported at once, because an import token lives
for a day, and the rotation begins when the operation has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sql

from migrate.plan.parts import unused_key
from stacks.layout import Layout, Mode
from stacks.record import METADATA

PENDING_ROTATIONS = sql.Table(
    "pending_rotations",
    METADATA,
    sql.Column("tenant", sql.String, primary_key=True),
    sql.Column("key", sql.String, primary_key=True),  # the id in the layout of the key that was uploaded
    sql.Column("at", sql.String, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class PendingRotation:
    """The key that was uploaded and is to be rotated to, and when it came."""

    key: str
    at: datetime


class PendingRotations:
    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine, tables=[PENDING_ROTATIONS])

    def note(self, tenant: str, key: str) -> None:
        """An upload of `key` asks for a rotation. The same upload again changes nothing."""
        with self._engine.begin() as connection:
            if connection.execute(sql.select(PENDING_ROTATIONS).where(_is(tenant, key))).first() is None:
                now = datetime.now(UTC).isoformat()
                connection.execute(PENDING_ROTATIONS.insert().values(tenant=tenant, key=key, at=now))

    def of(self, layout: Layout) -> PendingRotation | None:
        """The rotation that the tenant waits for. None once the key is in use, or is not what a rotation would take."""
        key = unused_key(layout)
        if key is None or layout.mode is not Mode.BYOK or layout.serves is None:
            return None
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(PENDING_ROTATIONS).where(_is(layout.tenant, key.id))).mappings().first()
        return PendingRotation(key=row["key"], at=datetime.fromisoformat(row["at"])) if row else None

    def withdraw(self, tenant: str) -> None:
        """What was asked for is given up: an abort keeps the key, and nothing begins by itself."""
        with self._engine.begin() as connection:
            connection.execute(PENDING_ROTATIONS.delete().where(PENDING_ROTATIONS.c.tenant == tenant))


def _is(tenant: str, key: str) -> sql.ColumnElement[bool]:
    return sql.and_(PENDING_ROTATIONS.c.tenant == tenant, PENDING_ROTATIONS.c.key == key)
