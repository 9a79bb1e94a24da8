"""The planner's promises, over any tenant and operation that Hypothesis can think of."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import RefusedInput
from migrate.operations import OperationKind, Plan, Request
from migrate.plan import plan
from stacks.layout import (
    Cloud,
    Dropped,
    Key,
    KeyState,
    Layout,
    Mode,
    Pipeline,
    PipelineState,
    Search,
    Serves,
    Storage,
    StorageKind,
)

CUTOFF = datetime(2026, 11, 23, 12, tzinfo=UTC)
numbers = st.integers(min_value=1, max_value=40)


@st.composite
def tenants(draw: st.DrawFn, *modes: Mode) -> Layout:
    """A tenant at any point of a long life: any numbers in use, keys archived or waiting, units long gone."""
    mode = draw(st.sampled_from(modes))
    s, e, p = (draw(numbers) for _ in range(3))
    states = draw(st.lists(st.sampled_from([KeyState.ARCHIVED, KeyState.REVOKED]), max_size=3))
    keys = [Key(id=f"k{n}", state=state) for n, state in enumerate(states, 1)]
    serving = None if mode is Mode.STANDARD else f"k{len(keys) + 1}"
    if serving:
        keys.append(Key(id=serving, state=KeyState.ACTIVE, arn=theirs(serving) if mode is Mode.BYOKMS else None))
    last = draw(st.sampled_from([None, KeyState.PENDING, KeyState.ACTIVE]))
    if last is not None:
        keys.append(Key(id=f"k{len(keys) + 1}", state=last))
    gone = draw(st.lists(numbers, max_size=3, unique=True))
    dropped = [Dropped(id=f"s{n}", verdict=f"v{n}") for n in gone if n != s]
    kind = StorageKind.DEDICATED if serving else StorageKind.SHARED
    return Layout(
        tenant="acme",
        customer="acme-corp",
        cloud=Cloud.AWS,
        region="eu-west-1",
        stamp="stamp-aws-eu-west-1-01",
        mode=mode,
        keys=tuple(keys),
        storages=(Storage(id=f"s{s}", kind=kind, key=serving),),
        searches=(Search(id=f"e{e}", key=serving),),
        pipelines=(Pipeline(id=f"p{p}", storage=f"s{s}", search=f"e{e}", state=PipelineState.RUNNING),),
        serves=Serves(storage=f"s{s}", search=f"e{e}", pipeline=f"p{p}"),
        dropped=tuple(dropped),
    )


def standard_tenants() -> st.SearchStrategy[Layout]:
    return tenants(Mode.STANDARD)


def theirs(key: str) -> str:
    return f"arn:aws:kms:eu-west-1:444455556666:key/{key}"


def with_their_key(layout: Layout) -> Layout:
    """With a key of the customer's own account bound, that nothing uses yet."""
    key = Key(id=f"k{len(layout.keys) + 1}", state=KeyState.ACTIVE, arn=theirs("new"), alias=f"{theirs('new')}-alias")
    return layout.model_copy(update={"keys": (*layout.keys, key)})


