"""The way back: from any layout before the new side serves, to exactly what served all along."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_s3 import SOURCE, TARGET, put, two_storages
from hypothesis import given
from hypothesis import strategies as st
from test_durable import kill_when_standing, ran, walk
from test_plan import journeys

from migrate import durable
from migrate.copy.engine import Transfer, copy_pass, tidy
from migrate.copy.manifest import Manifest, Where
from migrate.copy.purge import prove_empty
from migrate.copy.verify import verify_untouched
from migrate.errors import RefusedInput
from migrate.operations import OperationKind, Phase, Plan, Request
from migrate.plan import plan
from migrate.progress import unwatched
from stacks.layout import Key, KeyState, Layout, Mode, PipelineState


def abort(layout: Layout) -> Plan:
    return plan(Request(operation="acme-enable-1-abort", kind=OperationKind.ABORT), layout)


@st.composite
def begun(draw: st.DrawFn) -> tuple[Layout, Phase]:
    """A tenant and a phase of its move before the new side serves: any of them may be where it is given up."""
    made = draw(journeys())
    return made.start, draw(st.sampled_from([phase for phase in made.phases if phase.reversible]))


@given(begun())
def test_an_abort_ends_where_the_operation_began_but_for_numbers_and_a_key_to_use_later(
    at: tuple[Layout, Phase],
) -> None:
    tenant, phase = at
    end = abort(phase.layout).end
    same = {"dropped": tenant.dropped, "keys": tenant.keys}
    assert end.model_copy(update=same) == tenant
    made = {u.id for u in (*phase.layout.storages, *phase.layout.searches, *phase.layout.pipelines)} - set(
        tenant.serves.model_dump().values() if tenant.serves else ()
    )
    assert {dropped.id for dropped in end.dropped} == {d.id for d in tenant.dropped} | made, "no number is used twice"
    assert end.keys == phase.layout.keys


@given(begun())
def test_jobs_and_searches_are_let_in_first_and_stay_so(at: tuple[Layout, Phase]) -> None:
    tenant, phase = at
    assert tenant.serves is not None
    made = abort(phase.layout)
    for one in made.phases:
        assert (one.layout.gate.jobs, one.layout.gate.search_cutoff, one.layout.serves) == ("open", None, tenant.serves)
        assert one.layout.pipeline(tenant.serves.pipeline).state is PipelineState.RUNNING
        assert all(p.state is PipelineState.DETACHED for p in one.layout.pipelines if p.id != tenant.serves.pipeline)
        assert not one.reversible, "an abort is gone through with"
    assert made.phases[0].moves[0].kind == "open-search"


@given(begun())
def test_nothing_is_released_purged_or_dropped_before_its_proof_and_nothing_that_serves_ever(
    at: tuple[Layout, Phase],
) -> None:
    tenant, phase = at
    assert tenant.serves is not None
    serving = set(tenant.serves.model_dump().values())
    stored = {dropped.verdict for dropped in tenant.dropped}
    for one in abort(phase.layout).phases:
        named = {u.release: u.id for u in (*one.layout.storages, *one.layout.searches) if u.release}
        named |= {dropped.verdict: dropped.id for dropped in one.layout.dropped if dropped not in tenant.dropped}
        assert set(named) <= stored
        assert not serving & set(named.values())
        for move in one.moves:
            if move.kind.startswith("purge"):
                assert move.verdict in stored
                assert {move.target or move.search} & serving == set()
        stored |= {move.verdict for move in one.moves if move.verdict and not move.kind.startswith("purge")}


@given(journeys(), st.data())
def test_after_an_abort_the_same_can_be_begun_again_under_new_numbers(made: Plan, data: st.DataObject) -> None:
    phase = data.draw(st.sampled_from([phase for phase in made.phases if phase.reversible]))
    end = abort(phase.layout).end
    request = Request(operation="acme-change-2", kind=OperationKind.CHANGE, mode=made.end.mode)
    again = plan(request, end).end
    assert again.mode is made.end.mode
    assert again.serves is not None
    before = {d.id for d in end.dropped}
    assert not before & set(again.serves.model_dump().values())


def test_a_tenant_that_serves_nothing_has_nothing_to_go_back_to() -> None:
    pending = Layout(
        tenant="acme", customer="acme-corp", cloud="aws", region="eu-west-1", stamp="stamp-aws-eu-west-1-01",
        mode=Mode.BYOK, keys=(Key(id="k1", state=KeyState.PENDING),),
    )  # fmt: skip
    with pytest.raises(RefusedInput, match="nothing to go back to"):
        abort(pending)


def test_what_an_interrupted_copy_left_is_known_before_it_is_purged(tmp_path: Path) -> None:
    s3, source, target = two_storages()
    for name in ("one", "two", "three"):
        put(s3, name)
    with Manifest.open(tmp_path / "m", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        # As a kill leaves it: handed out, copied, and not noted.
        manifest.connection.execute(
            "UPDATE versions SET state = 'copying', target_version_id = NULL, target_etag = NULL WHERE key = ?",
            (b"two",),
        )
        tidy(transfer)
        assert manifest.totals().pending == 0
        assert verify_untouched(transfer, unwatched).versions == 3
        compared = manifest.compare(Where.TARGET, [], lambda _: None)
        assert compared.missing == 3, "every copy is known by its version"


def test_an_operation_that_had_copied_nothing_leaves_a_target_that_is_empty(tmp_path: Path) -> None:
    _, source, target = two_storages()
    with Manifest.open(tmp_path / "m", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        tidy(transfer)
        assert verify_untouched(transfer, unwatched).versions == 0
    assert prove_empty(target).none


def test_an_operation_that_was_given_up_is_not_taken_up_by_the_next_launch(tmp_path: Path) -> None:
    kill_when_standing(tmp_path, {"b": "die"})
    durable.give_up(tmp_path, "acme", "acme-enable-1")
    durable.give_up(tmp_path, "acme", "acme-enable-1")
    before = ran(tmp_path)
    walk(tmp_path, {}, operation="acme-enable-1-abort")
    assert ran(tmp_path) == [*before, "a", "b", "c"], "only the steps of the other one ran"


def test_giving_up_what_never_was_is_no_error(tmp_path: Path) -> None:
    durable.give_up(tmp_path, "acme", "acme-enable-1")
