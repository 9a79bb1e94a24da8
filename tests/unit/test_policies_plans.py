"""Rules about changes of a layout: every phase of every operation keeps them, and each is broken once."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import layouts
import pytest

from migrate import policing
from migrate.operations import OperationKind, Phase, Plan, Request
from migrate.plan import plan
from migrate.policing import PolicyViolation
from policies.catalogue import RULES, judge_change
from policies.rule import Change
from stacks.layout import Dropped, Key, KeyState

CUTOFF = datetime(2026, 1, 2, tzinfo=UTC)
PLANS = {
    "create": (OperationKind.CREATE, None, layouts.standard()),
    "create under a key": (OperationKind.CREATE, None, layouts.byok_pending()),
    "request": (OperationKind.REQUEST, None, layouts.standard()),
    "enable": (OperationKind.ENABLE, "byok", layouts.standard()),
    "change": (OperationKind.CHANGE, "standard", layouts.enable_done()),
    "remove": (OperationKind.REMOVE, None, layouts.enable_done()),
    "remove the customer's own": (OperationKind.REMOVE, None, layouts.byokms_active()),
    "delete": (OperationKind.DELETE, None, layouts.enable_done()),
    "delete standard": (OperationKind.DELETE, None, layouts.standard()),
    "abort": (OperationKind.ABORT, None, layouts.enable_frozen()),
    "rotate": (OperationKind.ROTATE, None, layouts.enable_done()),
    "onboard": (OperationKind.ONBOARD, None, layouts.standard()),
    "rotate the customer's own": (OperationKind.ROTATE, None, layouts.byokms_active()),
    "revoke": (OperationKind.REVOKE, None, layouts.enable_done()),
    "restore": (OperationKind.RESTORE, None, layouts.sealed(layouts.enable_done())),
}
THEIRS = "arn:aws:kms:eu-west-1:444455556666"
ASKED = {
    "onboard": Key(id="k1", state=KeyState.PENDING, arn=f"{THEIRS}:key/new", alias=f"{THEIRS}:alias/acme"),
    "rotate the customer's own": Key(
        id="k2", state=KeyState.ACTIVE, arn=f"{THEIRS}:key/new", alias=f"{THEIRS}:alias/acme"
    ),
}


def planned(name: str) -> Plan:
    kind, mode, layout = PLANS[name]
    return plan(Request(operation="acme-1", kind=kind, mode=mode, cutoff=CUTOFF, key=ASKED.get(name)), layout)


def confirmed() -> Plan:
    """What follows on a pause, once the customer has confirmed."""
    return plan(
        Request(operation="acme-2", kind=OperationKind.CONFIRM, cutoff=CUTOFF),
        planned("rotate the customer's own").end,
    )


def test_every_operation_is_among_them():
    assert {kind for kind, _, _ in PLANS.values()} | {confirmed().kind} == set(OperationKind)


def ids(change: Change) -> list[str]:
    return [rule.id for rule, _ in judge_change(change)]


def step(op: str, name: str, type: str = "aws:s3/bucket:Bucket") -> SimpleNamespace:
    return SimpleNamespace(op=op, name=name, type=type)


@pytest.mark.parametrize("name", PLANS)
def test_no_phase_of_an_operation_breaks_a_rule(name):
    breaks_no_rule(planned(name))


def test_no_phase_of_a_confirmed_rotation_breaks_a_rule():
    breaks_no_rule(confirmed())


def breaks_no_rule(made: Plan) -> None:
    policing.refuse_plan(made, {})
    for before, after in zip(
        (made.start, *(p.layout for p in made.phases)), (p.layout for p in made.phases), strict=False
    ):
        assert ids(Change(before=before, after=after)) == []


DONE, RELEASED, SERVED = layouts.enable_done(), layouts.enable_released(), layouts.enable_served()
BROKEN = {
    "plan-steps-fit": Change(before=DONE, after=DONE, steps=[step("delete", "s2-bucket")]),
    "plan-drops-have-verdicts": Change(
        before=RELEASED,
        after=layouts.changed(DONE, dropped=(Dropped(id="s1", verdict="v"), Dropped(id="p1", verdict="v"))),
    ),
    "plan-released-first": Change(before=SERVED, after=DONE),
    "plan-serving-stays": Change(
        before=SERVED,
        after=layouts.changed(
            SERVED, storages=(SERVED.storages[0], SERVED.storages[1].model_copy(update={"release": "v"}))
        ),
    ),
    "plan-keys-stay": Change(
        before=SERVED, after=layouts.changed(SERVED, keys=(Key(id="k1", state=KeyState.ARCHIVED),))
    ),
    "plan-one-customer": Change(
        before=layouts.byokms_active(), after=layouts.byokms_active(), owners={layouts.CUSTOMER_KEY: "bolt-corp"}
    ),
}


@pytest.mark.parametrize("id", BROKEN)
def test_a_change_that_is_broken_is_found_by_exactly_its_rule(id):
    assert set(ids(BROKEN[id])) == {id}


def test_every_rule_about_plans_has_a_change_that_breaks_it():
    assert {rule.id for rule in RULES if rule.check_change} == BROKEN.keys()


def test_a_replacement_is_never_what_a_layout_asks_for():
    for op in ("replace", "create-replacement", "delete-replaced"):
        assert ids(Change(before=DONE, after=DONE, steps=[step(op, "s2-bucket")])) == ["plan-steps-fit"]
    assert ids(Change(before=DONE, after=DONE, steps=[step("update", "s2-bucket")])) == []


def test_a_key_is_forgotten_by_no_layout():
    gone = layouts.changed(layouts.byok_pending(), keys=())
    assert ids(Change(before=layouts.byok_pending(), after=gone)) == ["plan-keys-stay"]


def test_a_revoked_key_is_what_a_closed_layout_has():
    revoked = layouts.changed(layouts.sealed(layouts.byok_active()), keys=(Key(id="k1", state=KeyState.REVOKED),))
    assert ids(Change(before=layouts.byok_active(), after=revoked)) == []
    opened = layouts.changed(revoked, gate={"jobs": "open"})
    assert ids(Change(before=revoked, after=opened)) == ["plan-keys-stay"]


def test_a_plan_under_another_customers_key_is_refused_before_it_begins():
    made = Plan(
        operation="acme-1",
        kind=OperationKind.CREATE,
        start=layouts.byokms_active(),
        phases=(Phase(name="create", title="", layout=layouts.byokms_active()),),
    )
    policing.refuse_plan(made, {layouts.CUSTOMER_KEY: "acme-corp"})
    policing.refuse_plan(made, {})
    with pytest.raises(PolicyViolation, match="k1 is or was a key of another customer") as refused:
        policing.refuse_plan(made, {layouts.CUSTOMER_KEY: "bolt-corp"})
    assert "bolt" not in str(refused.value), "whose it is, is no business of acme's"
    assert refused.value.exit_code == 2
    assert refused.value.code == "policy"
    assert "keyshift policy explain plan-one-customer" in refused.value.hint
