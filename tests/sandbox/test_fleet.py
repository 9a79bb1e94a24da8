"""Two small tenants side by side: brought up as a fleet, kept apart, asked for by Archive, backed up and restored."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from cloud import Cloud, Done, Tenant, records
from elasticsearch import ApiError, AuthenticationException, AuthorizationException

from components.index import INDEX, READ_ALIAS
from migrate import archive
from migrate.gate import ArchiveClient, GateClosed
from migrate.index.client import connect as connect_search
from migrate.stack import Project
from sandbox.demo import make_project
from stacks.record import TENANTS, connect

COUNT = 20


@dataclass(frozen=True)
class Fleet:
    cloud: Cloud
    acme: Tenant
    bolt: Tenant
    previewed: Done
    brought_up: Done
    again: Done


@pytest.fixture(scope="module")
def fleet(cloud: Cloud) -> Iterator[Fleet]:
    acme, bolt = (Tenant(cloud, cloud.new_name(base)) for base in ("acme", "bolt"))
    for tenant in (acme, bolt):
        cloud.keyshift("tenant", "create", tenant.name, "--customer", "fleet-corp", "--no-up")
    run = ("fleet", "up", "--where", "customer=fleet-corp", "--parallel", "2", "--json")
    previewed = cloud.keyshift("fleet", "preview", "--where", "customer=fleet-corp", "--parallel", "2", "--json")
    brought_up = cloud.keyshift(*run)
    again = cloud.keyshift(*run)
    for tenant in (acme, bolt):
        tenant.expected = tenant.import_(records=records(COUNT))["records"]
    for tenant in (acme, bolt):
        tenant.wait_until_indexed(COUNT)
    yield Fleet(cloud, acme, bolt, previewed, brought_up, again)
    for tenant in (acme, bolt):
        tenant.shut_down()


# one release over both ------------------------------------------------------------------------


def test_a_preview_shows_what_an_up_then_does_and_a_second_up_finds_nothing(fleet: Fleet) -> None:
    names = sorted((fleet.acme.name, fleet.bolt.name))
    rows = [json.loads(done.out)["tenants"] for done in (fleet.previewed, fleet.brought_up, fleet.again)]
    assert all([row["tenant"] for row in run] == names for run in rows)
    assert [{row["came"] for row in run} for run in rows] == [{"would change"}, {"changed"}, {"no change"}]
    assert rows[0][0]["changes"] == rows[1][0]["changes"]
    assert rows[0][0]["changes"]["create"] > 20, "a whole tenant"


def test_the_stamp_says_who_sits_there_and_what_is_left(fleet: Fleet) -> None:
    (stamp,) = fleet.cloud.keyshift("stamp", "list", "--json").json()["stamps"]
    assert {fleet.acme.name, fleet.bolt.name} <= set(stamp["tenants"])
    rules = next(quota for quota in stamp["quotas"] if quota["name"] == "rules")
    assert rules["limit"] == 300
    assert rules["scope"] == f"{fleet.cloud.account}/eu-west-1"
    made = [rule["Name"] for rule in fleet.cloud.client("events").list_rules(NamePrefix="keyshift-")["Rules"]]
    pipeline = f"keyshift-{fleet.acme.name}-p1"
    assert {name for name in made if fleet.acme.name in name} == {pipeline, f"{pipeline}-ticks"}
    assert rules["used"] >= len(made) > 1, "no rule is left out of the count"


# what Archive sees ----------------------------------------------------------------------------


@contextmanager
def environment(cloud: Cloud) -> Iterator[None]:
    """This process in the cloud's environment, as an Archive service that imports the client."""
    before = dict(os.environ)
    os.environ.update(cloud.environment)
    boto3.DEFAULT_SESSION = None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_archives_client_works_where_the_gate_is_open_and_stops_where_it_closes(fleet: Fleet) -> None:
    tenant = fleet.acme
    told = tenant.keyshift("gate", "--json").json()
    assert told["jobs"]["allowed"]
    assert told["searches"]["allowed"]
    with environment(fleet.cloud):
        client = ArchiveClient(Project(root=fleet.cloud.project, home=fleet.cloud.home), tenant.name, fresh_seconds=0)
        assert client.search("Boeing")["total"] == COUNT // 2
        assert len([one for page in client.pages("*", size=7) for one in page]) == COUNT
        found = client.get("people", "p001")
        assert found is not None
        assert found["data"]["name"] == "Person 1 of Zürich"
        assert client.get("people", "nobody") is None
        assert client.write("people", "p001", dict(found["data"])) == 1, "the same data is the same revision"
        _with_a_cutoff(tenant, client, str(found["archived_at"]))


