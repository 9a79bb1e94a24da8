"""A rotation in the customer's account, as the vendor sees it: KMS and the record are real, the engine is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from customer_key_lab import ALIAS, TERMS, BotoKms, CustomerKey
from kms_lab import CUSTOMER, VENDOR, VENDOR_ADMIN
from test_plan_customer_rotation import bare, tenant
from test_runner import FakeMoves, FakeStack, MemoryJournal, verdict

from migrate import durable, live, runner
from migrate.errors import KeyshiftError, RefusedInput, Waiting
from migrate.events import Event, Warned
from migrate.keys import confirmation, onboarding, policy
from migrate.keys.check import Ways
from migrate.live import Live
from migrate.log import Log
from migrate.operations import OperationKind, Wait
from migrate.records import Records
from migrate.rotation import Rotations, on_rotation
from migrate.runner import Runner
from migrate.stack import EngineDied, Project
from stacks.layout import Key, KeyState, Layout, Mode, OnRotation
from stacks.record import connect


class WaitingMoves(FakeMoves):
    """Moves of data work; the waits for the customer are the real ones."""

    def made(self, *, operation: Any, report: Callable[..., None], live: Live, **more: Any) -> WaitingMoves:
        super().made(operation=operation, report=report, **more)
        self.operation, self.live = operation, live
        return self

    def wait(self, wait: Wait) -> dict[str, Any]:
        if wait.kind == "key-fit":
            return confirmation.require_fit(self.live, wait.subject)
        if wait.kind == "confirmed":
            return confirmation.require_confirmed(self.operation.request, self.live.layout)
        return super().wait(wait)


@dataclass
class World:
    """One tenant `acme` of ours, and the customer's account."""

    customer: CustomerKey
    project: Project
    records: Records
    stack: FakeStack
    moves: WaitingMoves
    events: list[Event]

    @property
    def layout(self) -> Layout:
        return self.records.tenant("acme").layout

    @property
    def rotations(self) -> Rotations:
        return Rotations(self.project, "acme", self.events.append)

    def follow(self) -> dict[str, Any]:
        return self.rotations.follow()

    def runner(self) -> Runner:
        return Runner(self.project, "acme", self.events.append)

    def another_key(self, document: str | None = None) -> str:
        """The customer makes another key and moves the alias to it."""
        arn = self.customer.lab.key(Policy=document or policy.document(TERMS))
        self.lead_to(arn)
        return arn

    def lead_to(self, arn: str) -> None:
        self.customer.lab("UpdateAlias", AliasName="alias/keyshift-acme", TargetKeyId=arn.rpartition("/")[2])

    def attach(self, arn: str) -> None:
        self.customer.lab("PutKeyPolicy", KeyId=arn, Policy=policy.document(TERMS))

    def material(self, arn: str) -> str:
        return self.customer.lab("DescribeKey", KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"]

    def logged(self, event: str) -> int:
        lines = Log(self.project.home / "tenants" / "acme").events()
        return sum(line["event"]["event"] == event for line in lines)

    def create(self, layout: Layout) -> None:
        self.records.create(layout)

    def create_holding(self, name: str, customer: str, key: Key) -> None:
        """Another tenant, which takes a key of its customer's as an operation does."""
        mine = bare().model_copy(update={"tenant": name, "customer": customer})
        self.create(mine)
        with self.records.lease(name) as fence:
            self.records.advance(mine.model_copy(update={"keys": (key,)}), fence)

    def archive(self, name: str) -> None:
        with self.records.lease(name) as fence:
            self.records.archive(name, fence)

    def create_under_first_key(self, pause: str = "any") -> None:
        key = Key(
            id="k1",
            state=KeyState.ACTIVE,
            arn=self.customer.arn,
            alias=ALIAS,
            material=self.material(self.customer.arn),
        )
        self.create(tenant(pause).model_copy(update={"keys": (key,)}))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    customer, stack, moves = CustomerKey(tmp_path / "kms"), FakeStack(), WaitingMoves()
    project = Project(root=tmp_path, home=tmp_path / ".keyshift")
    records = Records(connect(project.home))
    ways = Ways(describer=BotoKms(customer.lab, VENDOR_ADMIN), prober=BotoKms(customer.lab, customer.role("runner")))
    for module in (runner, onboarding, live):
        monkeypatch.setattr(module, "Stack", lambda *_: stack)
    monkeypatch.setattr(stack, "outputs", lambda: {"generation": stack.generation, "roles": {}})
    monkeypatch.setattr(runner, "Moves", moves.made)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0)
    monkeypatch.setattr(durable, "walk", _journals())
    monkeypatch.setattr(confirmation, "ways", lambda *_, **__: ways)
    monkeypatch.setattr(onboarding, "_our_account", lambda _: VENDOR)
    made = World(customer, project, records, stack, moves, [])
    yield made
    customer.close()


