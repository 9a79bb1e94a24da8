"""What the planner promises about a rotation in the customer's own account, and about binding such a key."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import RefusedInput
from migrate.keys import confirmation
from migrate.operations import OperationKind, Plan, Request
from migrate.plan import plan
from stacks.layout import (
    Cloud,
    Gate,
    Key,
    KeyState,
    Layout,
    Mode,
    OnRotation,
    Pipeline,
    PipelineState,
    Search,
    Serves,
    Storage,
    StorageKind,
)

CUTOFF = datetime(2026, 11, 24, 12, tzinfo=UTC)
ALIAS = "arn:aws:kms:eu-west-1:444455556666:alias/archive"


def theirs(number: int, *, arn: int | None = None, state: KeyState = KeyState.ACTIVE, material: str = "m1") -> Key:
    name = f"arn:aws:kms:eu-west-1:444455556666:key/{arn or number}"
    return Key(id=f"k{number}", state=state, arn=name, alias=ALIAS, material=material)


def bare(mode: Mode = Mode.BYOKMS, **values: object) -> Layout:
    return Layout(
        tenant="acme",
        customer="acme-corp",
        cloud=Cloud.AWS,
        region="eu-west-1",
        stamp="stamp-aws-eu-west-1-01",
        mode=mode,
        **values,
    )


def tenant(pause: str = "any", *, unit: int = 2, key: int = 1, rebuilds_search: bool = False) -> Layout:
    return bare(
        keys=(theirs(key),),
        storages=(Storage(id=f"s{unit}", kind=StorageKind.DEDICATED, key=f"k{key}"),),
        searches=(Search(id=f"e{unit}", key=f"k{key}"),),
        pipelines=(Pipeline(id=f"p{unit}", storage=f"s{unit}", search=f"e{unit}", state=PipelineState.RUNNING),),
        serves=Serves(storage=f"s{unit}", search=f"e{unit}", pipeline=f"p{unit}"),
        on_rotation=OnRotation(pause=pause, rebuilds_search=rebuilds_search),
    )


def rotated(layout: Layout, key: Key, *, is_barred: bool = False) -> Plan:
    request = Request(operation="acme-rotate-1", kind=OperationKind.ROTATE, key=key, is_barred=is_barred)
    return plan(request, layout)


def confirmed(layout: Layout, cutoff: datetime | None = CUTOFF) -> Plan:
    return plan(Request(operation="acme-confirm-1", kind=OperationKind.CONFIRM, cutoff=cutoff), layout)


@st.composite
def stories(draw: st.DrawFn) -> list[Plan]:
    """Rotations that overtake one another, each fit or not, back to an earlier key too, and then the confirmation."""
    layout, told = tenant(unit=draw(st.integers(1, 9)), rebuilds_search=draw(st.booleans())), []
    for _ in range(draw(st.integers(1, 5))):
        known = [k for k in layout.keys if k.state in {KeyState.PENDING, KeyState.ACTIVE}]
        fresh = theirs(len(layout.keys) + 1, state=draw(st.sampled_from([KeyState.PENDING, KeyState.ACTIVE])))
        key = draw(st.sampled_from([*known, fresh]))
        made = rotated(layout, key, is_barred=draw(st.booleans()) and key.id == layout.storages[0].key)
        reached = draw(st.integers(1, len(made.phases)))  # the next one overtakes it here
        told.append(made.model_copy(update={"phases": made.phases[:reached]}))
        layout = told[-1].end
    return [*told, confirmed(layout)]


@given(stories())
def test_a_storage_or_search_is_only_ever_under_an_active_key(told: list[Plan]) -> None:
    for made in told:
        for layout in (made.start, *(p.layout for p in made.phases)):
            used = {u.key for u in (*layout.storages, *layout.searches)}
            assert {layout.key(id).state for id in used if id} == {KeyState.ACTIVE}


@given(stories())
def test_archive_is_paused_and_warned_from_the_rotation_to_the_confirmation(told: list[Plan]) -> None:
    for made in told[:-1]:
        for phase in made.phases:
            assert phase.layout.gate.jobs == "closed"
            assert phase.layout.gate.warnings, "Archive and the Console have nothing to show"
            assert phase.waits, "a phase of a rotation that waits for nobody would leave the tenant paused for ever"
    assert (told[-1].end.gate.jobs, told[-1].end.gate.warnings) == ("open", ())
    assert told[-1].phases[0].layout.gate.jobs == "open", "they have confirmed: jobs run while the bulk is copied"


@given(stories())
def test_what_an_object_may_lie_under_stays_active_until_the_move_has_ended(told: list[Plan]) -> None:
    """A write that was under way when the gate closed may lie under any key that was the bucket's default."""
    defaults = {tenant().keys[0].id}
    for made in told:
        for phase in made.phases[:-1] if made is told[-1] else made.phases:
            serving = phase.layout.serves
            assert serving
            defaults |= {phase.layout.storage(serving.storage).key or ""}
            assert {phase.layout.key(id).state for id in defaults} == {KeyState.ACTIVE}


