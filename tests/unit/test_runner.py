"""The walker with fakes at its edges: no engine, no cloud, no DBOS; the record database is real."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import layouts
import pytest
from botocore.exceptions import EndpointConnectionError
from fake_s3 import SOURCE, FakeS3, put

from migrate import durable, outage, runner
from migrate.durable import Outcome
from migrate.errors import CloudError, Conflict, KeyshiftError, RefusedInput, VerificationFailed, Waiting
from migrate.events import Event, StepBegun, Waits
from migrate.freeze import LateWrite
from migrate.moves import KeyLost
from migrate.operations import Move, OperationKind, Request, Wait
from migrate.plan import plan
from migrate.progress import Progress
from migrate.records import Operation, Records
from migrate.runner import Runner, step_names
from migrate.seals import Seals
from migrate.stack import EngineDied, Project, Step, UnexpectedPlan
from migrate.verdict import Verdict, VerdictKind
from stacks.layout import Layout
from stacks.record import TENANTS, connect

PHASES = ["key", "build", "freeze", "attach", "serve", "purge", "drop"]


class FakeStack:
    """Does what it is told and remembers it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.steps: list[Step] = []
        self.generation = 0
        self.is_cut_short = False
        self.dies = 0

    def render(self, _: Layout, generation: int) -> None:
        self.calls.append("render")
        self.rendered = generation

    def recover(self) -> list[str]:
        self.calls.append("recover")
        return []

    def preview(self, *, fence: int, plan_file: Path) -> list[Step]:
        self.calls.append("preview")
        self.fence, self.plan_file = fence, plan_file
        return self.steps

    def up(self, *, fence: int, plan_file: Path) -> None:
        self.calls.append("up")
        assert (fence, plan_file) == (self.fence, self.plan_file), "the up has to be bound by the plan that was judged"
        if self.dies:
            self.dies -= 1
            raise EngineDied("it died in the up", hint="keyshift resume acme", code="engine-died")
        self.generation = 0 if self.is_cut_short else self.rendered

    def outputs(self) -> dict[str, Any]:
        return {"generation": self.generation}


class FakeMoves:
    """Every wait and move works, except where a test says otherwise."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.told: list[str] = []
        self.waited: list[str] = []
        self.done: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.key_answers: list[str] = []
        self.cutoff: datetime | None = None

    def made(self, *, operation: Operation, report: Callable[..., None], **_: Any) -> FakeMoves:
        self.report = report
        self.cutoff = operation.cutoff
        return self

    def tell(self, event: Event) -> None:
        self.events.append(event)
        match event:
            case StepBegun(step=str(step)):
                self.told.append(step)
            case Waits():
                self.waited.append(event.reason)

    def wait(self, wait: Wait) -> dict[str, Any]:
        return self._do(wait.kind)

    def do(self, move: Move) -> dict[str, Any]:
        return self._do(move.kind)

    def _do(self, kind: str) -> dict[str, Any]:
        if kind in self.fails:
            raise self.fails[kind]
        self.done.append(kind)
        return {"did": kind}

    def lost_key(self) -> KeyLost | None:
        if self.key_answers and (said := self.key_answers.pop(0)):
            return KeyLost("acme", "k1", said)
        self.fails = {}
        return None


class MemoryJournal:
    """`durable.walk` without DBOS: steps that were done are not done again."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def walk(self, _: Path, __: str, operation: str, steps: list[str], act: durable.Act) -> Outcome:
        for step in steps:
            if step in self.done:
                continue
            outcome = act(operation, step)
            if outcome["state"] != "done":
                if again_from := outcome.get("again_from"):
                    self.done = self.done[: self.done.index(again_from)]
                return outcome
            self.done.append(step)
        return Outcome(state="done")


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    records = Records(connect(tmp_path / ".keyshift"))
    records.create(layouts.standard())
    return records


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> FakeStack:
    fake = FakeStack()
    monkeypatch.setattr(runner, "Stack", lambda *_: fake)
    return fake


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> FakeMoves:
    fake = FakeMoves()
    monkeypatch.setattr(runner, "Moves", fake.made)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0)
    return fake


