"""One tenant from its customer's key back to the vendor's, and then to its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import moved
import pytest
from cloud import ATTACHMENTS, Cloud, Done, Key, Tenant, records
from moved import Home

from migrate.copy.s3 import list_uploads, list_versions
from sandbox.demo import STAMP

PART_BYTES = 5 * 1024 * 1024


@dataclass(frozen=True)
class Removed:
    tenant: Tenant
    key: Key
    home: Home
    done: Done


@pytest.fixture(scope="module")
def removed(cloud: Cloud) -> Iterator[Removed]:
    """A byok tenant made by a plain `pulumi up`, filled, and moved back."""
    tenant = Tenant(cloud, cloud.new_name("life"))
    cloud.pulumi("stack", "init", tenant.stack)
    for name, value in {"customer": "life-corp", "stamp": STAMP, "keyMode": "byok"}.items():
        tenant.pulumi("config", "set", f"keyshift:{name}", value)
    cloud.up(tenant.stack)
    key = cloud.give_key(tenant.name)
    assert key.next == f"keyshift resume {tenant.name}"
    tenant.keyshift("resume")
    loaded = tenant.import_(records=records(10), attachments=ATTACHMENTS)
    tenant.wait_until_indexed(loaded["records"] + loaded["attachments"])
    home = moved.home_of(tenant)
    done = tenant.keyshift("remove", "--json")
    yield Removed(tenant, key, home, done)
    tenant.shut_down()


def test_everything_is_under_the_vendors_key_again_and_nothing_is_left_behind(removed: Removed) -> None:
    tenant, cloud = removed.tenant, removed.tenant.cloud
    report = removed.done.json()
    assert (report["state"], report["left_behind"]) == ("done", 0)
    layout = tenant.layout()
    assert (layout["mode"], layout["serves"]) == ("standard", {"storage": "s2", "search": "e2", "pipeline": "p2"})
    assert [(key["id"], key["state"]) for key in layout["keys"]] == [("k1", "archived")]
    now = moved.contents(tenant.storage("s2", "runner"))
    assert {name: [v.kept for v in versions] for name, versions in now.items()} == {
        name: [v.kept for v in versions] for name, versions in removed.home.contents.items()
    }
    vendor = cloud.pulumi("stack", "output", "vendor_key_arn", "-s", STAMP).out.strip()
    stored = {v.key_arn for versions in now.values() for v in versions if not v.is_delete_marker}
    assert stored == {vendor}
    assert removed.home.prefix == "", "it came from a bucket of its own"
    found = moved.resources(tenant)
    assert (found["buckets"], found["deployments"]) == ([], [f"{tenant.name}-e2"])
    moved.assert_documents(tenant)
    tenant.pulumi("preview", "--expect-no-changes")


def test_there_is_nothing_more_to_remove(removed: Removed) -> None:
    again = removed.tenant.keyshift("remove", "--json", check=False)
    assert (again.code, again.json()["error"]["code"]) == (2, "no-customer-key")


def test_at_its_end_nothing_of_the_tenant_is_left_but_its_proofs(removed: Removed) -> None:
    tenant, cloud = removed.tenant, removed.tenant.cloud
    unconfirmed = tenant.keyshift("delete", "--json", check=False)
    assert (unconfirmed.code, unconfirmed.json()["error"]["code"]) == (2, "not-confirmed")
    side = tenant.storage("s2", "runner")
    upload = {"Bucket": side.storage.bucket, "Key": f"{side.storage.prefix}attachments/half"}
    side.s3.create_multipart_upload(**upload)

    ended = tenant.keyshift("delete", "--confirm", tenant.name, "--json").json()

    assert (ended["state"], ended["left_behind"]) == ("done", 0)
    operator = type(side)(cloud.client("s3"), side.storage)
    assert list(list_versions(operator)) == []
    assert list(list_uploads(operator)) == []
    assert cloud.deployments(tenant.name) == {}
    assert tenant.stack not in cloud.pulumi("stack", "ls", "--json").out
    assert not (cloud.project / f"Pulumi.{tenant.stack}.yaml").exists()
    state = cloud.client("kms").describe_key(KeyId=removed.key.arn)["KeyMetadata"]["KeyState"]
    assert state == "PendingDeletion", "for whoever deleted the wrong tenant: KMS waits a week or more"
    proofs = [path.name for path in (cloud.home / "tenants" / tenant.name / "verdicts").glob("*.json")]
    assert {f"{tenant.name}-delete-1-inventory.json", f"{tenant.name}-delete-1-purge.json"} <= set(proofs)
    gone = tenant.keyshift("tenant", "show", check=False)
    assert gone.code == 2
    again = tenant.keyshift("tenant", "create", "--customer", "life-corp", check=False)
    assert again.code == 2, "a name used again would find old proofs and old events"
