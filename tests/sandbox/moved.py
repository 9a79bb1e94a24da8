"""What a tenant must be once it was moved under its customer's key, whatever happened on the way.

Looked at by the clouds' own APIs: every object version, every document, every resource.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from botocore.exceptions import ClientError
from cloud import Cloud, Key, Tenant
from elasticsearch import Elasticsearch

from components.search import records_filter
from components.worker.document import document_id, is_searchable
from migrate.copy.s3 import Side, list_uploads, list_versions
from migrate.log import Log

INDEX, ALIAS = "records-000001", "records"


@dataclass(frozen=True)
class Version:
    """One object version or delete marker, with everything that a copy must keep."""

    is_delete_marker: bool
    sha256: str = ""
    size: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    key_arn: str = ""
    has_bucket_key: bool = False
    """Key and bucket key differ between the two sides of a move, and are judged apart."""

    @property
    def kept(self) -> tuple[Any, ...]:
        return (self.is_delete_marker, self.sha256, self.size, self.metadata, self.tags, self.headers)


Contents = Mapping[str, tuple[Version, ...]]
"""Key below the prefix -> its versions, the oldest first."""


@dataclass(frozen=True)
class Home:
    """Where a tenant lived before the move: nothing of it may be left."""

    contents: Contents
    bucket: str
    prefix: str
    deployment: str
    endpoint: str


def contents(side: Side) -> Contents:
    """Everything below a storage's prefix, really read."""
    found: dict[str, tuple[Version, ...]] = {}
    for entry in list_versions(side):
        version = Version(is_delete_marker=True) if entry.is_delete_marker else _read(side, entry.key, entry.version_id)
        found[entry.key] = (version, *found.get(entry.key, ()))
    return found


def _read(side: Side, key: str, version_id: str) -> Version:
    place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + key, "VersionId": version_id}
    answer = side.s3.get_object(**place)
    body = answer["Body"].read()
    headers = ("ContentType", "ContentEncoding", "ContentDisposition", "ContentLanguage", "CacheControl")
    return Version(
        is_delete_marker=False,
        sha256=hashlib.sha256(body).hexdigest(),
        size=len(body),
        metadata=tuple(sorted(answer["Metadata"].items())),
        tags=tuple(sorted((tag["Key"], tag["Value"]) for tag in side.s3.get_object_tagging(**place)["TagSet"])),
        headers=tuple((name, answer[name]) for name in headers if answer.get(name)),
        key_arn=answer.get("SSEKMSKeyId", ""),
        has_bucket_key=answer.get("BucketKeyEnabled", False),
    )


def home_of(tenant: Tenant) -> Home:
    """Where the tenant lives now, with all that it holds."""
    serves, outputs = tenant.layout()["serves"], tenant.outputs()
    storage, search = outputs["storages"][serves["storage"]], outputs["searches"][serves["search"]]
    return Home(
        contents(tenant.storage(serves["storage"], "runner")),
        storage["bucket"],
        storage["prefix"],
        search["deployment_id"],
        search["endpoint"],
    )


def assert_moved(tenant: Tenant, home: Home, key: Key, *, added: Mapping[str, Any] | None = None) -> None:
    """The tenant is whole under `key` in s2 and e2, once, and its old home is empty.

    `added`: key below the prefix -> the data of a record that was archived once since `home` was looked at.
    """
    layout = tenant.layout()
    assert layout["mode"] == "byok"
    assert layout["serves"] == {"storage": "s2", "search": "e2", "pipeline": "p2"}
    assert layout["gate"] == {"jobs": "open", "access": "open", "search_cutoff": None, "reason": None, "warnings": []}
    assert_contents(tenant, home, key, added or {})
    assert_documents(tenant)
    assert_old_home_is_gone(tenant, home)
    assert_resources(tenant, keys=1)
    assert_deployment(tenant, key)
    assert_bucket(tenant, key)
    assert_proven(tenant)
    tenant.pulumi("preview", "--expect-no-changes")


def assert_contents(tenant: Tenant, home: Home, key: Key, added: Mapping[str, Any]) -> None:
    """0 lost, 0 doubled, 0 altered, all under the customer's key."""
    side = tenant.storage("s2", "runner")
    now = contents(side)
    assert set(now) - set(home.contents) - set(added) == set(), "something was doubled or left by the move itself"
    assert set(home.contents) - set(now) == set(), "lost objects"
    assert set(added) - set(now) == set(), "a job was told that its record is archived, and it is not there"
    for name, versions in home.contents.items():
        assert [v.kept for v in now[name]] == [v.kept for v in versions], f"{name} is not what it was"
    for name, data in added.items():
        assert len(now[name]) == 1, f"{name} was archived once"
        body = side.s3.get_object(Bucket=side.storage.bucket, Key=side.storage.prefix + name)["Body"].read()
        assert json.loads(body)["data"] == data
    stored = [version for versions in now.values() for version in versions if not version.is_delete_marker]
    keys = {(version.key_arn, version.has_bucket_key) for version in stored}
    assert keys == {(key.arn, False)}, "under another key, or a bucket key, an object would survive a revocation"