@given(stories())
def test_in_the_end_all_lies_under_the_last_default_key_and_every_other_one_is_put_away(told: list[Plan]) -> None:
    end, start = told[-1].end, told[-1].start
    assert start.serves
    default = start.storage(start.serves.storage).key
    assert {u.key for u in (*end.storages, *end.searches)} == {default}
    assert [k.id for k in end.keys if k.state is not KeyState.ARCHIVED] == [default]
    assert len(end.storages) == len(end.searches) == len(end.pipelines) == 1


@given(stories())
def test_nothing_of_it_can_be_aborted(told: list[Plan]) -> None:
    assert not [phase.name for made in told for phase in made.phases if phase.reversible]


@given(stories())
def test_the_token_dies_with_whatever_was_seen(told: list[Plan]) -> None:
    layouts = [p.layout for made in told for p in made.phases]
    for one, other in itertools.combinations(layouts, 2):
        seen = [[k.model_dump(exclude={"state"}) for k in layout.keys] for layout in (one, other)]
        tokens = [confirmation.token("acme-rotate-1", layout) for layout in (one, other)]
        assert (tokens[0] == tokens[1]) == (seen[0] == seen[1])
    assert confirmation.token("acme-rotate-1", layouts[0]) != confirmation.token("acme-rotate-2", layouts[0])


@given(stories())
def test_the_steps_do_not_depend_on_the_cutoff(told: list[Plan]) -> None:
    start = told[-1].start
    with_it, without = confirmed(start), confirmed(start, None)
    assert [(p.name, p.waits, p.moves) for p in with_it.phases] == [(p.name, p.waits, p.moves) for p in without.phases]


def test_a_new_key_that_fits_takes_the_bucket_at_once_and_the_search_later() -> None:
    (pause,) = rotated(tenant(), theirs(2)).phases
    assert (pause.layout.storages[0].key, pause.layout.searches[0].key) == ("k2", "k1")
    assert [wait.kind for wait in pause.waits] == ["confirmed"]
    names = [phase.name for phase in confirmed(pause.layout).phases]
    assert names == ["build", "freeze", "attach", "serve", "purge", "drop"]
    waits = confirmed(pause.layout).phases[0].waits
    assert {wait.subject for wait in waits} == {"k1", "k2"}, "what is copied must still be readable"


def test_a_new_key_that_does_not_fit_leaves_everything_under_the_old_one_until_it_does() -> None:
    pause, redirect = rotated(tenant(), theirs(2, state=KeyState.PENDING)).phases
    assert pause.layout.storages[0].key == "k1"
    assert pause.layout.key("k2").state is KeyState.PENDING
    assert [wait.kind for wait in pause.waits] == ["key-fit"]
    assert redirect.layout.storages[0].key == "k2"
    assert pause.layout.gate.warnings != redirect.layout.gate.warnings


