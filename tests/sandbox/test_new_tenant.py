"""New tenants: standard by a plain `pulumi up`, byok as soon as the customer's key is in."""

from __future__ import annotations

import moved
import pytest
from cloud import ATTACHMENTS, Cloud, Tenant, records
from standstill import STEP_SECONDS

from migrate.copy.s3 import list_versions
from sandbox.demo import STAMP


@pytest.fixture
def tenant(cloud: Cloud):
    made = Tenant(cloud, cloud.new_name("new"))
    yield made
    made.shut_down()


def configure(tenant: Tenant, **scalars: str) -> None:
    """What an operator types for a new tenant, and nothing of ours."""
    tenant.cloud.pulumi("stack", "init", tenant.stack)
    for name, value in scalars.items():
        tenant.pulumi("config", "set", f"keyshift:{name}", value)


def test_a_standard_tenant_comes_up_by_a_plain_pulumi_up(tenant: Tenant) -> None:
    configure(tenant, customer="new-corp", stamp=STAMP)
    tenant.cloud.up(tenant.stack)
    again = tenant.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
    assert "unchanged" in again.out

    shown = tenant.keyshift("tenant", "show", "--json").json()
    assert (shown["generation"], shown["layout"]["mode"], shown["next"]) == (1, "standard", None)
    found = moved.resources(tenant)
    assert (found["buckets"], found["keys"]) == ([], []), (
        "a standard tenant lives in the vendor's bucket, under its key"
    )
    assert found["deployments"] == [f"{tenant.name}-e1"]

    loaded = tenant.import_(records=records(), attachments=ATTACHMENTS)
    tenant.wait_until_indexed(loaded["records"] + loaded["attachments"])
    assert tenant.keyshift("search", "Boeing", "--json").json()["total"] == len(records()) // 2
    vendor = tenant.cloud.pulumi("stack", "output", "vendor_key_arn", "-s", STAMP).out.strip()
    stored = moved.contents(tenant.storage("s1"))
    assert {version.key_arn for versions in stored.values() for version in versions} == {vendor}

    _a_version_that_elastic_does_not_offer_changes_nothing(tenant)


def _a_version_that_elastic_does_not_offer_changes_nothing(tenant: Tenant) -> None:
    before = tenant.layout()
    refused = tenant.keyshift("upgrade", "--search-version", "8.99.0", "--json", check=False)
    assert refused.code == 2, refused.text
    error = refused.json()["error"]
    assert (error["code"], "8.19.0" in error["hint"]) == ("version-not-offered", True)
    assert tenant.layout() == before
    assert tenant.keyshift("resume", check=False).code == 2, "nothing was begun that could be gone on with"


def test_a_byok_tenant_waits_for_its_key_comes_up_whole_and_goes_when_the_key_is_destroyed(tenant: Tenant) -> None:
    cloud = tenant.cloud
    created = tenant.keyshift("tenant", "create", "--customer", "new-corp", "--mode", "byok", check=False)
    assert created.code == 3, created.text
    assert f"keyshift key request {tenant.name}" in created.err, "what it waits for, and the next command"
    only_the_key = moved.resources(tenant)
    assert len(only_the_key.pop("keys")) == 1
    only_the_key.pop("roles")
    assert not any(only_the_key.values()), "nothing of the tenant's data can exist before its key"

    asked = cloud.request_key(tenant.name)
    early = tenant.keyshift("resume", check=False)
    assert early.code == 3, "still no key"
    key = cloud.upload_key(tenant.name, cloud.wrap_key(tenant.name, asked))
    assert tenant.keyshift("resume", "--json").json()["state"] == "done"

    layout = tenant.layout()
    assert (layout["mode"], layout["serves"]) == ("byok", {"storage": "s1", "search": "e1", "pipeline": "p1"})
    loaded = tenant.import_(records=records(4), attachments=ATTACHMENTS)
    tenant.wait_until_indexed(loaded["records"] + loaded["attachments"])
    stored = moved.contents(tenant.storage("s1", "runner"))
    assert {version.key_arn for versions in stored.values() for version in versions} == {key.arn}
    shown = cloud.elastic("GET", f"/deployments/{cloud.deployments()[f'{tenant.name}-e1']}")
    assert shown["settings"]["byok"]["key_resource_path"] == key.arn
    tenant.pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")

    _destroy_its_key(tenant)
    _delete_what_nobody_can_read(tenant)


def _destroy_its_key(tenant: Tenant) -> None:
    tenant.keyshift("revoke", "--reason", "the contract ended", "--yes")
    phrase = f"destroy k1 of {tenant.name}"
    tenant.keyshift("key", "destroy", "k1", "--reason", "the contract ended", "--days", "7", "--confirm", phrase)
    restored = tenant.keyshift("restore", "--json", check=False).json()["error"]
    assert (restored["code"], f"keyshift delete {tenant.name}" in restored["hint"]) == ("key-destroyed", True)


def _delete_what_nobody_can_read(tenant: Tenant) -> None:
    cloud, side = tenant.cloud, tenant.storage("s1", "runner")
    assert list(list_versions(side)), "what lies there can still be listed"

    ended = tenant.keyshift("delete", "--confirm", tenant.name, "--json", seconds=STEP_SECONDS).json()

    assert (ended["state"], ended["left_behind"]) == ("done", 0)
    found = moved.resources(tenant)
    assert (found["buckets"], found["deployments"]) == ([], [])
    verdicts = cloud.home / "tenants" / tenant.name / "verdicts"
    for name in ("inventory", "purge"):
        signed = (verdicts / f"{tenant.name}-delete-1-{name}.json").read_text()
        assert "nothing of it could be read" in signed
        assert "k1-destroyed" in signed, "the certificate of the key is named"
    assert tenant.stack not in cloud.pulumi("stack", "ls", "--json").out
