"""The fill, its proof and the read alias against a real Elasticsearch and the sandbox's AWS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_server import REGION, REPOSITORY, AwsServer, running_aws, until
from elastic_server import running_elastic
from elasticsearch import Elasticsearch

from components.index import RECORDS_MAPPING, SETTINGS
from migrate import aws
from migrate.archive import delete_record, import_path, write_record
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, StorageRef, prepare
from migrate.errors import VerificationFailed
from migrate.index.aliases import read_alias_filter, search, set_read_alias
from migrate.index.client import from_secret
from migrate.index.fill import fill
from migrate.index.verify import verify_index
from migrate.intake import Ids
from migrate.progress import unwatched

pytestmark = pytest.mark.sandbox

INDEX, ALIAS, SECRET = "records-000001", "records", "keyshift/acme/e1/admin"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield server


@pytest.fixture(scope="module")
def elastic(server: AwsServer, tmp_path_factory):
    """A deployment's administrator, with the credentials taken from the secret as the runner does."""
    with running_elastic(tmp_path_factory.mktemp("elastic")) as cloud:
        made = cloud.create("acme-e1")
        cloud.wait_for(made.id, "started")
        secrets = server.client("secretsmanager")
        content = {"endpoint": made.url, "username": "elastic", "password": made.password}
        secrets.create_secret(Name=SECRET, SecretString=json.dumps(content))
        yield from_secret(secrets, SECRET)


@pytest.fixture
def index(elastic: Elasticsearch):
    elastic.indices.delete(index=INDEX, ignore_unavailable=True)
    elastic.indices.create(index=INDEX, mappings=RECORDS_MAPPING, settings=SETTINGS)
    return elastic


