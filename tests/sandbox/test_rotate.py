"""A rotation on real servers: jobs write all the time, the runner is killed in the middle, nothing is left under the old key.

One rotation for the whole file: `rotated` carries it out and notes what was seen on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import moved
import pytest
from cloud import Cloud, Done, Jobs, Key, Tenant, records, until
from standstill import STEP_SECONDS, stop_in

from migrate import archive
from migrate.copy.s3 import list_versions

PART = 5 * 1024 * 1024
BOEING = 9
"""Of 20 people each second one is Boeing's, and one of them was deleted."""
LARGE, UPLOAD = "attachments/large.bin", "attachments/begun-under-the-old-key.bin"


@dataclass(frozen=True)
class Rotated:
    tenant: Tenant
    old: Key
    new: Key
    contents: moved.Contents
    version_ids: frozenset[tuple[str, str]]
    pending: Mapping[str, Any]
    dry_run: Mapping[str, Any]
    midway: Mapping[str, Any]
    """`status` and a search while the runner stood in the middle of the re-key, and keys of what lay there then."""
    report: Mapping[str, Any]
    jobs: Jobs
    preview: Done


@pytest.fixture(scope="module")
def rotated(cloud: Cloud) -> Iterator[Rotated]:
    tenant, old = _byok_tenant(cloud)
    contents, ids = moved.contents(tenant.storage("s1", "runner")), _version_ids(tenant)
    new = cloud.give_key(tenant.name)
    pending = tenant.keyshift("status", "--json").json()
    dry_run = tenant.keyshift("rotate", "--dry-run", "--no-preview", "--json").json()
    with tenant.jobs() as jobs:
        runner = cloud.start("keyshift", "rotate", tenant.name, "--json")
        try:
            stop_in(tenant, runner, "redirect/2-rekey", "redirect/3-drain")
            midway = {
                "status": tenant.keyshift("status", "--json").json(),
                "search": tenant.keyshift("search", "Boeing", "--json").json(),
            }
            accepted = len(jobs.archived())
            until(lambda: len(jobs.archived()) > accepted, "a job to write while versions are re-keyed", 60)
        finally:
            runner.kill()
            runner.communicate(timeout=STEP_SECONDS)
        report = tenant.keyshift("resume", "--json", seconds=STEP_SECONDS).json()
        accepted = len(jobs.archived())
        until(lambda: len(jobs.archived()) > accepted, "jobs to go on after the rotation", 60)
    preview = tenant.pulumi("preview", "--expect-no-changes")
    yield Rotated(tenant, old, new, contents, ids, pending, dry_run, midway, report, jobs, preview)
    tenant.shut_down()


def _byok_tenant(cloud: Cloud) -> tuple[Tenant, Key]:
    """With a history: an object of five versions, a deleted record, an object in parts, an upload under way."""
    tenant = Tenant(cloud, cloud.new_name("turn"))
    created = tenant.keyshift("tenant", "create", "--customer", "turn-corp", "--mode", "byok", check=False)
    assert created.code == 3, created.text
    key = cloud.give_key(tenant.name)
    tenant.keyshift("resume")
    tenant.import_(records=records(20))
    side = tenant.storage("s1", "archive")
    for number in range(4):
        archive.write_record(side, "people", "p001", {"name": "Person 1", "note": f"revision {number}"})
    archive.delete_record(side, "people", "p002")
    place = {"Bucket": side.storage.bucket, "Key": LARGE}
    metadata = {"archived-at": "2024-02-29T12:00:00.000Z", "revision": "1"}
    id = side.s3.create_multipart_upload(**place, Metadata=metadata)["UploadId"]
    parts = [
        {
            "PartNumber": n,
            "ETag": side.s3.upload_part(**place, UploadId=id, PartNumber=n, Body=bytes([n]) * size)["ETag"],
        }
        for n, size in ((1, PART), (2, 1000))
    ]
    side.s3.complete_multipart_upload(**place, UploadId=id, MultipartUpload={"Parts": parts})
    side.s3.create_multipart_upload(Bucket=side.storage.bucket, Key=UPLOAD)
    tenant.expected = 20  # one record went, one attachment came
    tenant.wait_until_indexed(tenant.expected)
    return tenant, key


def _version_ids(tenant: Tenant) -> frozenset[tuple[str, str]]:
    return frozenset((entry.key, entry.version_id) for entry in list_versions(tenant.storage("s1", "runner")))


def test_an_upload_asks_for_a_rotation_and_the_dry_run_plans_it(rotated: Rotated) -> None:
    assert rotated.pending["pending_rotation"]["key"] == "k2"
    assert rotated.new.next == f"keyshift rotate {rotated.tenant.name}"
    names = [phase["name"] for phase in rotated.dry_run["phases"]]
    assert names == ["key", "build", "redirect", "serve", "purge", "drop"]
    assert rotated.dry_run["price"]["bytes_copied"] == 0
    assert rotated.dry_run["preflight"]["obstacles"] == []


