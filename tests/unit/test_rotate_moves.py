"""A rotation's moves and its walk: verdicts, a key lost midway, what an upload asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
from fake_s3 import DAY, SOURCE_KEY, TARGET_KEY, a_history, error, put
from sqlalchemy import Engine
from test_rekey import STORED, Lab
from test_runner import FakeMoves, FakeStack, MemoryJournal, verdict

from migrate import durable, runner, tenants
from migrate.aws_cloud import AwsCloud
from migrate.check import DIFFERS, HOLDS, check
from migrate.errors import KeyLost, KeyshiftError, RefusedInput, Waiting
from migrate.log import Log
from migrate.moves import Moves
from migrate.operations import Move, OperationKind, Request
from migrate.pending import PendingRotations
from migrate.progress import unwatched
from migrate.records import Records
from migrate.runner import Runner
from migrate.stack import Project
from migrate.verdict import VerdictKind, Verdicts
from stacks.record import connect

OPERATION = "acme-rotate-1"
IN_PLACE = {"storage": "s1", "target": "s1", "key": "k1"}
REKEY, DRAIN = Move(kind="rekey", title="", **IN_PLACE), Move(kind="drain", title="", **IN_PLACE)
PROOF = DRAIN.model_copy(update={"verdict": f"{OPERATION}-drained"})


class Kms:
    """What the runner's own look at a key comes to."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3

    def generate_data_key(self, KeyId: str, KeySpec: str) -> dict[str, Any]:  # noqa: N803 - as AWS names them
        if KeyId in self._s3.dead_keys:
            raise error("DisabledException", 400, f"{KeyId} is disabled.", "GenerateDataKey")
        return {"KeyId": KeyId, "KeySpec": KeySpec}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "unused.sqlite")


@pytest.fixture
def moves(lab: Lab, tmp_path: Path) -> Moves:
    arns = {"k1": SOURCE_KEY, "k2": TARGET_KEY}
    live: Any = SimpleNamespace(
        layout=layouts.rotation(),
        outputs={
            "keys": arns,
            "storages": {"s1": {"bucket": "shared", "prefix": "t/acme/", "key_arn": TARGET_KEY}},
            "searches": {},
        },
        storage=lambda *_: lab.side,
        client=lambda *_: Kms(lab.s3),
        key_arn=arns.__getitem__,
        operator=None,
    )
    live.cloud = AwsCloud(live)
    operation: Any = SimpleNamespace(
        id=OPERATION,
        moves_of=OPERATION,
        start=layouts.byok_active(),
        request=Request(operation=OPERATION, kind=OperationKind.ROTATE),
    )
    return Moves(
        live=live,
        operation=operation,
        folder=tmp_path,
        verdicts=Verdicts(tmp_path),
        log=Log(tmp_path),
        report=unwatched,
    )


