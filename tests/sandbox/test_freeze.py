"""A write past the closed gate on real servers: it stops the move, is kept, and a resume takes it in.

One move for the whole file. The account's administrator, whom no role of the tenant's binds, writes after both
copies are proven and before the new side serves.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import moved
import pytest
from cloud import Cloud, Done, Key, Tenant, until
from elasticsearch import ApiError
from moved import Home, refused_with
from standstill import STEP_SECONDS, stop_in

from migrate import archive
from migrate.copy.s3 import Side

EDITED = "records/people/p001.json"
LATE, BEGUN, TAGGED = "records/late/one.json", "attachments/begun.bin", "attachments/deep/er/file.bin"
PART = b"begun before the freeze"


@dataclass(frozen=True)
class LateWrite:
    tenant: Tenant
    key: Key
    home: Home
    """With what came late."""
    refusals: Mapping[str, str]
    stopped: Done
    status: Mapping[str, Any]
    layout: Mapping[str, Any]
    settled: Mapping[str, Any]
    old_home: moved.Contents
    """The old storage after the operation had stopped."""
    resumed: Done
    edit_while_frozen: Done
    block: str
    """What Elasticsearch answers Archive that goes past the gate's client with an edit."""


@pytest.fixture(scope="module")
def late(cloud: Cloud) -> Iterator[LateWrite]:
    tenant = cloud.tenant("late")
    upload = _begun_upload(tenant.storage("s1", "archive"))
    key = cloud.give_key(tenant.name)
    # So that nothing but the freeze itself takes the edit in.
    cloud.client("events").disable_rule(Name=f"keyshift-{tenant.name}-p1-ticks")
    tenant.keyshift("archive", "edit", "people", "p001", "--note", "just before the freeze")
    runner = cloud.start("keyshift", "enable", tenant.name, "--json")
    try:
        stop_in(tenant, runner, "attach/1-limit-search", "attach/2-canary")
        refusals = _uploads_by_archive(tenant, upload)
        edit_while_frozen = tenant.keyshift("archive", "edit", "people", "p002", "--note", "late", check=False)
        block = _edit_past_the_client(tenant)
        admin = tenant.storage("s1")
        archive.write_record(admin, "late", "one", {"word": "past the gate"})
        new = {"TagSet": [{"Key": "hold", "Value": "past the gate"}]}
        admin.s3.put_object_tagging(Bucket=admin.storage.bucket, Key=admin.storage.prefix + TAGGED, Tagging=new)
        home = moved.home_of(tenant)
    finally:
        runner.send_signal(signal.SIGCONT)
        out, err = runner.communicate(timeout=STEP_SECONDS)
    stopped = Done(("keyshift", "enable"), runner.returncode, out, err, 0.0)
    status, layout = tenant.keyshift("status", "--json").json(), tenant.layout()
    settled = _results(tenant)["freeze/2-settle"]
    old_home = moved.contents(tenant.storage("s1"))
    resumed = tenant.keyshift("resume", "--json")
    yield LateWrite(
        tenant, key, home, refusals, stopped, status, layout, settled, old_home, resumed, edit_while_frozen, block
    )
    tenant.shut_down()


def _edit_past_the_client(tenant: Tenant) -> str:
    try:
        tenant.search("e1", "archive").create(index="edits-000001", id="late", document={"key": EDITED})
    except ApiError as error:
        return error.message
    return ""


def _results(tenant: Tenant) -> dict[str, Any]:
    """Step -> what it found, of the tenant's newest operation."""
    query = "SELECT results FROM operations WHERE tenant = ? ORDER BY started_at DESC LIMIT 1"
    with contextlib.closing(sqlite3.connect(tenant.cloud.home / "keyshift.db", timeout=10)) as database:
        return json.loads(database.execute(query, (tenant.name,)).fetchone()[0])


def _begun_upload(side: Side) -> dict[str, Any]:
    place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + BEGUN}
    id = side.s3.create_multipart_upload(**place)["UploadId"]
    part = side.s3.upload_part(**place, UploadId=id, PartNumber=1, Body=PART)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    return {**place, "UploadId": id, "MultipartUpload": parts}