def _journals() -> Callable[..., Any]:
    """A journal an operation, as DBOS keeps them."""
    kept: dict[str, MemoryJournal] = {}

    def walk(folder: Path, name: str, operation: str, steps: list[str], act: durable.Act) -> Any:
        return kept.setdefault(operation, MemoryJournal()).walk(folder, name, operation, steps, act)

    return walk


def unchanged(world: World) -> tuple[Any, ...]:
    """What a refusal must leave as it is."""
    operations = [(one.id, one.state, one.step) for one in world.records.operations("acme")]
    return world.layout, operations, len(list(Log(world.project.home / "tenants" / "acme").events()))


# following ------------------------------------------------------------------------------------


def test_an_alias_that_leads_where_it_led_changes_nothing(world: World) -> None:
    world.create_under_first_key()
    before = unchanged(world)
    assert world.follow()["came"] == "unchanged"
    assert unchanged(world) == before


def test_a_moved_alias_takes_the_bucket_and_pauses_archive_at_once(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key()
    found = world.follow()
    layout = world.layout
    assert found["came"] == "paused"
    assert layout.key(layout.storages[0].key or "").arn == second
    assert layout.key("k2").material == world.material(second)
    assert (layout.gate.jobs, list(layout.gate.warnings)) == ("closed", found["warnings"])
    assert found["next"] == f"keyshift confirm acme --token {found['token']}"
    assert found["token"] == confirmation.token("acme-rotate-1", layout)
    operation = world.records.operation("acme-rotate-1")
    assert (operation.state, operation.step) == ("waiting", "pause/1-confirmed")
    assert operation.jobs_closed_at is not None


def test_the_warning_is_said_again_at_each_look(world: World) -> None:
    world.create_under_first_key()
    world.another_key()
    first = world.follow()
    for looks in (2, 3):
        again = world.follow()
        assert (again["came"], again["token"], again["warnings"]) == ("waits", first["token"], first["warnings"])
        told = [one.text for one in world.events if isinstance(one, Warned)]
        assert told == first["warnings"] * looks
        assert world.logged("rotation-waits") == looks
    assert len(world.records.operations("acme")) == 1, "a look is no operation"


def test_a_new_key_that_lacks_a_statement_stays_unused_until_it_is_mended(world: World) -> None:
    world.create_under_first_key()
    kept = [one for one in policy.policy(TERMS)["Statement"] if one["Sid"] != policy.PROBE]
    second = world.another_key(json.dumps({"Version": "2012-10-17", "Statement": kept}))
    held = world.follow()
    assert (held["came"], held["token"]) == ("paused", None)
    assert policy.PROBE in held["missing"]
    assert (world.layout.storages[0].key, world.layout.gate.jobs) == ("k1", "closed")
    assert world.follow()["came"] == "waits"

    world.attach(second)
    mended = world.follow()
    assert world.layout.key(world.layout.storages[0].key or "").arn == second
    assert mended["token"] == confirmation.token("acme-rotate-1", world.layout)


def test_a_key_that_may_not_even_be_seen_pauses_too(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key(
        json.dumps({"Version": "2012-10-17", "Statement": [policy.statements(TERMS)[policy.OWNER]]})
    )
    hidden = world.follow()
    assert (hidden["came"], hidden["key"], hidden["token"]) == ("paused", None, None)
    assert policy.DESCRIBE in hidden["missing"]
    assert (world.layout.storages[0].key, world.layout.gate.jobs) == ("k1", "closed")
    assert "keyshift key policy acme" in hidden["next"]
    assert world.follow()["came"] == "waits"

    world.attach(second)
    shown = world.follow()
    assert shown["key"] == second
    assert shown["token"] == confirmation.token("acme-rotate-2", world.layout)
    assert world.records.operation("acme-rotate-1").state == "aborted"


def test_a_hidden_rotation_cannot_be_confirmed(world: World) -> None:
    """Nobody can say yes to a key that we cannot see; its token is told to nobody, and would not do."""
    world.create_under_first_key()
    world.another_key(json.dumps({"Version": "2012-10-17", "Statement": [policy.statements(TERMS)[policy.OWNER]]}))
    world.follow()
    before = unchanged(world)
    with pytest.raises(Waiting):
        world.rotations.confirm(confirmation.token("acme-rotate-1", world.layout), "customer")
    assert unchanged(world) == before


def test_a_key_that_was_lost_is_no_rotation(world: World) -> None:
    world.create_under_first_key()
    kept = [policy.statements(TERMS)[policy.OWNER]]
    world.customer.put_policy(json.dumps({"Version": "2012-10-17", "Statement": kept}))
    before = unchanged(world)
    with pytest.raises(RefusedInput) as refused:
        world.follow()
    assert refused.value.code == "key-unusable"
    assert "keyshift seal acme" in refused.value.hint
    assert unchanged(world) == before


def test_a_new_material_under_the_same_arn_pauses_and_moves_nothing(world: World) -> None:
    world.create_under_first_key()
    storages = world.layout.storages
    world.customer.lab("RotateKeyOnDemand", KeyId=world.customer.arn.rpartition("/")[2])
    found = world.follow()
    assert (found["came"], found["key"]) == ("paused", world.customer.arn)
    assert world.layout.storages == storages
    done = world.rotations.confirm(found["token"], "customer")
    assert (done.kind, done.state) == (OperationKind.CONFIRM, "done")
    assert world.layout.gate.jobs == "open"
    assert world.layout.key("k1").material == world.material(world.customer.arn)
    assert world.follow()["came"] == "unchanged"


def test_who_pauses_on_the_alias_alone_is_not_paused_by_a_new_material(world: World) -> None:
    world.create_under_first_key(pause="alias")
    world.customer.lab("RotateKeyOnDemand", KeyId=world.customer.arn.rpartition("/")[2])
    assert world.follow()["came"] == "noted"
    assert world.layout.gate.jobs == "open"
    assert world.follow()["came"] == "unchanged", "it is taken in once"


def test_a_rotation_during_another_operation_waits_for_its_turn(world: World) -> None:
    world.create_under_first_key()
    world.records.begin(world.records.tenant("acme"), OperationKind.CHANGE, "standard")
    world.another_key()
    before = unchanged(world)
    found = world.follow()
    assert (found["came"], found["next"]) == ("queued", "acme-change-1 comes first: keyshift resume acme")
    assert unchanged(world) == before


def test_a_look_goes_on_with_a_rotation_that_was_cut_off(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key()
    world.stack.dies = 99
    with pytest.raises(KeyshiftError) as died:
        world.follow()
    assert not isinstance(died.value, EngineDied) or died.value.code == "engine-died"
    world.stack.dies = 0
    found = world.follow()
    assert found["token"] == confirmation.token("acme-rotate-1", world.layout)
    assert world.layout.key(world.layout.storages[0].key or "").arn == second
    assert len(world.records.operations("acme")) == 1


def test_a_key_of_another_customer_is_never_taken(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key()
    theirs = Key(id="k1", state=KeyState.ACTIVE, arn=second, alias=ALIAS + "-theirs", material="m")
    world.create_holding("other", "other-corp", theirs)
    found = world.follow()
    assert "another customer" in found["missing"]
    assert (world.layout.storages[0].key, world.layout.gate.jobs, found["token"]) == ("k1", "closed", None)


def test_a_tenant_under_no_such_key_is_refused(world: World) -> None:
    world.create(bare(Mode.STANDARD))
    with pytest.raises(RefusedInput):
        world.follow()


def test_the_watch_may_call_again_and_again(world: World) -> None:
    world.create_under_first_key()
    world.another_key()
    assert on_rotation(world.project, "acme")["came"] == "paused"
    assert on_rotation(world.project, "acme", object())["came"] == "waits"


# confirming -----------------------------------------------------------------------------------


def test_a_confirmed_rotation_moves_everything_under_the_new_key(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key()
    token = world.follow()["token"]
    for id in ("storage", "index", "purge"):
        world.runner().verdicts.store(verdict(f"acme-confirm-1-{id}"))
    done = world.rotations.confirm(f" {token}\n", "ann@acme")
    layout = world.layout
    assert (done.id, done.state) == ("acme-confirm-1", "done")
    assert world.records.operation("acme-rotate-1").state == "done"
    assert {layout.key(u.key or "").arn for u in (*layout.storages, *layout.searches)} == {second}
    assert [key.state for key in layout.keys] == [KeyState.ARCHIVED, KeyState.ACTIVE]
    assert (layout.gate.jobs, layout.gate.warnings) == ("open", ())
    assert world.logged("rotation-confirmed") == 1
    rotated = world.records.operation("acme-rotate-1")
    assert rotated.jobs_disabled_seconds is not None, "how long Archive was paused is told"
    assert world.follow()["came"] == "unchanged"


def test_a_second_rotation_makes_the_token_stale(world: World) -> None:
    world.create_under_first_key()
    world.another_key()
    token = world.follow()["token"]
    third = world.another_key()
    before = unchanged(world)
    with pytest.raises(RefusedInput) as stale:
        world.rotations.confirm(token, "customer")
    assert stale.value.code == "token-stale"
    assert "keyshift key follow acme" in stale.value.hint
    assert unchanged(world) == before

    newer = world.follow()
    assert newer["token"] != token
    assert world.layout.key(world.layout.storages[0].key or "").arn == third
    with pytest.raises(RefusedInput) as stale:
        world.rotations.confirm(token, "customer")
    assert stale.value.code == "token-stale"


def test_an_alias_that_went_there_and_back_needs_a_token_of_its_own(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key()
    token = world.follow()["token"]
    world.lead_to(world.customer.arn)
    assert world.follow()["key"] == world.customer.arn
    world.lead_to(second)
    again = world.follow()
    assert again["key"] == second
    assert again["token"] != token, "what was confirmed then is not what is asked now"


@pytest.mark.parametrize("token", ["", "0" * 16, "é"])
def test_a_wrong_token_is_refused(world: World, token: str) -> None:
    world.create_under_first_key()
    world.another_key()
    world.follow()
    before = unchanged(world)
    with pytest.raises(RefusedInput) as refused:
        world.rotations.confirm(token, "customer")
    assert refused.value.code == "token-stale"
    assert unchanged(world) == before


def test_a_confirmation_that_nobody_waits_for_is_refused(world: World) -> None:
    world.create_under_first_key()
    with pytest.raises(RefusedInput) as refused:
        world.rotations.confirm("x", "customer")
    assert refused.value.code == "nothing-to-confirm"


def test_a_key_that_was_closed_since_is_not_gone_on_with(world: World) -> None:
    world.create_under_first_key()
    second = world.another_key()
    token = world.follow()["token"]
    world.customer.lab("DisableKey", KeyId=second.rpartition("/")[2])
    before = unchanged(world)
    with pytest.raises(Waiting) as waiting:
        world.rotations.confirm(token, "customer")
    assert "disabled" in waiting.value.message
    assert unchanged(world) == before


def test_a_rotation_cannot_be_aborted_and_says_why(world: World) -> None:
    world.create_under_first_key()
    world.another_key()
    world.follow()
    with pytest.raises(RefusedInput) as refused:
        world.runner().abort()
    assert "only they could go back" in refused.value.message


def test_what_is_told_names_no_secret_and_the_status_shows_the_wait(world: World) -> None:
    world.create_under_first_key()
    world.another_key()
    found = world.follow()
    operation = world.records.operation("acme-rotate-1")
    assert operation.hint == f"keyshift confirm acme --token {found['token']}"
    assert found["warnings"][0] in (operation.message or "")


# binding --------------------------------------------------------------------------------------


def onboard(world: World, alias: str = ALIAS, terms: OnRotation | None = None) -> dict[str, Any]:
    def bind(asked: dict[str, Any]) -> None:
        world.runner().run(OperationKind.ONBOARD, asked=asked)

    return onboarding.onboard(world.project, "acme", alias, terms, bind)


def test_a_fit_key_is_bound_once(world: World) -> None:
    world.create(bare())
    found = onboard(world)
    assert (found["bound"], found["fit"], found["next"]) == (True, True, "keyshift resume acme")
    (key,) = world.layout.keys
    assert (key.arn, key.alias, key.state) == (world.customer.arn, ALIAS, KeyState.PENDING)
    assert key.material == world.material(world.customer.arn)
    before = unchanged(world)
    assert onboard(world)["bound"]
    assert unchanged(world) == before, "again is nothing new"


def test_the_customers_terms_are_kept_and_can_be_changed(world: World) -> None:
    world.create(bare())
    onboard(world, terms=OnRotation(pause="alias", rebuilds_search=False))
    assert world.layout.on_rotation == OnRotation(pause="alias", rebuilds_search=False)
    onboard(world)
    assert world.layout.on_rotation.pause == "alias", "what is not said stays"
    onboard(world, terms=OnRotation())
    assert world.layout.on_rotation == OnRotation()


def test_an_alias_that_moved_before_anything_lay_under_it_is_taken_in(world: World) -> None:
    world.create(bare())
    onboard(world)
    second = world.another_key()
    onboard(world)
    assert [key.arn for key in world.layout.keys] == [second]


def test_a_key_that_may_not_be_seen_is_not_bound(world: World) -> None:
    world.create(bare())
    world.another_key(json.dumps({"Version": "2012-10-17", "Statement": [policy.statements(TERMS)[policy.OWNER]]}))
    before = unchanged(world)
    found = onboard(world)
    assert (found["bound"], found["missing_statements"]) == (False, [policy.DESCRIBE])
    assert unchanged(world) == before


@pytest.mark.parametrize("shared", ["alias", "arn"])
def test_a_key_bound_to_another_customer_is_refused(world: World, shared: str) -> None:
    world.create(bare())
    held = {"alias": ALIAS + "-theirs", "arn": world.customer.arn + "0"}
    held[shared] = {"alias": ALIAS, "arn": world.customer.arn}[shared]
    world.create_holding("other", "other-corp", Key(id="k1", state=KeyState.ACTIVE, material="m", **held))
    world.archive("other")
    before = unchanged(world)
    with pytest.raises(RefusedInput) as refused:
        onboard(world)
    assert refused.value.code == "key-of-another-customer"
    assert "other-corp" not in str(refused.value), "whose it is is nobody else's business"
    assert unchanged(world) == before


def test_one_key_may_serve_two_tenants_of_its_customer(world: World) -> None:
    world.create(bare())
    mine = Key(id="k1", state=KeyState.ACTIVE, arn=world.customer.arn, alias=ALIAS, material="m")
    world.create(bare(keys=(mine,)).model_copy(update={"tenant": "second"}))
    assert onboard(world)["bound"]
    printed = onboarding.print_policy(world.project, "acme", None, None)
    assert printed["shared_by"] == ["acme", "second"]
    roles = printed["policy"]["Statement"][1]["Condition"]["ArnEquals"]["aws:PrincipalArn"]
    assert len(roles) == 6


def test_a_key_of_our_own_account_is_refused(world: World) -> None:
    world.create(bare())
    with pytest.raises(RefusedInput) as refused:
        onboard(world, ALIAS.replace(CUSTOMER, VENDOR))
    assert refused.value.code == "own-account"


def test_the_policy_needs_the_customers_account_until_an_alias_says_it(world: World) -> None:
    world.create(bare())
    with pytest.raises(RefusedInput) as refused:
        onboarding.print_policy(world.project, "acme", None, None)
    assert refused.value.hint == "keyshift key policy acme --account NUMBER"
    assert onboarding.print_policy(world.project, "acme", CUSTOMER, None)["policy"] == policy.policy(TERMS)


def test_the_check_changes_nothing_and_says_whether_the_key_is_bound(world: World) -> None:
    world.create(bare())
    before = unchanged(world)
    found = onboarding.check_key(world.project, "acme", ALIAS)
    assert (found["fit"], found["bound"], found["next"]) == (True, False, None)
    assert unchanged(world) == before
    with pytest.raises(RefusedInput):
        onboarding.check_key(world.project, "acme", None)


@pytest.mark.parametrize("mode", ["byokms"])
def test_a_standard_tenant_moves_under_the_bound_key(world: World, mode: str) -> None:
    from layouts import standard

    world.create(standard())
    assert onboard(world)["next"] == "keyshift enable acme --mode byokms"
    for id in ("storage", "index", "purge"):
        world.runner().verdicts.store(verdict(f"acme-enable-1-{id}"))
    done = world.runner().run(OperationKind.ENABLE, mode)
    layout = world.layout
    assert (done.state, layout.mode) == ("done", Mode.BYOKMS)
    assert {layout.key(u.key or "").arn for u in (*layout.storages, *layout.searches)} == {world.customer.arn}


def test_an_alias_that_moved_before_the_move_began_is_waited_for(world: World) -> None:
    from layouts import standard

    world.create(standard())
    onboard(world)
    world.another_key()
    with pytest.raises(Waiting) as waiting:
        world.runner().run(OperationKind.ENABLE, "byokms")
    assert waiting.value.code == "alias-moved"
