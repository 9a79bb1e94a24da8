"""What became of a key for good: destroyed by us, or declared lost by its owner."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sql

from stacks.record import METADATA

FATES = sql.Table(
    "key_fates",
    METADATA,
    sql.Column("tenant", sql.String, primary_key=True),
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("fate", sql.String, nullable=False),
    sql.Column("by", sql.String, nullable=False),
    sql.Column("at", sql.String, nullable=False),
    sql.Column("reason", sql.Text, nullable=False),
)


class Fate(StrEnum):
    DESTROYED = "destroyed"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class KeyFate:
    tenant: str
    key: str
    fate: Fate
    by: str
    at: datetime
    reason: str

    def __str__(self) -> str:
        return f"{self.key} of tenant {self.tenant} is {self.fate} since {self.at:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"


class Fates:
    """All reads and writes of the fates of keys."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine, tables=[FATES])

    def of(self, tenant: str) -> dict[str, KeyFate]:
        """Key -> its fate."""
        with self._engine.connect() as connection:
            rows = connection.execute(sql.select(FATES).where(FATES.c.tenant == tenant)).mappings()
            return {row["key"]: _fate(row) for row in rows}

    def put(self, fate: KeyFate) -> None:
        """Writes a key's fate; a key that was lost may be destroyed, a destroyed one stays so."""
        held = self.of(fate.tenant).get(fate.key)
        if held is not None and held.fate is Fate.DESTROYED:
            return
        with self._engine.begin() as connection:
            connection.execute(FATES.delete().where(FATES.c.tenant == fate.tenant, FATES.c.key == fate.key))
            connection.execute(FATES.insert().values({**asdict(fate), "at": fate.at.astimezone(UTC).isoformat()}))

    def found_again(self, tenant: str) -> list[str]:
        """Takes back that keys of a tenant are lost; returns which."""
        lost = [key for key, one in self.of(tenant).items() if one.fate is Fate.LOST]
        with self._engine.begin() as connection:
            connection.execute(FATES.delete().where(FATES.c.tenant == tenant, FATES.c.fate == str(Fate.LOST)))
        return lost


def _fate(row: sql.RowMapping) -> KeyFate:
    values: dict[str, Any] = {**row, "fate": Fate(row["fate"]), "at": datetime.fromisoformat(row["at"])}
    return KeyFate(**values)
