"""A release over many tenants: who is chosen, who is skipped, where it stops, how it goes on. No engine is started."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import layouts
import pytest
import sqlalchemy as sql

from migrate import fleet as fleet_module
from migrate.errors import CloudError, Conflict, RefusedInput
from migrate.fleet import Came, Fleet, Row, choose, summary
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.records import Records
from migrate.seals import Seals
from migrate.stack import Project, Step
from stacks.record import connect

NAMES = ("acme", "bolt", "cell", "dyne")
ROLE, BUCKET = "aws:iam/role:Role", "aws:s3/bucket:Bucket"


def step(op: str, type_: str = ROLE, name: str = "archive-role") -> Step:
    return Step(op=op, urn=f"urn:pulumi:tenant-acme::keyshift::keyshift:aws:TenantRoles${type_}::{name}")


class FakeStack:
    """The engine: what each stack would change, until it was brought up."""

    pending: dict[str, list[Step]]
    failing: dict[str, Exception]
    ups: list[str]
    recovered: list[str]
    running: Counter[str]
    most: int
    on_up: Callable[[str, int | None], None]
    lock = threading.Lock()

    def __init__(self, _: Project, name: str) -> None:
        self.name = name.removeprefix("tenant-")

    def recover(self) -> list[str]:
        self.recovered.append(self.name)
        return []

    def render(self, layout: object, generation: int) -> None:
        self.generation = generation

    def preview(self, *, fence: int | None, plan_file: Path) -> list[Step]:
        assert fence is not None
        if self.name in self.failing:
            raise self.failing[self.name]
        return self.pending.get(self.name, [])

    def up(self, *, fence: int | None, plan_file: Path) -> None:
        with self.lock:
            self.running[self.name] += 1
            type(self).most = max(self.most, sum(self.running.values()))
        self.on_up(self.name, fence)
        with self.lock:
            self.running[self.name] -= 1
            self.ups.append(self.name)
            self.pending.pop(self.name)

    def outputs(self) -> dict[str, int]:
        return {"generation": self.generation}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sql.Engine:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return connect(tmp_path / ".keyshift")


@pytest.fixture
def records(engine: sql.Engine) -> Records:
    held = Records(engine)
    for name in NAMES:
        held.create(layouts.changed(layouts.standard(), tenant=name, customer=f"{name}-corp"))
    return held


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> type[FakeStack]:
    made = type("Stacks", (FakeStack,), {})
    made.pending = {name: [step("create"), step("update"), step("update")] for name in NAMES}
    made.failing, made.ups, made.recovered, made.running, made.most = {}, [], [], Counter(), 0
    made.on_up = staticmethod(lambda name, fence: None)
    monkeypatch.setattr(fleet_module, "Stack", made)
    return made


Run = Callable[..., dict[str, Row]]


@pytest.fixture
def run(tmp_path: Path, records: Records) -> Run:
    def run(*, bring_up: bool = True, parallel: int = 1, where: str = "") -> dict[str, Row]:
        project = Project(root=tmp_path, home=tmp_path / ".keyshift")
        told: list[Row] = []
        fleet = Fleet(project, records, bring_up=bring_up, told=told.append)
        rows = fleet.run(choose(records, where), parallel)
        begun = [row.tenant for row in rows if row.came is not Came.NOT_BEGUN]
        assert sorted(row.tenant for row in told) == sorted(begun), "each is told as it ends"
        return {row.tenant: row for row in rows}

    return run


def came(rows: Mapping[str, Row]) -> list[Came]:
    return [rows[name].came for name in NAMES]


# who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("", NAMES),
        ("mode=standard", NAMES),
        ("customer=bolt-corp", ("bolt",)),
        ("mode=standard, tenant=cell", ("cell",)),
        ("stamp=stamp-aws-eu-west-1-01,cloud=aws,region=eu-west-1", NAMES),
    ],
)
def test_tenants_are_chosen_by_what_their_layouts_say(records: Records, where: str, names: tuple[str, ...]) -> None:
    assert tuple(tenant.name for tenant in choose(records, where)) == names


@pytest.mark.parametrize("where", ["colour=red", "mode", "mode=", "=byok", "mode=byok,mode=standard"])
def test_a_choice_that_says_nothing_is_refused(records: Records, where: str) -> None:
    with pytest.raises(RefusedInput, match="does not say which tenants") as refused:
        choose(records, where)
    assert "customer" in refused.value.hint


def test_a_choice_that_fits_nobody_is_refused(records: Records) -> None:
    with pytest.raises(RefusedInput, match="no tenant fits 'mode=byok'"):
        choose(records, "mode=byok")


# what -----------------------------------------------------------------------------------------


def test_a_preview_counts_changes_and_brings_nothing_up(run: Run, stacks: type[FakeStack]) -> None:
    rows = run(bring_up=False)
    assert came(rows) == [Came.WOULD_CHANGE] * 4
    assert rows["acme"].changes == {"create": 1, "update": 2}
    assert (stacks.ups, stacks.recovered) == ([], [])


def test_an_up_brings_all_up_and_a_second_one_finds_nothing_to_do(
    run: Run, stacks: type[FakeStack], tmp_path: Path, records: Records
) -> None:
    assert came(run()) == [Came.CHANGED] * 4
    assert stacks.recovered == stacks.ups == list(NAMES)
    (line,) = Log(tmp_path / ".keyshift" / "tenants" / "bolt").events()
    assert line["event"] == {"event": "fleet-up", "generation": 1, "changes": {"create": 1, "update": 2}}
    rows = run()
    assert came(rows) == [Came.NO_CHANGE] * 4
    assert stacks.ups == list(NAMES), "a stack at no change is not brought up again"
    assert all(records.worker(name) is None for name in NAMES), "every lease was given back"


def test_so_many_run_at_a_time_and_no_more(run: Run, stacks: type[FakeStack]) -> None:
    together = threading.Barrier(2, timeout=20)
    stacks.on_up = staticmethod(lambda name, fence: together.wait() and None)
    assert came(run(parallel=2)) == [Came.CHANGED] * 4
    assert stacks.most == 2


def test_an_up_acts_under_the_lease_of_its_tenant(run: Run, stacks: type[FakeStack], records: Records) -> None:
    seen: dict[str, int | None] = {}

    def look(name: str, fence: int | None) -> None:
        seen[name] = fence
        assert records.worker(name) is not None
        with pytest.raises(RefusedInput, match="is being worked on"), records.lease(name):
            pass

    stacks.on_up = staticmethod(look)
    assert came(run()) == [Came.CHANGED] * 4
    assert seen == dict.fromkeys(NAMES, 1)


# skipped --------------------------------------------------------------------------------------


def test_who_is_sealed_at_work_or_unfinished_is_skipped_by_name(
    run: Run, stacks: type[FakeStack], records: Records, engine: sql.Engine
) -> None:
    Seals(engine).put("acme", "stolen", "an operator")
    operation = records.begin(records.tenant("bolt"), OperationKind.ENABLE, "byok")
    records.note(operation.id, state="waiting")
    with records.lease("cell"):
        rows = run()
    assert came(rows) == [Came.SKIPPED, Came.SKIPPED, Came.SKIPPED, Came.CHANGED]
    assert (rows["acme"].because, rows["acme"].hint) == ("it is sealed", "keyshift restore acme")
    assert rows["bolt"].because == "bolt-enable-1 is unfinished (waiting)"
    assert "cell is being worked on" in str(rows["cell"].because)
    assert stacks.ups == ["dyne"]
    assert not summary(list(rows.values()), where="", bring_up=True)["is_done"]


def test_an_operation_that_begins_before_the_lease_is_ours_is_seen(
    run: Run, stacks: type[FakeStack], records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Records.lease

    def lease(self: Records, name: str, **more: bool) -> object:
        if name == "bolt" and records.unfinished("bolt") is None:
            records.begin(records.tenant("bolt"), OperationKind.ENABLE, "byok")
        return real(self, name, **more)

    monkeypatch.setattr(Records, "lease", lease)
    assert came(run()) == [Came.CHANGED, Came.SKIPPED, Came.CHANGED, Came.CHANGED]


# stopped --------------------------------------------------------------------------------------


def test_the_first_failure_stops_what_has_not_begun(run: Run, stacks: type[FakeStack]) -> None:
    stacks.failing["bolt"] = CloudError("the preview failed", hint="mend it")
    rows = run()
    assert came(rows) == [Came.CHANGED, Came.FAILED, Came.NOT_BEGUN, Came.NOT_BEGUN]
    assert (rows["bolt"].because, rows["bolt"].hint) == ("the preview failed", "mend it")
    del stacks.failing["bolt"]
    assert came(run()) == [Came.NO_CHANGE, Came.CHANGED, Came.CHANGED, Came.CHANGED]
    assert stacks.ups == list(NAMES), "none was brought up twice"


def test_who_runs_beside_a_failure_ends(run: Run, stacks: type[FakeStack]) -> None:
    bolt_failed = threading.Event()

    def wait_or_fail(name: str, _: int | None) -> None:
        if name == "bolt":
            bolt_failed.set()
            raise CloudError("the up failed")
        assert bolt_failed.wait(20)

    stacks.on_up = staticmethod(wait_or_fail)
    assert came(run(parallel=2))[:2] == [Came.CHANGED, Came.FAILED]
    assert "acme" in stacks.ups


def test_a_preview_goes_on_after_a_failure(run: Run, stacks: type[FakeStack]) -> None:
    stacks.failing["acme"] = CloudError("broken")
    assert came(run(bring_up=False)) == [Came.FAILED, *[Came.WOULD_CHANGE] * 3]


def test_a_plan_that_would_delete_something_stateful_is_not_carried_out(run: Run, stacks: type[FakeStack]) -> None:
    stacks.pending["acme"] = [step("delete", BUCKET, "s1-bucket")]
    rows = run()
    assert rows["acme"].came is Came.FAILED
    assert "would delete s1-bucket" in str(rows["acme"].because)
    assert stacks.ups == []


def test_a_seal_between_preview_and_up_stops_the_up(
    run: Run, stacks: type[FakeStack], engine: sql.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "judge", lambda *_: Seals(engine).put("acme", "stolen", "an operator"))
    rows = run(where="tenant=acme")
    assert rows["acme"].came is Came.FAILED
    assert "stolen" in str(rows["acme"].because)
    assert stacks.ups == []


def test_a_program_that_ends_early_is_a_failure(run: Run, stacks: type[FakeStack]) -> None:
    stacks.outputs = lambda self: {"generation": 0}
    assert "ended before its last line" in str(run()["acme"].because)


def test_a_lost_lease_stops_the_renewal(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    monkeypatch.setattr(fleet_module, "RENEW_SECONDS", 0.01)

    def renew(*_: object) -> None:
        renewed.set()
        raise Conflict("gone")

    monkeypatch.setattr(Records, "renew", renew)
    with fleet_module.holding(records, "acme"):
        assert renewed.wait(20), "else a long up would lose its lease"