def test_an_alias_that_went_there_and_back_is_moved_all_the_same() -> None:
    """What was being written when it went there may lie under the key that it came back from."""
    (there,) = rotated(tenant(), theirs(2)).phases
    (back,) = rotated(there.layout, theirs(1)).phases
    made = confirmed(back.layout)
    assert made.start.storages[0].key == "k1"
    assert made.phases[0].name == "build"
    assert made.end.key("k2").state is KeyState.ARCHIVED


def test_the_same_arn_moves_nothing_and_pauses_all_the_same() -> None:
    (pause,) = rotated(tenant(), theirs(1, material="m2")).phases
    assert pause.layout.key("k1").material == "m2"
    assert pause.layout.gate.jobs == "closed"
    assert pause.layout.storages == tenant().storages


def test_the_same_arn_gets_a_new_search_where_the_customer_wants_one() -> None:
    (pause,) = rotated(tenant(rebuilds_search=True), theirs(1, material="m2")).phases
    first, *rebuilt = confirmed(pause.layout).phases
    assert (first.name, first.layout.gate.jobs) == ("open", "open"), "jobs do not wait for a search to be made"
    end = rebuilt[-1].layout
    assert end.storages == tenant().storages
    assert [(u.id, u.key) for u in end.searches] == [("e3", "k1")]
    assert not [phase.name for phase in rebuilt if phase.reversible]
    noted = rotated(tenant("alias", rebuilds_search=True), theirs(1, material="m2")).phases
    assert [p.name for p in noted] == ["follow", *(p.name for p in rebuilt)]


def test_who_pauses_on_the_alias_alone_only_notes_a_new_material() -> None:
    (follow,) = rotated(tenant("alias"), theirs(1, material="m2")).phases
    assert (follow.layout.gate, follow.waits) == (Gate(), ())
    assert follow.layout.key("k1").material == "m2"
    assert rotated(tenant("alias"), theirs(2)).phases[0].layout.gate.jobs == "closed", "the alias has moved"


def test_a_barred_key_pauses_whatever_the_customer_chose() -> None:
    (pause,) = rotated(tenant("alias"), theirs(1), is_barred=True).phases
    assert pause.layout.gate.jobs == "closed"
    assert "cannot be taken" in pause.layout.gate.warnings[0]


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.BYOK])
def test_a_tenant_under_no_key_of_their_own_account_has_no_such_rotation(mode: Mode) -> None:
    layout = tenant().model_copy(update={"mode": mode, "keys": (Key(id="k1", state=KeyState.ACTIVE),)})
    for kind in (OperationKind.ROTATE, OperationKind.CONFIRM):
        with pytest.raises(RefusedInput) as refused:
            plan(Request(operation="x", kind=kind, key=theirs(2)), layout)
        assert refused.value.code == "no-customer-key"


# binding --------------------------------------------------------------------------------------


def test_a_new_tenant_gets_its_roles_then_its_key_then_its_storage() -> None:
    (roles,) = plan(Request(operation="x", kind=OperationKind.CREATE), bare()).phases
    assert roles.layout == bare()
    key = theirs(1, state=KeyState.PENDING)
    (bound,) = plan(Request(operation="x", kind=OperationKind.ONBOARD, key=key), roles.layout).phases
    assert bound.layout.keys == (key,)
    first, create = plan(Request(operation="x", kind=OperationKind.CREATE), bound.layout).phases
    assert [wait.kind for wait in first.waits] == ["key-fit"]
    assert create.layout.key("k1").state is KeyState.ACTIVE
    assert [wait.kind for wait in create.waits] == ["key-usable"]


def test_binding_another_alias_replaces_the_one_that_nothing_uses_yet() -> None:
    layout = bare(keys=(theirs(1, state=KeyState.PENDING),))
    other = theirs(1, arn=9, state=KeyState.PENDING)
    (bound,) = plan(Request(operation="x", kind=OperationKind.ONBOARD, key=other), layout).phases
    assert bound.layout.keys == (other,)


def test_a_key_that_serves_is_not_bound_over() -> None:
    with pytest.raises(RefusedInput) as refused:
        plan(Request(operation="x", kind=OperationKind.ONBOARD, key=theirs(2)), tenant())
    assert refused.value.code == "key-bound"
