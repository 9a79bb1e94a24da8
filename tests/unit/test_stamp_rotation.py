"""A stamp's vendor key is rotated: in which order, what stops it, that it goes on where it was cut off, what it proves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import graph
import layouts
import pytest
import yaml
from fake_s3 import SOURCE_KEY, TARGET_KEY, FakeS3, put
from graph import STAMP

from migrate import stamp_rotation
from migrate.copy.s3 import Side, StorageRef
from migrate.errors import KeyshiftError, RefusedInput, Waiting
from migrate.fleet import Came, Row
from migrate.log import Log
from migrate.operations import OperationKind, Request
from migrate.plan import plan
from migrate.progress import unwatched
from migrate.records import Records
from migrate.stack import Project, Step
from migrate.stamp_rotation import StampRotation
from migrate.verdict import VerdictKind, Verdicts
from stacks import tenant
from stacks.config import StampSettings, parse
from stacks.errors import ConfigError
from stacks.layout import Layout
from stacks.record import connect
from stacks.stamp import build as build_stamp

OLD, NEW = SOURCE_KEY, TARGET_KEY
BUCKET = "shared"


# what the programs make of the numbers ------------------------------------------------------------


def stamp_graph(tmp_path: Path, **keys: int) -> graph.Graph:
    engine = connect(tmp_path / ".keyshift")
    return graph.run(lambda: build_stamp(StampSettings.parse(STAMP, **keys), engine), stack=STAMP)


def tenant_graph(layout: Layout) -> graph.Graph:
    return graph.run(lambda: tenant.build(layout), stack="tenant-acme")


def test_a_stamps_second_key_stands_beside_the_first_and_changes_nothing_of_it(tmp_path: Path) -> None:
    before, after = stamp_graph(tmp_path), stamp_graph(tmp_path, vendor_keys=2)
    assert set(after.resources) - set(before.resources) == {"vendor-2", "vendor-2-key", "vendor-2-key-alias"}
    same = {name for name in before.resources if before.resources[name] == after.resources[name]}
    assert same == set(before.resources), "the bucket is under the first key until every role may use the second"
    assert after.outputs["vendor_key_arn"] == before.outputs["vendor_key_arn"]
    assert [arn.rpartition("/")[2] for arn in after.outputs["vendor_key_arns"]] == ["vendor-key", "vendor-2-key"]
    assert after.resources["vendor-2-key"].protect


def test_a_redirect_changes_the_shared_bucket_and_an_archived_key_stays_in_the_stack(tmp_path: Path) -> None:
    made = stamp_graph(tmp_path, vendor_keys=2)
    redirected = stamp_graph(tmp_path, vendor_keys=2, vendor_key=2)
    changed = {name for name in made.resources if made.resources[name] != redirected.resources[name]}
    assert changed == {"shared-bucket-encryption", "shared-bucket-policy"}
    archived = stamp_graph(tmp_path, vendor_keys=2, vendor_key=2, oldest_vendor_key=2)
    assert archived.resources == redirected.resources, "ending a key is a person's decision"
    assert len(archived.outputs["vendor_key_arns"]) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"vendorKeys": "1", "vendorKey": "2"},
        {"vendorKeys": "2", "vendorKey": "1", "oldestVendorKey": "2"},
        {"vendorKeys": "0"},
        {"vendorKeys": "two"},
    ],
)
def test_numbers_that_do_not_fit_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        parse(STAMP, values)


def test_a_tenant_has_no_vendor_keys_of_its_own() -> None:
    with pytest.raises(ConfigError, match="keyshift:vendorKeys"):
        parse("tenant-acme", {"customer": "acme-corp", "stamp": STAMP, "vendorKeys": "2"})


def test_a_standard_tenants_search_stays_under_its_key_and_a_customers_does_not() -> None:
    standard = tenant_graph(layouts.standard())
    byok = tenant_graph(layouts.byok_active())
    assert standard.resources["e1-deployment"].ignore_changes == ("encryptionKeyPath",)
    assert not byok.resources["e1-deployment"].ignore_changes, "its key is the layout's business alone"


def test_both_keys_are_open_to_a_tenants_roles_while_the_stamp_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [graph.VENDOR_KEY, f"{graph.VENDOR_KEY}-2"]
    one = tenant_graph(layouts.standard())
    monkeypatch.setitem(graph.STAMP_OUTPUTS, "vendor_key_arns", both)
    two = tenant_graph(layouts.standard())
    for role in ("archive", "pipeline", "runner"):
        told = [str(each.resources[f"{role}-role-policy"].inputs["policy"]) for each in (one, two)]
        assert [f"{graph.VENDOR_KEY}-2" in text for text in told] == [False, True], role


# the plan of a tenant's part ----------------------------------------------------------------------


def test_a_standard_tenant_gets_a_new_search_and_nothing_else() -> None:
    start = layouts.standard()
    asked = Request(operation="acme-rotate-1", kind=OperationKind.ROTATE, vendor_key=NEW, cutoff=layouts.CUTOFF)
    made = plan(asked, start)
    assert [search.id for search in made.end.searches] == ["e2"]
    assert made.end.storages == start.storages, "the stamp has re-keyed the shared bucket as a whole"
    assert made.end.keys == start.keys
    assert {phase.layout.gate.jobs for phase in made.phases} == {"open"}


def test_without_the_stamp_a_standard_tenant_has_nothing_to_rotate_and_is_told_where_it_is_done() -> None:
    with pytest.raises(RefusedInput) as refused:
        plan(Request(operation="acme-rotate-1", kind=OperationKind.ROTATE), layouts.standard())
    assert refused.value.code == "no-customer-key"
    assert f"keyshift stamp rotate {STAMP}" in refused.value.hint


# the rotation -------------------------------------------------------------------------------------


@dataclass
class House:
    """A stamp and its tenants, made of what the rotation asks for; `calls` is the order in which it asked."""

    root: Path
    s3: FakeS3
    calls: list[str] = field(default_factory=list)
    searches: dict[str, str] = field(default_factory=dict)
    skipped: str = ""
    refusals: int = 0
    steps: list[Step] = field(default_factory=list)
    dies_at: str = ""

    def did(self, what: str) -> None:
        self.calls.append(what)
        if what == self.dies_at:
            self.dies_at = ""
            raise KeyboardInterrupt

    @property
    def file(self) -> Path:
        return self.root / f"Pulumi.{STAMP}.yaml"

    def number(self, name: str) -> int:
        held = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        return int(held.get("config", {}).get(f"keyshift:{name}", 1))


class FakeStack:
    """The stamp's and the tenants' stacks: outputs follow from the stack file at each `up`."""

    house: House
    up_to: ClassVar[dict[str, int]] = {}

    def __init__(self, _: Project, name: str) -> None:
        self.name = name
        self.file = self.house.root / f"Pulumi.{name}.yaml"

    def outputs(self) -> dict[str, Any]:
        if self.name != STAMP:
            return {"searches": {id: {"key_arn": self.house.searches[self.name]} for id in ("e1", "e2")}}
        arns = [OLD, NEW][: self.up_to.get("vendorKeys", 1)][self.up_to.get("oldestVendorKey", 1) - 1 :]
        current = [OLD, NEW][self.up_to.get("vendorKey", 1) - 1]
        return {"vendor_key_arn": current, "vendor_key_arns": arns, "bucket": BUCKET, "region": "eu-west-1"}

    def recover(self) -> list[str]:
        return []

    def preview(self, *, plan_file: Path) -> list[Step]:
        return self.house.steps

    def up(self, *, plan_file: Path) -> None:
        numbers = {name: self.house.number(name) for name in ("vendorKeys", "vendorKey", "oldestVendorKey")}
        self.house.did(f"stamp up {'/'.join(map(str, numbers.values()))}")
        self.up_to.update(numbers)
        self.house.s3.default_key[BUCKET] = [OLD, NEW][numbers["vendorKey"] - 1]


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Records:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    held = Records(connect(tmp_path / ".keyshift"))
    held.create(layouts.standard())
    held.create(layouts.changed(layouts.byok_active(), tenant="bolt", customer="bolt-corp"))
    return held


@pytest.fixture
def house(tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch) -> House:
    made = House(tmp_path, FakeS3())
    made.searches = {"tenant-acme": OLD, "tenant-bolt": "a customer's"}
    made.s3.default_key[BUCKET] = OLD
    for number in range(3):
        put(made.s3, f"records/{number}")

    class Fleet:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def run(self, tenants: list[Any], _: int) -> list[Row]:
            made.did(f"fleet {','.join(one.name for one in tenants)}")
            came = {one.name: Came.SKIPPED if one.name == made.skipped else Came.CHANGED for one in tenants}
            return [
                Row(tenant=name, came=one, because="it is busy" if one is Came.SKIPPED else None, hint="wait for it")
                for name, one in came.items()
            ]

    class Runner:
        def __init__(self, _: Project, name: str, *__: Any, **___: Any) -> None:
            self.name = name

        def run(self, kind: OperationKind, *, asked: dict[str, Any]) -> None:
            made.did(f"{kind} {self.name}")
            assert asked == {"vendor_key": NEW}
            made.searches[f"tenant-{self.name}"] = NEW

    class Kms:
        def generate_data_key(self, **_: Any) -> None:
            from fake_s3 import error

            if made.refusals:
                made.refusals -= 1
                raise error("AccessDeniedException", 400, "not yet", "GenerateDataKey")

    FakeStack.house, FakeStack.up_to = made, {}
    monkeypatch.setattr(stamp_rotation, "Stack", FakeStack)
    monkeypatch.setattr(stamp_rotation, "Fleet", Fleet)
    monkeypatch.setattr(stamp_rotation, "Runner", Runner)
    monkeypatch.setattr(stamp_rotation, "POLL_SECONDS", 0)
    live = SimpleNamespace(client=lambda *_: Kms())
    monkeypatch.setattr(stamp_rotation, "Live", SimpleNamespace(find=lambda *_: live))
    monkeypatch.setattr(
        StampRotation, "_bucket", lambda _, key_arn: Side(made.s3, StorageRef(BUCKET, "", key_arn)), raising=True
    )
    return made


def rotation(house: House) -> StampRotation:
    project = Project(root=house.root, home=house.root / ".keyshift")
    return StampRotation(project, STAMP, lambda _: None, unwatched)


WHOLE = [
    "stamp up 2/1/1",
    "fleet acme,bolt",
    "stamp up 2/2/1",
    "rotate acme",
    "stamp up 2/2/2",
    "fleet acme,bolt",
]


def test_the_roles_come_first_then_the_bucket_then_the_searches_and_the_old_key_goes_last(house: House) -> None:
    found = rotation(house).run()
    assert house.calls == WHOLE
    assert (found["from"], found["to"], found["left"], found["searches"]) == (OLD, NEW, 0, ["acme"])
    assert found["versions"] == 3
    folder = house.root / ".keyshift" / "stamps" / STAMP
    signed = Verdicts(folder).load(found["verdict"])
    assert signed is not None
    assert (signed.kind, signed.passed, signed.details["from"], signed.details["to"]) == (
        VerdictKind.DRAINED,
        True,
        OLD,
        NEW,
    )
    assert [line["event"]["event"] for line in Log(folder).events()][-1] == "vendor-key-archived"
    Log(folder).verify_chain()


def test_nothing_in_the_bucket_is_left_under_the_old_key(house: House) -> None:
    assert {house.s3.head_object(Bucket=BUCKET, Key="t/acme/records/0")["SSEKMSKeyId"]} == {OLD}
    rotation(house).run()
    heads = [house.s3.head_object(Bucket=BUCKET, Key=f"t/acme/records/{number}") for number in range(3)]
    assert {head["SSEKMSKeyId"] for head in heads} == {NEW}


@pytest.mark.parametrize("where", sorted(set(WHOLE)))
def test_cut_off_anywhere_it_goes_on_by_the_same_command(house: House, where: str) -> None:
    house.dies_at = where
    with pytest.raises(KeyboardInterrupt):
        rotation(house).run()
    assert rotation(house).plan()["goes_on"]
    found = rotation(house).run()
    assert (found["from"], found["to"], found["archived"]) == (OLD, NEW, OLD)
    assert FakeStack.up_to == {"vendorKeys": 2, "vendorKey": 2, "oldestVendorKey": 2}, "no third key was made"
    assert house.searches["tenant-acme"] == NEW
    assert not rotation(house).plan()["goes_on"]


def test_a_tenant_that_cannot_be_let_in_stops_it_while_the_bucket_is_under_the_old_key(house: House) -> None:
    house.skipped = "bolt"
    with pytest.raises(Waiting, match="first of them bolt: it is busy") as waits:
        rotation(house).run()
    assert f"keyshift stamp rotate {STAMP}" in waits.value.hint
    assert house.s3.default_key[BUCKET] == OLD, "its jobs would have been refused"
    house.skipped = ""
    assert rotation(house).run()["left"] == 0


def test_a_right_that_does_not_hold_everywhere_yet_is_waited_for(house: House) -> None:
    house.refusals = 3
    rotation(house).run()
    assert house.refusals == 0
    assert house.calls == WHOLE


@pytest.mark.parametrize("state", ["sealed", "busy"])
def test_before_it_begins_a_tenant_that_would_stop_it_halfway_is_named_and_nothing_is_made(
    house: House, records: Records, state: str
) -> None:
    if state == "busy":
        records.begin(records.tenant("acme"), OperationKind.ENABLE, "byok")
    else:
        from migrate.seals import Seals

        Seals(connect(house.root / ".keyshift")).put("bolt", "stolen", "someone", None)
    with pytest.raises(RefusedInput) as refused:
        rotation(house).run()
    assert ("acme" if state == "busy" else "bolt") in refused.value.message
    assert house.calls == []
    assert not rotation(house).plan()["goes_on"]


def test_a_stamp_whose_update_would_lose_something_is_left_as_it_is(house: House) -> None:
    house.steps = [Step(op="replace", urn=f"urn:pulumi:{STAMP}::keyshift::aws:s3/bucket:Bucket::shared-bucket")]
    with pytest.raises(KeyshiftError, match="would replace shared-bucket"):
        rotation(house).run()
    assert house.calls == []


def test_the_old_key_is_not_archived_while_a_search_lies_under_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def run(self, *_: Any, **__: Any) -> None:
            pass

    monkeypatch.setattr(stamp_rotation, "Runner", Idle)
    with pytest.raises(KeyshiftError) as refused:
        rotation(house).run()
    assert refused.value.code == "search-under-old-key"
    assert FakeStack.up_to["oldestVendorKey"] == 1


def test_a_dry_run_changes_nothing(house: House) -> None:
    found = rotation(house).plan()
    assert (found["tenants"], found["searches"], found["new_vendor_key"]) == (["acme", "bolt"], ["acme"], 2)
    assert house.calls == []
    assert not (house.root / ".keyshift" / "stamps" / STAMP / "rotation.json").exists()


def test_a_stamp_that_is_not_there_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeStack, "outputs", lambda _: {})
    with pytest.raises(RefusedInput) as refused:
        rotation(house)
    assert refused.value.code == "unknown-stamp"
