"""The main job on real servers: a living tenant is moved under its customer's key, looked at from all sides.

One move for the whole file: `move` carries it out and notes what was seen on the way. The account's administrator,
whom no role of the tenant's binds, writes past the closed gate once both copies are proven: that stops the move, is
kept, and a resume takes it in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import moved
import pytest
from cloud import Cloud, Done, Jobs, Key, Tenant, records, until
from moved import Home, refused_with
from standstill import STEP_SECONDS, stop_in

from migrate import archive
from migrate.copy.s3 import list_versions

LATE = "records/late/after-the-cut-off.json"
LATE_WORD = "Zyzzyva"
RETAGGED, UNTAGGED, OLD_RETAGGED = "attachments/deep/er/file.bin", "attachments/.hidden", "records/people/p003.json"
"""Given a tag, stripped of its tags, given one on its first version, after all of it had been copied and compared."""
PAST, HELD = "records/late/past-the-gate.json", "attachments/letter.html"
"""Written, and given a tag, after both copies were proven."""
COPIED = ("build/5-fill", "build/6-copy")
"""Steps in which jobs still run, and everything that was there has been copied and compared."""


@dataclass(frozen=True)
class Frozen:
    """What was seen while the gate was closed and the runner stood still."""

    search: Mapping[str, Any]
    late_search: Mapping[str, Any]
    late_is_indexed: bool
    alias_filter: Mapping[str, Any]
    refusals: Mapping[str, str]
    status: Mapping[str, Any]
    destroy: Done
    preview: Done


@dataclass(frozen=True)
class Stopped:
    """What was seen after the write past the gate had stopped the move."""

    done: Done
    status: Mapping[str, Any]
    layout: Mapping[str, Any]
    settled: Mapping[str, Any]
    before: moved.Contents
    after: moved.Contents
    """The old storage before the move was let go on, and once it had stopped."""


@dataclass(frozen=True)
class Move:
    tenant: Tenant
    key: Key
    home: Home
    preview_before: Done
    untouched: tuple[Any, Any]
    """Everything that exists, before and after the dry run."""
    dry_run: Mapping[str, Any]
    frozen: Frozen
    stopped: Stopped
    report: Mapping[str, Any]
    jobs: Jobs
    search_before: Mapping[str, Any]

    @property
    def added(self) -> dict[str, Any]:
        """What was archived while the move ran: by the job, and the one record after the cut-off."""
        return {**self.jobs.archived(), LATE: {"word": LATE_WORD}, PAST: {"word": "past the gate"}}


@pytest.fixture(scope="module")
def move(cloud: Cloud) -> Iterator[Move]:
    tenant = _living_tenant(cloud)
    upload = _begun_upload(tenant)
    key = cloud.give_key(tenant.name)
    home = moved.home_of(tenant)
    preview_before = tenant.pulumi("preview", "--expect-no-changes")
    before = _everything(tenant)
    dry_run = tenant.keyshift("enable", "--dry-run", "--json").json()
    untouched = (before, _everything(tenant))
    search_before = tenant.keyshift("search", "Boeing", "--json").json()
    with tenant.jobs() as jobs:
        runner = cloud.start("keyshift", "enable", tenant.name, "--json")
        try:
            _retag_while_jobs_run(tenant, runner)
            frozen = _look_while_frozen(tenant, runner, upload)
            runner.send_signal(signal.SIGCONT)
            stopped = _write_past_the_gate(tenant, runner)
        finally:
            runner.kill()
            runner.communicate(timeout=STEP_SECONDS)
        resumed = tenant.keyshift("resume", "--json", seconds=STEP_SECONDS)
        accepted = len(jobs.archived())
        until(lambda: len(jobs.archived()) > accepted, "jobs to go on after the move", 60)
    yield Move(
        tenant, key, home, preview_before, untouched, dry_run, frozen, stopped, resumed.json(), jobs, search_before
    )
    tenant.shut_down()


def _living_tenant(cloud: Cloud) -> Tenant:
    """With a history: second revisions, a deleted record, one that came back, tags, headers."""
    tenant = cloud.tenant("move")
    tenant.import_(records=records(revision=2))
    side = tenant.storage("s1", "archive")
    for id in ("p001", "p002"):
        archive.delete_record(side, "people", id)
    archive.write_record(side, "people", "p002", {"name": "Person 2 of Boeing", "note": "came back"})
    place = {"Bucket": side.storage.bucket, "Key": f"{side.storage.prefix}attachments/.hidden"}
    side.s3.put_object_tagging(**place, Tagging={"TagSet": [{"Key": "legal hold", "Value": "yes: Zürich + 1"}]})
    metadata = {"archived-at": "2024-02-29T12:00:00.000Z", "revision": "1"}
    letter = {**place, "Key": f"{side.storage.prefix}attachments/letter.html"}
    headers = {"ContentType": "text/html; charset=utf-8", "CacheControl": "no-store", "ContentLanguage": "de"}
    side.s3.put_object(**letter, Body=b"<p>Z\xc3\xbcrich", Metadata=metadata, ChecksumAlgorithm="SHA256", **headers)
    tenant.expected += 1 - 1  # the letter came, one record went
    tenant.wait_until_indexed(tenant.expected)
    return tenant


def _begun_upload(tenant: Tenant) -> dict[str, Any]:
    """What it takes to complete an upload that is begun, and could be completed at any time."""
    side = tenant.storage("s1", "archive")
    place = {"Bucket": side.storage.bucket, "Key": f"{side.storage.prefix}attachments/.hidden"}
    id = side.s3.create_multipart_upload(**place)["UploadId"]
    part = side.s3.upload_part(**place, UploadId=id, PartNumber=1, Body=b"begun before the freeze")
    return {"UploadId": id, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}}


def _everything(tenant: Tenant) -> Any:
    """All that a dry run could have changed."""
    state = tenant.pulumi("stack", "export").out
    file = (tenant.cloud.project / f"Pulumi.{tenant.stack}.yaml").read_bytes()
    with sqlite3.connect(tenant.cloud.home / "keyshift.db") as database:
        rows = [database.execute(f"SELECT * FROM {table}").fetchall() for table in ("tenants", "operations")]
    folders = sorted(path.relative_to(tenant.folder).as_posix() for path in tenant.folder.rglob("*"))
    hashes = [hashlib.sha256(part).hexdigest() for part in (state.encode(), file)]
    return moved.resources(tenant), hashes, rows, folders


def _look_while_frozen(tenant: Tenant, runner: subprocess.Popen[str], upload: Mapping[str, Any]) -> Frozen:
    """The runner is stopped in the middle of the freeze, so that nothing that is seen is a matter of luck."""
    stop_in(tenant, runner, "freeze/2-settle")
    admin, filter_ = tenant.search("e1"), tenant.search("e1").indices.get_alias(name="records").body
    # An instant after the cut-off, by the one writer that the cloud still lets in.
    archive.write_record(tenant.storage("s1", "runner"), "late", "after-the-cut-off", {"word": LATE_WORD})
    until(lambda: admin.exists(index=moved.INDEX, id="late/after-the-cut-off"), "the late record's document", 60)
    admin.indices.refresh(index=moved.INDEX)
    found = admin.count(index=moved.INDEX, query={"match": {"text": LATE_WORD}})["count"]
    return Frozen(
        search=tenant.keyshift("search", "Boeing", "--json").json(),
        late_search=tenant.keyshift("search", LATE_WORD, "--json").json(),
        late_is_indexed=found == 1,
        alias_filter=filter_[moved.INDEX]["aliases"]["records"]["filter"],
        refusals=_writes_by_archive(tenant, upload),
        status=tenant.keyshift("status", "--json").json(),
        destroy=tenant.pulumi("destroy", "--yes", check=False),
        preview=tenant.pulumi("preview", check=False),
    )


def _write_past_the_gate(tenant: Tenant, runner: subprocess.Popen[str]) -> Stopped:
    """A record and a tag, after both copies were proven and before the new side serves."""
    stop_in(tenant, runner, "attach/1-limit-search", "attach/2-canary")
    admin = tenant.storage("s1")
    archive.write_record(admin, "late", "past-the-gate", {"word": "past the gate"})
    new = {"TagSet": [{"Key": "hold", "Value": "past the gate"}]}
    admin.s3.put_object_tagging(Bucket=admin.storage.bucket, Key=admin.storage.prefix + HELD, Tagging=new)
    before = moved.contents(admin)
    runner.send_signal(signal.SIGCONT)
    out, err = runner.communicate(timeout=STEP_SECONDS)
    done = Done(("keyshift", "enable"), runner.returncode, out, err, 0.0)
    query = "SELECT results FROM operations WHERE tenant = ? ORDER BY started_at DESC LIMIT 1"
    with contextlib.closing(sqlite3.connect(tenant.cloud.home / "keyshift.db", timeout=10)) as database:
        results = json.loads(database.execute(query, (tenant.name,)).fetchone()[0])
    status = tenant.keyshift("status", "--json").json()
    return Stopped(done, status, tenant.layout(), results["freeze/2-settle"], before, moved.contents(admin))


def _retag_while_jobs_run(tenant: Tenant, runner: subprocess.Popen[str]) -> None:
    """Tags that change after their objects were copied and compared: that moves no ETag and makes no version."""
    side, admin = tenant.storage("s1", "archive"), tenant.storage("s1")
    oldest = next(e.version_id for e in reversed(list(list_versions(admin, OLD_RETAGGED))))
    stop_in(tenant, runner, *COPIED)
    bucket, prefix = side.storage.bucket, side.storage.prefix
    new = {"TagSet": [{"Key": "hold", "Value": "since the copy"}]}
    side.s3.put_object_tagging(Bucket=bucket, Key=prefix + RETAGGED, Tagging=new)
    side.s3.delete_object_tagging(Bucket=bucket, Key=prefix + UNTAGGED)
    # Archive's role may tag what is current; the rest is the account's administrator's.
    admin.s3.put_object_tagging(Bucket=bucket, Key=prefix + OLD_RETAGGED, VersionId=oldest, Tagging=new)
    runner.send_signal(signal.SIGCONT)


def _writes_by_archive(tenant: Tenant, upload: Mapping[str, Any]) -> dict[str, str]:
    """What the Archive service's role may still do to its storage: the code of each refusal."""
    side = tenant.storage("s1", "archive")
    place = {"Bucket": side.storage.bucket, "Key": f"{side.storage.prefix}attachments/.hidden"}
    return {
        "PutObject": refused_with(lambda: side.s3.put_object(**place, Body=b"too late")),
        "DeleteObject": refused_with(lambda: side.s3.delete_object(**place)),
        "PutObjectTagging": refused_with(lambda: side.s3.put_object_tagging(**place, Tagging={"TagSet": []})),
        "CreateMultipartUpload": refused_with(lambda: side.s3.create_multipart_upload(**place)),
        "CompleteMultipartUpload": refused_with(lambda: side.s3.complete_multipart_upload(**place, **upload)),
        "CopyObject": refused_with(lambda: side.s3.copy_object(**place, CopySource=dict(place))),
        "GetObject": refused_with(lambda: side.s3.get_object(**place)),
    }