def _with_a_cutoff(tenant: Tenant, client: ArchiveClient, archived_at: str) -> None:
    """The record alone is changed, as in the moment before a freeze's stack and alias follow; then changed back."""
    engine = connect(tenant.cloud.home)
    with engine.connect() as connection:
        row = connection.execute(TENANTS.select().where(TENANTS.c.name == tenant.name)).mappings().one()
    layout = json.loads(row["layout"])
    layout["gate"] |= {"jobs": "closed", "search_cutoff": archived_at, "reason": "final copy"}

    def write(text: str) -> None:
        with engine.begin() as connection:
            connection.execute(TENANTS.update().where(TENANTS.c.name == tenant.name).values(layout=text))

    write(json.dumps(layout))
    try:
        assert client.get("people", "p001") is None, "a get by id passes the alias"
        hidden = client.search("*")["total"]
        assert hidden < COUNT
        assert sum(len(page) for page in client.pages("*", size=7)) == hidden
        with pytest.raises(GateClosed, match="final copy"):
            client.write("people", "late", {})
        shown = tenant.keyshift("gate").out
        assert "closed: final copy" in shown
    finally:
        write(row["layout"])
    assert client.get("people", "p001") is not None


def test_archives_own_key_cannot_search_past_the_alias_in_a_point_in_time(fleet: Fleet) -> None:
    search = fleet.acme.search("e1", "archive")
    point = search.open_point_in_time(index="records", keep_alive="1m")["id"]
    with pytest.raises(AuthorizationException):
        search.search(pit={"id": point}, size=1)


# kept apart -----------------------------------------------------------------------------------


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


@pytest.mark.parametrize("role", ["archive", "runner"])
def test_a_tenants_role_opens_nothing_of_another_tenants(fleet: Fleet, role: str) -> None:
    acme, bolt = fleet.acme, fleet.bolt
    mine, other = acme.storage("s1", role), bolt.storage("s1", "runner")
    assert mine.storage.bucket == other.storage.bucket, (
        "one bucket holds both, so that only the policy keeps them apart"
    )
    place = {"Bucket": other.storage.bucket, "Key": f"{other.storage.prefix}records/people/p001.json"}
    own = {**place, "Key": f"{mine.storage.prefix}records/people/p001.json"}
    secrets, sqs, kms = (acme.client(role, service) for service in ("secretsmanager", "sqs", "kms"))
    s3, outputs = mine.s3, bolt.outputs()
    queue, secret = outputs["pipelines"]["p1"]["queue_url"], outputs["searches"]["e1"]["secrets"]
    assert refusal(lambda: s3.get_object(**own)) == "", "the role works at all"
    assert refusal(lambda: s3.list_objects_v2(Bucket=own["Bucket"], Prefix=mine.storage.prefix)) == ""
    found = {
        "get": refusal(lambda: s3.get_object(**place)),
        "put": refusal(lambda: s3.put_object(**place, Body=b"x")),
        "delete": refusal(lambda: s3.delete_object(**place)),
        "tag": refusal(lambda: s3.put_object_tagging(**place, Tagging={"TagSet": []})),
        "list": refusal(lambda: s3.list_objects_v2(Bucket=place["Bucket"], Prefix=other.storage.prefix)),
        "list all": refusal(lambda: s3.list_objects_v2(Bucket=place["Bucket"])),
        "versions": refusal(lambda: s3.list_object_versions(Bucket=place["Bucket"], Prefix=other.storage.prefix)),
        "copy": refusal(lambda: s3.copy_object(**own, CopySource=place)),
        "receive": refusal(lambda: sqs.receive_message(QueueUrl=queue)),
        "send": refusal(lambda: sqs.send_message(QueueUrl=queue, MessageBody="x")),
        **{
            f"secret {audience}": refusal(lambda name=name: secrets.get_secret_value(SecretId=name))
            for audience, name in secret.items()
        },
        "assume": refusal(
            lambda: acme.client(role, "sts").assume_role(
                RoleArn=f"arn:aws:iam::{fleet.cloud.account}:role/keyshift-{bolt.name}-{role}", RoleSessionName="test"
            )
        ),
        "disable key": refusal(lambda: kms.disable_key(KeyId=mine.storage.key_arn)),
    }
    allowed = {what: code for what, code in found.items() if code not in {"AccessDenied", "AccessDeniedException"}}
    assert allowed == {}
    assert archive.read(other, "records/people/p001.json") is not None, "and it is still there"


