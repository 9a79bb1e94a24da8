"""Where the runner asks the rules about plans: before an operation begins, and before each change is recorded."""

# ruff: noqa: F811 - a fixture that is imported is redefined by every parameter of its name
from __future__ import annotations

import pytest
from test_runner import FakeStack, moves, records, stack, walker  # noqa: F401 - its fixtures

from migrate import policing
from migrate.errors import KeyshiftError
from migrate.operations import OperationKind
from migrate.policing import PolicyViolation
from migrate.records import Records
from migrate.runner import Runner
from policies.catalogue import rule
from policies.rule import Change, Violation


@pytest.fixture
def frozen_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a rule forbade every layout that closes jobs."""

    def judge(change: Change) -> list:
        is_frozen = change.after.gate.jobs == "closed"
        return [(rule("plan-serving-stays"), Violation("jobs would be closed"))] if is_frozen else []

    monkeypatch.setattr(policing, "judge_change", judge)


def test_an_operation_with_a_forbidden_phase_is_never_begun(
    walker: Runner, records: Records, stack: FakeStack, frozen_is_forbidden: None
) -> None:
    before = records.tenant("acme")
    with pytest.raises(PolicyViolation, match="phase freeze of acme-enable of tenant acme would break a policy"):
        walker.run(OperationKind.ENABLE, "byok")
    assert records.operations("acme") == []
    assert stack.calls == [], "no layout may be rendered, let alone brought up"
    assert records.tenant("acme").layout == before.layout


def test_a_change_that_is_forbidden_is_not_recorded_even_where_its_plan_was_let_through(
    walker: Runner, records: Records, stack: FakeStack, frozen_is_forbidden: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policing, "refuse_plan", lambda *_: None)
    with pytest.raises(KeyshiftError, match="jobs would be closed") as refused:
        walker.run(OperationKind.ENABLE, "byok")
    assert refused.value.code == "policy"
    assert records.unfinished("acme").step == "freeze/up"
    assert records.tenant("acme").layout.gate.jobs == "open", "the layout before is still the tenant's"
    assert stack.calls.count("up") == 2, "key and build were brought up; the freeze was not"


def test_the_way_back_is_judged_too(
    walker: Runner, records: Records, stack: FakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(policing, "refuse_plan", lambda made, _: asked.append(made.kind))
    walker._way_back(records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok"))
    assert asked == [OperationKind.ABORT]


def test_a_change_looks_at_no_other_tenants_layout(
    walker: Runner, monkeypatch: pytest.MonkeyPatch, records: Records
) -> None:
    def too_much(_: Records) -> None:
        raise AssertionError("reads every tenant: the work of each `up` would grow with the fleet")

    monkeypatch.setattr(Records, "tenants", too_much)
    assert walker.run(OperationKind.ENABLE, "byok").state == "done"
