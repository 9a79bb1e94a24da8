"""Which stamp a tenant gets, what is counted, and what is said when there is no room."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import graph
import layouts
import pytest
import sqlalchemy as sql

from migrate import placement, tenants
from migrate.errors import CloudError, RefusedInput
from migrate.placement import AT_LEAST, MOVES, NEW_TENANT, Placements, Stamp, uses
from migrate.records import Records
from migrate.stack import Project, Stack
from stacks import stamp as stamp_stack
from stacks import tenant as tenant_stack
from stacks.config import StampSettings
from stacks.layout import Layout
from stacks.record import TENANTS, connect

REGION = "eu-west-1"
TYPES = {
    "rules": "aws:cloudwatch/eventRule:EventRule",
    "roles": "aws:iam/role:Role",
    "buckets": "aws:s3/bucket:Bucket",
    "keys": "aws:kms/externalKey:ExternalKey",
    "secrets": "aws:secretsmanager/secret:Secret",
}
"""What is counted, as the engine calls it."""


def stamp(number: int, account: str = "111122223333", region: str = REGION) -> Stamp:
    return Stamp(name=f"stamp-aws-{region}-{number:02}", cloud="aws", region=region, number=number, account=account)


ONE, TWO, ELSEWHERE = stamp(1), stamp(2), stamp(3, account="444455556666")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sql.Engine:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return connect(tmp_path / ".keyshift")


@pytest.fixture
def placements(engine: sql.Engine) -> Placements:
    return Placements(engine)


def wish(name: str, region: str = REGION) -> Layout:
    return layouts.changed(layouts.standard(), tenant=name, region=region)


def fill(engine: sql.Engine, stamp: Stamp, count: int, begin: int = 0) -> None:
    """So many standard tenants on a stamp, in one write."""
    rows = []
    for number in range(begin, begin + count):
        layout = layouts.changed(layouts.standard(), tenant=f"t{stamp.number}-{number:04}", stamp=stamp.name)
        facts = {"name": layout.tenant, "customer": layout.customer, "generation": 1, "digest": layout.digest()}
        rows.append({**facts, "layout": layout.canonical(), "lease_fence": 0, "sealed": False, "archived": False})
    with engine.begin() as connection:
        connection.execute(TENANTS.insert(), rows)


def rules(placements: Placements, *every: Stamp) -> list[tuple[int, int]]:
    rooms = placements.rooms(every)
    return [(room.used, room.limit) for one in every for room in rooms[one.name] if room.name == "rules"]


# what is counted ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", layouts.ALL)
def test_a_layout_is_said_to_take_what_its_stack_really_makes(name: str) -> None:
    layout = layouts.ALL[name]()
    made = graph.run(lambda: tenant_stack.build(layout), stack=f"tenant-{layout.tenant}")
    assert uses(layout) == Counter({what: len(made.of_type(type_)) for what, type_ in TYPES.items()})


def test_the_least_that_is_counted_is_what_a_standard_tenant_takes() -> None:
    assert uses(layouts.standard()) == AT_LEAST
    assert uses(layouts.byok_active()) == NEW_TENANT


def test_a_move_fits_into_what_is_kept() -> None:
    kept = {quota.name: quota.kept // MOVES for quota in placement.AWS_QUOTAS}
    grown = uses(layouts.enable_frozen()) + Counter(rules=1) - uses(layouts.standard())  # its pipeline is attached next
    assert {name: count for name, count in grown.items() if count > kept[name]} == {}


# who gets which -------------------------------------------------------------------------------


def test_a_tenant_gets_the_first_stamp_of_its_region_that_has_room(placements: Placements, engine: sql.Engine) -> None:
    every = [stamp(1, region="us-east-1"), ONE, ELSEWHERE]
    assert placements.place(wish("acme"), every) == ONE.name
    fill(engine, ONE, (300 - 3 * MOVES) // 2 - 1)
    assert rules(placements, ONE) == [(270, 300)], "with the tenant that is about to be made"
    assert placements.place(wish("bolt"), every) == ELSEWHERE.name
    assert placements.seated()["bolt"] == ELSEWHERE.name


def test_stamps_of_one_account_and_region_share_one_bus(placements: Placements, engine: sql.Engine) -> None:
    fill(engine, ONE, 100)
    fill(engine, TWO, 34)
    assert rules(placements, ONE, TWO, ELSEWHERE) == [(268, 300), (268, 300), (0, 300)]
    placements.place(wish("acme"), [ONE, TWO])
    with pytest.raises(RefusedInput, match="no room for tenant bolt on stamp-aws-eu-west-1-01, stamp-aws-eu-west-1-02"):
        placements.place(wish("bolt"), [ONE, TWO])


def test_a_full_region_is_refused_with_the_command_that_makes_the_next_stamp(
    placements: Placements, engine: sql.Engine
) -> None:
    fill(engine, ONE, 150)
    with pytest.raises(RefusedInput, match=r"300 of 300 rules in 111122223333/eu-west-1, 30 kept") as refused:
        placements.place(wish("acme"), [ONE])
    assert refused.value.code == "stamps-full"
    assert "pulumi stack init stamp-aws-eu-west-1-02, then pulumi up -s stamp-aws-eu-west-1-02" in refused.value.hint
    assert "another account" in refused.value.hint, "another stamp of the same account has the same bus"
    assert placements.seated().keys() == {f"t1-{number:04}" for number in range(150)}, "a refusal changes nothing"


def test_a_stamp_that_is_asked_for_by_name_is_refused_too_when_it_is_full(
    placements: Placements, engine: sql.Engine
) -> None:
    assert placements.place(wish("acme"), [ONE, ELSEWHERE], ELSEWHERE.name) == ELSEWHERE.name
    fill(engine, ONE, 150)
    with pytest.raises(RefusedInput, match="no room for tenant bolt on stamp-aws-eu-west-1-01:"):
        placements.place(wish("bolt"), [ONE, ELSEWHERE], ONE.name)


def test_a_region_without_a_stamp_is_refused(placements: Placements) -> None:
    with pytest.raises(RefusedInput, match="no stamp in us-east-1") as refused:
        placement.refuse_nowhere(wish("acme", "us-east-1"), [ONE])
    assert "pulumi stack init stamp-aws-us-east-1-01" in refused.value.hint


@pytest.mark.parametrize(("region", "limit"), [("eu-south-1", 100), ("af-south-1", 100), ("eu-west-1", 300)])
def test_some_regions_have_smaller_buses(placements: Placements, region: str, limit: int) -> None:
    assert rules(placements, stamp(1, region=region)) == [(0, limit)]


def test_roles_are_counted_over_the_regions_of_an_account(placements: Placements, engine: sql.Engine) -> None:
    far = stamp(1, region="us-east-1")
    fill(engine, ONE, 100)
    rooms = placements.rooms([ONE, far])
    assert {room.name: room.used for room in rooms[far.name]} == {
        "rules": 0, "roles": 300, "buckets": 2, "keys": 1, "secrets": 0
    }  # fmt: skip


def test_a_deleted_tenant_gives_its_room_back(placements: Placements, engine: sql.Engine) -> None:
    placements.place(wish("acme"), [ONE])
    Records(engine).create(layouts.standard())
    assert rules(placements, ONE) == [(2, 300)]
    with engine.begin() as connection:
        connection.execute(TENANTS.update().values(archived=True))
    assert rules(placements, ONE) == [(0, 300)]
    assert placements.seated() == {}


def test_a_tenant_that_waits_for_its_key_has_its_room(placements: Placements, engine: sql.Engine) -> None:
    Records(engine).create(layouts.byok_pending())
    assert rules(placements, ONE) == [(2, 300)]


def test_a_creation_that_was_cut_off_and_begun_anew_takes_one_place(placements: Placements) -> None:
    for every in ([ONE, ELSEWHERE], [ELSEWHERE]):
        placements.place(wish("acme"), every)
    assert rules(placements, ONE, ELSEWHERE) == [(0, 300), (2, 300)]


def test_many_at_once_never_take_more_than_there_is(placements: Placements, engine: sql.Engine) -> None:
    fill(engine, ONE, 133)
    begin, came = threading.Barrier(6), Counter[str]()

    def ask(number: int) -> None:
        begin.wait(20)
        try:
            placements.place(wish(f"late-{number}"), [ONE])
            came["placed"] += 1
        except RefusedInput:
            came["refused"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came == {"placed": 2, "refused": 4}


# quotas ---------------------------------------------------------------------------------------


def test_a_raised_quota_holds_for_every_stamp_of_the_bus_and_no_other(placements: Placements) -> None:
    placements.set_quota(ONE, "rules", 600)
    placements.set_quota(ONE, "rules", 500)
    assert rules(placements, ONE, TWO, ELSEWHERE) == [(0, 500), (0, 500), (0, 300)]


def test_a_quota_below_what_is_used_is_refused(placements: Placements, engine: sql.Engine) -> None:
    fill(engine, ONE, 10)
    with pytest.raises(RefusedInput, match="less than the 20 in use"):
        placements.set_quota(ONE, "rules", 19)
    assert rules(placements, ONE) == [(20, 300)]


# creating a tenant ----------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, engine: sql.Engine, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(placement, "brought_up", lambda _: {ONE.name, TWO.name, "tenant-x", "stamp-of-somebody-else"})
    monkeypatch.setattr(Stack, "outputs", lambda _: {"account_id": ONE.account})
    monkeypatch.setattr(Stack, "make", lambda _: None)
    return Project(root=tmp_path, home=tmp_path / ".keyshift")


SAID = {"customer": "acme-corp", "region": REGION}


def test_a_new_tenants_record_says_where_it_was_placed(project: Project, engine: sql.Engine) -> None:
    assert [one.name for one in placement.stamps(project)] == [ONE.name, TWO.name]
    tenants.create(project, "acme", SAID)
    tenants.create(project, "bolt", {**SAID, "stamp": TWO.name})
    held = Records(engine)
    assert [held.tenant(name).layout.stamp for name in ("acme", "bolt")] == [ONE.name, TWO.name]
    shown = placement.overview(project, Placements(engine))["stamps"]
    assert [row["tenants"] for row in shown] == [["acme"], ["bolt"]]
    assert shown[0]["quotas"][0] | {"used": 4} == shown[0]["quotas"][0], "two rules each on the bus that both share"


def test_a_tenant_whose_stack_cannot_be_made_takes_no_room(
    project: Project, engine: sql.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Stack) -> None:
        raise CloudError("no passphrase")

    monkeypatch.setattr(Stack, "make", fail)
    with pytest.raises(CloudError, match="no passphrase"):
        tenants.create(project, "acme", SAID)
    assert Placements(engine).seated() == {}
    assert Records(engine).tenants() == []


def test_a_stamp_itself_takes_a_bucket_and_a_key(engine: sql.Engine) -> None:
    made = graph.run(lambda: stamp_stack.build(StampSettings.parse(ONE.name), engine), stack=ONE.name)
    assert len(made.of_type(TYPES["buckets"])) == placement.STAMP["buckets"]
    assert len(made.of_type("aws:kms/key:Key")) == placement.STAMP["keys"]
