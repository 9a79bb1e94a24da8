"""The vendor's key of a stamp is rotated on real servers, under a tenant whose jobs go on. A stamp of its own."""

from __future__ import annotations

import json

import moved
from cloud import ATTACHMENTS, Cloud, Tenant, records
from standstill import STEP_SECONDS

from migrate.copy.s3 import list_versions

STAMP = "stamp-aws-eu-west-1-09"


def output(cloud: Cloud, name: str) -> str:
    return cloud.pulumi("stack", "output", name, "-s", STAMP).out.strip()


def test_everything_of_a_stamp_comes_under_its_new_key_and_the_old_one_is_archived(cloud: Cloud) -> None:
    cloud.pulumi("stack", "init", STAMP)
    cloud.up(STAMP)
    tenant = Tenant(cloud, cloud.new_name("stamp"))
    try:
        tenant.keyshift("tenant", "create", "--customer", "stamp-corp", "--stamp", STAMP)
        loaded = tenant.import_(records=records(6), attachments=ATTACHMENTS)
        tenant.wait_until_indexed(loaded["records"] + loaded["attachments"])
        old = output(cloud, "vendor_key_arn")
        before = moved.contents(tenant.storage("s1", "runner"))
        assert {v.key_arn for versions in before.values() for v in versions} == {old}

        with tenant.jobs() as jobs:
            done = cloud.keyshift("stamp", "rotate", STAMP, "--json", seconds=2 * STEP_SECONDS).json()

        assert jobs.archived(), "no job ran while the key was rotated"
        codes = {one["code"] for one in jobs.attempts("write")}
        assert codes == {""}, "a job met a key that its role could not use yet"
        new = output(cloud, "vendor_key_arn")
        assert (done["from"], done["to"], done["left"], done["searches"]) == (old, new, 0, [tenant.name])
        assert new != old
        assert json.loads(output(cloud, "vendor_key_arns")) == [new], "no role may use the old one any more"
        side = tenant.storage("s1", "runner")
        assert {
            side.s3.head_object(Bucket=side.storage.bucket, Key=side.storage.prefix + e.key, VersionId=e.version_id)[
                "SSEKMSKeyId"
            ]
            for e in list_versions(side)
            if not e.is_delete_marker
        } == {new}
        assert tenant.layout()["serves"]["search"] == "e2"
        shown = cloud.elastic("GET", f"/deployments/{cloud.deployments()[f'{tenant.name}-e2']}")
        assert shown["settings"]["byok"]["key_resource_path"] == new
        cloud.client("kms").disable_key(KeyId=old)
        assert set(before) <= set(moved.contents(side)), "all of it is read without the old key"
        tenant.pulumi("preview", "--expect-no-changes")
        cloud.pulumi("preview", "-s", STAMP, "--expect-no-changes")
        again = cloud.keyshift("stamp", "rotate", STAMP, "--dry-run", "--json").json()
        assert (again["goes_on"], again["vendor_key"], again["new_vendor_key"]) == (False, new, 3)
    finally:
        tenant.shut_down()
