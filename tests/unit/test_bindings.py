"""One key never serves two customers; the tenants of one customer may share it."""

from __future__ import annotations

from pathlib import Path

import layouts
import pytest
import sqlalchemy as sql

from migrate import runner as runner_module
from migrate.bindings import KEY_OWNERS, references
from migrate.errors import RefusedInput
from migrate.operations import OperationKind, Phase, Plan
from migrate.records import Records
from migrate.runner import Runner
from migrate.stack import Project
from stacks.layout import Key, KeyState, Layout
from stacks.record import TENANTS, connect

ALIAS = "arn:aws:kms:eu-west-1:444455556666:alias/archive"
OTHER_KEY = layouts.CUSTOMER_KEY.replace("1234abcd", "9999abcd")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sql.Engine:
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    return connect(tmp_path / ".keyshift")


@pytest.fixture
def records(engine: sql.Engine) -> Records:
    held = Records(engine)
    for name, customer in (("acme", "acme-corp"), ("acme-two", "acme-corp"), ("bolt", "bolt-corp")):
        held.create(layouts.changed(layouts.standard(), tenant=name, customer=customer))
    return held


def under(tenant: str, customer: str, *, arn: str | None = None, alias: str | None = None) -> Layout:
    key = Key(id="k1", state=KeyState.ACTIVE, arn=arn, alias=alias)
    return layouts.changed(layouts.byokms_active(), tenant=tenant, customer=customer, keys=(key,))


def advance(records: Records, layout: Layout) -> None:
    with records.lease(layout.tenant) as fence:
        records.advance(layout, fence)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"arn": layouts.CUSTOMER_KEY}, {"arn": layouts.CUSTOMER_KEY}),
        ({"arn": layouts.CUSTOMER_KEY, "alias": ALIAS}, {"arn": OTHER_KEY, "alias": ALIAS}),
        ({"arn": layouts.CUSTOMER_KEY, "alias": ALIAS}, {"arn": layouts.CUSTOMER_KEY, "alias": ALIAS + "-2"}),
    ],
    ids=["the key", "the alias", "another alias of the key"],
)
def test_a_key_or_alias_of_another_customer_is_refused_and_changes_nothing(
    records: Records, engine: sql.Engine, first: dict[str, str], second: dict[str, str]
) -> None:
    advance(records, under("acme", "acme-corp", **first))
    advance(records, under("acme-two", "acme-corp", **second))  # of the same customer: may share
    with pytest.raises(RefusedInput, match="one key never serves two customers") as refused:
        advance(records, under("bolt", "bolt-corp", **second))
    assert refused.value.code == "key-of-another-customer"
    assert "acme" not in str(refused.value), "whose it is, is no business of the other customer"
    assert records.tenant("bolt").generation == 1
    with engine.connect() as connection:
        owners = connection.execute(sql.select(KEY_OWNERS.c.customer).distinct()).scalars().all()
    assert owners == ["acme-corp"], "also the key that was free is not bound by a refusal"


def test_a_key_stays_its_customers_after_its_tenant_is_gone(records: Records, engine: sql.Engine) -> None:
    advance(records, under("acme", "acme-corp", arn=layouts.CUSTOMER_KEY))
    with engine.begin() as connection:
        connection.execute(TENANTS.update().where(TENANTS.c.name == "acme").values(archived=True))
    with pytest.raises(RefusedInput, match="which is or was another customer's key"):
        advance(records, under("bolt", "bolt-corp", arn=layouts.CUSTOMER_KEY))


def test_whose_a_key_is_is_asked_of_one_table_however_many_tenants_there_are(
    records: Records, engine: sql.Engine
) -> None:
    advance(records, under("acme", "acme-corp", arn=layouts.CUSTOMER_KEY, alias=ALIAS))
    asked: list[str] = []
    sql.event.listen(engine, "before_cursor_execute", lambda *about: asked.append(about[2]))
    found = records.key_owners([under("bolt", "bolt-corp", arn=layouts.CUSTOMER_KEY)], also={ALIAS, OTHER_KEY})
    assert found == {layouts.CUSTOMER_KEY: "acme-corp", ALIAS: "acme-corp"}
    assert [KEY_OWNERS.name in one for one in asked] == [True], "one look, and none at the tenants' layouts"


def test_keys_that_we_made_are_each_of_one_tenant_and_bind_nothing(records: Records) -> None:
    assert references(layouts.byok_active()) == set()
    advance(records, layouts.changed(layouts.byok_active(), tenant="acme"))
    advance(records, layouts.changed(layouts.byok_active(), tenant="bolt", customer="bolt-corp"))


def test_an_operation_that_would_use_a_foreign_key_is_refused_before_it_begins(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance(records, under("acme", "acme-corp", arn=layouts.CUSTOMER_KEY))
    wished = under("bolt", "bolt-corp", arn=layouts.CUSTOMER_KEY)

    def plan(request: object, start: Layout) -> Plan:
        phase = Phase(name="build", title="make it", layout=wished)
        return Plan(operation="bolt-enable-1", kind=OperationKind.ENABLE, start=start, phases=(phase,))

    monkeypatch.setattr(runner_module, "plan", plan)
    monkeypatch.setattr("migrate.stack.PulumiCommand.__init__", lambda *_, **__: None)
    runner = Runner(Project(root=tmp_path, home=tmp_path / ".keyshift"), "bolt", lambda _: None)
    with pytest.raises(RefusedInput, match="one key never serves two customers"):
        runner.run(OperationKind.ENABLE, "byokms")
    assert records.operations("bolt") == []