def test_midway_jobs_are_open_and_searches_see_what_was_archived_before(rotated: Rotated) -> None:
    status = rotated.midway["status"]
    assert status["jobs"] == "open"
    assert status["searches"].startswith("archived before")
    assert rotated.midway["search"]["total"] == BOEING
    assert rotated.midway["search"]["cutoff"] is not None
    assert status["pending_rotation"] is None


def test_no_job_was_refused_and_searches_see_all_again(rotated: Rotated) -> None:
    assert {one["code"] for one in rotated.jobs.attempts("write")} == {""}, "jobs go on during a rotation"
    assert rotated.report["jobs_disabled_seconds"] is None
    searches = [one for one in rotated.jobs.attempts("search") if not one["code"]]
    assert (searches[0]["search"], searches[-1]["search"], searches[-1]["cutoff"]) == ("e1", "e2", None)
    assert any(one["cutoff"] for one in searches)


def test_every_version_is_what_it_was_where_it_was_under_the_new_key(rotated: Rotated) -> None:
    tenant = rotated.tenant
    assert max(len(versions) for versions in rotated.contents.values()) == 5
    assert {v.key_arn for vs in rotated.contents.values() for v in vs if not v.is_delete_marker} == {rotated.old.arn}
    now, added = moved.contents(tenant.storage("s1", "runner")), rotated.jobs.archived()
    assert set(now) == set(rotated.contents) | set(added)
    for name, versions in rotated.contents.items():
        assert [v.kept for v in now[name]] == [v.kept for v in versions], f"{name} is not what it was"
    assert rotated.version_ids <= _version_ids(tenant), "in place: nothing was copied"
    stored = [version for versions in now.values() for version in versions if not version.is_delete_marker]
    assert {(v.key_arn, v.has_bucket_key) for v in stored} == {(rotated.new.arn, False)}
    assert rotated.report["drained"]["versions"] <= len(stored)
    assert rotated.report["rekeyed"]["rekeyed"] + rotated.report["rekeyed"]["already"] > 0


def test_an_upload_that_was_begun_under_the_old_key_is_aborted(rotated: Rotated) -> None:
    assert moved.uploads(rotated.tenant.storage("s1")) == []


def test_the_new_search_serves_and_nothing_of_the_old_one_is_left(rotated: Rotated) -> None:
    tenant = rotated.tenant
    tenant.wait_until_indexed(tenant.expected + len(rotated.jobs.archived()))
    moved.assert_documents(tenant, "s1")
    moved.assert_resources(tenant, keys=2, storage="s1")
    moved.assert_deployment(tenant, rotated.new)
    layout = tenant.layout()
    assert layout["serves"] == {"storage": "s1", "search": "e2", "pipeline": "p2"}
    assert [(key["id"], key["state"]) for key in layout["keys"]] == [("k1", "archived"), ("k2", "active")]
    assert [dropped["id"] for dropped in layout["dropped"]] == ["e1", "p1"]
    assert "unchanged" in rotated.preview.out


def test_the_proofs_are_signed_and_hold(rotated: Rotated) -> None:
    listed = rotated.tenant.keyshift("verdict", "list", "--json").json()
    assert {one["kind"] for one in listed} == {"index", "drained"}
    drained = next(one for one in listed if one["kind"] == "drained")
    assert (drained["subject"], drained["details"]["from"]) == ("k1", rotated.old.arn)
    layout = rotated.tenant.layout()
    assert layout["keys"][0]["archived_under"] == drained["id"], "what archives the key is named with it"
    checked = rotated.tenant.keyshift("verdict", "check", "--json").json()
    assert {one["result"] for one in checked["checks"]} == {"holds"}, checked


def test_with_the_old_key_disabled_everything_is_still_readable(rotated: Rotated) -> None:
    kms, tenant = rotated.tenant.cloud.client("kms"), rotated.tenant
    kms.disable_key(KeyId=rotated.old.arn)
    try:
        runner = tenant.client("runner", "kms")
        code = moved.refused_with(lambda: runner.generate_data_key(KeyId=rotated.old.arn, KeySpec="AES_256"))
        assert code == "DisabledException", "the key is really out of use"
        found = moved.contents(tenant.storage("s1", "runner"))
        assert set(rotated.contents) <= set(found)
        side = tenant.storage("s1", "archive")
        for name, versions in found.items():
            assert (archive.read(side, name) is None) == versions[-1].is_delete_marker
        assert tenant.keyshift("search", "Boeing", "--json").json()["total"] == BOEING
    finally:
        kms.enable_key(KeyId=rotated.old.arn)