# the plan -------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(move: Move) -> None:
    before, after = move.untouched
    assert before == after
    assert [phase["name"] for phase in move.dry_run["phases"]] == [
        "key", "build", "freeze", "attach", "serve", "purge", "drop",
    ]  # fmt: skip


def test_a_preview_shows_no_change_before_and_after(move: Move) -> None:
    assert "unchanged" in move.preview_before.out
    move.tenant.pulumi("preview", "--expect-no-changes")


# the data -------------------------------------------------------------------------------------


def test_nothing_is_lost_doubled_or_altered_in_the_storage(move: Move) -> None:
    history = [len(versions) for versions in move.home.contents.values()]
    assert max(history) == 3, "the test's own history: one record was written, deleted and written again"
    side = move.tenant.storage("s2", "runner")
    now = moved.contents(side)
    retagged = {key: now[key] for key in (RETAGGED, UNTAGGED, OLD_RETAGGED, HELD)}  # has a test of its own
    home = replace(move.home, contents={**move.home.contents, **retagged})
    moved.assert_contents(move.tenant, home, move.key, move.added)


def test_a_tag_that_is_set_after_its_object_was_copied_is_kept(move: Move) -> None:
    was, now = move.home.contents, moved.contents(move.tenant.storage("s2", "runner"))
    for key, ordinal in ((RETAGGED, -1), (OLD_RETAGGED, 0)):
        assert dict(was[key][ordinal].tags) == {}
        assert now[key][ordinal] == replace(
            was[key][ordinal], tags=(("hold", "since the copy"),), key_arn=move.key.arn, has_bucket_key=False
        )
    assert len(now[OLD_RETAGGED]) == len(was[OLD_RETAGGED]) > 1, "the tag is an older version's"
    assert dict(was[UNTAGGED][-1].tags) != dict(now[UNTAGGED][-1].tags) == {}, "tags that are taken away are gone"