@pytest.fixture(scope="module")
def storages(server: AwsServer, tmp_path_factory) -> tuple[Side, Side]:
    s3 = prepare(aws.client(server.sessions["operator"], "s3", pool=32))
    key = server.client("kms").create_key()["KeyMetadata"]["Arn"]
    for name in ("shared", "dedicated"):
        s3.create_bucket(Bucket=f"{name}-index", CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_versioning(Bucket=f"{name}-index", VersioningConfiguration={"Status": "Enabled"})
    source = Side(s3, StorageRef("shared-index", "t/acme/", None))
    folder = tmp_path_factory.mktemp("in")
    (folder / "attachments").mkdir()
    (folder / "attachments" / "ä ö+%&=.txt").write_bytes(b"attached")
    (folder / "attachments" / ("long " * 40 + ".txt")).write_bytes(b"long")
    rows = "".join(f"{n},Boeing {n % 7}\n" for n in range(300))
    (folder / "planes.csv").write_text(f"id,model\n{rows}")
    import_path(source, folder, Ids(), unwatched)
    write_record(source, "planes", "1", {"model": "Airbus"})
    delete_record(source, "planes", "2")
    return source, Side(s3, StorageRef("dedicated-index", "", key))


@pytest.fixture
def copied(storages, tmp_path):
    source, target = storages
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        for entry in target.s3.list_object_versions(Bucket=target.storage.bucket).get("Versions", ()):
            target.s3.delete_object(Bucket=target.storage.bucket, Key=entry["Key"], VersionId=entry["VersionId"])
        for entry in target.s3.list_object_versions(Bucket=target.storage.bucket).get("DeleteMarkers", ()):
            target.s3.delete_object(Bucket=target.storage.bucket, Key=entry["Key"], VersionId=entry["VersionId"])
        copy_pass(Transfer(source, target, manifest), unwatched)
        yield manifest, target


def test_a_filled_index_is_proven_and_searched(index, copied):
    manifest, target = copied
    done = fill(target, manifest, index, INDEX, unwatched)
    assert (done.expected, done.sent) == (301, 301)
    found = verify_index(target, manifest, index, INDEX, unwatched)
    assert (found.expected, found.found, found.missing, found.stale, found.extra) == (301, 301, 0, 0, 0)
    set_read_alias(index, INDEX, ALIAS, None)
    assert search(index, ALIAS, "Airbus", 5).hits[0]["id"] == "1"
    assert search(index, ALIAS, "boeing", 5).total == 298
    assert fill(target, manifest, index, INDEX, unwatched).sent == 0


def test_what_was_changed_behind_the_fill_is_found_and_mended(index, copied):
    manifest, target = copied
    fill(target, manifest, index, INDEX, unwatched)
    index.delete(index=INDEX, id="planes/3", refresh=True)
    with pytest.raises(VerificationFailed, match="1 documents missing"):
        verify_index(target, manifest, index, INDEX, unwatched)
    index.indices.delete(index=INDEX)
    index.indices.create(index=INDEX, mappings=RECORDS_MAPPING, settings=SETTINGS)
    assert fill(target, manifest, index, INDEX, unwatched).sent == 301
    index.update(index=INDEX, id="planes/4", doc={"content_hash": "other"}, refresh=True)
    index.index(index=INDEX, id="planes/extra", document={"content_hash": "x"}, refresh=True)
    with pytest.raises(VerificationFailed, match="0 documents missing, 1 stale, 1 too many"):
        verify_index(target, manifest, index, INDEX, unwatched)


def test_the_cut_off_hides_what_was_archived_since_and_no_search_sees_a_gap(index, copied):
    manifest, target = copied
    fill(target, manifest, index, INDEX, unwatched)
    past, future = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
    set_read_alias(index, INDEX, ALIAS, future)
    totals, stop = set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            totals.add(search(index, ALIAS, "*", 1).total)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for cutoff in (past, future, past, None) * 5:
            set_read_alias(index, INDEX, ALIAS, cutoff)
    finally:
        stop.set()
        reader.join()
    assert totals <= {0, 301}, "a search saw something between two states"
    set_read_alias(index, INDEX, ALIAS, past)
    assert search(index, ALIAS, "*", 1).total == 0
    assert "archived_at" in json.dumps(read_alias_filter(index, INDEX, ALIAS))


def test_the_alias_leaves_the_old_index_in_the_same_call(index, copied):
    index.indices.delete(index="records-000002", ignore_unavailable=True)
    index.indices.create(index="records-000002", mappings=RECORDS_MAPPING)
    set_read_alias(index, INDEX, ALIAS, None)
    set_read_alias(index, "records-000002", ALIAS, None)
    assert list(index.indices.get_alias(name=ALIAS)) == ["records-000002"]
    assert read_alias_filter(index, INDEX, ALIAS) is None


FILLER = """
import sys, json
from pathlib import Path
import boto3
from migrate import aws
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, StorageRef, prepare
from migrate.index import fill as filling
from migrate.index.client import from_secret
filling.BULK_DOCUMENTS = 10
path, source, target = sys.argv[1], *(StorageRef(**json.loads(text)) for text in sys.argv[2:4])
session = boto3.Session()
side = Side(prepare(aws.client(session, "s3", pool=16)), target)
with Manifest.open(Path(path), source, target) as manifest:
    filling.fill(side, manifest, from_secret(aws.client(session, "secretsmanager"), sys.argv[4]), sys.argv[5], print)
"""


def test_a_filler_killed_half_way_is_finished_by_the_next(index, copied, storages, tmp_path, server):
    manifest, target = copied
    source, _ = storages
    refs = [json.dumps(vars(side.storage)) for side in (source, target)]
    command = [sys.executable, "-c", FILLER, str(tmp_path / "manifest.sqlite"), *refs, SECRET, INDEX]
    filler = subprocess.Popen(command, env=environment(server), stdout=subprocess.DEVNULL)
    until(lambda: filler.poll() is not None or documents(index) >= 20, "some documents")
    filler.send_signal(signal.SIGKILL)
    filler.wait()
    index.indices.refresh(index=INDEX)
    assert 0 < documents(index) < 301, "the kill has to come before the end"
    assert settings(index)["refresh_interval"] == "-1"
    fill(target, manifest, index, INDEX, unwatched)
    assert verify_index(target, manifest, index, INDEX, unwatched).found == 301
    assert "refresh_interval" not in settings(index)


def documents(index: Elasticsearch) -> int:
    return index.indices.stats(index=INDEX, metric="indexing")["_all"]["primaries"]["indexing"]["index_total"]


def settings(index: Elasticsearch) -> dict[str, Any]:
    return index.indices.get_settings(index=INDEX)[INDEX]["settings"]["index"]


def environment(server: AwsServer) -> dict[str, str]:
    folder: Path = server.folder / "aws"
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PYTHONPATH": str(REPOSITORY), "AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION, "AWS_PROFILE": "operator", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
    }  # fmt: skip
