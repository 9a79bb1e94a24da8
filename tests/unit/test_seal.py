"""The seal: who is stopped by it, what it writes into policies, and that one failure stops nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from components.audiences import AUDIENCES
from components.aws import closed
from components.aws.access import Tenancy, archive_policy
from components.aws.storage import bucket_policy
from components.index import INDICES
from migrate import denials, probes, seal, tenants
from migrate.denials import Denial, Estate, carry_out, data_denials, key_denials
from migrate.errors import CloudError, Conflict, RefusedInput, VerificationFailed
from migrate.guard import Guard, unguarded
from migrate.log import Log
from migrate.moves import Moves
from migrate.operations import Move, OperationKind
from migrate.probes import Answer, until_refused
from migrate.probes import Path as Way
from migrate.progress import unwatched
from migrate.records import Records
from migrate.seal import Sealer
from migrate.seals import Seals
from migrate.stack import Project
from migrate.verdict import Verdict, VerdictKind, Verdicts
from stacks.layout import Key, KeyState, Layout
from stacks.record import connect

ACCOUNT = "111122223333"
RUNNER = f"arn:aws:iam::{ACCOUNT}:role/keyshift-acme-runner"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/k1"


def refusal(code: str, operation: str = "GetObject", status: int = 403) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


# the statements -------------------------------------------------------------------------------


def opened_and_closed() -> tuple[dict[str, Any], dict[str, Any]]:
    facts = {"bucket": "b", "key_arn": KEY, "runner_role": RUNNER, "writable": False}
    return bucket_policy(**facts), bucket_policy(**facts, readable=False)


def test_what_the_seal_puts_into_a_bucket_is_what_the_layout_with_closed_access_renders():
    opened, shut = opened_and_closed()
    assert closed.merged(opened, closed.bucket_statement("b", RUNNER)) == shut
    assert opened != shut


def test_what_the_seal_puts_into_a_role_is_what_the_layout_with_closed_access_renders():
    facts = {"tenant": "acme", "account": ACCOUNT, "region": "eu-west-1", "places": {}, "routes": []}
    serving = {"serving_storage": None, "serving_search": None, "are_jobs_open": True}
    opened = archive_policy(Tenancy(**facts, **serving, is_access_open=True))
    assert closed.merged(opened, closed.role_statement())["Statement"][:-1] == opened["Statement"]


def test_a_statement_that_is_merged_twice_stands_there_once_and_taken_out_leaves_the_policy_as_it_was():
    opened, shut = opened_and_closed()
    statement = closed.bucket_statement("b", RUNNER)
    assert closed.merged(closed.merged(opened, statement), statement) == shut
    assert closed.without(shut, closed.SEALED) == opened
    assert closed.without(opened, closed.SEALED) == opened


def test_a_policy_of_one_statement_without_a_list_keeps_it():
    alone = {"Version": "2012-10-17", "Statement": {"Sid": "Theirs", "Effect": "Deny"}}
    held = closed.merged(alone, closed.role_statement())["Statement"]
    assert [statement["Sid"] for statement in held] == ["Theirs", closed.ACCESS_IS_CLOSED]


# the record -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


@pytest.fixture
def records(project: Project) -> Records:
    records = Records(connect(project.home))
    records.create(layouts.enable_frozen())
    return records


@pytest.fixture
def seals(project: Project, records: Records) -> Seals:
    return Seals(connect(project.home))


def test_a_seal_takes_the_lease_from_whoever_acts_and_closes_the_layout(records: Records, seals: Seals):
    with records.lease("acme") as fence:
        guard = Guard(records, "acme", fence)
        guard.check()
        seals.put("acme", "stolen key", "me@here")
        with pytest.raises(Conflict, match=r"sealed since .* by me@here: stolen key") as stopped:
            guard.check()
        assert stopped.value.code == "sealed"
        for act in (lambda: records.renew("acme", fence), lambda: records.advance(layouts.enable_served(), fence)):
            with pytest.raises(Conflict):
                act()
    record = records.tenant("acme")
    assert record.sealed
    assert record.lease_fence == fence + 1
    assert record.generation == 2, "a stack file that still opens it is refused as stale"
    gate = layouts.enable_frozen().gate
    assert record.layout.gate == gate.model_copy(update={"access": "closed"}), "the rest of the gate is the operation's"


def test_a_second_seal_keeps_the_first_ones_reason_and_stops_a_restore_that_is_under_way(
    records: Records, seals: Seals
):
    first = seals.put("acme", "stolen key", "me@here")
    with records.lease("acme", of_a_sealed=True) as fence:
        assert seals.put("acme", "again", "you@there") == first
        with pytest.raises(Conflict, match="sealed again"):
            seals.lift("acme", "me@here", fence)
    assert records.tenant("acme").sealed
    assert records.tenant("acme").layout.gate.access == "closed"


def test_only_a_restore_gets_the_lease_of_a_sealed_tenant(records: Records, seals: Seals):
    seals.put("acme", "stolen key", "me@here")
    fence = records.tenant("acme").lease_fence
    with pytest.raises(RefusedInput, match="stolen key") as refused, records.lease("acme"):
        pass
    assert refused.value.code == "sealed"
    assert refused.value.exit_code == 2
    assert "keyshift restore acme" in refused.value.hint
    assert records.tenant("acme").lease_fence == fence, "a refusal changes nothing"


def test_a_lifted_seal_gives_back_the_very_layout(records: Records, seals: Seals):
    seals.put("acme", "stolen key", "me@here")
    with records.lease("acme", of_a_sealed=True) as fence:
        layout, generation = seals.lift("acme", "you@there", fence)
    record = records.tenant("acme")
    assert (layout, generation) == (layouts.enable_frozen(), 3) == (record.layout, record.generation)
    assert not record.sealed
    assert seals.in_force("acme") is None
    assert seals.newest("acme").lifted_by == "you@there"
    with records.lease("acme"):
        pass


def test_a_tenant_is_sealed_anew_after_a_restore_with_a_reason_of_its_own(records: Records, seals: Seals):
    seals.put("acme", "stolen key", "me@here")
    with records.lease("acme", of_a_sealed=True) as fence:
        seals.lift("acme", "me@here", fence)
    assert seals.put("acme", "another one", "me@here").reason == "another one"


# the denials ----------------------------------------------------------------------------------


@dataclass
class FakeAccount:
    """Buckets' and roles' policies, mappings and keys of one account; `broken` names services that fail."""

    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    mappings: dict[str, bool] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)

    def client(self, service: str, _: str | None = None) -> Any:
        return _Service(self, service)

    def wrote(self, what: str) -> None:
        self.writes.append(what)


@dataclass
class _Service:
    account: FakeAccount
    service: str

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if callable(found) and not name.startswith("_"):
            broken = object.__getattribute__(self, "account").broken
            if (error := broken.get(object.__getattribute__(self, "service"))) is not None:
                raise error
        return found

    def get_bucket_policy(self, *, Bucket: str) -> dict[str, Any]:  # noqa: N803
        if Bucket not in self.account.policies:
            raise refusal("NoSuchBucket", status=404)
        return {"Policy": json.dumps(self.account.policies[Bucket])}

    def put_bucket_policy(self, *, Bucket: str, Policy: str) -> None:  # noqa: N803
        self.account.policies[Bucket] = json.loads(Policy)
        self.account.wrote(Bucket)

    def get_role_policy(self, *, RoleName: str, PolicyName: str) -> dict[str, Any]:  # noqa: N803
        assert PolicyName == "keyshift"
        return {"PolicyDocument": self.account.policies[RoleName]}

    def put_role_policy(self, *, RoleName: str, PolicyName: str, PolicyDocument: str) -> None:  # noqa: N803
        assert PolicyName == "keyshift", "another one would be a resource that nobody knows of"
        self.account.policies[RoleName] = json.loads(PolicyDocument)
        self.account.wrote(RoleName)

    def list_event_source_mappings(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        states = {True: "Enabled", False: "Disabled"}
        held = self.account.mappings.get(FunctionName)
        return {"EventSourceMappings": [] if held is None else [{"UUID": FunctionName, "State": states[held]}]}

    def update_event_source_mapping(self, *, UUID: str, Enabled: bool) -> None:  # noqa: N803
        self.account.mappings[UUID] = Enabled
        self.account.wrote(UUID)

    def describe_key(self, *, KeyId: str) -> dict[str, Any]:  # noqa: N803
        return {"KeyMetadata": {"KeyState": self.account.keys[KeyId]}}

    def disable_key(self, *, KeyId: str) -> None:  # noqa: N803
        self.account.keys[KeyId] = "Disabled"
        self.account.wrote(KeyId)

    def enable_key(self, *, KeyId: str) -> None:  # noqa: N803
        self.account.keys[KeyId] = "Enabled"
        self.account.wrote(KeyId)


def without_searches(layout: Layout) -> Layout:
    """For denials by AWS alone; those of a search are tested on a real one."""
    return layout.model_copy(update={"searches": ()})


BUCKET = "keyshift-acme-s2-20e5733a"
THEIRS = {"Version": "2012-10-17", "Statement": [{"Sid": "Theirs", "Effect": "Allow", "Action": ["s3:*"]}]}


def an_account() -> FakeAccount:
    names = [BUCKET, *(f"keyshift-acme-{audience}" for audience in AUDIENCES)]
    return FakeAccount(
        policies={name: json.loads(json.dumps(THEIRS)) for name in names},
        mappings={"keyshift-acme-p1": True, "keyshift-acme-p2": False},
        keys={KEY: "Enabled"},
    )


def estate_of(account: FakeAccount, layout: Layout | None = None) -> Estate:
    made = Estate(without_searches(layout or layouts.enable_frozen()), ACCOUNT, None, lambda: {"k1": KEY})  # type: ignore[arg-type]
    object.__setattr__(made, "client", account.client)
    return made


def came_to(done: list[denials.Done]) -> dict[str, str]:
    return {one.id: one.came_to for one in done}


def all_of(estate: Estate) -> list[Denial]:
    return [*data_denials(estate), *key_denials(estate)]


def deny(one: Denial) -> str:
    return one.deny()


def undo(one: Denial) -> str:
    return one.undo()


def test_everything_is_denied_once_and_undone_to_where_it_was():
    account = an_account()
    before = json.dumps([account.policies, account.mappings, account.keys], sort_keys=True)
    assert came_to(carry_out(all_of(estate_of(account)), deny)) == {
        "bucket s2": "denied",
        "role archive": "denied",
        "role pipeline": "denied",
        "pipeline p1": "denied",
        "pipeline p2": "denied before",
        "key k1": "denied",
    }
    assert account.policies[BUCKET]["Statement"] == [
        *THEIRS["Statement"],
        closed.bucket_statement(BUCKET, RUNNER),
    ]
    assert account.policies["keyshift-acme-archive"]["Statement"][-1]["Action"] == ["*"]
    assert account.policies["keyshift-acme-runner"] == THEIRS, "the check before a restore has to read"
    account.writes.clear()
    assert set(came_to(carry_out(all_of(estate_of(account)), deny)).values()) == {"denied before"}
    assert account.writes == [], "denied twice changes nothing"
    carry_out(all_of(estate_of(account)), undo)
    assert json.dumps([account.policies, account.mappings, account.keys], sort_keys=True) == before
    assert account.mappings["keyshift-acme-p2"] is False, "a pipeline that did not run does not run now"


@pytest.mark.parametrize("broken", ["s3", "iam", "lambda", "kms"])
def test_a_denial_that_fails_stops_no_other(broken: str):
    account = an_account()
    account.broken[broken] = refusal("AccessDenied")
    done = carry_out(all_of(estate_of(account)), deny)
    failed = {one.id for one in done if one.failed}
    kinds = {"s3": "bucket", "iam": "role", "lambda": "pipeline", "kms": "key"}
    assert failed == {one.id for one in done if one.id.startswith(kinds[broken])}
    assert all("AccessDenied" in one.because for one in done if one.failed)
    assert {one.came_to for one in done if not one.failed} <= {"denied", "denied before"}


def test_a_bucket_that_was_never_made_lets_nobody_in():
    account = an_account()
    del account.policies[BUCKET]
    assert came_to(carry_out(data_denials(estate_of(account)), deny))["bucket s2"] == "nothing there"
    assert BUCKET not in account.policies, "a seal creates nothing"


@pytest.mark.parametrize("state", [KeyState.PENDING, KeyState.REVOKED])
def test_a_key_that_nothing_can_lie_under_is_left_alone(state: KeyState):
    layout = layouts.enable_frozen().model_copy(update={"keys": (Key(id="k1", state=state),)})
    assert key_denials(estate_of(an_account(), layout)) == [], "a restore would enable a key that was revoked"


def test_a_customers_key_in_the_customers_account_is_the_customers():
    assert key_denials(estate_of(an_account(), layouts.byokms_active())) == []


# probing --------------------------------------------------------------------------------------


def way(*answers: Answer, name: str = "GET") -> Way:
    left = list(answers)
    return Way(name, "archive", "s1", lambda: left.pop(0) if len(left) > 1 else left[0], "bound")


OPEN, SHUT = Answer(refused=False, said="200"), Answer(refused=True, said="AccessDenied")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Time that goes on only while somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(probes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(probes.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return lambda: now[0]


def test_the_time_of_a_path_is_that_of_the_first_refusal_that_lasts(clock):
    (seen,) = until_refused([way(OPEN, SHUT, OPEN, SHUT, SHUT)], 0.0, 60, unwatched)
    assert seen.after == 3 * probes.POLL_SECONDS, "one front end that refuses does not speak for the others"


def test_a_path_that_stays_open_is_reported_and_holds_up_the_others_only_for_the_limit(clock):
    stays, shuts = until_refused([way(OPEN), way(SHUT)], 0.0, 5, unwatched)
    assert (stays.after, stays.said) == (None, "200")
    assert shuts.after == 0
    assert clock() <= 5 + 2 * probes.POLL_SECONDS


UNCLEAR = {
    "a missing object": refusal("NoSuchKey", status=404),
    "throttling": refusal("SlowDown", status=503),
    "a role that cannot be assumed": refusal("AccessDenied", "AssumeRole"),
    "a timeout": ConnectTimeoutError(endpoint_url="https://s3"),
}


@pytest.mark.parametrize("unclear", UNCLEAR)
def test_only_a_refusal_counts_as_one(unclear: str):
    def attempt() -> None:
        raise UNCLEAR[unclear]

    assert not probes._of_aws(attempt).refused


@pytest.mark.parametrize("code", ["AccessDenied", "403", "KMS.DisabledException", "KMS.KMSInvalidStateException"])
def test_a_refusal_of_s3_or_of_kms_counts(code: str):
    def attempt() -> None:
        raise refusal(code)

    assert probes._of_aws(attempt).refused


# the whole ------------------------------------------------------------------------------------


class FakeStack:
    """`engines`: what the first interrupt ends and what it cannot reach."""

    def __init__(self) -> None:
        self.engines: tuple[list[str], list[str]] = ([], [])
        self.on_interrupt: Callable[[], None] = lambda: None
        self.calls: list[str] = []

    def interrupt(self, _: float) -> tuple[list[str], list[str]]:
        self.on_interrupt()
        return self.engines

    def render(self, layout: Layout, _: int) -> None:
        self.calls.append(f"render {layout.gate.access}")

    def recover(self) -> list[str]:
        return []

    def preview(self, **_: Any) -> list[Any]:
        self.calls.append("preview")
        return []

    def up(self, **_: Any) -> None:
        self.calls.append("up")


@dataclass
class World:
    sealer: Sealer
    account: FakeAccount
    stack: FakeStack

    @property
    def events(self) -> list[Mapping[str, Any]]:
        return [line["event"] for line in Log(self.sealer.folder).events()]


@pytest.fixture
def world(project: Project, records: Records, monkeypatch: pytest.MonkeyPatch) -> World:
    assert records.tenant("acme").layout == layouts.enable_frozen()
    return made_world(project, monkeypatch)


def made_world(project: Project, monkeypatch: pytest.MonkeyPatch) -> World:
    """A sealer of the tenant `acme`, which is in the record, on a fake account and a fake stack."""
    account, stack = an_account(), FakeStack()
    monkeypatch.setattr(
        Sealer, "estate", lambda self, layout=None: estate_of(account, layout or self.records.tenant("acme").layout)
    )
    monkeypatch.setattr(seal, "Stack", lambda *_: stack)
    monkeypatch.setattr(seal, "_unusable_key", lambda _: "" if account.keys[KEY] == "Enabled" else "disabled")
    monkeypatch.setattr(seal, "read_back", lambda _, storage, *__: {"storage": storage, "objects_read": 1, "bytes": 1})
    monkeypatch.setattr(seal, "take", lambda *_: ([], []))
    monkeypatch.setattr(seal.probes, "samples", lambda _: {})
    monkeypatch.setattr(seal.probes, "presigned", lambda *_: {})

    def paths(*_: Any) -> list[Way]:
        shut = account.policies["keyshift-acme-archive"] != THEIRS
        return [Way("GET", "archive", "s1", lambda: SHUT if shut else OPEN, "bound")]

    monkeypatch.setattr(seal.probes, "paths", paths)
    monkeypatch.setattr(probes, "POLL_SECONDS", 0)
    monkeypatch.setattr(seal, "POLL_SECONDS", 0)
    return World(Sealer(project, "acme", unwatched), account, stack)


def test_a_seal_denies_probes_and_notes_who_asked_and_why(world: World):
    found = world.sealer.seal("stolen key", limit=10)
    assert found["still_open"] == []
    assert found["paths"][0]["after"] is not None
    assert world.account.keys[KEY] == "Disabled"
    assert [event["event"] for event in world.events] == ["sealed", "seal-probed"]
    assert world.events[0]["reason"] == "stolen key"
    assert world.events[0]["by"] == seal.who()


def test_a_seal_without_a_reason_is_refused_and_changes_nothing(world: World, records: Records):
    with pytest.raises(RefusedInput):
        world.sealer.seal("  ", limit=10)
    assert not records.tenant("acme").sealed
    assert world.account.writes == []


def test_what_could_not_be_denied_is_listed_and_the_next_seal_goes_on(world: World, records: Records):
    world.account.broken["kms"] = refusal("ThrottlingException")
    found = world.sealer.seal("stolen key", limit=10)
    assert [line.split(":")[0] for line in found["still_open"]] == ["key k1"]
    assert records.tenant("acme").sealed, "the record closes it whatever the cloud says"
    world.account.broken.clear()
    assert world.sealer.seal("stolen key", limit=10)["still_open"] == []
    assert world.account.keys[KEY] == "Disabled"


def test_what_an_engine_opened_while_it_was_being_ended_is_denied_again(world: World):
    def engine_writes_the_open_policy() -> None:
        world.account.policies["keyshift-acme-archive"] = json.loads(json.dumps(THEIRS))

    world.stack.engines = (["interrupted engine 7"], [])
    world.stack.on_interrupt = engine_writes_the_open_policy
    found = world.sealer.seal("stolen key", limit=0)
    assert found["still_open"] == []
    assert found["engines"] == ["interrupted engine 7"]


def test_without_any_engine_a_seal_goes_on_and_says_what_it_could_not_see(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    def no_engine(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "pulumi")

    monkeypatch.setattr(seal, "Stack", no_engine)
    found = world.sealer.seal("stolen key", limit=10)
    assert found["paths"][0]["after"] is not None
    assert [line for line in found["still_open"] if "could not be seen" in line]


def test_an_engine_on_another_host_stands_among_what_is_still_open(world: World):
    world.stack.engines = ([], ["engine 7 works on tenant-acme on elsewhere"])
    (line,) = world.sealer.seal("stolen key", limit=10)["still_open"]
    assert "elsewhere" in line


def test_a_restore_reads_before_it_opens_and_leaves_all_as_it_was(world: World, records: Records):
    before = json.dumps([world.account.policies, world.account.mappings, world.account.keys], sort_keys=True)
    world.sealer.seal("stolen key", limit=10)
    found = world.sealer.restore("found again", limit=10)
    after = json.dumps([world.account.policies, world.account.mappings, world.account.keys], sort_keys=True)
    assert after == before
    assert [one["storage"] for one in found["checked"]] == ["s1", "s2"]
    assert not records.tenant("acme").sealed
    assert world.stack.calls == ["render open", "preview", "up"]
    restored = next(event for event in world.events if event["event"] == "restored")
    assert (restored["reason"], restored["was_sealed_for"]) == ("found again", "stolen key")


def test_what_cannot_be_read_stays_sealed_and_its_key_is_disabled_again(
    world: World, records: Records, monkeypatch: pytest.MonkeyPatch
):
    world.sealer.seal("stolen key", limit=10)

    def unreadable(*_: Any) -> None:
        raise VerificationFailed("it cannot be read")

    monkeypatch.setattr(seal, "read_back", unreadable)
    with pytest.raises(VerificationFailed):
        world.sealer.restore("", limit=10)
    assert records.tenant("acme").sealed
    assert world.account.keys[KEY] == "Disabled"
    assert world.account.policies["keyshift-acme-archive"] != THEIRS, "nothing was opened"


def test_a_restore_that_cannot_open_everything_leaves_the_tenant_sealed(world: World, records: Records):
    world.sealer.seal("stolen key", limit=10)
    world.account.broken["iam"] = refusal("AccessDenied")
    with pytest.raises(CloudError, match=r"stays sealed.*role archive"):
        world.sealer.restore("", limit=10)
    assert records.tenant("acme").sealed
    world.account.broken.clear()
    world.sealer.restore("", limit=10)
    assert not records.tenant("acme").sealed


def test_a_seal_in_the_middle_of_a_restore_wins(world: World, records: Records, monkeypatch: pytest.MonkeyPatch):
    world.sealer.seal("stolen key", limit=10)

    def sealed_meanwhile(_: Estate, storage: str, *__: Any) -> dict[str, Any]:
        Seals(connect(world.sealer.project.home)).put("acme", "again", "you@there")
        return {"storage": storage}

    monkeypatch.setattr(seal, "read_back", sealed_meanwhile)
    with pytest.raises(Conflict):
        world.sealer.restore("", limit=10)
    assert records.tenant("acme").sealed
    assert world.account.policies["keyshift-acme-archive"] != THEIRS, "it opened nothing"
    assert world.account.keys[KEY] == "Disabled", "what it had opened for its own look is closed again"


def test_a_restore_that_died_after_it_had_opened_goes_on_to_its_end(
    world: World, records: Records, monkeypatch: pytest.MonkeyPatch
):
    world.sealer.seal("stolen key", limit=10)
    with monkeypatch.context() as patched:
        patched.setattr(Sealer, "bring_up", _dies)
        with pytest.raises(KeyboardInterrupt):
            world.sealer.restore("", limit=10)
    assert not records.tenant("acme").sealed
    world.sealer.restore("", limit=10)
    assert "up" in world.stack.calls
    with pytest.raises(RefusedInput) as refused:
        world.sealer.restore("", limit=10)
    assert refused.value.code == "not-sealed"


def _dies(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_unfinished_operation_brings_its_own_layout_up_after_a_restore(world: World, records: Records):
    records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    world.sealer.seal("stolen key", limit=10)
    found = world.sealer.restore("", limit=10)
    assert found["next"] == "keyshift resume acme"
    assert world.stack.calls == ["render open"]


# the moves ------------------------------------------------------------------------------------


class FakeIndices:
    def __init__(self) -> None:
        self.held = set(INDICES)
        self.indices = self.snapshot = self

    def get_repository(self) -> Any:
        return SimpleNamespace(body={})

    def exists(self, *, index: str) -> bool:
        return index in self.held

    def delete(self, *, index: str, **_: Any) -> None:
        self.held.remove(index)


@dataclass
class FakeLive:
    """One search that goes with its tenant, and a storage that nobody may reach."""

    client: FakeIndices
    layout: Any = field(default_factory=lambda: SimpleNamespace(serves=None))
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"searches": {"e1": {"index": "records-000001"}}})

    def search(self, _: str) -> FakeIndices:
        return self.client


def moves_of(client: FakeIndices, guard: Callable[[], None], folder: Path) -> Moves:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    verdicts = Verdicts(folder)
    verdicts.store(
        Verdict(
            id="v", kind=VerdictKind.INDEX, tenant="acme", operation="o", subject="e1", passed=True,
            started_at=now, finished_at=now, counts={},
        )
    )  # fmt: skip
    live: Any = FakeLive(client)
    operation: Any = SimpleNamespace(request=SimpleNamespace(ended=()))
    return Moves(
        live=live, operation=operation, folder=folder, verdicts=verdicts, log=Log(folder), report=unwatched, guard=guard
    )


def test_an_index_is_not_deleted_by_a_runner_that_may_no_longer_act(tmp_path: Path):
    def stopped() -> None:
        raise Conflict("the tenant was sealed", code="sealed")

    purge_search = Move(kind="purge-search", title="", search="e1", verdict="v")
    client = FakeIndices()
    with pytest.raises(Conflict):
        moves_of(client, stopped, tmp_path).do(purge_search)
    assert client.held == set(INDICES)
    moves_of(client, unguarded, tmp_path).do(purge_search)
    assert client.held == set(), "with the right to act it goes"


def test_no_key_is_imported_into_a_sealed_tenant(project: Project, records: Records, seals: Seals):
    seals.put("acme", "stolen key", "me@here")
    with pytest.raises(RefusedInput) as refused:
        tenants.key_upload(project, "acme", project.root / "wrapped.bin", "0" * 64)
    assert refused.value.code == "sealed"
