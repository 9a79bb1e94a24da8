"""The end of a tenant: of one that is in order, and of one that nobody can read any more because its key has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError
from fake_s3 import SOURCE, SOURCE_KEY, FakeS3, error, put
from hypothesis import given
from test_plan import layouts as every_layout
from test_plan import tenants
from test_runner import FakeMoves, FakeStack, MemoryJournal, verdict
from test_seal import World, made_world

from migrate import durable, runner
from migrate.certificates import Certificates
from migrate.copy.s3 import Side
from migrate.errors import CloudError, Conflict, RefusedInput
from migrate.fates import Fate, Fates, KeyFate
from migrate.integrity import Wanted
from migrate.log import Log
from migrate.moves import Moves
from migrate.operations import EndedKey, Move, OperationKind, Plan, Request
from migrate.plan import plan
from migrate.progress import unwatched
from migrate.records import Records
from migrate.revoke import Revoker
from migrate.runner import Runner
from migrate.seals import Seals
from migrate.stack import Project
from migrate.verdict import Verdicts
from stacks.layout import Layout, Mode
from stacks.record import connect

OPERATION = "acme-delete-1"
LOST = EndedKey(id="k1", says="k1 of tenant acme is lost since 2026-01-02: its owner says so")


def deletion(layout: Layout, *ended: EndedKey) -> Plan:
    return plan(Request(operation=OPERATION, kind=OperationKind.DELETE, ended=ended), layout)


# the plan -------------------------------------------------------------------------------------


@given(tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
def test_a_tenant_that_nobody_can_read_stays_closed_until_nothing_of_it_is_left(tenant: Layout) -> None:
    made = deletion(tenant, LOST)
    assert {phase.layout.gate.access for phase in made.phases} == {"closed"}, "an `up` would undo the seal"
    assert made.end.model_dump(include={"keys", "storages", "searches", "pipelines"}) == {
        "keys": (),
        "storages": (),
        "searches": (),
        "pipelines": (),
    }


@given(tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
def test_a_deletion_does_the_same_work_whether_it_can_be_read_or_not(tenant: Layout) -> None:
    readable, unreadable = deletion(tenant), deletion(tenant, LOST)
    assert [(p.name, p.waits, p.moves, p.reversible) for p in readable.phases] == [
        (p.name, p.waits, p.moves, p.reversible) for p in unreadable.phases
    ]
    assert {layout.gate.access for layout in every_layout(readable)} == {"open"}


@given(tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
def test_nothing_leaves_a_deleted_tenant_without_a_verdict_that_an_earlier_phase_has_stored(tenant: Layout) -> None:
    for made in (deletion(tenant), deletion(tenant, LOST)):
        stored = {dropped.verdict for dropped in tenant.dropped}
        before = tenant
        for phase in made.phases:
            units = (*phase.layout.keys, *phase.layout.storages, *phase.layout.searches)
            named = {unit.release for unit in units if unit.release}
            named |= {dropped.verdict for dropped in phase.layout.dropped}
            assert named <= stored, f"{phase.name} needs {named - stored}"
            gone = {u.id for u in _units(before)} - {u.id for u in _units(phase.layout)}
            assert gone <= {dropped.id for dropped in phase.layout.dropped}
            stored |= {move.verdict for move in phase.moves if move.verdict}
            before = phase.layout


def _units(layout: Layout) -> tuple[Any, ...]:
    return (*layout.keys, *layout.storages, *layout.searches, *layout.pipelines)


# who may begin it -----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


@pytest.fixture
def records(project: Project) -> Records:
    records = Records(connect(project.home))
    records.create(layouts.byok_active())
    return records


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    class Removed(FakeStack):
        def exists(self) -> bool:
            return True

        def remove(self, *, fence: int) -> bool:
            self.calls.append("remove")
            return True

    made = Removed()
    monkeypatch.setattr(runner, "Stack", lambda *_: made)
    return made


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> FakeMoves:
    made = FakeMoves()
    monkeypatch.setattr(runner, "Moves", made.made)
    monkeypatch.setattr(durable, "walk", MemoryJournal().walk)
    return made


def walker(project: Project, moves: FakeMoves) -> Runner:
    made = Runner(project, "acme", moves.tell)
    for id in ("inventory", "purge"):
        made.verdicts.store(verdict(f"{OPERATION}-{id}"))
    return made


def seal(project: Project, records: Records) -> None:
    Seals(connect(project.home)).put("acme", "its key has ended", "someone", None)
    assert records.tenant("acme").sealed


def end_key(project: Project, fate: Fate) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    ended = KeyFate(tenant="acme", key="k1", fate=fate, by="someone", at=at, reason="the contract ended")
    Fates(connect(project.home)).put(ended)
    if fate is Fate.DESTROYED:
        Certificates(project.home / "tenants" / "acme").store("k1-destroyed", {"certificate": "key-destroyed"})


@pytest.mark.parametrize("fate", list(Fate))
def test_a_sealed_tenant_whose_key_has_ended_can_be_deleted(
    project: Project, records: Records, stack: FakeStack, moves: FakeMoves, fate: Fate
) -> None:
    seal(project, records)
    end_key(project, fate)
    done = walker(project, moves).run(OperationKind.DELETE)
    assert done.state == "done"
    assert moves.done == ["inventory", "purge-storage", "purge-search", "prove-empty"]
    (key,) = done.request.ended
    assert (key.id, key.certificate) == ("k1", "k1-destroyed" if fate is Fate.DESTROYED else None)
    assert "the contract ended" in key.says
    assert stack.calls[-1] == "remove"
    with pytest.raises(RefusedInput):
        records.tenant("acme")


def test_a_sealed_tenant_whose_key_is_only_withdrawn_is_not_deleted(
    project: Project, records: Records, stack: FakeStack, moves: FakeMoves
) -> None:
    seal(project, records)
    with pytest.raises(RefusedInput) as refused:
        walker(project, moves).run(OperationKind.DELETE)
    assert refused.value.code == "sealed"
    assert records.operations("acme") == []
    assert stack.calls == []


def test_the_end_of_a_key_that_nothing_lies_under_opens_no_sealed_tenant(
    project: Project, records: Records, stack: FakeStack, moves: FakeMoves
) -> None:
    with records.lease("acme") as fence:
        held = records.tenant("acme").layout
        keys = (*held.keys, held.keys[0].model_copy(update={"id": "k2"}))
        under_k2 = {
            "keys": keys,
            "storages": tuple(unit.model_copy(update={"key": "k2"}) for unit in held.storages),
            "searches": tuple(unit.model_copy(update={"key": "k2"}) for unit in held.searches),
        }
        records.advance(layouts.changed(held, **under_k2), fence)
    seal(project, records)
    end_key(project, Fate.DESTROYED)
    with pytest.raises(RefusedInput) as refused:
        walker(project, moves).run(OperationKind.DELETE)
    assert refused.value.code == "sealed"


@pytest.mark.parametrize("kind", [OperationKind.ROTATE, OperationKind.REMOVE])
def test_nothing_but_a_deletion_is_let_in(
    project: Project, records: Records, stack: FakeStack, moves: FakeMoves, kind: OperationKind
) -> None:
    seal(project, records)
    end_key(project, Fate.DESTROYED)
    with pytest.raises(RefusedInput) as refused:
        walker(project, moves).run(kind)
    assert refused.value.code == "sealed"


def test_a_deletion_that_was_cut_off_is_resumed_while_the_tenant_is_sealed(
    project: Project, records: Records, stack: FakeStack, moves: FakeMoves
) -> None:
    seal(project, records)
    end_key(project, Fate.DESTROYED)
    moves.fails["purge-storage"] = Conflict("something unknown lies there", code="unknown-versions")
    with pytest.raises(Exception, match="something unknown"):
        walker(project, moves).run(OperationKind.DELETE)
    moves.fails.clear()
    assert walker(project, moves).resume().state == "done"


def test_a_dry_run_of_it_says_the_layouts_that_stay_closed(
    project: Project, records: Records, stack: FakeStack, moves: FakeMoves
) -> None:
    seal(project, records)
    end_key(project, Fate.LOST)
    made = walker(project, moves).preview(OperationKind.DELETE, None)
    assert {phase.layout.gate.access for phase in made.phases} == {"closed"}
    assert records.operations("acme") == []


# what it says ---------------------------------------------------------------------------------


class Kms:
    def __init__(self, answer: str) -> None:
        self.answer = answer

    def generate_data_key(self, KeyId: str, KeySpec: str) -> dict[str, Any]:  # noqa: N803 - as AWS names them
        if self.answer:
            raise error(self.answer, 400, f"{KeyId} is pending deletion.", "GenerateDataKey")
        return {"KeyId": KeyId}


class Locked:
    """A deployment whose key is lost: it answers nothing, whatever it is asked."""

    @property
    def indices(self) -> Any:
        raise AssertionError("a locked search deletes nothing")

    snapshot = indices

    def info(self) -> None:
        meta = ApiResponseMeta(503, "1.1", HttpHeaders(), 0.1, NodeConfig("http", "e1", 9200))
        raise ApiError("The deployment is locked: its encryption key is not available.", meta, {})


def moves_of(tmp_path: Path, s3: FakeS3, answer: str, search: Any) -> Moves:
    side = Side(s3, SOURCE)
    roles = {"runner": Kms(answer)}
    live: Any = SimpleNamespace(
        layout=layouts.sealed(layouts.byok_active()),
        outputs={"keys": {"k1": SOURCE_KEY}, "storages": {}, "searches": {"e1": {}}, "roles": {}, "pipelines": {}},
        storage=lambda *_: side,
        search=lambda *_: search,
        client=lambda role, service: roles.get(role),
        key_arn=lambda _: SOURCE_KEY,
        operator=None,
    )
    ended = LOST.model_copy(update={"certificate": "k1-destroyed"})
    request = Request(operation=OPERATION, kind=OperationKind.DELETE, ended=(ended,))
    operation: Any = SimpleNamespace(id=OPERATION, moves_of=OPERATION, start=layouts.byok_active(), request=request)
    return Moves(
        live=live,
        operation=operation,
        folder=tmp_path,
        verdicts=Verdicts(tmp_path),
        log=Log(tmp_path),
        report=unwatched,
    )


def move(kind: Any, verdict: str) -> Move:
    named = {"search": "e1"} if kind in {"purge-search", "prove-empty"} else {}
    return Move(kind=kind, title="", storage="s1", target="s1", verdict=f"{OPERATION}-{verdict}", **named)


@pytest.fixture
def s3() -> FakeS3:
    made = FakeS3()
    for number in range(3):
        put(made, f"records/{number}", b"x" * 10)
    return made


def test_what_cannot_be_read_is_listed_purged_and_proven_gone_and_the_verdicts_say_why(
    tmp_path: Path, s3: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = moves_of(tmp_path, s3, "KMSInvalidStateException", Locked())
    monkeypatch.setattr(Moves, "_freeze", frozen)
    assert moves.do(move("inventory", "inventory"))["versions"] == 3
    assert moves.do(move("purge-storage", "inventory"))["deleted"] == 3
    assert "locked" in moves.do(move("purge-search", "inventory"))["locked"]
    assert moves.do(move("prove-empty", "purge"))["left_behind"] == 0
    for id in ("inventory", "purge"):
        stored = Verdicts(tmp_path).load(f"{OPERATION}-{id}")
        assert stored is not None
        assert "nothing of it could be read" in stored.details["unreadable"]
        assert "KMSInvalidStateException" in stored.details["unreadable"]
        assert stored.details["certificates"] == "k1-destroyed"
    purged = Verdicts(tmp_path).load(f"{OPERATION}-purge")
    assert purged is not None
    assert "locked by its lost key" in purged.details["index"]


def frozen(moves: Moves, move: Move, manifest: Any) -> Any:
    """No roles, no queues: of a sealed tenant none is asked."""
    source = moves.live.storage("s1")

    def stand_still() -> None:
        raise AssertionError("a sealed tenant has no writer that could be probed, and no pipeline that drains")

    return SimpleNamespace(
        source=source, manifest=manifest, tenant="acme", stand_still=stand_still, void_verdicts=lambda: None
    )


def test_a_key_that_works_again_stops_the_deletion_before_anything_is_deleted(
    tmp_path: Path, s3: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = moves_of(tmp_path, s3, "", Locked())
    monkeypatch.setattr(Moves, "_freeze", frozen)
    with pytest.raises(Conflict) as back:
        moves.do(move("inventory", "inventory"))
    assert back.value.code == "key-back"
    assert "keyshift restore acme" in back.value.hint
    assert Verdicts(tmp_path).load(f"{OPERATION}-inventory") is None


def test_a_key_that_has_ended_is_not_waited_for(tmp_path: Path, s3: FakeS3) -> None:
    assert moves_of(tmp_path, s3, "KMSInvalidStateException", Locked()).lost_key() is None


def test_a_search_that_fails_for_another_reason_is_not_taken_for_locked(tmp_path: Path, s3: FakeS3) -> None:
    class Down(Locked):
        def info(self) -> None:
            meta = ApiResponseMeta(503, "1.1", HttpHeaders(), 0.1, NodeConfig("http", "e1", 9200))
            raise ApiError("no node is there", meta, {})

    moves = moves_of(tmp_path, s3, "KMSInvalidStateException", Down())
    moves.verdicts.store(verdict(f"{OPERATION}-inventory"))
    with pytest.raises((ApiError, CloudError)):
        moves.do(move("purge-search", "inventory"))


# the way back ---------------------------------------------------------------------------------


@pytest.fixture
def world(project: Project, records: Records, monkeypatch: pytest.MonkeyPatch) -> World:
    return made_world(project, monkeypatch)


def begun(project: Project, records: Records, step: str) -> None:
    """A deletion that has come to `step`, whose frozen layout is the tenant's."""
    start = records.tenant("acme")
    operation = records.begin(start, OperationKind.DELETE, None, asked={"ended": [LOST.model_dump(mode="json")]})
    with records.lease("acme", of_a_sealed=True) as fence:
        records.advance(deletion(start.layout, LOST).phases[0].layout, fence)
        records.note(operation.id, fence=fence, step=step, state="failed")


def test_a_lost_key_that_is_found_takes_the_deletion_back(project: Project, records: Records, world: World) -> None:
    start = records.tenant("acme").layout
    world.sealer.seal("k1 is lost", limit=10)
    end_key(project, Fate.LOST)
    begun(project, records, "freeze/1-inventory")
    revoker = Revoker(project, "acme", unwatched)
    found = revoker.restore("found in a safe", limit=10, wanted=Wanted())
    assert found["found_again"] == ["k1"]
    assert records.tenant("acme").layout == start
    assert not records.tenant("acme").sealed
    assert [op.state for op in records.operations("acme") if op.kind is OperationKind.DELETE] == ["aborted"]
    assert records.unfinished("acme") is None


def test_once_it_purges_there_is_no_way_back(project: Project, records: Records, world: World) -> None:
    world.sealer.seal("k1 is lost", limit=10)
    end_key(project, Fate.LOST)
    begun(project, records, "purge/1-purge-storage")
    before = records.tenant("acme")
    with pytest.raises(RefusedInput) as refused:
        Revoker(project, "acme", unwatched).restore("found", limit=10, wanted=Wanted())
    assert refused.value.code == "not-reversible"
    assert records.tenant("acme").layout == before.layout
    assert records.tenant("acme").sealed
