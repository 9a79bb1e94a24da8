"""Revocations: what the layout says, that they can be done again, and that a restore gives back exactly what was."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import graph
import layouts
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plan import tenants
from test_seal import KEY, THEIRS, World, estate_of, made_world, refusal

from migrate import seal
from migrate.durable import single_runner
from migrate.errors import KeyshiftError, RefusedInput, VerificationFailed, Waiting
from migrate.fates import Fate, Fates, KeyFate
from migrate.integrity import Wanted
from migrate.operations import OperationKind, Request
from migrate.plan import plan
from migrate.plan.revocation import given_back, is_revoked
from migrate.progress import unwatched
from migrate.records import Records
from migrate.revoke import Revoker, StillOpen
from migrate.seal import Sealer
from migrate.seals import Lost, Seals
from migrate.stack import Project
from stacks import tenant
from stacks.layout import Key, KeyState, Layout, Mode
from stacks.record import connect

NOTHING_READ = Wanted()


# the layouts ----------------------------------------------------------------------------------


def revoked(layout: Layout) -> Layout:
    return plan(Request(operation="acme-revoke-1", kind=OperationKind.REVOKE), layout).end


any_tenant = st.one_of(tenants(Mode.BYOK), tenants(Mode.BYOKMS), tenants(Mode.STANDARD))


@given(any_tenant)
def test_a_revocation_withdraws_every_key_closes_access_and_drops_nothing(tenant: Layout) -> None:
    shut = revoked(tenant)
    assert shut.gate.access == "closed"
    assert {key.state for key in shut.keys} <= {KeyState.REVOKED, KeyState.PENDING}
    untouched = {"storages", "searches", "pipelines", "serves", "dropped", "mode"}
    assert shut.model_dump(include=untouched) == tenant.model_dump(include=untouched)


@given(any_tenant)
def test_what_is_given_back_is_exactly_what_was_but_for_the_access(tenant: Layout) -> None:
    back = given_back(revoked(tenant), tenant)
    gate = tenant.gate.model_copy(update={"access": "closed"})
    assert back == tenant.model_copy(update={"gate": gate}), "an archived or long revoked key does not come to life"
    opened = plan(Request(operation="acme-restore-1", kind=OperationKind.RESTORE), back).end
    assert opened == tenant


@given(any_tenant)
def test_a_revoked_tenant_is_known_by_its_layout_and_not_revoked_twice(tenant: Layout) -> None:
    assert not is_revoked(tenant)
    assert is_revoked(revoked(tenant))
    with pytest.raises(RefusedInput) as refused:
        revoked(revoked(tenant))
    assert refused.value.code == "revoked-already"


def test_a_seal_alone_is_no_revocation() -> None:
    assert not is_revoked(layouts.sealed(layouts.byok_active()))


@pytest.mark.parametrize("name", [name for name in layouts.ALL if name != "byok_pending"])
def test_a_revocation_asks_the_cloud_for_exactly_what_the_seal_has_done(name: str) -> None:
    layout = layouts.ALL[name]()
    shut = layout.model_copy(update={"gate": layout.gate.model_copy(update={"access": "closed"})})
    wanted, asked = (
        graph.run(lambda layout=layout: tenant.build(layout), stack="tenant-acme").resources
        for layout in (shut, revoked(layout))
    )
    differs = {one for one in wanted if wanted[one] != asked[one] and not one.endswith("-worker")}
    assert differs == set(), "in the middle of a rotation the runner has to read under the old key too, once it is back"
    assert wanted.keys() == asked.keys()


# the whole ------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


BEFORE = layouts.changed(
    layouts.enable_done(), keys=(Key(id="k1", state=KeyState.ACTIVE), Key(id="k2", state=KeyState.PENDING))
)


@pytest.fixture
def records(project: Project) -> Records:
    records = Records(connect(project.home))
    records.create(BEFORE)
    return records


@pytest.fixture
def world(project: Project, records: Records, monkeypatch: pytest.MonkeyPatch) -> World:
    assert records.tenant("acme").layout == BEFORE
    made = made_world(project, monkeypatch)
    made.account.mappings["keyshift-acme-p2"] = True
    return made


@pytest.fixture
def revoker(world: World) -> Revoker:
    """A new process each time: it knows only what is written down."""
    return again(world)


def again(world: World) -> Revoker:
    made = Revoker(world.sealer.project, "acme", unwatched)
    made.sealer = world.sealer
    return made


def operations(records: Records) -> list[tuple[str, str]]:
    return [(str(op.kind), op.state) for op in records.operations("acme")]


def restored(revoker: Revoker, **more: Any) -> dict[str, Any]:
    return revoker.restore("found again", limit=10, wanted=NOTHING_READ, **more)


def test_a_revocation_seals_and_makes_the_stack_agree(world: World, revoker: Revoker, records: Records) -> None:
    found = revoker.revoke("the contract ended", limit=10)
    assert found["still_open"] == []
    assert found["paths"][0]["after"] is not None
    assert world.account.keys[KEY] == "Disabled"
    assert world.stack.calls == ["render closed", "preview", "up"]
    record = records.tenant("acme")
    assert (record.sealed, is_revoked(record.layout)) == (True, True)
    assert [key.state for key in record.layout.keys] == [KeyState.REVOKED, KeyState.PENDING]
    assert operations(records) == [("revoke", "done")]
    begun = next(event for event in world.events if event["event"] == "operation-begun")
    assert (begun["reason"], begun["by"]) == ("the contract ended", seal.who())
    assert world.events[-1] == {"event": "operation-done", "operation": "acme-revoke-1"}


def test_a_restore_gives_back_exactly_what_was(world: World, revoker: Revoker, records: Records) -> None:
    before = json.dumps([world.account.policies, world.account.mappings, world.account.keys], sort_keys=True)
    revoker.revoke("the contract ended", limit=10)
    world.stack.calls.clear()
    found = restored(revoker)
    assert json.dumps([world.account.policies, world.account.mappings, world.account.keys], sort_keys=True) == before
    assert records.tenant("acme").layout == BEFORE
    assert world.stack.calls == ["render open", "preview", "up"]
    assert operations(records) == [("revoke", "done"), ("restore", "done")]
    assert found["operation"] == "acme-restore-1"


def test_a_second_revocation_of_the_same_access_is_the_first_one_looked_at_again(
    world: World, revoker: Revoker, records: Records
) -> None:
    revoker.revoke("the contract ended", limit=10)
    assert revoker.revoke("once more", limit=10)["operation"] == "acme-revoke-1"
    assert operations(records) == [("revoke", "done")]
    restored(revoker)
    assert records.tenant("acme").layout == BEFORE, "what was before the first one is what comes back"


def test_a_revocation_that_died_before_the_stack_agreed_goes_on(
    world: World, revoker: Revoker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(world.stack, "up", dies)
        with pytest.raises(KeyboardInterrupt):
            revoker.revoke("the contract ended", limit=10)
    assert records.tenant("acme").sealed
    again(world).revoke("the contract ended", limit=10)
    assert world.stack.calls[-1] == "up"
    assert operations(records) == [("revoke", "done")]
    restored(again(world))
    assert records.tenant("acme").layout == BEFORE


def test_a_revocation_that_died_before_it_closed_anything_is_begun_anew(
    world: World, revoker: Revoker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.begin(records.tenant("acme"), OperationKind.REVOKE, None)
    with records.lease("acme") as fence:
        changed = layouts.changed(
            BEFORE, keys=(Key(id="k1", state=KeyState.ACTIVE), Key(id="k2", state=KeyState.ACTIVE))
        )
        records.advance(changed, fence)
    world.account.keys["arn:k2"] = "Enabled"
    monkeypatch.setattr(
        Sealer, "estate", lambda _, layout=None: with_k2(world, layout or records.tenant("acme").layout)
    )
    revoker.revoke("the contract ended", limit=10)
    assert operations(records) == [("revoke", "aborted"), ("revoke", "done")]
    restored(revoker)
    assert records.tenant("acme").layout == changed, "the tenant had changed since the first one was begun"


def with_k2(world: World, layout: Layout) -> Any:
    made = estate_of(world.account, layout)
    object.__setattr__(made, "key_arns", lambda: {"k1": KEY, "k2": "arn:k2"})
    return made


def test_what_is_still_open_is_a_failure_that_is_listed_and_can_be_run_again(
    world: World, revoker: Revoker, records: Records
) -> None:
    world.account.broken["lambda"] = refusal("AccessDenied")
    with pytest.raises(StillOpen) as still_open:
        revoker.revoke("the contract ended", limit=0)
    assert [line.split(":")[0] for line in still_open.value.found["still_open"]] == ["pipeline p2"]
    assert operations(records) == [("revoke", "failed")]
    assert records.tenant("acme").sealed, "the record closes it whatever the cloud says"
    world.account.broken.clear()
    assert revoker.revoke("the contract ended", limit=10)["still_open"] == []
    assert operations(records) == [("revoke", "done")]


def test_a_revocation_without_a_reason_changes_nothing(world: World, revoker: Revoker, records: Records) -> None:
    with pytest.raises(RefusedInput):
        revoker.revoke(" ", limit=10)
    assert not records.tenant("acme").sealed
    assert operations(records) == []
    assert world.account.writes == []


def test_a_move_in_the_middle_keeps_its_operation_and_its_layouts(
    world: World, revoker: Revoker, records: Records
) -> None:
    moving = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    found = revoker.revoke("the contract ended", limit=10)
    assert found["up"] is None
    assert world.stack.calls == ["render closed"], "its own operation brings its layouts up"
    unfinished = records.unfinished("acme")
    assert unfinished is not None
    assert unfinished.id == moving.id, "a runner never goes on with a revocation"
    assert restored(revoker)["next"] == "keyshift resume acme"
    assert records.tenant("acme").layout == BEFORE


def test_a_runner_that_does_not_end_is_waited_for_behind_closed_doors(
    world: World, revoker: Revoker, records: Records
) -> None:
    with single_runner(world.sealer.folder, "acme"), pytest.raises(Waiting) as waiting:
        revoker.revoke("the contract ended", limit=0)
    assert waiting.value.exit_code == 3
    assert world.account.policies["keyshift-acme-archive"] != THEIRS, "it is closed all the same"
    assert operations(records) == [("revoke", "waiting")]
    revoker.revoke("the contract ended", limit=10)
    assert operations(records) == [("revoke", "done")]


def test_what_was_changed_while_it_was_closed_stays_closed(
    world: World, revoker: Revoker, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoker.revoke("the contract ended", limit=10)

    def differs(*_: Any) -> None:
        raise VerificationFailed("s2 is not what was closed", code="changed-while-closed")

    with monkeypatch.context() as patched:
        patched.setattr(seal, "read_back", differs)
        with pytest.raises(VerificationFailed):
            restored(revoker)
    assert records.tenant("acme").sealed
    assert world.account.keys[KEY] == "Disabled"
    assert is_revoked(records.tenant("acme").layout)
    assert operations(records) == [("revoke", "done"), ("restore", "failed")]
    restored(revoker)
    assert operations(records) == [("revoke", "done"), ("restore", "done")]
    assert records.tenant("acme").layout == BEFORE


def test_a_tenant_that_is_open_has_nothing_to_restore(world: World, revoker: Revoker, records: Records) -> None:
    with pytest.raises(RefusedInput) as refused:
        restored(revoker)
    assert refused.value.code == "not-sealed"
    assert operations(records) == []


def test_a_plain_seal_is_restored_by_the_same_command(world: World, revoker: Revoker, records: Records) -> None:
    world.sealer.seal("stolen key", limit=10)
    restored(revoker)
    assert records.tenant("acme").layout == BEFORE
    assert operations(records) == [("restore", "done")]


# keys that the customer took away -------------------------------------------------------------


def test_a_key_whose_policy_was_withdrawn_is_not_disabled_too(world: World) -> None:
    found = world.sealer.seal("k1 is closed to us", limit=10, lost=Lost("k1", "policy-withdrawn"))
    assert "key k1" not in {one["id"] for one in found["denials"]}
    assert world.account.keys[KEY] == "Enabled", "its owner would have two things to undo, and one of them is ours"


def test_a_seal_of_the_watch_leaves_the_customers_key_as_it_is(world: World, records: Records) -> None:
    world.account.keys[KEY] = "Disabled"
    world.sealer.seal("k1 is disabled", limit=10, lost=Lost("k1", "disabled"))
    assert KEY not in world.account.writes
    with pytest.raises(Waiting) as waiting:
        restored(again(world))
    assert "the keys to be usable" in waiting.value.waits_for
    assert world.account.keys[KEY] == "Disabled", "only who disabled it enables it"
    assert records.tenant("acme").sealed


@pytest.fixture(autouse=True)
def _impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait ends at its first look where a test waits for its end."""
    if "leaves_the_customers_key" in request.node.name:
        monkeypatch.setattr(seal.time, "monotonic", iter(range(0, 10**6, 100)).__next__)