def test_every_object_has_its_document_and_no_other_is_there(move: Move) -> None:
    moved.assert_documents(move.tenant)


def test_nothing_is_left_of_the_old_home(move: Move) -> None:
    moved.assert_old_home_is_gone(move.tenant, move.home)
    assert move.report["left_behind"] == 0


def test_jobs_wrote_before_and_after_and_were_refused_meanwhile(move: Move) -> None:
    writes = [one["code"] for one in move.jobs.attempts("write")]
    assert writes[0] == ""
    assert writes[-1] == ""
    assert set(writes) == {"", "AccessDenied"}, "a refusal is the cloud's, and nothing else goes wrong for a job"
    closed = move.report["jobs_disabled_seconds"]
    assert 0 < closed < move.report["seconds"]


def test_the_report_counts_what_is_there(move: Move) -> None:
    # The job went on after the last verification.
    verified = sum(len(versions) for versions in move.home.contents.values())
    assert move.report["storage"]["versions"] >= verified + 1
    assert move.report["storage"]["verified"] == move.report["storage"]["versions"]
    assert move.report["index"]["expected"] == move.report["index"]["found"]


# the freeze -----------------------------------------------------------------------------------


def test_while_the_gate_is_closed_the_cloud_refuses_every_write_of_archive(move: Move) -> None:
    refusals = dict(move.frozen.refusals)
    assert refusals.pop("GetObject") == "", "reading goes on"
    assert refusals.pop("CompleteMultipartUpload") in {"AccessDenied", "NoSuchUpload"}, "settling may have aborted it"
    assert set(refusals.values()) == {"AccessDenied"}, refusals