def test_a_rekey_begins_once_new_writes_land_under_the_new_key(
    lab: Lab, moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.s3.default_key["shared"] = SOURCE_KEY
    looks: list[float] = []

    def late(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            lab.s3.default_key["shared"] = TARGET_KEY

    monkeypatch.setattr("migrate.moves.time.sleep", late)
    found = moves.do(REKEY)
    assert len(looks) == 2
    assert (found["rekeyed"], found["before"], found["redirected_at"]) == (
        STORED,
        {SOURCE_KEY: STORED},
        DAY.isoformat(),
    )


def test_a_redirect_that_never_holds_is_waited_for_by_name(
    lab: Lab, moves: Moves, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.s3.default_key["shared"] = SOURCE_KEY
    monkeypatch.setattr("migrate.rekey.moves.REDIRECTED_WITHIN_SECONDS", -1)
    with pytest.raises(Waiting, match="new writes to s3://shared/t/acme/ to come under the new key"):
        moves.do(REKEY)
    assert lab.keys() == {(SOURCE_KEY, False)}


def test_a_key_disabled_too_early_is_waited_for_by_its_name_with_what_lies_under_it(lab: Lab, moves: Moves) -> None:
    def disable(name: str, _: Any) -> None:
        if name == "update_object_encryption":
            lab.s3.dead_keys.add(SOURCE_KEY)

    lab.s3.before = disable
    with pytest.raises(KeyLost) as lost:
        moves.do(REKEY)
    assert lost.value.message == (
        f"the key k1 of tenant acme cannot be used, and {STORED} of {STORED} versions in s1 still lie under it: "
        f"KMS answered DisabledException ({SOURCE_KEY} is disabled)"
    )
    assert lost.value.exit_code == 3
    lab.s3.before = lambda *_: None
    lab.s3.dead_keys.clear()
    assert moves.do(REKEY)["rekeyed"] == STORED


def test_the_proof_is_signed_over_what_was_seen_now_and_only_once(
    lab: Lab, moves: Moves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves.do(REKEY)
    assert "verdict" not in moves.do(DRAIN)
    lab.s3.calls.clear()
    found = moves.do(PROOF)
    assert lab.count("head_object") == STORED, "the proof before the key goes asks for every version again"
    signed = moves.verdicts.load(found["verdict"])
    assert signed is not None
    assert (signed.kind, signed.subject, signed.passed) == (VerdictKind.DRAINED, "k1", True)
    assert signed.counts == {"versions": STORED, "delete_markers": 4, "under_another_key": 0, "uploads_aborted": 0}
    assert (signed.details["from"], signed.details["to"]) == (SOURCE_KEY, TARGET_KEY)
    put(lab.s3, "records/a/9.json", b"written between the signature and a kill")
    again = moves.do(PROOF)
    assert (again["verdict"], again["versions"], again["left"]) == (found["verdict"], STORED, "k1")
    assert check(moves.live, tmp_path, signed, unwatched).result == HOLDS, "the list is still the one that was signed"
    assert [line["event"]["event"] for line in moves.log.events()] == ["verdict"]


def test_the_proof_can_be_checked_later_and_sees_what_came_under_the_old_key(
    lab: Lab, moves: Moves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves.do(REKEY)
    moves.do(PROOF)
    signed = moves.verdicts.load(f"{OPERATION}-drained")
    assert signed is not None
    live: Any = moves.live
    assert check(live, tmp_path, signed, unwatched).result == HOLDS
    a_history(lab.s3)  # under the bucket's default: later work is no difference
    assert check(live, tmp_path, signed, unwatched).result == HOLDS
    lab.s3.current("shared", "t/acme/attachments/empty").key_arn = SOURCE_KEY
    found = check(live, tmp_path, signed, unwatched)
    assert (found.result, found.facts["under it"]) == (DIFFERS, 1)
    assert "attachments/empty" in found.examples[0]


# the walk -------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return connect(tmp_path / ".keyshift")


@pytest.fixture
def records(engine: Engine) -> Records:
    made = Records(engine)
    made.create(layouts.byok_active())
    return made


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMoves:
    made = FakeMoves()
    monkeypatch.setattr(runner, "Moves", made.made)
    monkeypatch.setattr(runner, "Stack", lambda *_: stack)
    stack = FakeStack()
    monkeypatch.setattr(runner, "POLL_SECONDS", 0)
    return made


@pytest.fixture
def walker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Records, fake: FakeMoves) -> Runner:
    monkeypatch.setattr(durable, "walk", MemoryJournal().walk)
    monkeypatch.setattr(durable, "give_up", lambda *_: None)
    made = Runner(Project(root=tmp_path, home=tmp_path / ".keyshift"), "acme", fake.tell, patience=60)
    for operation in (OPERATION, f"{OPERATION}-abort"):
        for id in ("index", "drained"):
            made.verdicts.store(verdict(f"{operation}-{id}"))
    return made


def test_a_rotation_never_closes_jobs_and_limits_searches_from_the_redirect_on(
    walker: Runner, records: Records, fake: FakeMoves
) -> None:
    done = walker.run(OperationKind.ROTATE)
    assert (done.state, done.step) == ("done", "drop/up")
    assert (done.jobs_closed_at, done.jobs_opened_at, done.jobs_disabled_seconds) == (None, None, None)
    assert done.cutoff is not None
    assert [step for step in fake.told if "up" in step] == [
        f"{phase}/up" for phase in ("key", "build", "redirect", "serve", "purge", "drop")
    ]
    layout = records.tenant("acme").layout
    assert [(key.id, key.state, key.archived_under) for key in layout.keys] == [
        ("k1", "archived", f"{OPERATION}-drained"),
        ("k2", "active", None),
    ]


def test_a_key_is_not_archived_while_its_proof_is_missing(walker: Runner, records: Records) -> None:
    walker.verdicts.void(f"{OPERATION}-drained")
    with pytest.raises(KeyshiftError, match=f"{OPERATION}-drained, which does not exist"):
        walker.run(OperationKind.ROTATE)
    assert records.tenant("acme").layout.key("k1").state == "active"


def test_a_wait_for_a_lost_key_keeps_saying_what_lies_under_it(walker: Runner, fake: FakeMoves) -> None:
    lost = KeyLost("acme", "k1", "DisabledException")
    lost.message = "the key k1 of tenant acme cannot be used, and 17 of 41 versions in s1 still lie under it"
    fake.fails["rekey"] = lost
    fake.key_answers = ["DisabledException", "DisabledException", ""]
    assert walker.run(OperationKind.ROTATE).state == "done"
    assert set(fake.waited) == {lost.message}


@pytest.mark.parametrize("at", ["key-material", "key-usable", "rekey", "fill", "verify-live-index"])
def test_a_rotation_can_be_aborted_before_the_new_search_serves(
    walker: Runner, records: Records, fake: FakeMoves, at: str
) -> None:
    fake.fails[at] = RefusedInput("no", hint="")
    with pytest.raises(KeyshiftError):
        walker.run(OperationKind.ROTATE)
    fake.fails.clear()
    assert walker.abort().state == "done"
    layout = records.tenant("acme").layout
    assert (layout.storage("s1").key, layout.serves) == ("k1", layouts.byok_active().serves)
    assert layout.key("k1").state == "active"


def test_once_the_new_search_serves_there_is_no_way_back(walker: Runner, fake: FakeMoves) -> None:
    fake.fails["open-search"] = RefusedInput("no", hint="")
    with pytest.raises(KeyshiftError):
        walker.run(OperationKind.ROTATE)
    with pytest.raises(RefusedInput, match="cannot be aborted"):
        walker.abort()


# what an upload asks for ----------------------------------------------------------------------


def test_an_upload_during_another_operation_waits_its_turn_and_resume_begins_it(
    walker: Runner, records: Records, fake: FakeMoves, engine: Engine
) -> None:
    walker.run(OperationKind.REQUEST)
    other = records.begin(records.tenant("acme"), OperationKind.REMOVE, None)
    PendingRotations(engine).note("acme", "k2")
    PendingRotations(engine).note("acme", "k2")
    status = tenants.status(walker.project, "acme")
    assert (status["pending_rotation"]["key"], status["pending_rotation"]["behind"]) == ("k2", other.id)
    records.note(other.id, state="done")
    status = tenants.status(walker.project, "acme")
    assert status["pending_rotation"]["behind"] is None
    done = walker.resume()
    assert (done.kind, done.state) == (OperationKind.ROTATE, "done")
    assert tenants.status(walker.project, "acme")["pending_rotation"] is None
    with pytest.raises(RefusedInput, match="no unfinished operation"):
        walker.resume()


def test_a_rotation_that_was_given_up_does_not_begin_by_itself_again(
    walker: Runner, fake: FakeMoves, engine: Engine
) -> None:
    walker.run(OperationKind.REQUEST)
    PendingRotations(engine).note("acme", "k2")
    fake.fails["rekey"] = RefusedInput("no", hint="")
    with pytest.raises(KeyshiftError):
        walker.run(OperationKind.ROTATE)
    assert tenants.status(walker.project, "acme")["pending_rotation"] is None, "it is under way"
    fake.fails.clear()
    walker.abort()
    with pytest.raises(RefusedInput, match="no unfinished operation"):
        walker.resume()


def test_after_an_upload_a_byok_tenant_is_told_to_rotate(walker: Runner, keyed: Callable[[], str | None]) -> None:
    walker.run(OperationKind.REQUEST)
    assert keyed() == "keyshift key request acme"
    tenants.note_upload(walker.project, "acme", "k2", fingerprint="f", sha256="s")
    assert keyed() == "keyshift rotate acme"


@pytest.fixture
def keyed(walker: Runner) -> Callable[[], str | None]:
    return lambda: tenants.status(walker.project, "acme")["next"]
