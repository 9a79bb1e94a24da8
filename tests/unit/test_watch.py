"""The watch: what each answer of AWS means, when a tenant is closed and opened, and when nothing is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import layouts
import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from migrate.denials import Estate
from migrate.errors import RefusedInput, Waiting
from migrate.records import Records
from migrate.seals import Lost, Seals
from migrate.stack import Project
from migrate.watching import round as rounds
from migrate.watching.decide import Rules, Tripped, Watched, decide, tripped
from migrate.watching.findings import (
    Canary,
    Cause,
    Described,
    Finding,
    Heard,
    Known,
    Looks,
    Subject,
    cause_of,
    classify,
)
from migrate.watching.memory import Memory, Seen, after
from migrate.watching.observe import heard, observe
from migrate.watching.round import Watch, rotation_hook
from sandbox.aws.kms import refusals
from stacks.layout import Key, KeyState, Layout
from stacks.record import connect

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ARN, OTHER = "arn:aws:kms:eu-west-1:444455556666:key/a", "arn:aws:kms:eu-west-1:444455556666:key/b"
WAS = Known(ARN, "m1")
OK = Heard()


# what an answer means -------------------------------------------------------------------------


def said(refusal: refusals.Refusal, *, via_s3: bool = False) -> Heard:
    """A refusal of the sandbox's table, whose every row names its AWS source, as KMS or as S3 says it."""
    error = refusal.error(arn=ARN, caller="c", action="kms:Decrypt", resource=ARN, ref=ARN)
    code = error.code
    if via_s3:
        code = "AccessDenied" if code == "AccessDeniedException" else f"KMS.{code}"
    return Heard(code=code, message=error.message, operation="GetObject" if via_s3 else "DescribeKey", status=400)


def in_state(operation: str, state: str) -> refusals.Refusal:
    return next(
        row.refusal
        for row in refusals.STATES
        if operation in row.operations and [str(one) for one in row.states] == [state]
    )


BY_REFUSAL = {
    "disabled": (in_state("Decrypt", "Disabled"), Cause.DISABLED),
    "pending deletion": (in_state("Decrypt", "PendingDeletion"), Cause.PENDING_DELETION),
    "without material": (in_state("Decrypt", "PendingImport"), Cause.PENDING_IMPORT),
    "deleted": (refusals.KEY_NOT_FOUND, Cause.DELETED),
    "alias deleted": (refusals.ALIAS_NOT_FOUND, Cause.DELETED),
    "explicit denial by the key's policy": (refusals.DENIED_BY_KEY_POLICY, Cause.POLICY_WITHDRAWN),
    "no longer allowed by the key's policy": (refusals.NOT_ALLOWED_BY_KEY_POLICY, Cause.POLICY_WITHDRAWN),
    "no longer allowed across accounts": (refusals.FOREIGN_KEY_HIDDEN, Cause.POLICY_WITHDRAWN),
    "no longer allowed, by the ciphertext": (refusals.CIPHERTEXT_KEY_HIDDEN, Cause.POLICY_WITHDRAWN),
    "our own role denies": (refusals.DENIED_BY_IDENTITY, Cause.OUR_ACCESS),
    "our own role does not allow": (refusals.NOT_ALLOWED_BY_IDENTITY, Cause.OUR_ACCESS),
    "throttled": (refusals.THROTTLED, Cause.THROTTLED),
    "KMS is ill": (refusals.INTERNAL, Cause.NETWORK),
}


@pytest.mark.parametrize("via_s3", [False, True], ids=["KMS", "S3"])
@pytest.mark.parametrize("case", BY_REFUSAL)
def test_each_refusal_of_the_key_has_its_cause(case: str, via_s3: bool) -> None:
    refusal, cause = BY_REFUSAL[case]
    assert cause_of(said(refusal, via_s3=via_s3)) is cause