def test_the_watch_opens_only_what_the_watch_has_closed(world: World, records: Records) -> None:
    world.sealer.seal("k1 is disabled", limit=10, lost=Lost("k1", "disabled"))
    world.sealer.seal("an investigation", limit=10)
    with pytest.raises(RefusedInput):
        world.sealer.restore("", limit=10, only_lost=True)
    assert records.tenant("acme").sealed
    assert world.account.keys[KEY] == "Disabled", "a person's seal closes the keys too"


def test_the_watch_seals_nobody_who_is_sealed(world: World, project: Project) -> None:
    world.sealer.seal("an investigation", limit=10)
    with pytest.raises(RefusedInput) as refused:
        world.sealer.seal("k1 is disabled", limit=10, lost=Lost("k1", "disabled"))
    assert refused.value.code == "sealed"
    stands = Seals(connect(project.home)).in_force("acme")
    assert stands is not None
    assert (stands.reason, stands.lost) == ("an investigation", None)


# the end of a key -----------------------------------------------------------------------------


def fate(which: Fate) -> KeyFate:
    return KeyFate(tenant="acme", key="k1", fate=which, by="me@here", at=datetime.now(UTC), reason="r")


def test_what_lies_under_a_destroyed_key_is_not_restored(world: World, revoker: Revoker, records: Records) -> None:
    revoker.revoke("the contract ended", limit=10)
    revoker.fates.put(fate(Fate.DESTROYED))
    with pytest.raises(RefusedInput, match="can never be read again") as refused:
        restored(revoker)
    assert refused.value.code == "key-destroyed"
    assert operations(records) == [("revoke", "done")], "a refusal changes nothing"


def test_a_lost_key_that_works_again_is_found(world: World, revoker: Revoker) -> None:
    revoker.revoke("k1 is lost", limit=10)
    revoker.fates.put(fate(Fate.LOST))
    assert restored(revoker)["found_again"] == ["k1"]
    assert revoker.fates.of("acme") == {}
    assert "keys-found-again" in [event["event"] for event in world.events]


def test_a_destroyed_key_stays_destroyed_whatever_is_said_later(project: Project) -> None:
    fates = Fates(connect(project.home))
    fates.put(fate(Fate.LOST))
    fates.put(fate(Fate.DESTROYED))
    fates.put(fate(Fate.LOST))
    assert fates.of("acme")["k1"].fate is Fate.DESTROYED
    assert fates.found_again("acme") == []


def test_an_error_of_a_revocation_says_what_to_type_next() -> None:
    error: KeyshiftError = StillOpen({"tenant": "acme", "still_open": ["GET of s1 as archive: answered 200"]})
    assert (error.exit_code, error.code) == (1, "still-open")
    assert "keyshift revoke acme" in error.hint