@st.composite
def journeys(draw: st.DrawFn, cutoff: datetime | None = CUTOFF) -> Plan:
    """Any move of any tenant to another mode."""
    tenant = draw(tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
    mode = draw(st.sampled_from([mode for mode in (Mode.STANDARD, Mode.BYOK, Mode.BYOKMS) if mode is not tenant.mode]))
    kinds = [OperationKind.CHANGE]
    if tenant.mode is Mode.STANDARD:
        kinds.append(OperationKind.ENABLE)
    if mode is Mode.STANDARD:
        kinds.append(OperationKind.REMOVE)
    kind = draw(st.sampled_from(kinds))
    request = Request(operation=f"acme-{kind}-1", kind=kind, mode=mode, cutoff=cutoff)
    return plan(request, with_their_key(tenant) if mode is Mode.BYOKMS else tenant)


def enable(layout: Layout, cutoff: datetime | None = CUTOFF) -> Plan:
    return plan(Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byok", cutoff=cutoff), layout)


def layouts(of: Plan) -> list[Layout]:
    return [of.start, *(phase.layout for phase in of.phases)]


@given(journeys())
def test_what_serves_exists_in_every_layout(made: Plan) -> None:
    for layout in layouts(made):
        assert layout.serves is not None
        assert layout.storage(layout.serves.storage)
        assert layout.search(layout.serves.search)
        assert layout.pipeline(layout.serves.pipeline).state is not PipelineState.DETACHED, (
            f"{layout.serves.pipeline} serves but no event reaches it"
        )


@given(journeys())
def test_a_unit_that_serves_is_never_released_or_dropped(made: Plan) -> None:
    for layout in layouts(made):
        assert layout.serves is not None
        serving = {layout.serves.storage, layout.serves.search}
        assert not [u for u in (*layout.storages, *layout.searches) if u.release and u.id in serving]
        assert not serving & {dropped.id for dropped in layout.dropped}, "what serves was named as dropped"


@given(journeys())
def test_nothing_leaves_a_layout_without_a_verdict_that_an_earlier_phase_has_stored(made: Plan) -> None:
    stored: set[str] = {dropped.verdict for dropped in made.start.dropped}
    before = made.start
    for phase in made.phases:
        named = {u.release for u in (*phase.layout.storages, *phase.layout.searches) if u.release}
        named |= {dropped.verdict for dropped in phase.layout.dropped}
        assert named <= stored, f"{phase.name} needs {named - stored}, which nothing before it has proved"
        gone = {u.id for u in (*before.storages, *before.searches, *before.pipelines)} - {
            u.id for u in (*phase.layout.storages, *phase.layout.searches, *phase.layout.pipelines)
        }
        assert gone <= {dropped.id for dropped in phase.layout.dropped}, f"{phase.name} loses {gone} without a word"
        stored |= {move.verdict for move in phase.moves if move.verdict}
        before = phase.layout


@given(journeys())
def test_tag_changes_are_heard_of_whenever_a_storage_is_copied_and_no_longer_than_it_serves(made: Plan) -> None:
    for phase in made.phases:
        watched = [storage.id for storage in phase.layout.storages if storage.watched]
        sources = {m.storage for m in phase.moves if m.kind in {"copy", "settle", "still-settled"}}
        assert sources <= set(watched), f"in {phase.name} a tag could change and nobody would hear of it"
        assert phase.reversible or not watched


@given(journeys())
def test_the_last_look_at_the_source_comes_right_before_the_new_side_serves(made: Plan) -> None:
    moves = [(phase.reversible, move.kind) for phase in made.phases for move in phase.moves]
    assert [kind for reversible, kind in moves if reversible][-1] == "still-settled"


@given(journeys())
def test_a_storage_or_search_is_only_ever_under_an_active_key(made: Plan) -> None:
    for layout in layouts(made):
        for unit in (*layout.storages, *layout.searches):
            assert unit.key is None or layout.key(unit.key).state is KeyState.ACTIVE, (
                f"{unit.id} under {unit.key}: S3 accepts any key id, nothing else would notice"
            )


@given(journeys())
def test_the_gate_is_open_first_and_last_and_jobs_are_closed_while_the_copies_are_proved(made: Plan) -> None:
    assert made.start.gate.jobs == made.end.gate.jobs == "open"
    assert made.end.gate.search_cutoff is None
    for phase in made.phases:
        proves = [move for move in phase.moves if move.kind in {"verify-storage", "verify-index"}]
        assert not proves or (phase.layout.gate.jobs == "closed" and phase.layout.gate.search_cutoff == CUTOFF)


@given(journeys())
def test_an_operation_can_be_aborted_until_the_new_side_serves_and_never_after(made: Plan) -> None:
    for phase in made.phases:
        assert phase.reversible == (phase.layout.serves == made.start.serves), phase.name


@given(journeys())
def test_numbers_are_never_used_again(made: Plan) -> None:
    before = {u.id for u in (*made.start.storages, *made.start.searches, *made.start.pipelines)} | {
        d.id for d in made.start.dropped
    }
    assert made.end.serves is not None
    assert not before & set(made.end.serves.model_dump().values()), "a name that was used would find old data again"


@given(standard_tenants())
def test_the_phases_do_not_depend_on_the_cutoff(tenant: Layout) -> None:
    """The journal is keyed by the steps' names, which must be the same before and after the freeze began."""
    without, within = enable(tenant, None), enable(tenant, CUTOFF)
    assert [(p.name, p.waits, p.moves) for p in without.phases] == [(p.name, p.waits, p.moves) for p in within.phases]


@given(standard_tenants())
def test_a_plan_ends_in_the_mode_that_was_asked_for_and_cannot_be_made_twice(tenant: Layout) -> None:
    end = enable(tenant).end
    assert end.mode is Mode.BYOK
    assert [storage.kind for storage in end.storages] == [StorageKind.DEDICATED]
    with pytest.raises(RefusedInput, match="already in mode byok"):
        enable(end)


@given(journeys())
def test_every_move_ends_in_its_mode_with_one_storage_of_its_kind_and_the_old_key_put_away(made: Plan) -> None:
    wanted = Mode.STANDARD if made.kind is OperationKind.REMOVE else made.end.mode
    assert made.end.mode is wanted is not made.start.mode
    (storage,), (search,), (_,) = made.end.storages, made.end.searches, made.end.pipelines
    is_shared = wanted is Mode.STANDARD
    assert (storage.kind is StorageKind.SHARED) == is_shared == (storage.key is None)
    assert search.key == storage.key
    assert made.start.serves is not None
    old = made.start.storage(made.start.serves.storage).key
    assert old is None or made.end.key(old).state is KeyState.ARCHIVED
    if storage.key is not None:
        assert (made.end.key(storage.key).arn is not None) == (wanted is Mode.BYOKMS)


@given(journeys())
def test_every_key_that_a_move_needs_is_looked_at_before_anything_is_copied(made: Plan) -> None:
    build = next(phase for phase in made.phases if phase.name == "build")
    looked_at = {wait.subject for wait in build.waits if wait.kind == "key-usable"}
    assert looked_at == {unit.key for unit in build.layout.storages if unit.key}


def test_the_same_mode_again_is_a_rotation_and_its_command_is_named() -> None:
    byok = enable(standard_tenant()).end
    with pytest.raises(RefusedInput, match="in mode byok already") as refused:
        plan(Request(operation="acme-change-1", kind=OperationKind.CHANGE, mode="byok"), byok)
    assert "keyshift rotate acme" in refused.value.hint


def test_a_mode_whose_key_the_customer_keeps_is_refused_until_a_key_is_bound(standard: Layout) -> None:
    with pytest.raises(RefusedInput, match="no key of its customer") as refused:
        plan(Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byokms"), standard)
    assert "keyshift key onboard acme" in refused.value.hint


def test_there_is_nothing_to_remove_from_a_standard_tenant(standard: Layout) -> None:
    with pytest.raises(RefusedInput, match="no customer key to remove"):
        plan(Request(operation="acme-remove-1", kind=OperationKind.REMOVE), standard)


def test_a_mode_that_the_cloud_does_not_offer_is_refused_by_name(standard: Layout) -> None:
    request = Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byokv")
    with pytest.raises(RefusedInput, match="does not offer the mode byokv") as refused:
        plan(request, standard)
    assert "byok, byokms" in refused.value.hint


def test_a_new_byok_tenant_waits_for_its_key_and_then_gets_all_of_it() -> None:
    pending = Layout(
        tenant="acme",
        customer="acme-corp",
        cloud=Cloud.AWS,
        region="eu-west-1",
        stamp="stamp-aws-eu-west-1-01",
        mode=Mode.BYOK,
        keys=(Key(id="k1", state=KeyState.PENDING),),
    )
    made = plan(Request(operation="acme-create-1", kind=OperationKind.CREATE), pending)
    assert [wait.kind for wait in made.phases[0].waits] == ["key-material"]
    assert made.end.storage("s1").key == made.end.search("e1").key == "k1"
    assert made.end.serves == Serves(storage="s1", search="e1", pipeline="p1")


@pytest.fixture
def standard() -> Layout:
    return standard_tenant()


def standard_tenant() -> Layout:
    return Layout(
        tenant="acme",
        customer="acme-corp",
        cloud=Cloud.AWS,
        region="eu-west-1",
        stamp="stamp-aws-eu-west-1-01",
        mode=Mode.STANDARD,
        storages=(Storage(id="s1", kind=StorageKind.SHARED),),
        searches=(Search(id="e1"),),
        pipelines=(Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
        serves=Serves(storage="s1", search="e1", pipeline="p1"),
    )
