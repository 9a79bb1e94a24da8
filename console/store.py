"""The Console's own database: sessions, orders, their events, notices to send.

Beside the record database, not in it: it is written by the API at any time, and nothing in it is the truth
about a tenant. SQLite in the project's `.keyshift` by default, any SQLAlchemy URL for a fleet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.event import listen

METADATA = sql.MetaData()

SIGN_INS = sql.Table(
    "sign_ins",
    METADATA,
    sql.Column("state", sql.String, primary_key=True),
    sql.Column("browser", sql.String, nullable=False),  # hash of a cookie: only the browser that began ends it
    sql.Column("verifier", sql.String, nullable=False),
    sql.Column("nonce", sql.String, nullable=False),
    sql.Column("goes_to", sql.String, nullable=False),
    sql.Column("until", sql.Float, nullable=False),
)
SESSIONS = sql.Table(
    "sessions",
    METADATA,
    sql.Column("id", sql.String, primary_key=True),  # hash of the cookie
    sql.Column("caller", sql.Text, nullable=False),  # JSON
    sql.Column("csrf", sql.String, nullable=False),
    sql.Column("until", sql.Float, nullable=False),
)
ORDERS = sql.Table(
    "orders",
    METADATA,
    sql.Column("id", sql.String, primary_key=True),
    sql.Column("tenant", sql.String, nullable=False, index=True),
    sql.Column("customer", sql.String, nullable=False),
    sql.Column("lane", sql.String, nullable=False),
    sql.Column("kind", sql.String, nullable=False),
    sql.Column("wanted", sql.Text, nullable=False),  # JSON: mode, alias, token, reason …
    sql.Column("asked_by", sql.Text, nullable=False),  # JSON: subject, name, role
    sql.Column("approved_by", sql.Text),
    sql.Column("asked_at", sql.String, nullable=False),
    sql.Column("state", sql.String, nullable=False, index=True),
    sql.Column("operation", sql.String),  # the tenant's own operation that it began or went on with
    sql.Column("attempts", sql.Integer, nullable=False, default=0),
    sql.Column("handed_over", sql.Boolean, nullable=False, default=False),
    sql.Column("started_at", sql.String),
    sql.Column("ended_at", sql.String),
    sql.Column("said", sql.Text),  # JSON: code, message, hint, waits_for
    sql.Column("result", sql.Text),  # JSON
    sql.Column("repeat", sql.String, unique=True),  # whose idempotency key it was asked under
    sql.Column("fingerprint", sql.String),  # of what was asked under it
)
# One at a time of a tenant and lane, also when two requests come in the same instant.
sql.Index(
    "one_open_order",
    ORDERS.c.tenant,
    ORDERS.c.lane,
    unique=True,
    sqlite_where=ORDERS.c.ended_at.is_(None),
    postgresql_where=ORDERS.c.ended_at.is_(None),
)
EVENTS = sql.Table(
    "events",
    METADATA,
    sql.Column("order", sql.String, primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("name", sql.String, nullable=False),
    sql.Column("data", sql.Text, nullable=False),
)
NOTICES = sql.Table(
    "notices",
    METADATA,
    sql.Column("id", sql.String, primary_key=True),  # the same event for the same target has the same id
    sql.Column("customer", sql.String, nullable=False),
    sql.Column("target", sql.Text, nullable=False),  # its name in the settings, never its secret
    sql.Column("body", sql.Text, nullable=False),  # JSON
    sql.Column("attempts", sql.Integer, nullable=False, default=0),
    sql.Column("next_at", sql.Float, nullable=False),
    sql.Column("state", sql.String, nullable=False),  # waits | sent | given-up
    sql.Column("said", sql.Text),
)

BUSY_MILLISECONDS = 30_000


def open_store(home: Path, url: str | None = None) -> sql.Engine:
    """The database with its tables: `url`, else `console.db` in `home`."""
    if url is None:
        home.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{home / 'console.db'}"
    engine = sql.create_engine(url)
    if engine.dialect.name == "sqlite":
        listen(engine, "connect", _for_many)
    METADATA.create_all(engine)
    return engine


def _for_many(connection: Any, _: object) -> None:
    """Readers go on while one writes, and writers wait for each other instead of failing."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
