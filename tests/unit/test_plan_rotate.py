"""A rotation keeps every promise of the planner, and has some of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_plan as promises
from hypothesis import given
from hypothesis import strategies as st
from layouts import byok_active, byok_pending
from test_plan import CUTOFF, layouts, tenants

from migrate.errors import RefusedInput
from migrate.operations import OperationKind, Phase, Plan, Request
from migrate.plan import plan
from migrate.plan.rotate import rebuild_search
from stacks.layout import KeyState, Layout, Mode, PipelineState


def rotate(layout: Layout) -> Plan:
    return plan(Request(operation="acme-rotate-1", kind=OperationKind.ROTATE, cutoff=CUTOFF), layout)


def abort(layout: Layout) -> Plan:
    return plan(Request(operation="acme-rotate-1-abort", kind=OperationKind.ABORT), layout)


def rotations() -> st.SearchStrategy[Plan]:
    return tenants(Mode.BYOK).map(rotate)


@st.composite
def rebuilds(draw: st.DrawFn) -> Plan:
    """A new search on the same storage, of a tenant of any mode."""
    layout = draw(tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
    request = Request(operation="acme-rebuild-1", kind=OperationKind.ROTATE, cutoff=CUTOFF)
    return Plan(
        operation=request.operation, kind=request.kind, start=layout, phases=tuple(rebuild_search(request, layout))
    )


@st.composite
def begun(draw: st.DrawFn) -> tuple[Layout, Phase]:
    made = draw(rotations())
    return made.start, draw(st.sampled_from([phase for phase in made.phases if phase.reversible]))


KEPT = [
    promises.test_what_serves_exists_in_every_layout,
    promises.test_a_unit_that_serves_is_never_released_or_dropped,
    promises.test_nothing_leaves_a_layout_without_a_verdict_that_an_earlier_phase_has_stored,
    promises.test_a_storage_or_search_is_only_ever_under_an_active_key,
    promises.test_an_operation_can_be_aborted_until_the_new_side_serves_and_never_after,
]


@pytest.mark.parametrize("promise", KEPT, ids=lambda test: test.__name__.removeprefix("test_"))
@given(made=rotations() | rebuilds())
def test_what_the_planner_promises_of_a_move_holds_for_a_rotation(promise: Callable[..., Any], made: Plan) -> None:
    promise.hypothesis.inner_test(made)


@given(rotations() | rebuilds())
def test_jobs_are_open_all_the_time_and_searches_are_limited_only_while_the_new_one_is_filled(made: Plan) -> None:
    assert {layout.gate.jobs for layout in layouts(made)} == {"open"}
    limited = [phase for phase in made.phases if phase.layout.gate.search_cutoff is not None]
    assert [phase.name for phase in limited] in (["redirect"], ["fill"])
    assert [move.kind for phase in made.phases for move in phase.moves if "search" in move.kind] == [
        "limit-search",
        "open-search",
        "purge-search",
    ]


@given(rotations() | rebuilds())
def test_the_storage_stays_and_a_new_search_under_its_key_serves(made: Plan) -> None:
    assert made.start.serves is not None
    assert made.end.serves is not None
    assert made.end.serves.storage == made.start.serves.storage
    assert not {made.start.serves.search, made.start.serves.pipeline} & set(made.end.serves.model_dump().values())
    (storage,), (search,), (pipeline,) = made.end.storages, made.end.searches, made.end.pipelines
    assert storage.key == search.key
    assert pipeline.state is PipelineState.RUNNING
    before = {u.id for u in (*made.start.searches, *made.start.pipelines)} | {d.id for d in made.start.dropped}
    assert not before & {search.id, pipeline.id}, "a name that was used would find old data again"


@given(rotations())
def test_the_old_key_is_archived_under_the_proof_that_nothing_is_under_it_and_not_a_phase_earlier(made: Plan) -> None:
    assert made.start.serves is not None
    old = made.start.storage(made.start.serves.storage).key or ""
    proofs = [move for phase in made.phases[:-1] for move in phase.moves if move.kind == "drain" and move.verdict]
    assert [(proof.key, proof.verdict) for proof in proofs] == [(old, made.end.key(old).archived_under)]
    assert made.end.key(old).state is KeyState.ARCHIVED
    for phase in made.phases[:-1]:
        assert phase.layout.key(old).state is KeyState.ACTIVE, "what still lies under it has to stay readable"


@given(rotations())
def test_both_keys_are_used_once_before_the_storage_is_redirected(made: Plan) -> None:
    assert made.start.serves is not None
    storage = made.start.serves.storage
    old = made.start.storage(storage).key
    build = next(phase for phase in made.phases if phase.name == "build")
    assert build.layout.storage(storage).key == old, "a key that does not work must not be a bucket's default"
    assert {wait.subject for wait in build.waits} == {old, made.end.storage(storage).key}
    assert [move.kind for move in build.moves] == ["preflight"]


@given(rotations() | rebuilds())
def test_the_index_is_filled_from_a_listing_that_was_made_after_the_new_pipeline_hears(made: Plan) -> None:
    fill = next(phase for phase in made.phases if any(move.kind == "fill" for move in phase.moves))
    kinds = [move.kind for move in fill.moves]
    assert kinds.index("fill") > min(kinds.index(kind) for kind in ("drain", "list") if kind in kinds)
    assert {unit.state for unit in fill.layout.pipelines} == {PipelineState.RUNNING}


@given(tenants(Mode.BYOK))
def test_a_rotation_waits_for_the_key_only_if_it_has_no_material(tenant: Layout) -> None:
    made = rotate(tenant)
    assert made.end.serves is not None
    key = made.end.storage(made.end.serves.storage).key or ""
    known = {one.id: one.state for one in tenant.keys}
    assert (made.phases[0].name == "key") == (known.get(key) is not KeyState.ACTIVE)


@given(rotations())
def test_a_rotation_can_follow_a_rotation(made: Plan) -> None:
    again = rotate(made.end)
    assert again.end.serves is not None
    assert made.end.serves is not None
    keys = [p.end.storage(p.end.storages[0].id).key for p in (made, again)]
    assert keys[0] != keys[1]


# the way back ---------------------------------------------------------------------------------


@given(begun())
def test_an_abort_comes_back_to_the_old_key_and_search_and_proves_it(at: tuple[Layout, Phase]) -> None:
    tenant, phase = at
    made = abort(phase.layout)
    same = {"dropped": tenant.dropped, "keys": tenant.keys}
    assert made.end.model_copy(update=same) == tenant
    assert made.end.keys == phase.layout.keys, "the uploaded key stays, for another time"
    for one in made.phases:
        assert (one.layout.gate.jobs, one.layout.gate.search_cutoff, one.layout.serves) == ("open", None, tenant.serves)
    if phase.layout.searches == tenant.searches:
        return
    assert [move.kind for move in made.phases[0].moves] == ["open-search", "rekey", "drain"]
    assert tenant.serves is not None
    assert made.phases[0].layout.storage(tenant.serves.storage).key == tenant.storage(tenant.serves.storage).key


@given(begun())
def test_an_abort_frees_nothing_before_it_is_proven(at: tuple[Layout, Phase]) -> None:
    tenant, phase = at
    stored = {dropped.verdict for dropped in tenant.dropped}
    for one in abort(phase.layout).phases:
        named = {u.release for u in one.layout.searches if u.release} | {d.verdict for d in one.layout.dropped}
        assert named <= stored
        stored |= {move.verdict for move in one.moves if move.verdict and not move.kind.startswith("purge")}
        assert not [unit for unit in one.layout.storages if unit.release], "the storage serves all along"


@given(begun())
def test_after_an_abort_the_rotation_can_be_begun_again_with_the_same_key(at: tuple[Layout, Phase]) -> None:
    _, phase = at
    end = abort(phase.layout).end
    again = rotate(end)
    assert again.end.storages[0].key in {key.id for key in phase.layout.keys}


# refusals -------------------------------------------------------------------------------------


@given(tenants(Mode.STANDARD, Mode.BYOKMS))
def test_only_a_key_that_we_hold_is_rotated_here(tenant: Layout) -> None:
    with pytest.raises(RefusedInput, match=f"in mode {tenant.mode}") as refused:
        rotate(tenant)
    assert refused.value.hint


def test_a_tenant_that_serves_nothing_has_nothing_to_rotate() -> None:
    pending = promises.standard_tenant().model_copy(update={"mode": Mode.BYOK, "serves": None})
    with pytest.raises(RefusedInput, match="nothing to rotate"):
        rotate(pending)


@given(tenants(Mode.BYOK))
def test_a_key_can_be_asked_for_while_another_serves(tenant: Layout) -> None:
    made = plan(Request(operation="acme-request-1", kind=OperationKind.REQUEST), tenant)
    assert made.end.serves == tenant.serves
    new = [key for key in made.end.keys if key not in tenant.keys]
    assert all(key.state is KeyState.PENDING for key in new)
    assert made.end.model_copy(update={"keys": tenant.keys}) == tenant


# another version of the search ------------------------------------------------------------------


@st.composite
def upgrades(draw: st.DrawFn) -> Plan:
    """To a newer version, of a tenant of any mode and of a search of any age."""
    layout = draw(tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
    old = f"8.{draw(st.integers(0, 18))}.{draw(st.integers(0, 9))}"
    searches = tuple(unit.model_copy(update={"version": old}) for unit in layout.searches)
    return upgraded(layout.model_copy(update={"searches": searches}), "8.19.3")


def upgraded(layout: Layout, version: str | None) -> Plan:
    request = Request(operation="acme-upgrade-1", kind=OperationKind.UPGRADE, search_version=version, cutoff=CUTOFF)
    return plan(request, layout)


@given(upgrades())
def test_an_upgrade_makes_a_new_search_and_changes_nothing_else(made: Plan) -> None:
    start, end = made.start, made.end
    (new,) = end.searches
    assert new.version == "8.19.3"
    assert new.id not in {unit.id for unit in start.searches}, "a search is never upgraded in place"
    assert new.key == start.searches[0].key
    same = {"keys", "storages", "mode", "gate"}
    assert end.model_dump(include=same) == start.model_dump(include=same)
    for layout in layouts(made):
        held = {unit.id: unit.version for unit in layout.searches}
        old = start.searches[0]
        assert held.get(old.id, old.version) == old.version, "the old one serves on as it is until the new one does"


@given(upgrades())
def test_an_upgrade_keeps_the_promises_of_every_plan(made: Plan) -> None:
    for promise in (
        promises.test_what_serves_exists_in_every_layout,
        promises.test_a_unit_that_serves_is_never_released_or_dropped,
        promises.test_nothing_leaves_a_layout_without_a_verdict_that_an_earlier_phase_has_stored,
    ):
        promise.hypothesis.inner_test(made)


@given(upgrades(), st.data())
def test_an_upgrade_can_be_taken_back_until_the_new_search_serves(made: Plan, data: st.DataObject) -> None:
    reached = data.draw(st.sampled_from([phase.layout for phase in made.phases if phase.reversible]))
    back = abort(reached).end
    same = {"keys", "storages", "searches", "mode", "serves", "gate"}
    assert back.model_dump(include=same) == made.start.model_dump(include=same)


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("8.19.0", "same-version"),
        ("8.18.9", "downgrade"),
        ("8.9.10", "downgrade"),
        ("9.0.0", "search-version"),
        ("7.17.0", "search-version"),
        ("8.19", "search-version"),
        ("8.19.1-SNAPSHOT", "search-version"),
        ("latest", "search-version"),
        ("", "search-version"),
        (None, "search-version"),
    ],
)
def test_a_version_that_is_no_step_forward_is_refused_with_what_to_type(version: str | None, code: str) -> None:
    with pytest.raises(RefusedInput) as refused:
        upgraded(byok_active(), version)
    assert refused.value.code == code
    assert "nothing was changed" in refused.value.message
    assert "keyshift " in refused.value.hint


def test_a_tenant_that_serves_nothing_has_no_search_to_upgrade() -> None:
    with pytest.raises(RefusedInput) as refused:
        upgraded(byok_pending(), "8.19.3")
    assert refused.value.code == "serves-nothing"


@pytest.mark.parametrize("kind", [OperationKind.ROTATE, OperationKind.REMOVE, OperationKind.CHANGE])
def test_no_other_operation_changes_the_version_of_a_search(kind: OperationKind) -> None:
    start = upgraded(byok_active(), "8.19.3").end
    mode = "standard" if kind is OperationKind.CHANGE else None
    made = plan(Request(operation="acme-x-1", kind=kind, mode=mode, cutoff=CUTOFF), start)
    assert {unit.version for layout in layouts(made) for unit in layout.searches} == {"8.19.3"}
