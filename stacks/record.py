"""The tenant record: who holds the truth about a tenant. Read by the guard, kept by `migrate/`.

SQLite in the project's `.keyshift` folder by default, any SQLAlchemy URL by KEYSHIFT_DATABASE_URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from stacks.layout import Layout

METADATA = sql.MetaData()

TENANTS = sql.Table(
    "tenants",
    METADATA,
    sql.Column("name", sql.String, primary_key=True),
    sql.Column("customer", sql.String, nullable=False),
    sql.Column("generation", sql.Integer, nullable=False),
    sql.Column("digest", sql.String, nullable=False),
    sql.Column("layout", sql.Text, nullable=False),  # canonical JSON
    sql.Column("lease_owner", sql.String),
    sql.Column("lease_fence", sql.Integer, nullable=False, default=0),
    sql.Column("lease_until", sql.String),  # RFC 3339 in UTC: SQLite has no instants
    sql.Column("sealed", sql.Boolean, nullable=False, default=False),
    sql.Column("archived", sql.Boolean, nullable=False, default=False),
)


@dataclass(frozen=True, kw_only=True)
class TenantRecord:
    """One row of the tenants table."""

    name: str
    customer: str
    generation: int
    digest: str
    layout: Layout
    lease_owner: str | None = None
    lease_fence: int = 0
    lease_until: datetime | None = None
    sealed: bool = False
    archived: bool = False


class NameTaken(Exception):
    """A tenant of this name is, or was, in the record."""


def connect(home: Path) -> sql.Engine:
    """The record database: KEYSHIFT_DATABASE_URL, else `keyshift.db` in `home`, which is made if missing."""
    url = os.environ.get("KEYSHIFT_DATABASE_URL")
    if url is None:
        home.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{home / 'keyshift.db'}"
    return sql.create_engine(url)


def find(engine: sql.Engine, name: str) -> TenantRecord | None:
    """The record of a tenant, also an archived one; None when there is none. Writes nothing."""
    return next(iter(_select(engine, TENANTS.c.name == name)), None)


def living(engine: sql.Engine) -> list[TenantRecord]:
    """The tenants that are not archived, by name."""
    return list(_select(engine, TENANTS.c.archived.is_(False)))


def living_on(engine: sql.Engine, stamp: str) -> list[str]:
    """The names of the tenants that are not archived and sit on `stamp`."""
    return [record.name for record in living(engine) if record.layout.stamp == stamp]


def insert(engine: sql.Engine, layout: Layout) -> TenantRecord:
    """A new tenant at generation 1. Raises NameTaken: a name is never used twice."""
    METADATA.create_all(engine, tables=[TENANTS])
    record = TenantRecord(
        name=layout.tenant, customer=layout.customer, generation=1, digest=layout.digest(), layout=layout
    )
    row = {
        "name": record.name,
        "customer": record.customer,
        "generation": record.generation,
        "digest": record.digest,
        "layout": layout.canonical(),
        "lease_fence": record.lease_fence,
        "sealed": record.sealed,
        "archived": record.archived,
    }
    try:
        with engine.begin() as connection:
            connection.execute(TENANTS.insert().values(row))
    except IntegrityError as error:
        raise NameTaken(layout.tenant) from error
    return record


def _select(engine: sql.Engine, where: sql.ColumnElement[bool]) -> Iterable[TenantRecord]:
    with engine.connect() as connection:
        if not sql.inspect(connection).has_table(TENANTS.name):
            return []
        rows = connection.execute(sql.select(TENANTS).where(where).order_by(TENANTS.c.name)).mappings().all()
    return [_record(row) for row in rows]


def _record(row: sql.RowMapping) -> TenantRecord:
    until = row["lease_until"]
    return TenantRecord(
        name=row["name"],
        customer=row["customer"],
        generation=row["generation"],
        digest=row["digest"],
        layout=Layout.model_validate_json(row["layout"]),
        lease_owner=row["lease_owner"],
        lease_fence=row["lease_fence"],
        lease_until=datetime.fromisoformat(until) if until else None,
        sealed=bool(row["sealed"]),
        archived=bool(row["archived"]),
    )