def assert_documents(tenant: Tenant) -> None:
    """Every current object is found as it is, every deleted one is not, nothing else is there."""
    now = contents(tenant.storage("s2", "runner"))
    client = tenant.search("e2")
    client.indices.refresh(index=INDEX)
    found = documents(client)
    current = {name: v[-1] for name, v in now.items() if is_searchable(name) and not v[-1].is_delete_marker}
    live = {id: hit for id, hit in found.items() if not hit["_source"].get("deleted")}
    assert set(live) == {document_id(name) for name in current}
    for name, version in current.items():
        hit, metadata = live[document_id(name)], dict(version.metadata)
        source = hit["_source"]
        assert (hit["_version"], source["revision"]) == (int(metadata["revision"]),) * 2, name
        assert (source["content_hash"], source["size"]) == (version.sha256, version.size), name
        assert (source["archived_at"], source["key"]) == (metadata["archived-at"], name)
    deleted = {document_id(name) for name, v in now.items() if is_searchable(name) and v[-1].is_delete_marker}
    assert set(found) - set(live) <= deleted, "a tombstone of something that never was the customer's"
    assert client.indices.get_alias(name=ALIAS).body[INDEX]["aliases"][ALIAS]["filter"] == records_filter(None)
    assert tenant.search("e2", "archive").count(index=ALIAS)["count"] == len(current)


def documents(client: Elasticsearch) -> dict[str, Mapping[str, Any]]:
    """Every document of the records index, tombstones too, by its id."""
    answer = client.search(index=INDEX, query={"match_all": {}}, size=10_000, version=True)
    assert answer["hits"]["total"]["value"] < 10_000, "a test's tenant is small"
    return {hit["_id"]: hit for hit in answer["hits"]["hits"]}


def assert_old_home_is_gone(tenant: Tenant, home: Home) -> None:
    cloud = tenant.cloud
    s3 = cloud.client("s3")
    below = {"Bucket": home.bucket, "Prefix": home.prefix}
    left = s3.list_object_versions(**below)
    assert (left.get("Versions", []), left.get("DeleteMarkers", [])) == ([], []), "left behind in the shared bucket"
    assert s3.list_multipart_uploads(**below).get("Uploads", []) == [], "unfinished uploads can be finished later"
    assert home.deployment not in cloud.deployments().values()
    assert not _answers(home.endpoint), "the old node still answers"


def _answers(endpoint: str) -> bool:
    try:
        status = httpx.get(endpoint, timeout=10, trust_env=False).status_code
    except httpx.HTTPError:
        return False
    return status < 400 or status == 401


def resources(tenant: Tenant) -> dict[str, list[str]]:
    """What exists of a tenant in the clouds, by kind, as their own listings say."""
    cloud, mine = tenant.cloud, f"keyshift-{tenant.name}-"
    return {
        "buckets": _sorted(b["Name"] for b in cloud.client("s3").list_buckets()["Buckets"] if mine in b["Name"]),
        "deployments": _sorted(
            one["name"] for one in cloud.elastic("GET", "/deployments")["deployments"]
            if one["name"].startswith(f"{tenant.name}-")
        ),
        "functions": _sorted(f["FunctionName"] for f in _functions(cloud) if f["FunctionName"].startswith(mine)),
        "keys": _sorted(_keys(tenant)),
        "mappings": _sorted(
            m["EventSourceArn"].rpartition(":")[2]
            for m in cloud.client("lambda").list_event_source_mappings()["EventSourceMappings"]
            if mine in m["EventSourceArn"]
        ),
        "queues": _sorted(
            url.rpartition("/")[2] for url in cloud.client("sqs").list_queues(QueueNamePrefix=mine).get("QueueUrls", [])
        ),
        "roles": _sorted(
            r["RoleName"] for r in cloud.client("iam").list_roles()["Roles"] if r["RoleName"].startswith(mine)
        ),
        "rules": _sorted(r["Name"] for r in cloud.client("events").list_rules(NamePrefix=mine)["Rules"]),
        "secrets": _sorted(_secrets(tenant)),
    }  # fmt: skip


def _sorted(names: Iterator[str]) -> list[str]:
    return sorted(names)


def _functions(cloud: Cloud) -> Iterator[Mapping[str, Any]]:
    for page in cloud.client("lambda").get_paginator("list_functions").paginate():
        yield from page["Functions"]


