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
def standard_tenants(draw: st.DrawFn) -> Layout:
    """A standard tenant at any point of a long life: any numbers in use, keys archived or waiting, units long gone."""
    s, e, p = (draw(numbers) for _ in range(3))
    states = draw(st.lists(st.sampled_from([KeyState.ARCHIVED, KeyState.REVOKED]), max_size=3))
    last = draw(st.sampled_from([None, KeyState.PENDING, KeyState.ACTIVE]))
    keys = [Key(id=f"k{n}", state=state) for n, state in enumerate(states, 1)]
    if last is not None:
        keys.append(Key(id=f"k{len(keys) + 1}", state=last))
    gone = draw(st.lists(numbers, max_size=3, unique=True))
    dropped = [Dropped(id=f"s{n}", verdict=f"v{n}") for n in gone if n != s]
    return Layout(
        tenant="acme",
        customer="acme-corp",
        cloud=Cloud.AWS,
        region="eu-west-1",
        stamp="stamp-aws-eu-west-1-01",
        mode=Mode.STANDARD,
        keys=tuple(keys),
        storages=(Storage(id=f"s{s}", kind=StorageKind.SHARED),),
        searches=(Search(id=f"e{e}"),),
        pipelines=(Pipeline(id=f"p{p}", storage=f"s{s}", search=f"e{e}", state=PipelineState.RUNNING),),
        serves=Serves(storage=f"s{s}", search=f"e{e}", pipeline=f"p{p}"),
        dropped=tuple(dropped),
    )


def enable(layout: Layout, cutoff: datetime | None = CUTOFF) -> Plan:
    return plan(Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byok", cutoff=cutoff), layout)


def layouts(of: Plan) -> list[Layout]:
    return [of.start, *(phase.layout for phase in of.phases)]


@given(standard_tenants())
def test_what_serves_exists_in_every_layout(tenant: Layout) -> None:
    for layout in layouts(enable(tenant)):
        assert layout.serves is not None
        assert layout.storage(layout.serves.storage)
        assert layout.search(layout.serves.search)
        assert layout.pipeline(layout.serves.pipeline).state is not PipelineState.DETACHED, (
            f"{layout.serves.pipeline} serves but no event reaches it"
        )


@given(standard_tenants())
def test_a_unit_that_serves_is_never_released_or_dropped(tenant: Layout) -> None:
    for layout in layouts(enable(tenant)):
        assert layout.serves is not None
        serving = {layout.serves.storage, layout.serves.search}
        assert not [u for u in (*layout.storages, *layout.searches) if u.release and u.id in serving]
        assert not serving & {dropped.id for dropped in layout.dropped}, "what serves was named as dropped"


@given(standard_tenants())
def test_nothing_leaves_a_layout_without_a_verdict_that_an_earlier_phase_has_stored(tenant: Layout) -> None:
    made = enable(tenant)
    stored: set[str] = {dropped.verdict for dropped in tenant.dropped}
    before = tenant
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


@given(standard_tenants())
def test_tag_changes_are_heard_of_whenever_a_storage_is_copied_and_no_longer_than_it_serves(tenant: Layout) -> None:
    made = enable(tenant)
    for phase in made.phases:
        watched = [storage.id for storage in phase.layout.storages if storage.watched]
        sources = {m.storage for m in phase.moves if m.kind in {"copy", "settle", "still-settled"}}
        assert sources <= set(watched), f"in {phase.name} a tag could change and nobody would hear of it"
        assert phase.reversible or not watched


@given(standard_tenants())
def test_the_last_look_at_the_source_comes_right_before_the_new_side_serves(tenant: Layout) -> None:
    moves = [(phase.reversible, move.kind) for phase in enable(tenant).phases for move in phase.moves]
    assert [kind for reversible, kind in moves if reversible][-1] == "still-settled"


@given(standard_tenants())
def test_a_storage_or_search_is_only_ever_under_an_active_key(tenant: Layout) -> None:
    for layout in layouts(enable(tenant)):
        for unit in (*layout.storages, *layout.searches):
            assert unit.key is None or layout.key(unit.key).state is KeyState.ACTIVE, (
                f"{unit.id} under {unit.key}: S3 accepts any key id, nothing else would notice"
            )


@given(standard_tenants())
def test_the_gate_is_open_first_and_last_and_jobs_are_closed_while_the_copies_are_proved(tenant: Layout) -> None:
    made = enable(tenant)
    assert made.start.gate.jobs == made.end.gate.jobs == "open"
    assert made.end.gate.search_cutoff is None
    for phase in made.phases:
        proves = [move for move in phase.moves if move.kind in {"verify-storage", "verify-index"}]
        assert not proves or (phase.layout.gate.jobs == "closed" and phase.layout.gate.search_cutoff == CUTOFF)


@given(standard_tenants())
def test_an_operation_can_be_aborted_until_the_new_side_serves_and_never_after(tenant: Layout) -> None:
    made = enable(tenant)
    for phase in made.phases:
        assert phase.reversible == (phase.layout.serves == tenant.serves), phase.name


@given(standard_tenants())
def test_numbers_are_never_used_again(tenant: Layout) -> None:
    before = {u.id for u in (*tenant.storages, *tenant.searches, *tenant.pipelines)} | {d.id for d in tenant.dropped}
    end = enable(tenant).end
    assert end.serves is not None
    assert not before & set(end.serves.model_dump().values()), "a name that was used would find old data again"


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