def test_while_the_gate_is_closed_searches_see_what_was_archived_before(move: Move) -> None:
    frozen = move.frozen
    assert frozen.late_is_indexed, "the record after the cut-off has a document, so that only the alias hides it"
    assert frozen.late_search["total"] == 0
    assert frozen.late_search["cutoff"] == frozen.search["cutoff"]
    assert frozen.search["total"] == move.search_before["total"] > 0
    limits = [part["range"]["archived_at"]["lt"] for part in frozen.alias_filter["bool"]["filter"]]
    assert len(limits) == 1
    assert move.tenant.keyshift("search", LATE_WORD, "--json").json()["total"] == 1, "seen again after the move"


def test_searches_are_answered_before_during_and_after(move: Move) -> None:
    searches = move.jobs.attempts("search")
    assert [one for one in searches if one["code"]] == []
    assert {one["search"] for one in searches} == {"e1", "e2"}
    assert any(one["cutoff"] for one in searches)
    after = move.tenant.keyshift("search", "Boeing", "--json").json()
    assert (after["search"], after["cutoff"]) == ("e2", None)
    assert after["total"] == move.search_before["total"]


def test_while_an_operation_runs_the_status_says_where_and_nobody_else_may_act(move: Move) -> None:
    status = move.frozen.status
    assert (status["jobs"], status["operation"]["step"]) == ("closed", "freeze/2-settle")
    assert move.frozen.preview.code != 0
    assert "is being worked on by" in move.frozen.preview.out + move.frozen.preview.err
    assert move.frozen.destroy.code != 0