def _keys(tenant: Tenant) -> Iterator[str]:
    """The ARNs of the keys that were made for the tenant, whatever their state."""
    kms = tenant.cloud.client("kms")
    for page in kms.get_paginator("list_keys").paginate():
        for listed in page["Keys"]:
            if f"tenant {tenant.name}:" in kms.describe_key(KeyId=listed["KeyId"])["KeyMetadata"]["Description"]:
                yield listed["KeyArn"]


def _secrets(tenant: Tenant) -> Iterator[str]:
    for page in tenant.cloud.client("secretsmanager").get_paginator("list_secrets").paginate():
        for secret in page["SecretList"]:
            if secret["Name"].startswith(f"keyshift/{tenant.name}/"):
                yield secret["Name"]


def assert_resources(tenant: Tenant, *, keys: int) -> None:
    """Exactly the new side, each resource once."""
    name, found = tenant.name, resources(tenant)
    assert len(found.pop("keys")) == keys
    bucket = tenant.outputs()["storages"]["s2"]["bucket"]
    assert found == {
        "buckets": [bucket],
        "deployments": [f"{name}-e2"],
        "functions": [f"keyshift-{name}-p2"],
        "mappings": [f"keyshift-{name}-p2"],
        "queues": [f"keyshift-{name}-p2", f"keyshift-{name}-p2-dlq"],
        "roles": [f"keyshift-{name}-{audience}" for audience in ("archive", "pipeline", "runner")],
        "rules": [f"keyshift-{name}-p2"],
        "secrets": [f"keyshift/{name}/e2/{audience}" for audience in ("admin", "archive", "pipeline")],
    }
    dead = tenant.outputs()["pipelines"]["p2"]["dlq_url"]
    counted = tenant.cloud.client("sqs").get_queue_attributes(
        QueueUrl=dead, AttributeNames=["ApproximateNumberOfMessages"]
    )
    assert counted["Attributes"]["ApproximateNumberOfMessages"] == "0", "an event that nothing could be made of"


def assert_deployment(tenant: Tenant, key: Key) -> None:
    id = tenant.cloud.deployments()[f"{tenant.name}-e2"]
    shown = tenant.cloud.elastic("GET", f"/deployments/{id}")
    assert shown["settings"]["byok"]["key_resource_path"] == key.arn, "an alias would let Elastic re-wrap by itself"
    assert shown["healthy"] is True


def assert_bucket(tenant: Tenant, key: Key) -> None:
    """The dedicated bucket's properties, by S3's own answers."""
    s3, bucket = tenant.cloud.client("s3"), tenant.outputs()["storages"]["s2"]["bucket"]
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(blocked.values()) == {True}
    assert len(blocked) == 4
    ownership = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert ownership == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert [rule["ApplyServerSideEncryptionByDefault"] for rule in rules] == [
        {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key.arn}
    ]
    assert rules[0]["BucketKeyEnabled"] is False, "a bucket key would outlive the revocation"
    assert rules[0]["BlockedEncryptionTypes"] == {"EncryptionType": ["SSE-C"]}
    assert _denies_plain_http(json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"]), bucket)
    lifecycle = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [rule["Status"] for rule in lifecycle if "AbortIncompleteMultipartUpload" in rule] == ["Enabled"]
    assert not [rule for rule in lifecycle if "Expiration" in rule or "NoncurrentVersionExpiration" in rule]


def _denies_plain_http(policy: Mapping[str, Any], bucket: str) -> bool:
    return any(
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Action"] == "s3:*"
        and set(statement["Resource"]) == {f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"}
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in policy["Statement"]
    )


def assert_proven(tenant: Tenant) -> None:
    """One verdict of each kind, stored, signed and passed; the log's chain holds."""
    verdicts = tenant.keyshift("verdict", "list", "--json").json()
    assert sorted(verdict["kind"] for verdict in verdicts) == ["index", "purge", "storage"]
    assert all(verdict["passed"] and verdict["signature"] == "fits" for verdict in verdicts)
    log = Log(tenant.folder)
    assert log.verify_chain().lines > 0
    noted: list[str] = []
    for event in (line["event"] for line in log.events()):
        if event["event"] == "verdict":
            noted.append(event["verdict"])
        elif event["event"] == "verdict-void":
            noted.remove(event["verdict"])
    assert sorted(noted) == sorted(verdict["id"] for verdict in verdicts)
    checked = tenant.keyshift("verdict", "check", "--json").json()
    assert {one["result"] for one in checked["checks"]} == {"holds"}, checked


def refused_with(call: Callable[[], Any]) -> str:
    """The code with which AWS refuses a call; "" if it does not."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def uploads(side: Side) -> list[str]:
    return [key for key, _ in list_uploads(side)]