@pytest.fixture
def walker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Records, stack: FakeStack, moves: FakeMoves
) -> Runner:
    monkeypatch.setattr(durable, "walk", MemoryJournal().walk)
    project = Project(root=tmp_path, home=tmp_path / ".keyshift")
    made = Runner(project, "acme", moves.tell, patience=60)
    for id in ("storage", "index", "purge"):
        made.verdicts.store(verdict(f"acme-enable-1-{id}"))
    return made


def verdict(id: str, *, passed: bool = True) -> Verdict:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return Verdict(
        id=id,
        kind=VerdictKind.STORAGE,
        tenant="acme",
        operation="acme-enable-1",
        subject="s1",
        passed=passed,
        started_at=now,
        finished_at=now,
        counts={},
    )


def test_step_names_are_stable_because_the_journal_is_keyed_by_them() -> None:
    made = plan(Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byok"), layouts.standard())
    assert [phase.name for phase in made.phases] == PHASES
    assert {phase.name: step_names(phase)[1:] for phase in made.phases} == {
        "key": ["key/1-key-material"],
        "build": [
            "build/1-key-usable",
            "build/2-preflight",
            "build/3-copy",
            "build/4-verify-copied",
            "build/5-fill",
            "build/6-copy",
        ],
        "freeze": [
            "freeze/1-limit-search",
            "freeze/2-settle",
            "freeze/3-copy",
            "freeze/4-verify-storage",
            "freeze/5-fill",
            "freeze/6-verify-index",
        ],
        "attach": ["attach/1-limit-search", "attach/2-canary", "attach/3-still-settled"],
        "serve": ["serve/1-open-search"],
        "purge": ["purge/1-purge-storage", "purge/2-purge-search", "purge/3-prove-empty"],
        "drop": [],
    }
    assert all(step_names(phase)[0] == f"{phase.name}/up" for phase in made.phases)


def test_an_operation_walks_every_phase_and_ends_in_the_planned_layout(
    walker: Runner, records: Records, stack: FakeStack, moves: FakeMoves
) -> None:
    done = walker.run(OperationKind.ENABLE, "byok")
    assert (done.state, done.step) == ("done", "drop/up")
    assert [step for step in moves.told if step.endswith("/up")] == [f"{phase}/up" for phase in PHASES]
    assert stack.calls == ["render", "recover", "preview", "up"] * len(PHASES)
    held = records.tenant("acme")
    assert held.layout.mode == "byok"
    assert held.generation == 1 + len(PHASES)
    assert held.lease_owner is None
    assert done.jobs_closed_at is not None
    assert done.jobs_opened_at is not None
    assert done.jobs_closed_at < done.jobs_opened_at
    walker.log.verify_chain()


def test_the_cut_off_is_set_once_in_milliseconds_and_kept_over_a_resume(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    moves.fails["settle"] = CloudError("a writer is still let in")
    with pytest.raises(KeyshiftError):
        walker.run(OperationKind.ENABLE, "byok")
    cutoff = records.operation("acme-enable-1").cutoff
    assert cutoff is not None
    assert cutoff.microsecond % 1000 == 0, "documents hold milliseconds"
    assert records.tenant("acme").layout.gate.search_cutoff == cutoff
    moves.fails.clear()
    assert walker.resume().cutoff == cutoff


def test_a_write_that_lands_late_stops_the_operation_and_a_resume_settles_anew(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    moves.fails["still-settled"] = LateWrite("the source changed after it had settled")
    with pytest.raises(KeyshiftError) as stopped:
        walker.run(OperationKind.ENABLE, "byok")
    assert stopped.value.code == "late-write"
    assert records.operation("acme-enable-1").step == "attach/3-still-settled"
    assert records.tenant("acme").layout.gate.jobs == "closed", "nobody may archive into what does not serve yet"
    moves.fails.clear()
    moves.told.clear()
    walker.resume()
    assert moves.told[:3] == ["freeze/up", "freeze/1-limit-search", "freeze/2-settle"], (
        "the frozen layout first: no event of the new storage may reach its search while it is copied to"
    )


@pytest.mark.parametrize("kind", ["purge-storage", "prove-empty"])
def test_a_write_that_lands_after_the_switch_is_never_copied_by_itself(
    walker: Runner, moves: FakeMoves, kind: str
) -> None:
    moves.fails[kind] = Conflict("the old storage holds what the manifest does not know", code="unknown-versions")
    with pytest.raises(KeyshiftError):
        walker.run(OperationKind.ENABLE, "byok")
    moves.fails.clear()
    moves.told.clear()
    walker.resume()
    assert moves.told[0].endswith(kind), "what serves has gone on since: the old freeze is over"


# what is refused ------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(walker: Runner, records: Records, stack: FakeStack) -> None:
    before = records.tenant("acme")
    assert [phase.name for phase in walker.preview(OperationKind.ENABLE, "byok").phases] == PHASES
    assert records.tenant("acme") == before
    assert records.operations("acme") == []
    assert stack.calls == []


def test_what_the_planner_refuses_is_never_begun(walker: Runner, records: Records) -> None:
    with pytest.raises(RefusedInput, match="does not offer the mode byokv"):
        walker.run(OperationKind.ENABLE, "byokv")
    assert records.operations("acme") == []
    assert records.tenant("acme").lease_owner is None


def test_a_second_operation_is_refused_by_the_name_of_the_unfinished_one(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    moves.fails["key-material"] = Waiting("no key yet", waits_for="the key", hint="upload it")
    with pytest.raises(Waiting):
        walker.run(OperationKind.ENABLE, "byok")
    with pytest.raises(
        RefusedInput, match=r"in the middle of acme-enable-1 \(waiting, step key/1-key-material\)"
    ) as refused:
        walker.run(OperationKind.ENABLE, "byok")
    assert refused.value.code == "operation-unfinished"
    assert refused.value.hint == "go on with it: keyshift resume acme"
    assert len(records.operations("acme")) == 1


def test_there_is_nothing_to_resume_without_an_unfinished_operation(walker: Runner) -> None:
    with pytest.raises(RefusedInput, match="has no unfinished operation"):
        walker.resume()


def test_a_key_is_not_released_either_while_its_verdict_is_not_stored(walker: Runner) -> None:
    key = layouts.byok_active().keys[0].model_copy(update={"release": "acme-delete-1-inventory"})
    with pytest.raises(VerificationFailed, match="verdict acme-delete-1-inventory, which does not exist"):
        walker._refuse_unproven(layouts.changed(layouts.byok_active(), keys=(key,)))


@pytest.mark.parametrize("missing", ["storage", "index"])
def test_nothing_is_released_while_its_verdict_is_not_stored(
    walker: Runner, records: Records, stack: FakeStack, missing: str
) -> None:
    (walker.folder / "verdicts" / f"acme-enable-1-{missing}.json").unlink()
    with pytest.raises(KeyshiftError, match=f"verdict acme-enable-1-{missing}, which does not exist") as refused:
        walker.run(OperationKind.ENABLE, "byok")
    assert refused.value.code == "no-verdict"
    assert records.operation("acme-enable-1").step == "purge/up"
    assert not any(unit.release for unit in records.tenant("acme").layout.storages), "the record must not say so either"
    assert len(stack.calls) == 4 * PHASES.index("purge"), "the purge phase must not reach the engine"


def test_nothing_is_dropped_under_a_verdict_that_did_not_pass(walker: Runner, records: Records) -> None:
    (walker.folder / "verdicts" / "acme-enable-1-purge.json").unlink()
    walker.verdicts.store(verdict("acme-enable-1-purge", passed=False))
    with pytest.raises(KeyshiftError, match="did not pass"):
        walker.run(OperationKind.ENABLE, "byok")
    assert [unit.id for unit in records.tenant("acme").layout.storages] == ["s1", "s2"]


def test_refusing_the_unproven_asks_for_every_verdict_that_a_layout_names(walker: Runner) -> None:
    for layout in (layouts.standard(), layouts.enable_frozen(), layouts.enable_served()):
        walker._refuse_unproven(layout)
    with pytest.raises(VerificationFailed, match="enable-1-index"):
        walker._refuse_unproven(layouts.enable_released())
    with pytest.raises(VerificationFailed):
        walker._refuse_unproven(layouts.enable_done())


def test_a_plan_that_does_too_much_is_never_carried_out(walker: Runner, stack: FakeStack) -> None:
    stack.steps = [Step(op="delete", urn="urn:pulumi:tenant-acme::keyshift::x$aws:s3/bucket:Bucket::s1-bucket")]
    with pytest.raises(KeyshiftError, match="would delete s1-bucket") as refused:
        walker.run(OperationKind.ENABLE, "byok")
    assert refused.value.code == "unexpected-plan"
    assert stack.calls == ["render", "recover", "preview"]
    assert issubclass(UnexpectedPlan, KeyshiftError)


def test_a_program_that_ended_before_its_last_line_is_noticed(walker: Runner, stack: FakeStack) -> None:
    stack.is_cut_short = True
    with pytest.raises(KeyshiftError, match="ended before its last line") as failed:
        walker.run(OperationKind.ENABLE, "byok")
    assert failed.value.code == "program-incomplete"


# how it stops ---------------------------------------------------------------------------------


def test_a_wait_for_a_person_is_kept_with_its_reason_and_goes_on_at_resume(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    moves.fails["key-material"] = Waiting(
        "no key yet", waits_for="the wrapped key", hint="upload it", code="key-material"
    )
    with pytest.raises(Waiting, match="no key yet") as waiting:
        walker.run(OperationKind.ENABLE, "byok")
    assert (waiting.value.exit_code, waiting.value.waits_for) == (3, "the wrapped key")
    held = records.operation("acme-enable-1")
    assert (held.state, held.message, held.hint) == ("waiting", "no key yet", "upload it")
    moves.fails.clear()
    done = walker.resume()
    assert (done.state, done.message, done.hint) == ("done", None, None)
    assert moves.done.count("key-material") == 1


def test_a_librarys_error_stops_the_operation_with_a_sentence_and_it_can_be_resumed(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 0)
    moves.lost_key = lambda: None
    moves.fails["copy"] = EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(KeyshiftError, match="AWS cannot be reached") as failed:
        walker.run(OperationKind.ENABLE, "byok")
    assert failed.value.code == "unreachable"
    held = records.operation("acme-enable-1")
    assert (held.state, held.step) == ("failed", "build/3-copy")
    moves.fails.clear()
    assert walker.resume().state == "done"


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("mend what AWS names, then run the same command again", "mend what AWS names, then keyshift resume acme"),
        ("restore it first, then run this again", "restore it first, then keyshift resume acme"),
        ("S3 takes up to 15 minutes; run it again then", "S3 takes up to 15 minutes; keyshift resume acme then"),
        ("have it enabled, then: keyshift resume acme", "have it enabled, then: keyshift resume acme"),
    ],
)
def test_an_operation_that_failed_is_gone_on_with_and_not_run_again(
    walker: Runner, records: Records, moves: FakeMoves, hint: str, said: str
) -> None:
    moves.fails["copy"] = CloudError("the bucket said no", hint=hint)
    with pytest.raises(KeyshiftError) as failed:
        walker.run(OperationKind.ENABLE, "byok")
    assert failed.value.hint == said
    assert records.operation("acme-enable-1").hint == said, "the same in `keyshift status`"
    with pytest.raises(RefusedInput, match="is in the middle of"):
        walker.run(OperationKind.ENABLE, "byok")


def test_a_defect_is_not_taken_for_an_outcome_but_the_operation_is_not_left_running(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    moves.fails["copy"] = KeyError("a defect")
    with pytest.raises(KeyError):
        walker.run(OperationKind.ENABLE, "byok")
    held = records.operation("acme-enable-1")
    assert held.state == "failed"
    assert "KeyError, which Keyshift does not expect" in (held.message or "")


# a key that is lost half-way ------------------------------------------------------------------


def test_a_lost_key_is_waited_for_in_a_named_state_and_the_step_is_done_again(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    moves.fails["copy"] = CloudError("S3 answered KMS.DisabledException")
    moves.key_answers = ["DisabledException", "DisabledException", ""]
    seen: list[tuple[str, str | None]] = []
    look = moves.lost_key

    def lost_key() -> KeyLost | None:
        held = records.operation("acme-enable-1")
        seen.append((held.state, held.message))
        return look()

    moves.lost_key = lost_key
    assert walker.run(OperationKind.ENABLE, "byok").state == "done"
    assert seen[1] == ("waiting", "the key k1 of tenant acme cannot be used: KMS answered DisabledException")
    assert records.operation("acme-enable-1").message is None


def test_a_key_that_does_not_come_back_ends_in_waiting_with_exit_code_three(
    walker: Runner, records: Records, moves: FakeMoves
) -> None:
    walker._patience = 0
    moves.fails["fill"] = CloudError("the search answered 503")
    moves.key_answers = ["DisabledException"] * 5
    with pytest.raises(
        Waiting, match="the key k1 of tenant acme cannot be used: KMS answered DisabledException"
    ) as waiting:
        walker.run(OperationKind.ENABLE, "byok")
    assert waiting.value.exit_code == 3
    assert waiting.value.hint == "have it enabled, then: keyshift resume acme"
    assert records.operation("acme-enable-1").state == "waiting"
    moves.fails.clear()
    moves.key_answers = []
    assert walker.resume().state == "done"


def test_what_hangs_on_a_key_may_still_refuse_for_a_while_after_a_resume(
    walker: Runner, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    walker._patience = 0
    moves.fails["fill"] = CloudError("the search answered 503")
    moves.key_answers = ["DisabledException"] * 5
    with pytest.raises(Waiting):
        walker.run(OperationKind.ENABLE, "byok")
    moves.key_answers = []
    looks: list[None] = []

    def lost_key() -> None:
        looks.append(None)
        if len(looks) == 3:
            moves.fails.clear()

    moves.lost_key = lost_key
    assert walker.resume().state == "done", "a search needs a while to be unlocked"
    assert len(looks) == 3
    assert moves.waited[-1] == "what hangs on the key that is back: the search answered 503"


def test_an_error_while_every_key_works_is_not_waited_for(walker: Runner, records: Records, moves: FakeMoves) -> None:
    moves.fails["fill"] = error = CloudError("the search answered 403", code="cloud")
    moves.lost_key = lambda: None
    with pytest.raises(KeyshiftError, match=error.message):
        walker.run(OperationKind.ENABLE, "byok")
    assert records.operation("acme-enable-1").state == "failed"


def _with_storage(stack: FakeStack, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """The tenant's storage is up and holds one record."""
    s3 = FakeS3()
    put(s3, "records/a/1.json")
    unit = {"bucket": SOURCE.bucket, "prefix": SOURCE.prefix, "key_arn": None}
    monkeypatch.setattr(stack, "outputs", lambda: {"generation": stack.generation, "storages": {"s1": unit}})
    monkeypatch.setattr(runner.Live, "client", lambda *_: s3)
    return s3


@pytest.mark.parametrize("ask", ["preview", "run"])
def test_what_cannot_be_moved_is_refused_before_anything_is_changed(
    walker: Runner, records: Records, stack: FakeStack, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    s3 = _with_storage(stack, monkeypatch)
    s3.current("shared", "t/acme/records/a/1.json").storage_class = "GLACIER"  # pyright: ignore[reportOptionalMemberAccess]
    before = records.tenant("acme").layout
    with pytest.raises(RefusedInput, match="asleep") as refused:
        getattr(walker, ask)(OperationKind.ENABLE, "byok")
    assert refused.value.hint.endswith("then: keyshift enable acme")
    assert records.tenant("acme").layout == before
    assert records.operations("acme") == []
    assert stack.calls == []


def test_a_dry_run_tells_what_its_preflight_found_and_cost(
    walker: Runner, stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_storage(stack, monkeypatch)
    walker.preview(OperationKind.ENABLE, "byok")
    assert walker.preflight is not None
    assert (walker.preflight["versions"], walker.preflight["list_requests"]) == (1, 1)


def test_a_tenant_that_was_never_brought_up_has_nothing_to_look_at(walker: Runner) -> None:
    walker.preview(OperationKind.ENABLE, "byok")
    assert walker.preflight is None


# a seal ---------------------------------------------------------------------------------------


def seal_it(records: Records) -> None:
    Seals(records._engine).put("acme", "stolen key", "me@here")


@pytest.mark.parametrize("move", ["copy", "settle", "purge-storage", "purge-search"])
def test_a_seal_in_a_step_ends_the_operation_there_and_says_why(
    walker: Runner, stack: FakeStack, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch, move: str
) -> None:
    done, records = moves._do, walker.records

    def then_sealed(kind: str) -> dict[str, Any]:
        found = done(kind)
        if kind == move:
            seal_it(records)
        return found

    monkeypatch.setattr(moves, "_do", then_sealed)
    with pytest.raises(KeyshiftError, match="stolen key") as stopped:
        walker.run(OperationKind.ENABLE, "byok")
    assert stopped.value.code == "sealed"
    assert moves.done[-1] == move, "nothing is done after it"
    held = records.unfinished("acme")
    assert held is not None
    assert (held.state, "keyshift restore acme" in (held.hint or "")) == ("failed", True)
    ups = stack.calls.count("up")
    for act in (walker.resume, lambda: walker.run(OperationKind.ENABLE, "byok")):
        with pytest.raises(RefusedInput) as refused:
            act()
        assert refused.value.code == "sealed"
    assert stack.calls.count("up") == ups
    assert moves.done[-1] == move


def test_an_error_that_comes_from_what_a_seal_denies_is_told_as_the_seal(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: str) -> dict[str, Any]:
        seal_it(records)
        raise CloudError("AWS answered KMS.DisabledException", cloud_code="KMS.DisabledException")

    monkeypatch.setattr(moves, "_do", refused)
    moves.key_answers = ["DisabledException"] * 1000
    with pytest.raises(KeyshiftError) as stopped:
        walker.run(OperationKind.ENABLE, "byok")
    assert stopped.value.code == "sealed", "it must not wait for a key that the seal disabled"
    assert moves.waited == []


def test_an_update_that_was_judged_before_the_seal_is_not_carried_out_after_it(
    walker: Runner, records: Records, stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = runner.judge

    def then_sealed(steps: list[Step], after: Layout) -> None:
        judged(steps, after)
        seal_it(records)

    monkeypatch.setattr(runner, "judge", then_sealed)
    with pytest.raises(KeyshiftError) as stopped:
        walker.run(OperationKind.ENABLE, "byok")
    assert stopped.value.code == "sealed"
    assert "up" not in stack.calls


def test_a_long_step_asks_at_its_progress_whether_it_may_go_on(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GUARD_SECONDS", -1)
    done = moves._do

    def copies_for_hours(kind: str) -> dict[str, Any]:
        if kind == "copy":
            moves.report(Progress(move="copy", objects=1))
            seal_it(records)
            moves.report(Progress(move="copy", objects=2))
        return done(kind)

    monkeypatch.setattr(moves, "_do", copies_for_hours)
    with pytest.raises(KeyshiftError) as stopped:
        walker.run(OperationKind.ENABLE, "byok")
    assert stopped.value.code == "sealed"
    assert "copy" not in moves.done


def test_every_move_gets_the_guard_of_this_runner(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, given = moves.made, list[Any]()

    def made_with(**facts: Any) -> FakeMoves:
        given.append(facts["guard"])
        return made(**facts)

    monkeypatch.setattr(runner, "Moves", made_with)
    walker.run(OperationKind.ENABLE, "byok")
    assert given
    given[-1]()
    seal_it(records)
    with pytest.raises(Conflict):
        given[-1]()


# processes that die, runners that are overtaken ----------------------------------------------


def test_an_engine_that_died_is_recovered_and_run_again_and_both_are_said(
    walker: Runner, records: Records, stack: FakeStack, moves: FakeMoves
) -> None:
    stack.dies = 2
    done = walker.run(OperationKind.ENABLE, "byok")
    assert done.state == "done"
    assert stack.calls[:10] == ["render", *["recover", "preview", "up"] * 3]
    assert [said.rpartition("; ")[2] for said in moves.waited] == ["once again (2 of 3)", "once again (3 of 3)"]
    assert len(done.results["key/up"]["recovered"]) == 2
    assert [line["event"]["event"] for line in walker.log.events()].count("engine-died") == 2


def test_an_engine_that_dies_again_and_again_stops_the_operation_and_a_resume_goes_on(
    walker: Runner, records: Records, stack: FakeStack
) -> None:
    stack.dies = runner.UP_ATTEMPTS
    with pytest.raises(KeyshiftError, match="died in the up") as failed:
        walker.run(OperationKind.ENABLE, "byok")
    assert failed.value.code == "engine-died"
    held = records.operation("acme-enable-1")
    assert (held.state, held.step, held.hint) == ("failed", "key/up", "keyshift resume acme")
    assert walker.resume().state == "done"


@pytest.mark.parametrize("answer", ["fails", "waits", "succeeds"])
def test_a_runner_overtaken_in_a_step_leaves_the_operation_as_its_successor_has_it(
    walker: Runner, records: Records, moves: FakeMoves, answer: str
) -> None:
    def overtaken(move: Move) -> dict[str, Any]:
        if move.kind == "copy":
            with records._engine.begin() as connection:
                connection.execute(TENANTS.update().values(lease_owner="another-host:1", lease_fence=99))
            records.note("acme-enable-1", fence=99, step="purge/1-purge-storage", message="the successor's")
            if answer == "fails":
                raise CloudError("S3 answered 503")
            if answer == "waits":
                raise Waiting("no key", waits_for="the key")
        return {}

    moves.do = overtaken
    with pytest.raises(Conflict, match="went to another-host:1"):
        walker.run(OperationKind.ENABLE, "byok")
    held = records.operation("acme-enable-1")
    assert (held.state, held.step, held.message) == ("running", "purge/1-purge-storage", "the successor's")
    assert "build/3-copy" not in held.results


@pytest.mark.parametrize("status", ["429", "502", "503", "504", "SlowDown", "ThrottlingException", "unreachable"])
@pytest.mark.parametrize("kind", ["fill", "verify-index", "canary"])
def test_a_service_that_restarts_or_is_overloaded_is_waited_for_by_name_and_the_step_is_done_again(
    walker: Runner, records: Records, moves: FakeMoves, kind: str, status: str
) -> None:
    away = CloudError(f"the search answered {status}", cloud_code=status)
    do, failed = moves.do, [away, away]

    def down(move: Move) -> dict[str, Any]:
        if move.kind == kind and failed:
            raise failed.pop()
        return do(move)

    moves.do = down
    moves.lost_key = lambda: None
    assert walker.run(OperationKind.ENABLE, "byok").state == "done"
    assert moves.waited == [away.message] * 2


def test_a_search_that_stays_away_stops_the_operation_and_a_resume_goes_on(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "OUTAGE_SECONDS", 0)
    moves.fails["verify-index"] = CloudError("the search answered 503", cloud_code="503", hint="see that it runs")
    moves.lost_key = lambda: None
    with pytest.raises(KeyshiftError, match="answered 503"):
        walker.run(OperationKind.ENABLE, "byok")
    held = records.operation("acme-enable-1")
    assert (held.state, held.step, held.hint) == ("failed", "freeze/6-verify-index", "see that it runs")
    moves.fails.clear()
    assert walker.resume().state == "done"


# the way back ---------------------------------------------------------------------------------

REVERSIBLE = ["key-material", "key-usable", "copy", "fill", "settle", "verify-storage", "canary", "still-settled"]


def stopped_in(walker: Runner, moves: FakeMoves, move: str) -> Layout:
    """An enable that has failed in a move; the layout that it had reached."""
    moves.fails = {move: VerificationFailed("it does not fit")}
    with pytest.raises(KeyshiftError):
        walker.run(OperationKind.ENABLE, "byok")
    moves.fails = {}
    for id in ("untouched", "purge"):
        walker.verdicts.store(verdict(f"acme-enable-1-abort-{id}"))
    return walker.records.tenant("acme").layout


@pytest.mark.parametrize("move", REVERSIBLE)
def test_an_operation_that_is_aborted_ends_where_it_began(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch, move: str
) -> None:
    given_up: list[str] = []
    monkeypatch.setattr(durable, "give_up", lambda *names: given_up.append(names[-1]))
    before = records.tenant("acme").layout
    reached = stopped_in(walker, moves, move)
    planned = walker.preview_abort()
    assert records.tenant("acme").layout == reached, "a dry run changes nothing"
    done = walker.abort()
    assert (done.id, done.state, given_up) == ("acme-enable-1-abort", "done", ["acme-enable-1"])
    assert records.operation("acme-enable-1").state == "aborted"
    assert records.unfinished("acme") is None
    now = records.tenant("acme").layout
    assert now == planned.end
    assert now.model_copy(update={"dropped": before.dropped, "keys": before.keys}) == before
    closed = records.operation("acme-enable-1")
    assert (closed.jobs_opened_at is not None) == (closed.jobs_closed_at is not None), (
        "jobs are open again, and since when"
    )
    with pytest.raises(RefusedInput, match="no unfinished operation"):
        walker.abort()


def test_an_abort_that_was_cut_off_is_gone_on_with_and_is_not_aborted_itself(
    walker: Runner, records: Records, moves: FakeMoves, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "give_up", lambda *_: None)
    stopped_in(walker, moves, "fill")
    moves.fails = {"purge-target": CloudError("AWS cannot be reached")}
    moves.lost_key = lambda: None
    with pytest.raises(KeyshiftError, match="cannot be reached"):
        walker.abort()
    held = records.unfinished("acme")
    assert held is not None
    assert (held.id, held.state) == ("acme-enable-1-abort", "failed")
    with pytest.raises(RefusedInput, match="has no way back"):
        walker.abort()
    moves.fails = {}
    assert walker.resume().state == "done"
    assert moves.done.count("prove-untouched") == 1


@pytest.mark.parametrize("move", ["open-search", "purge-storage", "prove-empty"])
def test_once_the_new_side_serves_there_is_no_way_back(
    walker: Runner, records: Records, moves: FakeMoves, move: str
) -> None:
    reached = stopped_in(walker, moves, move)
    with pytest.raises(RefusedInput, match="cannot be aborted") as refused:
        walker.abort()
    assert refused.value.hint == "the way is forward: keyshift resume acme"
    assert records.tenant("acme").layout == reached
    assert [one.id for one in records.operations("acme")] == ["acme-enable-1"]


def test_without_an_unfinished_operation_there_is_nothing_to_abort(walker: Runner, stack: FakeStack) -> None:
    with pytest.raises(RefusedInput, match="no unfinished operation"):
        walker.abort()
    assert stack.calls == []