# past the closed gate -------------------------------------------------------------------------


def test_the_freeze_heard_its_own_tag_change_and_did_not_read_every_tag(move: Move) -> None:
    assert move.stopped.settled["uploads_aborted"] == 1
    assert move.stopped.settled["tags"]["swept"] is False
    assert move.stopped.settled["dead_letters"] == {}
    assert set(move.stopped.settled["refused_after"]) == {"archive"}


def test_a_write_past_the_gate_stops_the_operation_before_the_new_side_serves(move: Move) -> None:
    stopped = move.stopped
    assert stopped.done.code == 1, stopped.done.text
    assert stopped.done.json()["error"]["code"] == "late-write"
    assert PAST in stopped.status["operation"]["message"]
    assert f"keyshift resume {move.tenant.name}" in stopped.status["operation"]["hint"]
    assert (stopped.status["operation"]["step"], stopped.status["jobs"]) == ("attach/3-still-settled", "closed")
    assert stopped.layout["serves"]["storage"] == "s1"


def test_a_write_past_the_gate_is_kept(move: Move) -> None:
    assert move.stopped.after == move.stopped.before, "nothing of the old storage was touched"
    assert PAST in move.stopped.after


def test_a_resume_settles_anew_and_takes_in_what_came_late(move: Move) -> None:
    now = moved.contents(move.tenant.storage("s2", "runner"))
    assert PAST in now
    assert now[HELD][-1].tags == (("hold", "past the gate"),)
    assert move.tenant.keyshift("operations", "--json").json()[0]["state"] == "done"


# what was made --------------------------------------------------------------------------------


def test_the_bucket_has_every_property_of_a_dedicated_one(move: Move) -> None:
    moved.assert_bucket(move.tenant, move.key)


def test_the_deployment_is_encrypted_with_the_key_by_its_arn(move: Move) -> None:
    moved.assert_deployment(move.tenant, move.key)


def test_exactly_the_new_side_exists_and_each_resource_once(move: Move) -> None:
    moved.assert_resources(move.tenant, keys=1)


def test_the_verdicts_are_stored_and_signed_and_the_logs_chain_holds(move: Move) -> None:
    moved.assert_proven(move.tenant)


@pytest.mark.parametrize("how", [(), ("--run-program",)], ids=["plain", "run-program"])
def test_a_destroy_by_hand_is_refused_and_destroys_nothing(move: Move, how: tuple[str, ...]) -> None:
    before = moved.resources(move.tenant)
    destroyed = move.tenant.pulumi("destroy", "--yes", *how, check=False)
    assert destroyed.code != 0
    assert moved.resources(move.tenant) == before
    move.tenant.pulumi("preview", "--expect-no-changes")


# the key decides ------------------------------------------------------------------------------


def test_a_disabled_key_makes_data_unreadable_and_an_enabled_one_readable_again(move: Move) -> None:
    tenant, kms = move.tenant, move.tenant.cloud.client("kms")
    side, client = tenant.storage("s2", "archive"), tenant.search("e2", "archive")
    deployment = tenant.cloud.deployments()[f"{tenant.name}-e2"]

    def phase() -> str:
        return tenant.cloud.elastic("GET", f"/deployments/{deployment}")["_sandbox"]["phase"]

    def read() -> str:
        return refused_with(lambda: side.s3.get_object(Bucket=side.storage.bucket, Key="attachments/.hidden"))

    assert read() == ""
    kms.disable_key(KeyId=move.key.arn)
    try:
        assert read() == "KMS.DisabledException"
        until(lambda: phase() == "locked", "the deployment to lock", 60)
        assert tenant.keyshift("search", "Boeing", check=False).code == 1
    finally:
        kms.enable_key(KeyId=move.key.arn)
    assert read() == ""
    until(lambda: phase() == "started", "the deployment to open", 120)
    until(lambda: client.options(ignore_status=503).search(index="records").get("hits"), "the search to answer", 60)
    assert tenant.keyshift("search", "Boeing", "--json").json()["total"] == move.search_before["total"]