def test_a_tenants_worker_role_reads_its_own_prefix_only(fleet: Fleet) -> None:
    """Nobody but Lambda may take that role, so that its policy is what can be looked at."""
    iam = fleet.cloud.client("iam")
    role = f"keyshift-{fleet.acme.name}-pipeline"
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = json.dumps(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])
    assert f"t/{fleet.acme.name}/" in policy
    assert fleet.bolt.name not in policy
    assert refusal(lambda: fleet.acme.client("pipeline", "sts")) == "AccessDenied"


@pytest.mark.parametrize("audience", ["admin", "pipeline", "archive"])
def test_a_tenants_search_credentials_open_no_other_tenants_search(fleet: Fleet, audience: str) -> None:
    manager = fleet.cloud.client("secretsmanager")

    def held(tenant: Tenant) -> dict[str, str]:
        name = tenant.outputs()["searches"]["e1"]["secrets"][audience]
        return json.loads(manager.get_secret_value(SecretId=name)["SecretString"])

    mine, other = held(fleet.acme), held(fleet.bolt)
    index = READ_ALIAS if audience == "archive" else INDEX
    assert connect_search(mine).count(index=index)["count"] == COUNT
    with pytest.raises((AuthenticationException, AuthorizationException, ApiError)) as refused:
        connect_search({**mine, "endpoint": other["endpoint"]}).count(index=index)
    assert refused.value.status_code in {401, 403}


# backed up ------------------------------------------------------------------------------------


def test_after_a_restore_nothing_would_change(fleet: Fleet, tmp_path: Path) -> None:
    cloud = fleet.cloud
    made = cloud.keyshift("backup", str(tmp_path / "kept"), "--json").json()
    assert {fleet.acme.name, fleet.bolt.name} <= set(made["tenants"])
    project = make_project(tmp_path / "fresh")
    fresh = cloud.with_environment(KEYSHIFT_PROJECT=str(project))
    fresh = type(fresh)(fresh.folder, fresh.sandbox, project, fresh.environment)
    restored = fresh.keyshift("backup", "restore", str(tmp_path / "kept"), "--signed-by", made["signed_by"], "--json")
    assert restored.json()["files"] == made["files"]
    moved = Tenant(fresh, fleet.acme.name)
    moved.pulumi("preview", "--refresh", "--expect-no-changes")
    assert moved.keyshift("search", "Boeing", "--json").json()["total"] == COUNT // 2
    refused = fresh.keyshift("backup", "restore", str(tmp_path / "kept"), check=False)
    assert refused.code == 2
    assert "only where nothing is" in refused.err
