"""The record database as plain data and back, whatever database it is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sql

import migrate
from migrate.errors import RefusedInput
from stacks.record import METADATA, TENANTS

FENCES = 1_000_000
"""How far a restore raises each fence: beyond every lease that was given since the backup."""

Tables = Mapping[str, list[dict[str, Any]]]


def dumped(engine: sql.Engine) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table, as of one moment."""
    found = sql.MetaData()
    with _at_one_moment(engine) as connection:
        found.reflect(connection)
        return {
            table.name: [dict(row) for row in connection.execute(sql.select(table)).mappings()]
            for table in found.sorted_tables
        }


def _at_one_moment(engine: sql.Engine) -> sql.Connection:
    if engine.dialect.name == "sqlite":
        connection = engine.connect()
        # Its driver begins no transaction for what only reads.
        connection.exec_driver_sql("BEGIN")
        return connection
    return engine.connect().execution_options(isolation_level="REPEATABLE READ")


def tenants_in(engine: sql.Engine) -> list[str]:
    """The names in the record, archived ones too; none where there is no such table."""
    with engine.connect() as connection:
        if not sql.inspect(connection).has_table(TENANTS.name):
            return []
        return list(connection.execute(sql.select(TENANTS.c.name).order_by(TENANTS.c.name)).scalars())


def refuse_foreign(tables: Tables) -> None:
    """Raises RefusedInput for a table or a column that this version does not have."""
    known = _known()
    for name, rows in tables.items():
        held = known.get(name)
        unknown = set(rows[0]) - set(held.columns.keys()) if held is not None and rows else set()
        if held is None or unknown:
            what = f"the column {min(unknown)} of the table {name}" if held is not None else f"the table {name}"
            raise RefusedInput(
                f"the backup's records have {what}, which this version of Keyshift does not know; nothing was restored",
                hint="restore with the version that made the backup",
                code="backup-version",
            )


def load(engine: sql.Engine, tables: Tables) -> None:
    """Makes these rows the record, all of them or none. Leases are gone and fences raised. Loading twice is the same."""
    known = _known()
    METADATA.create_all(engine)
    with engine.begin() as connection:
        for name in tables:
            connection.execute(known[name].delete())
        for name, rows in tables.items():
            if rows:
                connection.execute(known[name].insert(), rows)
        connection.execute(
            TENANTS.update().values(lease_owner=None, lease_until=None, lease_fence=TENANTS.c.lease_fence + FENCES)
        )
        if engine.dialect.name == "postgresql":
            _count_on(connection, [known[name] for name in tables])


def _known() -> Mapping[str, sql.Table]:
    """Every table of this version: each module brings its own when it is imported."""
    for module in pkgutil.iter_modules(migrate.__path__, "migrate."):
        importlib.import_module(module.name)
    return METADATA.tables


def _count_on(connection: sql.Connection, tables: Sequence[sql.Table]) -> None:
    """Postgres counts in a sequence that rows with given numbers do not move."""
    for table in tables:
        column = table.autoincrement_column
        if column is not None:
            largest = sql.select(sql.func.coalesce(sql.func.max(column), 0) + 1).scalar_subquery()
            sequence = sql.func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(sql.select(sql.func.setval(sequence, largest, False)))
