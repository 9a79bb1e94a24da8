"""A disk that is full: SQLite refuses to grow a file, the error names the disk, and nothing is half written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql
from fake_s3 import SOURCE, TARGET
from layouts import standard

from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Entry
from migrate.failures import understood
from migrate.operations import OperationKind
from migrate.records import Records


def entries(count: int) -> Iterator[Entry]:
    for number in range(count):
        yield Entry(
            f"records/{number:06d}.json", f"v{number}", '"e"', 1, "2026-01-02T03:04:05Z", True, False, "STANDARD"
        )


def test_a_manifest_that_cannot_grow_keeps_what_it_had_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        manifest.take(entries(100), lambda _: None)
        used = manifest.connection.execute("PRAGMA page_count").fetchone()[0]
        manifest.connection.execute(f"PRAGMA max_page_count = {used}")
        with pytest.raises(sqlite3.OperationalError, match="disk is full") as full:
            manifest.take(entries(5000), lambda _: None)
        told = understood(full.value)
        assert told is not None
        assert (told.code, "disk" in told.hint) == ("state-file", True)
        assert manifest.totals().versions == 100, "no page of the listing is half in"
        manifest.connection.execute("PRAGMA max_page_count = 1000000")
        manifest.take(entries(5000), lambda _: None)
        assert manifest.totals().versions == 5000


def test_a_record_that_cannot_grow_says_that_the_disk_is_full_and_begins_nothing(tmp_path: Path) -> None:
    engine = sql.create_engine(f"sqlite:///{tmp_path / 'keyshift.db'}")
    records = Records(engine)
    tenant = records.create(standard())

    @sql.event.listens_for(engine, "checkout")
    def _fill(connection: sqlite3.Connection, *_: object) -> None:
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {used}")

    def begin_many() -> None:
        for _ in range(200):
            records.begin(tenant, OperationKind.ENABLE, "byok")

    with pytest.raises(sql.exc.OperationalError, match="disk is full") as full:
        begin_many()
    told = understood(full.value)
    assert told is not None
    assert (told.code, "disk" in told.hint) == ("state-file", True), told
    sql.event.remove(engine, "checkout", _fill)
    engine.dispose()
    held = len(records.operations("acme"))
    assert records.begin(tenant, OperationKind.ENABLE, "byok").id == f"acme-enable-{held + 1}", "none was half written"