def _uploads_by_archive(tenant: Tenant, upload: Mapping[str, Any]) -> dict[str, str]:
    """How far an upload comes that was begun before the freeze: by its owner, and by who may do anything."""
    archive_s3, admin_s3 = tenant.storage("s1", "archive").s3, tenant.storage("s1").s3
    part = {name: value for name, value in upload.items() if name != "MultipartUpload"}
    return {
        "UploadPart": refused_with(lambda: archive_s3.upload_part(**part, PartNumber=2, Body=PART)),
        "CompleteMultipartUpload": refused_with(lambda: archive_s3.complete_multipart_upload(**upload)),
        "CompleteMultipartUpload by the administrator": refused_with(
            lambda: admin_s3.complete_multipart_upload(**upload)
        ),
    }


def test_an_upload_that_was_begun_before_the_freeze_can_be_finished_by_nobody(late: LateWrite) -> None:
    refusals = dict(late.refusals)
    assert refusals.pop("CompleteMultipartUpload by the administrator") == "NoSuchUpload", "settling has aborted it"
    assert set(refusals.values()) <= {"AccessDenied", "NoSuchUpload"}
    assert late.settled["uploads_aborted"] == 1
    assert BEGUN not in late.home.contents


def test_the_freeze_heard_its_own_tag_change_and_did_not_read_every_tag(late: LateWrite) -> None:
    assert late.settled["tags"]["swept"] is False
    assert late.settled["dead_letters"] == {}
    assert set(late.settled["refused_after"]) == {"archive", "p1"}, "the worker writes what is edited"


def test_the_freeze_takes_in_the_last_edits_and_lets_no_other_in(late: LateWrite) -> None:
    assert late.settled["edits"] == {"applied": 1}
    assert late.block == "cluster_block_exception"
    assert late.edit_while_frozen.code == 2, late.edit_while_frozen.text
    metadata = dict(late.home.contents[EDITED][-1].metadata)
    assert (metadata["revision"], metadata["edited"].partition(":")[0]) == ("2", "e1")
    moved_to = late.tenant.search("e2").get(index=moved.INDEX, id="people/p001")
    assert (moved_to["_version"], moved_to["_source"]["note"]) == (2, "just before the freeze")


def test_the_new_search_takes_edits_from_its_own_first_one_on(late: LateWrite) -> None:
    shown = late.tenant.keyshift("pipeline", "status", "--json").json()["pipelines"]
    assert [(unit["id"], unit["to_bucket"]["unapplied"]) for unit in shown] == [("p2", 0)]
    late.tenant.keyshift("archive", "edit", "people", "p001", "--note", "after the move")
    client = late.tenant.search("e2")

    def came_back() -> bool:
        return client.get(index=moved.INDEX, id="people/p001")["_source"]["note"] == "after the move"

    until(came_back, "the edit to come back in the new search", 150)


def test_a_write_past_the_gate_stops_the_operation_before_the_new_side_serves(late: LateWrite) -> None:
    assert late.stopped.code == 1, late.stopped.text
    assert late.stopped.json()["error"]["code"] == "late-write"
    assert LATE in late.status["operation"]["message"]
    assert f"keyshift resume {late.tenant.name}" in late.status["operation"]["hint"]
    assert (late.status["operation"]["step"], late.status["jobs"]) == ("attach/3-still-settled", "closed")
    assert late.layout["serves"]["storage"] == "s1"


def test_a_write_past_the_gate_is_kept(late: LateWrite) -> None:
    assert late.old_home == late.home.contents, "nothing of the old storage was touched"
    assert LATE in late.old_home


def test_a_resume_settles_anew_and_takes_in_what_came_late(late: LateWrite) -> None:
    assert late.home.contents[TAGGED][-1].tags == (("hold", "past the gate"),)
    moved.assert_moved(late.tenant, late.home, late.key)


def test_the_overtaken_verdicts_are_kept_aside(late: LateWrite) -> None:
    void = sorted(path.name for path in (late.tenant.folder / "verdicts").glob("*.void-*"))
    operation = f"{late.tenant.name}-enable-1"
    assert void == [f"{operation}-{kind}.json.void-1" for kind in ("index", "storage")]
