"""Who may act on a tenant, and what is known of its operations: the record database."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import layouts
import pytest
import sqlalchemy as sql
import time_machine

from migrate import records as record_module
from migrate.errors import Conflict, RefusedInput
from migrate.operations import OperationKind
from migrate.records import LEASE, Records
from stacks.record import TENANTS, TenantRecord, connect

HOST = socket.gethostname()
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sql.Engine:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return connect(tmp_path)


@pytest.fixture
def records(engine: sql.Engine) -> Records:
    records = Records(engine)
    records.create(layouts.standard())
    return records


@pytest.fixture(autouse=True)
def _watched_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(record_module, "WATCH_POLL_SECONDS", 0.001)


def lease_is_held_by(engine: sql.Engine, owner: str, *, until: datetime | None = None) -> None:
    until = until or datetime.now(UTC) + LEASE
    with engine.begin() as connection:
        connection.execute(TENANTS.update().values(lease_owner=owner, lease_fence=5, lease_until=until.isoformat()))


@contextmanager
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this host that lives until the block ends."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


# tenants --------------------------------------------------------------------------------------


def test_an_unknown_tenant_is_refused_with_the_names_that_are_known(records: Records) -> None:
    with pytest.raises(RefusedInput, match=r"no tenant emca \(known: acme\)") as refused:
        records.tenant("emca")
    assert refused.value.code == "unknown-tenant"
    assert "keyshift tenant create emca" in refused.value.hint


def test_a_name_is_never_used_twice_not_even_an_archived_one(records: Records, engine: sql.Engine) -> None:
    for _ in range(2):
        with pytest.raises(RefusedInput, match="taken") as refused:
            records.create(layouts.standard())
        assert refused.value.code == "tenant-exists"
        with pytest.raises(RefusedInput, match="taken"):
            records.refuse_taken("acme")
        with engine.begin() as connection:
            connection.execute(TENANTS.update().values(archived=True))
    records.refuse_taken("another")


def test_a_new_layout_gets_the_next_generation_and_the_same_layout_keeps_its_own(records: Records) -> None:
    with records.lease("acme") as fence:
        assert records.advance(layouts.standard(), fence) == 1
        assert records.advance(layouts.enable_frozen(), fence) == 2
        assert records.advance(layouts.enable_frozen(), fence) == 2
    held = records.tenant("acme")
    assert (held.generation, held.layout, held.digest) == (
        2,
        layouts.enable_frozen(),
        layouts.enable_frozen().digest(),
    )


# the lease ------------------------------------------------------------------------------------


def test_a_fence_only_grows(records: Records) -> None:
    fences = []
    for _ in range(3):
        with records.lease("acme") as fence:
            fences.append(fence)
    assert fences == sorted(set(fences)), "a number that came twice would let a late runner in"


def test_a_lease_is_given_back_however_the_work_ends(records: Records) -> None:
    def work() -> None:
        with records.lease("acme"):
            assert records.worker("acme") == f"{HOST}:{os.getpid()}"
            raise RuntimeError("the work failed")

    with pytest.raises(RuntimeError, match="the work failed"):
        work()
    assert records.worker("acme") is None
    with records.lease("acme"):
        pass


def test_a_live_holder_is_named_and_nothing_is_taken_from_it(records: Records, engine: sql.Engine) -> None:
    with process() as child:
        lease_is_held_by(engine, f"{HOST}:{child.pid}")
        with pytest.raises(RefusedInput, match=f"worked on by {HOST}:{child.pid}") as refused, records.lease("acme"):
            pass
        assert refused.value.code == "lease-held"
        assert refused.value.hint == "watch it: keyshift status acme --watch"
        assert records.tenant("acme").lease_fence == 5
        assert records.worker("acme") == f"{HOST}:{child.pid}"


def test_the_lease_of_a_dead_process_of_this_host_is_taken_over_at_once(records: Records, engine: sql.Engine) -> None:
    with process() as child:
        lease_is_held_by(engine, f"{HOST}:{child.pid}")
        assert records.worker("acme") is not None
        child.kill()
        child.wait()
        assert records.worker("acme") is None
        with records.lease("acme") as fence:
            assert fence == 6


def test_a_zombie_holds_no_lease(records: Records, engine: sql.Engine) -> None:
    with process() as child:
        lease_is_held_by(engine, f"{HOST}:{child.pid}")
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has reaped it
        with records.lease("acme") as fence:
            assert fence == 6


def test_the_lease_of_another_host_is_only_taken_over_when_it_has_run_out(records: Records, engine: sql.Engine) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        lease_is_held_by(engine, "another-host:1")
        clock.shift(LEASE - timedelta(seconds=1))
        with pytest.raises(RefusedInput, match="another-host:1"), records.lease("acme"):
            pass
        clock.shift(timedelta(seconds=1))
        with records.lease("acme") as fence:
            assert fence == 6


def test_a_renewed_lease_does_not_run_out(records: Records, engine: sql.Engine) -> None:
    with time_machine.travel(NOW, tick=False) as clock, records.lease("acme") as fence:
        for _ in range(3):
            clock.shift(LEASE - timedelta(seconds=1))
            records.renew("acme", fence)
        assert records.tenant("acme").lease_until == datetime.now(UTC) + LEASE


def test_a_runner_whose_lease_went_to_another_one_can_neither_renew_nor_write(
    records: Records, engine: sql.Engine
) -> None:
    with records.lease("acme") as fence:
        lease_is_held_by(engine, "another-host:1")
        with pytest.raises(Conflict, match="went to another-host:1") as refused:
            records.renew("acme", fence)
        assert refused.value.code == "lease-lost"
        with pytest.raises(Conflict):
            records.advance(layouts.enable_frozen(), fence)
        assert records.tenant("acme").generation == 1
    held = records.tenant("acme")
    assert (held.lease_owner, held.lease_fence) == ("another-host:1", 5), "what is not ours is not given back by us"


def test_a_jump_of_the_clock_takes_no_lease_from_a_holder_that_renews_it(
    records: Records, engine: sql.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_module, "WATCH_SECONDS", 30)
    with time_machine.travel(NOW, tick=False) as clock:
        lease_is_held_by(engine, "another-host:1")
        clock.shift(timedelta(days=1))
        looks: list[None] = []
        look = records.tenant

        def tenant(name: str) -> TenantRecord:
            looks.append(None)
            if len(looks) == 3:
                records.renew("acme", 5)
            return look(name)

        monkeypatch.setattr(records, "tenant", tenant)
        with pytest.raises(RefusedInput, match="worked on by another-host:1"), records.lease("acme"):
            pass
    assert records.tenant("acme").lease_fence == 5


def test_a_clock_that_was_put_back_does_not_keep_a_dead_runners_lease_for_a_day(
    records: Records, engine: sql.Engine
) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        lease_is_held_by(engine, "another-host:1")
        clock.shift(-timedelta(days=1))
        with records.lease("acme") as fence:
            assert fence == 6


def test_an_overtaken_runner_writes_nothing_about_its_operation(records: Records, engine: sql.Engine) -> None:
    with records.lease("acme") as fence:
        begun = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
        records.note(begun.id, fence=fence, step="key/up")
        lease_is_held_by(engine, "another-host:1")
        before = records.operation(begun.id)
        for write in (
            lambda: records.note(begun.id, fence=fence, state="failed"),
            lambda: records.result(begun.id, "key/up", {"generation": 9}, fence=fence),
            lambda: records.note_once(begun.id, "cutoff", NOW, fence=fence),
        ):
            with pytest.raises(Conflict, match="went to another-host:1"):
                write()
        assert records.operation(begun.id) == before
        records.note(begun.id, fence=5, step="key/1-key-material")
        assert records.operation(begun.id).step == "key/1-key-material", "and its successor does write"


def test_who_is_refused_is_told_the_operation_that_is_under_way(records: Records, engine: sql.Engine) -> None:
    begun = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    records.note(begun.id, step="build/2-copy")
    lease_is_held_by(engine, "another-host:1")
    with (
        pytest.raises(RefusedInput, match=r"in acme-enable-1 \(step build/2-copy\)"),
        records.lease("acme"),
    ):
        pass


def test_only_a_lease_that_has_run_out_makes_its_process_overdue(records: Records, engine: sql.Engine) -> None:
    with time_machine.travel(NOW, tick=False) as clock, process() as child:
        lease_is_held_by(engine, f"{HOST}:{child.pid}")
        assert not records.is_overdue("acme", child.pid)
        clock.shift(LEASE)
        assert records.is_overdue("acme", child.pid)
        assert not records.is_overdue("acme", child.pid + 1), "a lease of another process says nothing about this one"


# operations -----------------------------------------------------------------------------------


def test_operations_are_numbered_by_tenant_and_kind(records: Records) -> None:
    tenant = records.tenant("acme")
    ids = [records.begin(tenant, kind, None).id for kind in (OperationKind.CREATE, OperationKind.ENABLE) for _ in "12"]
    assert ids == ["acme-create-1", "acme-create-2", "acme-enable-1", "acme-enable-2"]
    assert [operation.id for operation in records.operations("acme")] == ids


@pytest.mark.parametrize("state", ["running", "waiting", "failed"])
def test_an_operation_is_unfinished_until_it_is_done(records: Records, state: str) -> None:
    assert records.unfinished("acme") is None
    begun = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    records.note(begun.id, state=state)
    unfinished = records.unfinished("acme")
    assert unfinished is not None
    assert (unfinished.id, unfinished.mode, unfinished.start) == (begun.id, "byok", layouts.standard())
    records.note(begun.id, state="done", ended_at=NOW)
    assert records.unfinished("acme") is None
    assert records.operation(begun.id).ended_at == NOW


def test_an_instant_is_written_once(records: Records) -> None:
    begun = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    assert records.note_once(begun.id, "cutoff", NOW) == NOW
    assert records.note_once(begun.id, "cutoff", NOW + timedelta(hours=1)) == NOW, "a resume must not move the cut-off"
    assert records.operation(begun.id).request.cutoff == NOW


def test_results_of_steps_add_up_and_progress_comes_back_as_it_was(records: Records) -> None:
    begun = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    records.result(begun.id, "build/up", {"generation": 2})
    records.result(begun.id, "build/1-copy", {"versions": 3})
    records.note(begun.id, progress={"move": "copy", "objects": 3})
    found = records.operation(begun.id)
    assert found.results == {"build/up": {"generation": 2}, "build/1-copy": {"versions": 3}}
    assert found.progress == {"move": "copy", "objects": 3}
