"""A tenant under a key of the customer's own account: its policy, its check, and the rotation that only they begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import moved
import pytest
from botocore.exceptions import ClientError
from cloud import REGION, Cloud, Done, Tenant, records

from migrate.keys import policy
from migrate.log import Log

CUSTOMER = "444455556666"
FOLLOW_SECONDS = 120
MOVE_SECONDS = 300


class Customer:
    """Who types in the customer's account."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.kms = cloud.client("kms", "customer")
        self.alias = f"alias/{name}"
        self.alias_arn = f"arn:aws:kms:{REGION}:{CUSTOMER}:{self.alias}"

    def key(self, document: dict[str, Any] | None = None) -> str:
        """A new key, under the policy given or KMS's own default."""
        given = {"Policy": json.dumps(document)} if document else {}
        return self.kms.create_key(**given)["KeyMetadata"]["Arn"]

    def lead_to(self, key: str) -> None:
        call = self.kms.update_alias if self._has_alias() else self.kms.create_alias
        call(AliasName=self.alias, TargetKeyId=key.rpartition("/")[2])

    def _has_alias(self) -> bool:
        return any(one["AliasName"] == self.alias for one in self.kms.list_aliases()["Aliases"])

    def attach(self, key: str, document: dict[str, Any]) -> None:
        self.kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(document))


@pytest.fixture
def tenant(cloud: Cloud):
    made = Tenant(cloud, cloud.new_name("theirs"))
    yield made
    made.shut_down()


def without(document: dict[str, Any], sid: str) -> dict[str, Any]:
    return {**document, "Statement": [one for one in document["Statement"] if one["Sid"] != sid]}


def assert_refused(done: Done, code: str, exit_code: int = 2) -> None:
    assert done.code == exit_code, done.text
    assert done.json()["error"]["code"] == code, done.text


def follow(tenant: Tenant, exit_code: int) -> dict[str, Any]:
    done = tenant.keyshift("key", "follow", "--json", check=False, seconds=FOLLOW_SECONDS)
    assert done.code == exit_code, done.text
    return done.json()


def put_as_archive(tenant: Tenant, name: str) -> str:
    """ "" if Archive may write now, else the refusal's code."""
    storage = tenant.layout()["serves"]["storage"]
    side = tenant.storage(storage, "archive")
    try:
        side.s3.put_object(Bucket=side.storage.bucket, Key=f"attachments/{name}", Body=b"x")
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""


def default_key(tenant: Tenant) -> str:
    """The key under which S3 itself puts what comes next."""
    s3, bucket = tenant.cloud.client("s3"), tenant.outputs()["storages"]["s1"]["bucket"]
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    return rules[0]["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"]


def test_a_customers_own_key_from_the_printed_policy_to_a_confirmed_rotation(tenant: Tenant, tmp_path: Path) -> None:
    customer = Customer(tenant.cloud, tenant.name)
    created = tenant.keyshift("tenant", "create", "--customer", "theirs-corp", "--mode", "byokms")
    assert f"keyshift key onboard {tenant.name}" in tenant.keyshift("tenant", "show").out, created.text

    document = _printed_policy(tenant, tmp_path / "policy.json")
    first = _onboarded(tenant, customer, document)
    tenant.keyshift("resume", seconds=MOVE_SECONDS)
    tenant.expected = tenant.import_(records=records(20))["records"]
    tenant.wait_until_indexed(tenant.expected)
    assert default_key(tenant) == first
    assert moved.resources(tenant)["keys"] == [], "the only key is the customer's"
    home = moved.home_of(tenant)
    assert {v.key_arn for versions in home.contents.values() for v in versions} == {first}
    assert follow(tenant, 0)["came"] == "unchanged"

    token = _paused(tenant, customer, document, first)
    third = customer.key(document)
    customer.lead_to(third)
    assert_refused(tenant.keyshift("confirm", "--token", token, "--json", check=False), "token-stale")
    newer = follow(tenant, 3)
    assert newer["token"] != token
    assert default_key(tenant) == third
    assert_refused(tenant.keyshift("confirm", "--token", token, "--json", check=False), "token-stale")
    assert_refused(tenant.keyshift("abort", "--json", check=False), "not-reversible")

    tenant.keyshift("confirm", "--token", newer["token"], seconds=MOVE_SECONDS)
    _assert_all_is_under(tenant, home, third)
    customer.kms.disable_key(KeyId=first)
    assert tenant.keyshift("search", "Boeing", "--json").json()["total"] == 10, "nothing hangs on the old key any more"
    tenant.keyshift("key", "check", "--json")