BY_CODE = {
    "the bucket's policy": (
        Heard("AccessDenied", "User: c is not authorized to perform: s3:GetObject"),
        Cause.OUR_ACCESS,
    ),
    "no text at all": (Heard("AccessDenied", "Access Denied", "GetObject", 403), Cause.OUR_ACCESS),
    "the old text of S3": (
        Heard("AccessDenied", "The ciphertext refers to a customer master key that does not exist, …"),
        Cause.POLICY_WITHDRAWN,
    ),
    "a role that cannot be assumed": (Heard("AccessDenied", "…", "AssumeRole", 403), Cause.OUR_ACCESS),
    "credentials that ran out": (Heard("ExpiredToken", "…", "GetObject", 400), Cause.OUR_ACCESS),
    "S3 slows us down": (Heard("SlowDown", "Please reduce your request rate.", "GetObject", 503), Cause.THROTTLED),
    "S3 is ill": (Heard("InternalError", "…", "GetObject", 500), Cause.NETWORK),
    "a gateway": (Heard("502", "", "GetObject", 502), Cause.NETWORK),
    "an object deleted meanwhile": (Heard("NoSuchKey", "…", "GetObject", 404), Cause.UNCLEAR),
    "a key store that is away": (Heard("KMSInvalidStateException", f"{ARN} is unavailable."), Cause.UNCLEAR),
}


@pytest.mark.parametrize("case", BY_CODE)
def test_what_lies_with_us_or_passes_by_itself_is_never_the_owners_doing(case: str) -> None:
    answer, cause = BY_CODE[case]
    assert cause_of(answer) is cause


