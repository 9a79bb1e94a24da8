"""A move's parts between two containers of two accounts, through the sandbox's Azure half and with real roles."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aws_server import until
from azure.storage.blob import ContainerClient
from azure_server import BLOB_OWNER, BLOB_READER, AzureServer, running_azure

from components.worker.azure.blob import BlobObjects
from migrate.archive import CREATED, UNCHANGED, UPDATED, delete_record, read, write_record
from migrate.azure.identity import STORAGE
from migrate.copy.blob import BlobSide
from migrate.copy.blob_engine import copy_pass, tidy
from migrate.copy.blob_preflight import survey
from migrate.copy.manifest import Manifest, State, Where
from migrate.copy.places import ContainerRef
from migrate.copy.purge import Purge, prove_empty, purge
from migrate.copy.settle import probe_write_refused, two_equal_listings
from migrate.copy.transfer import Transfer
from migrate.copy.verify import verify_storage
from migrate.errors import CloudError, Conflict, VerificationFailed
from migrate.progress import unwatched
from migrate.verdict import Verdict


@dataclass
class Lab:
    server: AzureServer
    accounts: list[dict[str, Any]]
    group: str
    runner: dict[str, Any]
    reader: dict[str, Any]

    def side(self, account: dict[str, Any], name: str, who: dict[str, Any] | None = None) -> BlobSide:
        credential = self.server.acting_as((who or self.runner)["clientId"])
        endpoint = account["properties"]["primaryEndpoints"]["blob"].rstrip("/") + "/"
        client = ContainerClient(endpoint.rstrip("/"), name, credential, connection_verify=self.server.bundle)
        return BlobSide(
            client,
            ContainerRef(endpoint, name),
            lambda: {"source_authorization": f"Bearer {credential.get_token(STORAGE).token}"},
        )

    def make(self, account: dict[str, Any]) -> str:
        name = f"c-{secrets.token_hex(6)}"
        self.server.arm("PUT", f"{account['id']}/blobServices/default/containers/{name}", {}, api="2024-01-01")
        return name


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("azure")
    with running_azure(folder, role_lag_seconds=0.1) as server:
        group = server.group("moves")
        accounts = [server.account(group, name) for name in ("ksmovesone", "ksmovestwo")]
        runner, reader = server.identity(group, "runner"), server.identity(group, "reader")
        for number, account in enumerate(accounts):
            server.assign(account["id"], BLOB_OWNER, runner["principalId"], f"1{number}")
            server.assign(account["id"], BLOB_READER, reader["principalId"], f"2{number}")
        lab = Lab(server, accounts, group, runner, reader)
        for account in accounts:
            until(lambda account=account: _is_open(lab.side(account, lab.make(account))), "the roles hold")
            until(lambda account=account: _is_open(lab.side(account, lab.make(account), reader)), "the roles hold")
        yield lab


def _is_open(side: BlobSide) -> bool:
    try:
        read(side, "nothing")
    except CloudError:
        return False
    return True


@pytest.fixture
def pair(lab: Lab, tmp_path: Path) -> Iterator[Transfer[BlobSide]]:
    source, target = (lab.side(account, lab.make(account)) for account in lab.accounts)
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        yield Transfer(source, target, manifest, threads=4)


def filled(side: BlobSide) -> None:
    for number in range(5):
        write_record(side, "people", f"p{number}", {"name": f"Ada {number}"})
    blob = side.blob("attachments/ü b+%41/~.bin")
    blob.upload_blob(
        b"x" * 3000, metadata={"archived_at": "2026-01-01T00:00:00.000Z", "revision": "1"}, tags={"a": "b"}
    )
    side.put("attachments/empty", b"", {"revision": "1"})


def verdict(kind: str, manifest: Manifest) -> Verdict:
    facts: dict[str, Any] = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:00Z"}
    return Verdict(
        id="v",
        kind=kind,
        tenant="acme",
        operation="op",
        subject="s1",
        passed=True,
        counts={"versions": 7},
        manifest_sha256=manifest.digest(),
        **facts,
    )


def test_archive_writes_reads_counts_revisions_and_a_later_one_is_higher_over_a_delete(pair):
    side = pair.source
    first = write_record(side, "people", "p1", {"name": "Ada"})
    assert first.outcome == CREATED
    assert write_record(side, "people", "p1", {"name": "Ada"}).outcome == UNCHANGED
    second = write_record(side, "people", "p1", {"name": "Grace"})
    assert (second.outcome, second.revision) == (UPDATED, first.revision + 1)
    delete_record(side, "people", "p1")
    assert read(side, first.key) is None
    again = write_record(side, "people", "p1", {"name": "Grace"})
    assert again.revision > second.revision, "the search holds a tombstone of the revision that was deleted"


def test_a_worker_reads_and_annotates_and_a_stale_annotation_is_refused(pair):
    side = pair.source
    key = write_record(side, "people", "p1", {"name": "Ada"}).key
    objects = BlobObjects(side.container)
    held = objects.held(key)
    assert held is not None
    assert objects.annotate(key, held, {**held.metadata, "annotations": "{}"})
    assert not objects.annotate(key, held, held.metadata), "it is another version now"
    found = objects.read(key)
    assert found is not None
    assert found.metadata["annotations"] == "{}"
    assert "archived-at" in found.metadata, "names with hyphens come back as they were"
    assert objects.read("records/people/none.json") is None


def test_a_copy_takes_everything_along_is_proven_and_its_source_purged_exactly(pair):
    filled(pair.source)
    passed = copy_pass(pair, unwatched)
    assert (passed.copied, passed.listed) == (7, 7)
    found = verify_storage(pair, "run", unwatched)
    assert (found.versions, found.streamed) == (7, 7)
    assert pair.target.tags("attachments/ü b+%41/~.bin", "") == {"a": "b"}
    assert copy_pass(pair, unwatched).copied == 0, "what is there is not copied again"
    job = Purge(pair.source, Where.SOURCE, pair.manifest, verdict("storage", pair.manifest))
    assert purge(job, unwatched).deleted == 7
    assert prove_empty(pair.source).none
    with pytest.raises(VerificationFailed):
        prove_empty(pair.target)


def test_what_changes_at_the_source_is_followed_bytes_tags_and_deletions(pair):
    filled(pair.source)
    copy_pass(pair, unwatched)
    write_record(pair.source, "people", "p1", {"name": "changed"})
    pair.source.blob("records/people/p2.json").set_blob_tags({"kept": "yes"})
    delete_record(pair.source, "people", "p3")
    passed = copy_pass(pair, unwatched)
    assert (passed.copied, passed.removed) == (2, 3), "a changed blob is removed and copied anew, a changed tag too"
    assert verify_storage(pair, "run", unwatched).versions == 6
    assert pair.target.tags("records/people/p2.json", "") == {"kept": "yes"}
    assert two_equal_listings(pair.source, unwatched).versions == 6


def test_a_large_blob_goes_in_blocks_with_headers_and_claimed_md5(pair):
    body = secrets.token_bytes(3_000_000)
    blob = pair.source.blob("attachments/large")
    blob.upload_blob(body, metadata={"revision": "1"}, tags={"t": "1"})
    cut = Transfer(pair.source, pair.target, pair.manifest, multipart_above=1_000_000, part_bytes=1_000_000)
    assert copy_pass(cut, unwatched).copied == 1
    assert verify_storage(cut, "run", unwatched).bytes == len(body)
    copied = pair.target.blob("attachments/large").get_blob_properties()
    assert copied.content_settings.content_md5 == blob.get_blob_properties().content_settings.content_md5 is not None
    assert len(pair.target.blob("attachments/large").get_block_list("committed")[0]) == 3


def test_what_another_put_at_the_target_is_kept_and_stops_the_copy(pair):
    filled(pair.source)
    pair.target.put("records/people/p1.json", b"foreign", {})
    with pytest.raises(Conflict, match="did not put there"):
        copy_pass(pair, unwatched)
    assert read(pair.target, "records/people/p1.json") == b"foreign"


def test_a_copy_that_was_made_and_not_noted_is_adopted_after_a_kill(pair):
    filled(pair.source)
    copy_pass(pair, unwatched)
    pair.manifest.connection.execute("UPDATE versions SET state = 'copying', target_version_id = NULL")
    pair.target.blob("attachments/half").stage_block("AAAA", b"half")
    assert [name for name, _ in pair.target.list_uploads()] == ["attachments/half"]
    passed = copy_pass(pair, unwatched)
    assert (passed.adopted, passed.copied, passed.uploads_aborted) == (7, 0, 1)
    assert verify_storage(pair, "run", unwatched).versions == 7


def test_a_purge_stops_at_what_the_manifest_does_not_know_and_deletes_nothing(pair):
    filled(pair.source)
    copy_pass(pair, unwatched)
    verify_storage(pair, "run", unwatched)
    job = Purge(pair.source, Where.SOURCE, pair.manifest, verdict("storage", pair.manifest))
    late = write_record(pair.source, "people", "p1", {"name": "late"})
    with pytest.raises(Conflict, match="does not know"):
        purge(job, unwatched)
    assert read(pair.source, late.key) is not None
    assert {row.state for row in pair.manifest.rows()} == {State.VERIFIED}


def test_other_bytes_at_the_target_are_found(pair):
    filled(pair.source)
    copy_pass(pair, unwatched)
    row = next(row for row in pair.manifest.rows() if row.key == "records/people/p1.json")
    blob = pair.target.blob(row.key)
    body = bytearray(blob.download_blob().readall())
    body[-2] ^= 1
    about = blob.get_blob_properties()
    made = blob.upload_blob(bytes(body), metadata=about.metadata, overwrite=True)
    pair.manifest.connection.execute(
        "UPDATE versions SET target_version_id = ? WHERE id = ?", (made["etag"].strip('"'), row.id)
    )
    with pytest.raises(VerificationFailed, match="bytes"):
        verify_storage(pair, "run", unwatched)


def test_a_reader_is_refused_every_kind_of_write_and_a_writer_is_not(lab, pair):
    source = pair.source
    reader = lab.side(lab.accounts[0], source.storage.container, lab.reader)
    assert probe_write_refused(reader, source).refused
    found = probe_write_refused(source, source)
    assert (found.refused, found.action) == (False, "PutBlob")
    assert not list(source.list_versions()), "nothing of a probe stays"


def test_the_preflight_finds_leases_and_snapshots_and_counts_what_lies_there(pair):
    filled(pair.source)
    assert survey(pair.source, unwatched).obstacles == ()
    pair.source.blob("attachments/empty").acquire_lease()
    pair.source.blob("records/people/p1.json").create_snapshot()
    found = survey(pair.source, unwatched)
    assert {one.reason: one.count for one in found.obstacles} == {"leased": 1, "snapshots": 1}


def test_tidying_discards_blocks_and_leaves_what_the_manifest_says(pair):
    filled(pair.source)
    copy_pass(pair, unwatched)
    pair.target.blob("attachments/half").stage_block("AAAA", b"half")
    tidy(pair)
    assert not list(pair.target.list_uploads())
    assert sum(1 for _ in pair.target.list_versions()) == 7
