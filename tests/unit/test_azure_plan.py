"""The planner's promises on Azure: the same as on AWS, but for the search, which lies under no key of the customer's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_plan as promises
from hypothesis import given
from hypothesis import strategies as st
from test_plan import CUTOFF, layouts, tenants

from migrate.errors import RefusedInput
from migrate.operations import OperationKind, Plan, Request
from migrate.plan import plan
from stacks.layout import Cloud, Key, KeyState, Layout, Mode

THEIRS = "https://acme-archive.vault.azure.net/keys/archive"
DIRECTORY = "99999999-8888-7777-6666-555555555555"


def on_azure(layout: Layout) -> Layout:
    theirs = {"arn": THEIRS, "alias": THEIRS, "directory": DIRECTORY}
    keys = [
        k.model_copy(update=theirs if k.arn else {"material": None if k.state is KeyState.PENDING else f"v-{k.id}"})
        for k in layout.keys
    ]
    return Layout.model_validate(
        {
            **layout.model_dump(),
            "cloud": Cloud.AZURE,
            "region": "westeurope",
            "stamp": "stamp-azure-westeurope-01",
            "mode": Mode.BYOKV if layout.mode is Mode.BYOKMS else layout.mode,
            "keys": [key.model_dump() for key in keys],
            "searches": [{**search.model_dump(), "key": None} for search in layout.searches],
        }
    )


def azure_tenants(*modes: Mode) -> st.SearchStrategy[Layout]:
    return tenants(*modes).map(on_azure)


def materials(layout: Layout) -> dict[str, str]:
    """What an upload into any key would have made."""
    return {f"k{n}": f"v-k{n}" for n in range(1, len(layout.keys) + 2)}


def rotate(layout: Layout) -> Plan:
    request = Request(operation="acme-rotate-1", kind=OperationKind.ROTATE, cutoff=CUTOFF, materials=materials(layout))
    return plan(request, layout)


@st.composite
def journeys(draw: st.DrawFn) -> Plan:
    tenant = draw(azure_tenants(Mode.STANDARD, Mode.BYOK, Mode.BYOKMS))
    offered = (Mode.STANDARD, Mode.BYOK, Mode.BYOKV)
    mode = draw(st.sampled_from([mode for mode in offered if mode is not tenant.mode]))
    if mode is Mode.BYOKV:
        bound = Key(id=f"k{len(tenant.keys) + 1}", state=KeyState.ACTIVE, arn=THEIRS, alias=THEIRS, directory=DIRECTORY)
        tenant = tenant.model_copy(update={"keys": (*tenant.keys, bound)})
    request = Request(
        operation="acme-change-1", kind=OperationKind.CHANGE, mode=mode, cutoff=CUTOFF, materials=materials(tenant)
    )
    return plan(request, tenant)


KEPT = [
    promises.test_what_serves_exists_in_every_layout,
    promises.test_a_unit_that_serves_is_never_released_or_dropped,
    promises.test_nothing_leaves_a_layout_without_a_verdict_that_an_earlier_phase_has_stored,
    promises.test_a_storage_or_search_is_only_ever_under_an_active_key,
]


@pytest.mark.parametrize("promise", KEPT, ids=lambda test: test.__name__.removeprefix("test_"))
@given(made=journeys() | azure_tenants(Mode.BYOK).map(rotate))
def test_what_the_planner_promises_on_aws_it_promises_here(promise: Callable[..., Any], made: Plan) -> None:
    promise.hypothesis.inner_test(made)


@given(journeys())
def test_a_move_can_be_aborted_until_the_new_side_serves_and_never_after(made: Plan) -> None:
    promises.test_an_operation_can_be_aborted_until_the_new_side_serves_and_never_after.hypothesis.inner_test(made)


@given(journeys() | azure_tenants(Mode.BYOK).map(rotate))
def test_no_search_is_ever_under_a_customers_key(made: Plan) -> None:
    assert all(search.key is None for layout in layouts(made) for search in layout.searches)


@given(journeys() | azure_tenants(Mode.BYOK).map(rotate))
def test_a_storage_under_a_key_of_ours_is_pinned_to_a_version_of_it(made: Plan) -> None:
    for layout in layouts(made):
        for storage in layout.storages:
            if storage.key is not None and layout.key(storage.key).arn is None:
                assert layout.key(storage.key).material, f"{storage.id} would follow whatever is uploaded next"


@given(azure_tenants(Mode.BYOK))
def test_a_rotation_makes_nothing_closes_nothing_and_disables_the_old_version_only_once_proved(start: Layout) -> None:
    made = rotate(start)
    units = [(p.layout.storages[0].id, p.layout.searches, p.layout.pipelines, p.layout.gate) for p in made.phases]
    assert units == [(start.storages[0].id, start.searches, start.pipelines, start.gate)] * len(units)
    moves = [move for phase in made.phases for move in phase.moves]
    assert [move.kind for move in moves] == ["drain", "retire-key"]
    old = start.storages[0].key
    assert old is not None
    assert {move.key for move in moves} == {old}
    assert moves[1].verdict == moves[0].verdict, "disabled under the verdict that the account has left it"
    states = [phase.layout.key(old).state for phase in made.phases]
    assert states == [KeyState.ACTIVE] * (len(states) - 1) + [KeyState.ARCHIVED]


@given(azure_tenants(Mode.BYOK))
def test_a_rotation_that_is_aborted_pins_the_old_version_again(start: Layout) -> None:
    for phase in rotate(start).phases:
        if not phase.reversible:
            continue
        back = plan(Request(operation="acme-rotate-1-abort", kind=OperationKind.ABORT), phase.layout)
        assert back.end.storages == start.storages
        assert back.end.key(start.storages[0].key or "").state is KeyState.ACTIVE


@given(azure_tenants(Mode.BYOKMS))
def test_a_new_version_in_the_customers_vault_pauses_until_they_confirm_and_then_makes_a_new_search(
    start: Layout,
) -> None:
    assert start.serves is not None
    key = start.key(start.storage(start.serves.storage).key or "").model_copy(update={"material": "v-new"})
    paused = plan(Request(operation="acme-rotate-1", kind=OperationKind.ROTATE, key=key), start).end
    assert (paused.gate.jobs, bool(paused.gate.warnings)) == ("closed", True)
    assert paused.storages == start.storages, "the account follows by itself: it is not pinned"
    request = Request(operation="acme-confirm-1", kind=OperationKind.CONFIRM, cutoff=CUTOFF)
    end = plan(request, paused).end
    assert end.gate.jobs == "open"
    assert end.storages == start.storages, "nothing has to move: the same key, wrapped anew"
    assert end.serves is not None
    assert end.serves.search != start.serves.search
    assert [search.key for search in end.searches] == [None]


@given(azure_tenants(Mode.STANDARD))
def test_a_mode_of_the_other_cloud_is_refused(start: Layout) -> None:
    with pytest.raises(RefusedInput, match="is on azure, which does not offer the mode byokms"):
        plan(Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byokms"), start)
