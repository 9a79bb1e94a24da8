"""The end of a key: what is refused, in which order it goes, what the certificate says, what "lost" means."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import layouts
import pytest
from botocore.exceptions import EndpointConnectionError
from test_seal import KEY, World, estate_of, made_world, refusal

from migrate import destroy as destroying
from migrate.certificates import Certificates
from migrate.denials import Estate
from migrate.destroy import Destroyer, Order, phrase
from migrate.errors import RefusedInput, VerificationFailed, Waiting
from migrate.fates import Fate
from migrate.integrity import Inventory
from migrate.operations import OperationKind
from migrate.progress import unwatched
from migrate.records import Records
from migrate.revoke import Revoker
from migrate.seal import Sealer
from migrate.stack import Project
from migrate.watching.findings import Heard
from stacks.layout import Key, KeyState, Layout
from stacks.record import connect

ORDER = Order(key="k1", reason="the contract ended", days=7)


@dataclass
class FakeKms:
    """One key; `uses` are left before it is refused, as KMS is eventually consistent."""

    state: str = "Enabled"
    material: str = "m1"
    calls: list[str] = field(default_factory=list)
    uses: int = 0
    date: datetime | None = None

    def describe_key(self, *, KeyId: str) -> dict[str, Any]:  # noqa: N803
        assert KeyId == KEY
        found = {"Arn": KEY, "KeyState": self.state, "CurrentKeyMaterialId": self.material}
        return {"KeyMetadata": found | ({"DeletionDate": self.date} if self.date else {})}

    def disable_key(self, **_: Any) -> None:
        self.state = "Disabled"

    def enable_key(self, **_: Any) -> None:
        self.state = "Enabled"

    def delete_imported_key_material(self, *, KeyId: str) -> None:  # noqa: N803
        assert KeyId == KEY
        self.calls.append("DeleteImportedKeyMaterial")
        self.state, self.material = "PendingImport", ""

    def schedule_key_deletion(self, *, KeyId: str, PendingWindowInDays: int) -> None:  # noqa: N803
        assert KeyId == KEY
        assert self.state != "PendingDeletion", "KMS refuses it"
        self.calls.append(f"ScheduleKeyDeletion {PendingWindowInDays}")
        self.state, self.date = (
            "PendingDeletion",
            datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=PendingWindowInDays),
        )

    def generate_data_key(self, *, KeyId: str, KeySpec: str) -> dict[str, Any]:  # noqa: N803
        if self.uses > 0:
            self.uses -= 1
            return {}
        raise refusal("KMSInvalidStateException", "GenerateDataKey", 400)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


@pytest.fixture
def records(project: Project) -> Records:
    records = Records(connect(project.home))
    records.create(layouts.enable_done())
    return records


@pytest.fixture
def kms() -> FakeKms:
    return FakeKms()


@pytest.fixture
def world(project: Project, records: Records, kms: FakeKms, monkeypatch: pytest.MonkeyPatch) -> World:
    made = made_world(project, monkeypatch)

    def estate(_: Sealer, layout: Layout | None = None) -> Estate:
        found = estate_of(made.account, layout or records.tenant("acme").layout)
        client = lambda service, role=None: kms if service == "kms" else made.account.client(service, role)  # noqa: E731
        object.__setattr__(found, "client", client)
        return found

    monkeypatch.setattr(Sealer, "estate", estate)
    # `replace` makes a new estate with clients of its own: what is counted is given here.
    monkeypatch.setattr(destroying, "take", lambda *_: ([COUNTED], []))
    monkeypatch.setattr(destroying, "POLL_SECONDS", 0)
    return made


COUNTED = Inventory(storage="s2", versions=12, objects=10, bytes=345, digest="d")


@pytest.fixture
def destroyer(world: World) -> Destroyer:
    return again(world)


def again(world: World) -> Destroyer:
    """A new process."""
    return Destroyer(world.sealer.project, "acme", unwatched)


def revoke(world: World) -> None:
    Revoker(world.sealer.project, "acme", unwatched).revoke("the contract ended", limit=10)


def archived(records: Records) -> None:
    """After a rotation: k1 is put away and nothing lies under it."""
    done = layouts.enable_done()
    keys = (Key(id="k1", state=KeyState.ARCHIVED), Key(id="k2", state=KeyState.ACTIVE))
    under_k2 = {
        "storages": tuple(unit.model_copy(update={"key": "k2"}) for unit in done.storages),
        "searches": tuple(unit.model_copy(update={"key": "k2"}) for unit in done.searches),
    }
    with records.lease("acme") as fence:
        records.advance(layouts.changed(done, keys=keys, **under_k2), fence)


def refused(destroyer: Destroyer, order: Order) -> str:
    with pytest.raises(RefusedInput, match="nothing was changed") as error:
        destroyer.destroy(order, limit=10)
    assert error.value.exit_code == 2
    assert error.value.hint
    return error.value.code


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (ORDER, "key-in-use"),
        (replace(ORDER, key="k7"), "unknown-key"),
        (replace(ORDER, days=6), "window"),
        (replace(ORDER, days=31), "window"),
        (replace(ORDER, reason=" "), "no-reason"),
    ],
)
def test_an_order_that_cannot_be_carried_out_changes_nothing(
    destroyer: Destroyer, kms: FakeKms, records: Records, order: Order, code: str
) -> None:
    before = records.tenant("acme")
    assert refused(destroyer, order) == code
    assert (kms.calls, records.tenant("acme"), destroyer.fates.of("acme")) == ([], before, {})


def test_a_seal_alone_is_not_enough_to_destroy_what_lies_under_a_key(world: World, destroyer: Destroyer) -> None:
    world.sealer.seal("stolen key", limit=10)
    assert refused(destroyer, ORDER) == "key-in-use"


def test_a_customers_own_key_is_destroyed_by_the_customer(project: Project, world: World) -> None:
    Records(connect(project.home)).create(layouts.changed(layouts.byokms_active(), tenant="theirs"))
    theirs = Destroyer(project, "theirs", unwatched)
    assert refused(theirs, ORDER) == "customers-key"


def test_no_key_is_destroyed_in_the_middle_of_an_operation(destroyer: Destroyer, records: Records) -> None:
    archived(records)
    records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    assert refused(destroyer, ORDER) == "operation-unfinished"


def test_an_archived_key_is_withdrawn_in_the_stack_and_then_scheduled(
    world: World, destroyer: Destroyer, kms: FakeKms, records: Records
) -> None:
    archived(records)
    done = destroyer.destroy(ORDER, limit=10)
    assert world.stack.calls == ["render open", "preview", "up"], "a later up must not try to enable it"
    assert [key.state for key in records.tenant("acme").layout.keys] == [KeyState.REVOKED, KeyState.ACTIVE]
    assert kms.calls == ["ScheduleKeyDeletion 7"]
    assert (done["method"], done["deletion_date"]) == ("ScheduleKeyDeletion", "2026-03-08T00:00:00+00:00")
    assert "could be cancelled" in done["says"]
    assert not records.tenant("acme").sealed, "what is served lies under another key"


def test_at_once_the_material_goes_first_and_the_empty_key_ends_by_itself(
    world: World, destroyer: Destroyer, kms: FakeKms
) -> None:
    revoke(world)
    done = destroyer.destroy(replace(ORDER, at_once=True), limit=10)
    assert kms.calls == ["DeleteImportedKeyMaterial", "ScheduleKeyDeletion 7"]
    assert (done["kms_state"], done["fingerprint"]) == ("PendingDeletion", "m1")
    assert "could import it again" in done["says"], "the certificate does not promise more than is so"


def test_a_certificate_is_signed_stored_and_in_the_log(world: World, destroyer: Destroyer, project: Project) -> None:
    revoke(world)
    kms_lag = destroyer.destroy(ORDER, limit=10)
    certificates = Certificates(world.sealer.folder)
    stored = certificates.load("k1-destroyed")
    assert stored is not None
    assert stored == {name: value for name, value in kms_lag.items() if name not in {"file", "already"}}
    assert stored["under_it"] == {
        "storages": [{"storage": "s2", "versions": 12, "bytes": 345}], "searches": [], "uncounted": [],
    }  # fmt: skip
    assert (stored["reason"], stored["refused_with"]) == ("the contract ended", "KMSInvalidStateException")
    assert [event["event"] for event in world.events][-2:] == ["key-destroying", "key-destroyed"]
    assert len(world.events[-1]["certificate_sha256"]) == 64
    assert destroyer.fates.of("acme")["k1"].fate is Fate.DESTROYED
    assert world.sealer.log.verify_chain().lines == len(world.events)
    path = certificates.path("k1-destroyed")
    path.write_text(path.read_text().replace("the contract ended", "by mistake"))
    with pytest.raises(VerificationFailed):
        certificates.load("k1-destroyed")


def test_the_same_order_again_does_nothing_and_shows_the_certificate(
    world: World, destroyer: Destroyer, kms: FakeKms
) -> None:
    revoke(world)
    first = destroyer.destroy(ORDER, limit=10)
    second = again(world).destroy(ORDER, limit=10)
    assert (first["already"], second["already"], second["at"]) == (False, True, first["at"])
    assert kms.calls == ["ScheduleKeyDeletion 7"]


def test_one_that_died_after_kms_had_the_order_is_finished_by_the_next(
    world: World, destroyer: Destroyer, kms: FakeKms
) -> None:
    revoke(world)
    kms.uses = 10**6
    with pytest.raises(Waiting) as waiting:
        destroyer.destroy(ORDER, limit=0)
    assert waiting.value.exit_code == 3
    assert not destroyer.is_done("k1"), "no certificate before the key was seen to be refused"
    kms.uses = 2
    assert again(world).destroy(ORDER, limit=10)["already"] is False
    assert kms.calls == ["ScheduleKeyDeletion 7"]
    assert destroyer.is_done("k1")


def test_the_phrase_names_what_is_lost() -> None:
    assert phrase("acme", "k1") == "destroy k1 of acme"


# declared lost --------------------------------------------------------------------------------


def heard(monkeypatch: pytest.MonkeyPatch, said: Heard) -> None:
    monkeypatch.setattr(destroying, "canary", lambda *_: (said, "s2: records/a.json"))


def test_a_lost_key_is_recorded_sealed_and_counted(
    world: World, destroyer: Destroyer, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard(monkeypatch, Heard("KMS.KMSInvalidStateException", f"{KEY} is pending import."))
    found = destroyer.declare_lost("k1", "their HSM burnt", limit=10)
    assert (found["lost"]["storages"], found["still_open"]) == ([{"storage": "s2", "versions": 12, "bytes": 345}], [])
    assert any("keyshift delete acme" in one for one in found["remains"])
    assert records.tenant("acme").sealed
    assert destroyer.fates.of("acme")["k1"].fate is Fate.LOST
    event = next(event for event in world.events if event["event"] == "key-declared-lost")
    assert event["reason"] == "their HSM burnt"
    assert json.dumps(found)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (Heard(), "key-not-lost"),
        (Heard("ConnectTimeoutError", network=True), "unclear"),
        (Heard("SlowDown"), "unclear"),
    ],
    ids=["it works", "no network", "throttled"],
)
def test_a_key_that_is_not_seen_to_be_lost_is_not_declared_so(
    destroyer: Destroyer, records: Records, monkeypatch: pytest.MonkeyPatch, said: Heard, code: str
) -> None:
    heard(monkeypatch, said)
    with pytest.raises(RefusedInput) as refused:
        destroyer.declare_lost("k1", "their HSM burnt", limit=10)
    assert refused.value.code == code
    assert not records.tenant("acme").sealed
    assert destroyer.fates.of("acme") == {}


def test_without_a_reason_nothing_is_declared(destroyer: Destroyer, monkeypatch: pytest.MonkeyPatch) -> None:
    heard(monkeypatch, Heard("KMS.DisabledException"))
    with pytest.raises(RefusedInput):
        destroyer.declare_lost("k1", " ", limit=10)
    assert destroyer.fates.of("acme") == {}


def test_a_network_that_is_away_is_an_error_and_destroys_nothing(
    world: World, destroyer: Destroyer, kms: FakeKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoke(world)

    def away(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://kms")

    monkeypatch.setattr(kms, "describe_key", away)
    with pytest.raises(EndpointConnectionError):
        destroyer.destroy(ORDER, limit=10)
    assert destroyer.fates.of("acme") == {}
    assert not destroyer.is_done("k1")