def _printed_policy(tenant: Tenant, file: Path) -> dict[str, Any]:
    printed = tenant.keyshift("key", "policy", "--account", CUSTOMER, "--out", str(file), "--json").json()
    assert json.loads(file.read_text()) == printed["policy"]
    return printed["policy"]


def _onboarded(tenant: Tenant, customer: Customer, document: dict[str, Any]) -> str:
    """Refused with a key's ARN, refused without the policy, taken with it. Nothing changes before it is taken."""
    key = customer.key()
    customer.lead_to(key)
    before = tenant.keyshift("tenant", "show", "--json").json()
    assert_refused(tenant.keyshift("key", "onboard", "--alias", key, "--json", check=False), "not-an-alias")
    closed = tenant.keyshift("key", "onboard", "--alias", customer.alias_arn, "--json", check=False)
    assert closed.code == 1, closed.text
    assert closed.json()["missing_statements"] == [policy.DESCRIBE]
    assert tenant.keyshift("tenant", "show", "--json").json() == before

    customer.attach(key, document)
    taken = tenant.keyshift("key", "onboard", "--alias", customer.alias_arn, "--json").json()
    assert taken["next"] == f"keyshift resume {tenant.name}"
    assert {one["check"] for one in taken["findings"] if one["came"] == "ok"} >= {"generate-data-key", "decrypt"}
    return key


def _paused(tenant: Tenant, customer: Customer, document: dict[str, Any], first: str) -> str:
    """The alias moves to a key that lacks a statement: paused on the old key. Once it is mended: on the new one."""
    tenant.import_(attachments={"before.txt": b"x"})  # as Archive: what is refused below was let in before
    tenant.wait_until_indexed(tenant.expected + 1)
    second = customer.key(without(document, policy.PROBE))
    customer.lead_to(second)
    held = follow(tenant, 3)
    assert held["came"] == "paused"
    assert policy.PROBE in held["missing"]
    assert (held["token"], default_key(tenant)) == (None, first)
    assert put_as_archive(tenant, "held.txt") == "AccessDenied"
    again = follow(tenant, 3)
    assert (again["came"], again["warnings"]) == ("waits", held["warnings"]), "it is said again at each look"

    customer.attach(second, document)
    redirected = follow(tenant, 3)
    assert default_key(tenant) == second
    assert put_as_archive(tenant, "paused.txt") == "AccessDenied", "the cloud refuses, not only our word"
    status = tenant.keyshift("status").out
    assert second in status
    assert f"keyshift confirm {tenant.name} --token {redirected['token']}" in status
    return redirected["token"]


def _assert_all_is_under(tenant: Tenant, home: moved.Home, key: str) -> None:
    layout = tenant.layout()
    assert layout["serves"] == {"storage": "s2", "search": "e2", "pipeline": "p2"}
    assert (layout["gate"]["jobs"], layout["gate"]["warnings"]) == ("open", [])
    assert [one["state"] for one in layout["keys"]] == ["archived", "archived", "active"]
    now = moved.contents(tenant.storage("s2", "runner"))
    assert set(now) == {*home.contents, "attachments/before.txt"}
    assert {v.key_arn for versions in now.values() for v in versions} == {key}
    for name, versions in home.contents.items():
        assert [v.kept for v in now[name]] == [v.kept for v in versions], name
    assert moved.resources(tenant)["deployments"] == [f"{tenant.name}-e2"]
    with pytest.raises(ClientError):
        tenant.cloud.client("s3").head_bucket(Bucket=home.bucket)
    told = [line["event"]["event"] for line in Log(tenant.folder).events()]
    assert "rotation-waits" in told
    assert told.count("rotation-confirmed") == 1
    tenant.pulumi("preview", "--expect-no-changes")