@pytest.mark.parametrize(
    "error",
    [
        boto.EndpointConnectionError(endpoint_url="https://kms"),
        boto.ConnectTimeoutError(endpoint_url="https://kms"),
        boto.ReadTimeoutError(endpoint_url="https://kms"),
        boto.ConnectionClosedError(endpoint_url="https://kms"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_answer_is_the_network(error: Exception) -> None:
    assert cause_of(heard(error)) is Cause.NETWORK


def test_credentials_that_are_not_found_are_ours() -> None:
    assert cause_of(heard(boto.NoCredentialsError())) is Cause.OUR_ACCESS


# both looks together --------------------------------------------------------------------------


def described(state: str = "Enabled", arn: str = ARN, material: str = "m1", **more: Any) -> Described:
    return Described(OK, arn, state, material, **more)


def found(described: Described, canary: Heard, known: Known = WAS, *, serves: bool = True) -> Finding:
    looks = Looks(described=described, canary=canary, canary_of="s1: records/a.json")
    return classify(Subject(tenant="acme", key="k1", serves=serves), looks, known, NOW)


DISABLED, GONE = said(BY_REFUSAL["disabled"][0], via_s3=True), said(BY_REFUSAL["no longer allowed across accounts"][0])
NO_MATERIAL = said(BY_REFUSAL["without material"][0], via_s3=True)
NO_NETWORK = Heard("ConnectTimeoutError", network=True)
THROTTLED = Heard("SlowDown", "", "GetObject", 503)

TABLE: dict[str, tuple[Finding, Cause, Canary, bool]] = {
    "whole": (found(described(), OK), Cause.OK, Canary.OK, False),
    "seen for the first time": (found(described(), OK, Known()), Cause.OK, Canary.OK, False),
    "alias moved": (found(described(arn=OTHER, material="m9"), OK), Cause.ROTATED, Canary.OK, False),
    "rotated in place": (found(described(material="m2"), OK), Cause.ROTATED, Canary.OK, False),
    "the material is not told": (found(described(material=""), OK), Cause.OK, Canary.OK, False),
    "disabled": (found(described("Disabled"), DISABLED), Cause.DISABLED, Canary.REFUSED, True),
    "disabled, S3 does not know yet": (found(described("Disabled"), OK), Cause.DISABLED, Canary.OK, False),
    "pending deletion": (
        found(described("PendingDeletion"), said(BY_REFUSAL["pending deletion"][0], via_s3=True)),
        Cause.PENDING_DELETION, Canary.REFUSED, True,
    ),
    "deleted": (
        found(Described(said(refusals.KEY_NOT_FOUND)), said(refusals.KEY_NOT_FOUND, via_s3=True)),
        Cause.DELETED, Canary.REFUSED, True,
    ),
    "alias deleted, the key works": (found(Described(said(refusals.ALIAS_NOT_FOUND)), OK), Cause.DELETED, Canary.OK, False),
    "all of the policy withdrawn": (found(Described(GONE), GONE), Cause.POLICY_WITHDRAWN, Canary.REFUSED, True),
    "only Decrypt withdrawn": (found(described(), GONE), Cause.POLICY_WITHDRAWN, Canary.REFUSED, True),
    "only DescribeKey withdrawn": (found(Described(GONE), OK), Cause.POLICY_WITHDRAWN, Canary.OK, False),
    "material deleted": (found(described("PendingImport"), NO_MATERIAL), Cause.PENDING_IMPORT, Canary.REFUSED, True),
    "material expired": (
        found(described("PendingImport"), NO_MATERIAL, replace(WAS, valid_to=NOW - timedelta(days=1))),
        Cause.MATERIAL_EXPIRED, Canary.REFUSED, True,
    ),
    "material deleted before its end": (
        found(described("PendingImport"), NO_MATERIAL, replace(WAS, valid_to=NOW + timedelta(days=1))),
        Cause.PENDING_IMPORT, Canary.REFUSED, True,
    ),
    "no network": (found(Described(NO_NETWORK), NO_NETWORK), Cause.NETWORK, Canary.UNCLEAR, False),
    "disabled, but S3 does not answer": (found(described("Disabled"), NO_NETWORK), Cause.NETWORK, Canary.UNCLEAR, False),
    "throttled": (found(described(), THROTTLED), Cause.THROTTLED, Canary.UNCLEAR, False),
    "moved, and the old key disabled": (found(described(arn=OTHER), DISABLED), Cause.DISABLED, Canary.REFUSED, True),
    "a key that nothing is served from": (
        found(described("Disabled"), DISABLED, serves=False), Cause.DISABLED, Canary.REFUSED, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_a_finding_tells_the_causes_apart_and_only_a_refused_canary_is_a_loss(case: str) -> None:
    finding, cause, canary, is_lost = TABLE[case]
    assert (finding.cause, finding.canary, finding.is_lost) == (cause, canary, is_lost)


def test_the_table_holds_every_cause() -> None:
    causes = {cause for _, cause, _, _ in TABLE.values()} | {cause for _, cause in BY_REFUSAL.values()}
    assert causes | {cause for _, cause in BY_CODE.values()} == set(Cause)


def test_a_rotation_tells_what_was_and_what_is() -> None:
    finding, *_ = TABLE["alias moved"]
    assert (finding.was.arn, finding.now.arn, finding.now.material) == (ARN, OTHER, "m9")


# what is remembered ---------------------------------------------------------------------------


def seen(refusals: int = 0, **more: Any) -> Seen:
    return replace(Seen.never("acme", "k1", NOW), whole=WAS, refusals=refusals, **more)


WHOLE, LOSS, UNCLEAR = TABLE["whole"][0], TABLE["disabled"][0], TABLE["no network"][0]


def test_refusals_are_counted_in_a_row_and_one_good_look_takes_them_back() -> None:
    once = after(seen(), LOSS, NOW)
    assert (once.refusals, after(once, LOSS, NOW).refusals, after(once, WHOLE, NOW).refusals) == (1, 2, 0)


def test_a_look_that_says_nothing_neither_counts_nor_takes_back() -> None:
    assert after(seen(1), UNCLEAR, NOW).refusals == 1


def test_what_a_key_was_is_kept_until_it_is_whole_again() -> None:
    rotated = TABLE["alias moved"][0]
    assert after(seen(), rotated, NOW).whole == WAS, "else the next look would not see the rotation any more"
    assert after(seen(), LOSS, NOW).whole == WAS


# what is done ---------------------------------------------------------------------------------


def one(
    finding: Finding, refusals: int = 0, *, customer: str = "acme-corp", tenant: str = "acme", **more: Any
) -> Watched:
    facts = {"is_sealed": False, "closed_for": None, **more}
    finding = replace(finding, tenant=tenant)
    return Watched(tenant=tenant, customer=customer, findings=[finding], seen={"k1": seen(refusals)}, **facts)


def acts(watched: Watched, breaker: Tripped | None = None, rules: Rules | None = None) -> list[str]:
    return [decision.act for decision in decide(watched, rules or Rules(), breaker)]


def test_a_tenant_is_closed_at_the_second_refusal_in_a_row_and_not_at_the_first() -> None:
    assert acts(one(LOSS, 1)) == []
    assert acts(one(LOSS, 2)) == ["close"]


@pytest.mark.parametrize("case", [case for case, (finding, *_) in TABLE.items() if not finding.is_lost])
def test_whatever_is_no_loss_closes_nothing_however_often_it_is_seen(case: str) -> None:
    assert "close" not in acts(one(TABLE[case][0], 9))


@pytest.mark.parametrize("case", [case for case, (finding, *_) in TABLE.items() if finding.is_lost])
def test_every_loss_closes(case: str) -> None:
    assert acts(one(TABLE[case][0], 2)) == ["close"]


def test_what_the_watch_closed_opens_when_that_key_is_back() -> None:
    assert acts(one(WHOLE, is_sealed=True, closed_for="k1")) == ["reopen"]
    assert acts(one(TABLE["rotated in place"][0], is_sealed=True, closed_for="k1")) == ["reopen"]
    assert acts(one(LOSS, 5, is_sealed=True, closed_for="k1")) == []
    assert acts(one(UNCLEAR, is_sealed=True, closed_for="k1")) == []


def test_what_a_person_closed_is_left_closed() -> None:
    assert acts(one(WHOLE, is_sealed=True)) == []
    assert acts(one(TABLE["alias moved"][0], is_sealed=True)) == []


def test_a_tenant_stays_closed_while_another_of_its_keys_is_gone() -> None:
    back, gone = WHOLE, replace(LOSS, key="k2")
    both = Watched(
        tenant="acme", customer="c", is_sealed=True, closed_for="k1", findings=[back, gone],
        seen={"k1": seen(), "k2": seen(2)},
    )  # fmt: skip
    assert acts(both) == []


def test_a_rotation_is_handed_on_once() -> None:
    rotated = TABLE["alias moved"][0]
    assert acts(one(rotated)) == ["rotated"]
    told = Watched(
        tenant="acme", customer="c", is_sealed=False, closed_for=None, findings=[rotated],
        seen={"k1": seen(told=rotated.now)},
    )  # fmt: skip
    assert acts(told) == []


def fleet(failing: int, whole: int, *, customers: int | None = None) -> list[Watched]:
    """`customers`: of how many customers the failing tenants are; each of another one if not given."""
    bad = [one(LOSS, 2, tenant=f"bad{n}", customer=f"bad{n % (customers or failing)}") for n in range(failing)]
    return [*bad, *(one(WHOLE, tenant=f"good{n}", customer=f"good{n}") for n in range(whole))]


BREAKER = {
    "one of one": (fleet(1, 0), False),
    "two of two: a small fleet is no fleet": (fleet(2, 0), False),
    "three of three": (fleet(3, 0), True),
    "three of twelve": (fleet(3, 9), True),
    "three of thirteen": (fleet(3, 10), False),
    "nine tenants of one customer": (fleet(9, 3, customers=1), False),
    "nine tenants of three customers": (fleet(9, 3, customers=3), True),
    "those that say nothing do not make a small part of it": (
        [*fleet(3, 0), *(one(UNCLEAR, tenant=f"u{n}", customer=f"u{n}") for n in range(50))], True,
    ),
    "those that are closed already are no news": (
        [*(replace(watched, is_sealed=True) for watched in fleet(9, 0)), *fleet(0, 1)], False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BREAKER)
def test_many_customers_at_once_are_our_fault(case: str) -> None:
    watched, trips = BREAKER[case]
    assert (tripped(watched, Rules()) is not None) is trips


def test_nothing_is_closed_while_the_breaker_is_open_and_what_is_back_opens_all_the_same() -> None:
    open_ = Tripped(failing=("a",), customers=3, looked_at=3)
    assert acts(one(LOSS, 9), open_) == []
    assert acts(one(WHOLE, is_sealed=True, closed_for="k1"), open_) == ["reopen"]


# rounds, on a real record ---------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


@dataclass
class World:
    """A fleet whose keys are what a test says, and a sealer that only writes the record."""

    project: Project
    keys: dict[str, Finding] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    handed_on: list[tuple[str, str]] = field(default_factory=list)
    restore: Callable[[], None] = lambda: None
    still_open: list[str] = field(default_factory=list)

    def tenant(self, name: str, finding: Finding = WHOLE, customer: str = "") -> None:
        layout = layouts.changed(layouts.byokms_active(), tenant=name, customer=customer or f"{name}-corp")
        Records(connect(self.project.home)).create(layout)
        self.keys[name] = finding

    def watch(self, **more: Any) -> Watch:
        """A new process each time: it knows only what is written down."""
        return Watch(
            self.project,
            self.events.append,
            look=lambda record, _: [replace(self.keys[record.name], tenant=record.name)],
            on_rotation=lambda _, tenant, finding: self.handed_on.append((tenant, finding.now.arn)),
            **more,
        )

    def round(self, **more: Any) -> rounds.Round:
        self.events.clear()
        return self.watch(**more).round()

    def told(self) -> list[str]:
        return [event["event"] for event in self.events]

    def seal(self, name: str) -> Any:
        return Seals(connect(self.project.home)).in_force(name)


@pytest.fixture
def world(project: Project, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(project)

    class Sealer:
        def __init__(self, project: Project, tenant: str, *_: Any) -> None:
            self.tenant, self.seals = tenant, Seals(connect(project.home))

        def seal(self, reason: str, *, limit: float, lost: Lost) -> dict[str, Any]:
            assert limit > 0
            self.seals.put(self.tenant, reason, "the watch", lost)
            return {"paths": [{"after": 1.5}], "still_open": made.still_open}

        def restore(self, _: str, *, limit: float, only_lost: bool) -> dict[str, Any]:
            assert only_lost, "a seal by a person is not the watch's to lift"
            assert limit > 0
            made.restore()
            self.seals.lift(
                self.tenant, "the watch", Records(connect(made.project.home)).tenant(self.tenant).lease_fence
            )
            return {"checked": [{"objects_read": 1}], "next": None}

    monkeypatch.setattr(rounds, "Sealer", Sealer)
    return made


def test_a_key_that_is_taken_away_closes_at_the_second_look_and_comes_back_by_itself(world: World) -> None:
    world.tenant("acme")
    world.tenant("other")
    assert world.round().exit_code == 0
    world.keys["acme"] = LOSS
    assert world.round().exit_code == 3, "a customer has to act, or has acted"
    assert world.told() == ["key", "round"], "a change is told when it is seen first"
    assert world.seal("acme") is None
    closed = world.round()
    assert (closed.closed, closed.exit_code) == (("acme",), 3)
    assert world.told() == ["closing", "closed", "round"]
    assert world.seal("acme").lost == Lost("k1", "disabled")
    assert "the key is disabled" in world.seal("acme").reason
    assert world.seal("other") is None
    assert world.round().closed == (), "it is closed already"
    world.keys["acme"] = WHOLE
    opened = world.round()
    assert (opened.reopened, opened.exit_code) == (("acme",), 0)
    assert world.told() == ["key", "reopening", "reopened", "round"]
    assert world.seal("acme") is None


def test_a_watch_that_is_started_anew_goes_on_counting(world: World) -> None:
    world.tenant("acme", LOSS)
    world.round()
    remembered = Memory(connect(world.project.home)).of("acme")["k1"]
    assert (remembered.refusals, remembered.cause) == (1, Cause.DISABLED)
    assert world.round().closed == ("acme",)


def test_a_good_look_in_between_begins_the_count_anew(world: World) -> None:
    world.tenant("acme")
    for finding in (LOSS, WHOLE, LOSS):
        world.keys["acme"] = finding
        assert world.round().closed == ()


def test_a_lost_network_closes_nobody_for_as_long_as_it_lasts(world: World) -> None:
    for name in ("acme", "other", "third"):
        world.tenant(name, UNCLEAR)
    for _ in range(5):
        done = world.round()
        assert (done.closed, done.exit_code, done.breaker) == ((), 0, None)


def test_the_breaker_closes_nobody_says_so_and_ends_with_1(world: World) -> None:
    for name in ("acme", "other", "third"):
        world.tenant(name, LOSS)
    for _ in range(3):
        done = world.round()
        assert (done.closed, done.exit_code) == ((), 1)
        assert "breaker" in world.told()
    alarm = next(event for event in world.events if event["event"] == "breaker")
    assert alarm["tenants"] == ["acme", "other", "third"]
    world.keys["other"] = world.keys["third"] = WHOLE
    assert world.round().closed == (), "what was counted while the breaker was open is no second refusal"
    assert world.round().closed == ("acme",)


def test_the_breaker_is_as_wide_as_one_says(world: World) -> None:
    for name in ("acme", "other", "third"):
        world.tenant(name, LOSS)
    rules = Rules(breaker_customers=4)
    world.round(rules=rules)
    assert set(world.round(rules=rules).closed) == {"acme", "other", "third"}


def test_a_person_who_seals_what_the_watch_closed_keeps_it_closed(world: World) -> None:
    world.tenant("acme", LOSS)
    world.round()
    world.round()
    Seals(connect(world.project.home)).put("acme", "an investigation", "me@here")
    assert world.seal("acme").lost is None
    assert world.seal("acme").reason == "an investigation"
    world.keys["acme"] = WHOLE
    assert world.round().reopened == ()
    assert world.seal("acme") is not None


def test_the_watch_does_not_take_over_what_a_person_has_sealed(world: World) -> None:
    world.tenant("acme", LOSS)
    seals = Seals(connect(world.project.home))
    seals.put("acme", "an investigation", "me@here")
    world.round()
    world.round()
    assert seals.put("acme", "seen by the watch", "the watch", Lost("k1", "disabled")).lost is None


def test_what_cannot_be_opened_yet_is_tried_again_in_the_next_round(world: World) -> None:
    world.tenant("acme", LOSS)
    world.round()
    world.round()
    world.keys["acme"] = WHOLE

    def locked() -> None:
        raise Waiting("the searches do not answer", waits_for="the searches")

    world.restore = locked
    assert (world.round().waiting, world.round().exit_code) == (("acme",), 3)
    assert "reopen-waiting" in world.told()
    world.restore = lambda: None
    assert world.round().reopened == ("acme",)


def test_what_fails_for_one_tenant_stops_no_other_and_ends_with_1(world: World) -> None:
    world.tenant("acme", LOSS)
    world.tenant("other", LOSS)
    world.round()
    world.round()
    world.keys = dict.fromkeys(world.keys, WHOLE)
    left = [None, RuntimeError("no engine")]

    def fails_once() -> None:
        if error := left.pop():
            raise error

    world.restore = fails_once
    done = world.round()
    assert (len(done.reopened), len(done.failed), done.exit_code) == (1, 1, 1)
    failed = next(event for event in world.events if event["event"] == "reopen-failed")
    assert "no engine" in failed["error"]["message"]


def test_a_closing_that_leaves_something_open_is_no_success(world: World) -> None:
    world.tenant("acme", LOSS)
    world.still_open.append("GET of s1 as archive: answered 200")
    world.round()
    assert (world.round().failed, world.told()[-2]) == (("acme",), "closed")


def test_a_rotation_is_told_and_handed_on_once_and_again_when_it_failed(world: World) -> None:
    world.tenant("acme", TABLE["alias moved"][0])
    assert world.round().exit_code == 0
    assert world.handed_on == [("acme", OTHER)]
    event = next(event for event in world.events if event["event"] == "rotated")
    assert (event["was_arn"], event["arn"], event["handled"]) == (ARN, OTHER, True)
    world.round()
    assert world.handed_on == [("acme", OTHER)]
    again = replace(TABLE["alias moved"][0], now=Known(OTHER, "m10"))
    world.keys["acme"] = again
    watch = world.watch()

    def fails(*_: Any) -> None:
        raise RuntimeError("not now")

    watch.on_rotation = fails
    assert watch.round().failed == ("acme",)
    world.round()
    assert len(world.handed_on) == 2, "what was not done is asked for again"


def test_without_anybody_who_acts_on_rotations_they_are_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(rounds.importlib, "import_module", missing)
    assert rotation_hook() is None
    world.tenant("acme", TABLE["alias moved"][0])
    watch = world.watch()
    watch.on_rotation = None
    assert watch.round().failed == ()
    assert next(event for event in world.events if event["event"] == "rotated")["handled"] is False


def test_a_tenant_that_does_not_exist_is_refused_before_anything_is_looked_at(world: World) -> None:
    world.tenant("acme", LOSS)
    with pytest.raises(RefusedInput):
        world.watch(names=("acme", "nobody"))
    assert Memory(connect(world.project.home)).of("acme") == {}


def test_only_the_named_tenants_are_looked_at(world: World) -> None:
    world.tenant("acme", LOSS)
    world.tenant("other", LOSS)
    world.round(names=("other",))
    assert world.round(names=("other",)).closed == ("other",)
    assert Memory(connect(world.project.home)).of("acme") == {}


# the looks ------------------------------------------------------------------------------------


@dataclass
class FakeAws:
    """KMS and S3 as a runner meets them: `refused` by operation."""

    objects: list[tuple[str, int]] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def client(self, service: str, role: str) -> Any:
        assert (service in {"kms", "s3"}, role) == (True, "runner")
        return self

    def _called(self, operation: str, of: str) -> None:
        self.asked.append((operation, of))
        if operation in self.refused:
            raise self.refused[operation]

    def describe_key(self, *, KeyId: str) -> dict[str, Any]:  # noqa: N803
        self._called("DescribeKey", KeyId)
        return {"KeyMetadata": {"Arn": ARN, "KeyState": "Enabled", "CurrentKeyMaterialId": "m1"}}

    def list_objects_v2(self, *, Bucket: str, Prefix: str, MaxKeys: int) -> dict[str, Any]:  # noqa: N803
        assert MaxKeys > 1
        self._called("ListObjectsV2", f"{Bucket}/{Prefix}")
        return {"Contents": [{"Key": key, "Size": size} for key, size in self.objects]} if self.objects else {}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        self._called("GetObject", Key)
        return {"Body": _Body()}

    def generate_data_key(self, *, KeyId: str, KeySpec: str) -> dict[str, Any]:  # noqa: N803
        self._called("GenerateDataKey", KeyId)
        return {"CiphertextBlob": b"x"}

    def decrypt(self, *, KeyId: str, CiphertextBlob: bytes) -> None:  # noqa: N803
        self._called("Decrypt", KeyId)


class _Body:
    def read(self, _: int) -> bytes:
        return b"{"

    def close(self) -> None:
        """Nothing is open."""


def refused(code: str, message: str = "", operation: str = "GetObject") -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}}, operation
    )  # type: ignore[arg-type, typeddict-item]


def looked(aws: FakeAws, layout: Layout | None = None, known: dict[str, Known] | None = None) -> list[Finding]:
    layout = layout or layouts.byok_active()
    estate = Estate(layout, "111122223333", None, lambda: {"k1": ARN, "k2": OTHER})  # type: ignore[arg-type]
    object.__setattr__(estate, "client", aws.client)
    return observe(lambda: estate, layout, known or {})


def test_the_smallest_object_of_what_serves_is_read_as_the_runner() -> None:
    aws = FakeAws(objects=[("records/big.json", 900), ("records/small.json", 2)])
    (finding,) = looked(aws)
    assert (finding.cause, finding.canary, finding.canary_of) == (Cause.OK, Canary.OK, "s1: records/small.json")
    assert ("GetObject", "records/small.json") in aws.asked


def test_where_no_object_lies_the_key_itself_is_used_both_ways() -> None:
    aws = FakeAws()
    (finding,) = looked(aws)
    assert finding.canary_of == "key"
    assert [operation for operation, _ in aws.asked][-2:] == ["GenerateDataKey", "Decrypt"]


def test_a_customers_key_is_asked_for_by_the_alias_that_the_customer_gave() -> None:
    alias = "arn:aws:kms:eu-west-1:444455556666:alias/theirs"
    key = Key(id="k1", state=KeyState.ACTIVE, arn=OTHER, alias=alias, material="m0")
    aws = FakeAws(objects=[("records/a.json", 1)])
    (finding,) = looked(aws, layouts.changed(layouts.byokms_active(), keys=(key,)))
    assert ("DescribeKey", alias) in aws.asked
    assert finding.cause is Cause.ROTATED, "the layout knows what it was when it was taken into use"
    assert (finding.was, finding.now) == (Known(OTHER, "m0"), Known(ARN, "m1"))


def test_an_imported_key_is_compared_with_what_was_seen_last() -> None:
    (finding,) = looked(FakeAws(), known={"k1": Known(ARN, "m0")})
    assert finding.cause is Cause.ROTATED


def test_a_key_under_which_a_copy_is_only_being_made_is_told_but_closes_nothing() -> None:
    aws = FakeAws(objects=[("records/a.json", 1)], refused={"GetObject": refused("KMS.DisabledException")})
    (finding,) = looked(aws, layouts.enable_frozen())
    assert (finding.canary, finding.serves, finding.is_lost) == (Canary.REFUSED, False, False)


def test_a_tenant_under_the_vendors_key_has_nothing_to_watch() -> None:
    assert looked(FakeAws(), layouts.standard()) == []


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.ARCHIVED, KeyState.REVOKED])
def test_a_key_that_is_not_in_use_is_not_watched(state: KeyState) -> None:
    assert looked(FakeAws(), layouts.changed(layouts.standard(), keys=(Key(id="k1", state=state),))) == []


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject"])
def test_a_refusal_of_ours_is_no_loss(operation: str) -> None:
    denied = refused("AccessDenied", "User: c is not authorized to perform: s3:GetObject with an explicit deny")
    (finding,) = looked(FakeAws(objects=[("records/a.json", 1)], refused={operation: denied}))
    assert (finding.cause, finding.canary) == (Cause.OUR_ACCESS, Canary.UNCLEAR)


def test_whoever_cannot_even_be_asked_is_not_lost() -> None:
    def nobody() -> Estate:
        raise boto.EndpointConnectionError(endpoint_url="https://sts")

    (finding,) = observe(nobody, layouts.byok_active(), {})
    assert (finding.cause, finding.canary) == (Cause.NETWORK, Canary.UNCLEAR)


def test_an_archived_storage_of_another_key_is_not_read_for_this_one() -> None:
    """In a rotation the bucket is already under the new key: the old one is tried by itself."""
    aws = FakeAws(objects=[("records/a.json", 1)])
    by_key = {finding.key: finding.canary_of for finding in looked(aws, layouts.rotation())}
    assert by_key == {"k1": "key", "k2": "s1: records/a.json"}


def test_an_event_is_json_and_names_the_key_by_its_fingerprint() -> None:
    event = json.loads(json.dumps(rounds._of_finding("key", TABLE["alias moved"][0])))
    assert (event["cause"], event["was_arn"], event["arn"]) == ("rotated", ARN, OTHER)
    assert (event["was_fingerprint"], event["fingerprint"]) == ("m1", "m9")
