"""A deployment under a customer's key: made only if the key works, locked when it is lost, opened when it is back.

With the sandbox's AWS as the KMS: the customer acts through the profile `customer`, Elastic through `elastic`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aws_server import CUSTOMER, REGION, AwsServer, start_aws
from elastic_server import Created, ElasticServer, running_elastic, until
from elasticsearch import ApiError

pytestmark = pytest.mark.sandbox

ORG_PATH = "o-ygducmlz12/r-e5t3/ou-e5t3-fzpdq76p/ou-e5t3-ysfcmd95/ou-e5t3-hwt05su3/"
ELASTICS_ACTIONS = ["kms:Decrypt", "kms:Encrypt", "kms:GetKeyRotationStatus", "kms:GenerateDataKey", "kms:DescribeKey"]


def policy(*elastics_actions: str) -> str:
    """The customer's key policy, with the statement that Elastic's documentation asks for."""
    own = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{CUSTOMER}:root"}, "Action": "kms:*", "Resource": "*"}
    condition = {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": [f"{ORG_PATH}*"]}}
    elastic = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": list(elastics_actions), "Resource": "*"}
    statements = [own, {**elastic, "Condition": condition}] if elastics_actions else [own]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@dataclass
class Customer:
    """The customer's side of KMS. The AWS process may be stopped and started again under it."""

    aws: AwsServer

    @property
    def kms(self) -> Any:
        return self.aws.client("kms", "customer")

    def new_key(self, *elastics_actions: str, **options: Any) -> str:
        return self.kms.create_key(Policy=policy(*elastics_actions), **options)["KeyMetadata"]["Arn"]

    def environment(self) -> dict[str, str]:
        folder = self.aws.folder / "aws"
        return {
            "AWS_ENDPOINT_URL": self.aws.endpoint,
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        }

    def restart(self) -> None:
        self.aws = start_aws(self.aws.folder, self.aws.port)


@pytest.fixture(scope="module")
def customer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Customer]:
    customer = Customer(start_aws(tmp_path_factory.mktemp("aws")))
    yield customer
    customer.aws.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, customer: Customer) -> Iterator[ElasticServer]:
    with running_elastic(tmp_path_factory.mktemp("elastic"), customer.environment()) as server:
        yield server


def started(server: ElasticServer, name: str, key: str) -> Created:
    created = server.create(name, key)
    server.wait_for(created.id, "started")
    client = created.client()
    client.indices.create(index="records", settings={"number_of_replicas": 0})
    client.index(index="records", id="1", document={"a": 1})
    return created


def is_readable(created: Created) -> bool:
    client = created.client()
    try:
        client.cluster.health(wait_for_status="yellow", index="records")
    except ApiError as refused:
        if refused.status_code == 503:
            return False
        raise
    return client.get(index="records", id="1")["found"]


def refusal(server: ElasticServer, key: str, **options: Any) -> dict[str, Any]:
    """The error of a creation that must fail and leave nothing."""
    before = server.call("GET", "/deployments").json()
    with pytest.raises(httpx.HTTPStatusError) as refused:
        server.create("refused", key, **options)
    assert refused.value.response.status_code == 400
    assert server.call("GET", "/deployments").json() == before
    return refused.value.response.json()["errors"][0]


def test_disabling_the_key_locks_the_deployment_and_enabling_it_brings_the_data_back(server, customer):
    key = customer.new_key(*ELASTICS_ACTIONS)
    created = started(server, "acme-e2", key)
    shown = server.show(created.id)
    assert shown["settings"]["byok"] == {"key_resource_path": key}
    pid = shown["_sandbox"]["node_pid"]

    customer.kms.disable_key(KeyId=key)
    locked = server.wait_for(created.id, "locked")
    assert not locked["healthy"]
    assert "DisabledException" in locked["_sandbox"]["reason"]
    until(lambda: server.show(created.id)["_sandbox"]["node_pid"] is None, f"node {pid} is stopped")
    assert not is_readable(created)
    refused = httpx.get(created.url, trust_env=False)
    assert (refused.status_code, refused.json()["ok"]) == (503, False)

    customer.kms.enable_key(KeyId=key)
    server.wait_for(created.id, "started")
    assert is_readable(created)
    server.delete(created.id)


def test_a_withdrawn_permission_locks_and_a_kms_out_of_reach_does_not(server, customer):
    key = customer.new_key(*ELASTICS_ACTIONS)
    created = started(server, "acme-e3", key)

    customer.aws.stop()
    until(lambda: "not reached" in server.show(created.id)["_sandbox"]["reason"], "KMS was asked in vain")
    assert server.show(created.id)["_sandbox"]["phase"] == "started"
    assert is_readable(created)
    customer.restart()

    without_decrypt = [action for action in ELASTICS_ACTIONS if action != "kms:Decrypt"]
    customer.kms.put_key_policy(KeyId=key, Policy=policy(*without_decrypt))
    assert "AccessDenied" in server.wait_for(created.id, "locked")["_sandbox"]["reason"]
    assert not is_readable(created)
    customer.kms.put_key_policy(KeyId=key, Policy=policy(*ELASTICS_ACTIONS))
    server.wait_for(created.id, "started")
    assert is_readable(created)
    server.delete(created.id)


def test_an_alias_that_names_another_key_is_followed_and_then_the_old_key_may_go(server, customer):
    old, new = (customer.new_key(*ELASTICS_ACTIONS) for _ in range(2))
    customer.kms.create_alias(AliasName="alias/archive", TargetKeyId=old)
    alias = f"arn:aws:kms:{REGION}:{CUSTOMER}:alias/archive"
    created = started(server, "acme-e4", alias)
    assert server.show(created.id)["_sandbox"]["key_arn"] == old
    customer.kms.update_alias(AliasName="alias/archive", TargetKeyId=new)
    until(lambda: server.show(created.id)["_sandbox"]["key_arn"] == new, "the data key is wrapped by the new key")
    customer.kms.disable_key(KeyId=old)
    customer.kms.disable_key(KeyId=new)
    server.wait_for(created.id, "locked")
    customer.kms.enable_key(KeyId=new)
    server.wait_for(created.id, "started")
    assert is_readable(created), "the old key is not needed any more"
    server.delete(created.id)


def test_a_locked_deployment_can_be_deleted_and_one_locked_at_a_restart_stays_locked(customer, tmp_path):
    key = customer.new_key(*ELASTICS_ACTIONS)
    with running_elastic(tmp_path, customer.environment(), keep_data=True) as server:
        created = started(server, "acme-e5", key)
    customer.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    with running_elastic(tmp_path, customer.environment()) as server:
        locked = server.wait_for(created.id, "locked")
        assert "KMSInvalidStateException" in locked["_sandbox"]["reason"]
        assert locked["_sandbox"]["node_pid"] is None, "no node starts without the key"
        server.delete(created.id)
        assert server.call("GET", "/deployments").json() == {"deployments": []}


@pytest.mark.parametrize("missing", ELASTICS_ACTIONS)
def test_a_key_policy_that_lacks_one_of_elastics_actions_is_refused_with_kmss_own_words(server, customer, missing):
    key = customer.new_key(*(action for action in ELASTICS_ACTIONS if action != missing))
    error = refusal(server, key)
    assert error["code"] == "deployments.byok.key_unreachable"
    assert missing in error["message"], "whoever wrote the policy must learn which action is missing"


def test_a_key_that_cannot_encrypt_a_deployment_is_refused(server, customer):
    disabled = customer.new_key(*ELASTICS_ACTIONS)
    customer.kms.disable_key(KeyId=disabled)
    assert "DisabledException" in refusal(server, disabled)["message"]
    assert "KMSInvalidState" in refusal(server, customer.new_key(*ELASTICS_ACTIONS, Origin="EXTERNAL"))["message"]
    assert "NotFoundException" in refusal(server, f"arn:aws:kms:{REGION}:{CUSTOMER}:alias/none")["message"]
    assert refusal(server, "alias/archive")["code"] == "deployments.byok.invalid_key"
    assert "eu-central-1" in refusal(server, f"arn:aws:kms:eu-central-1:{CUSTOMER}:key/any")["message"]
    usable = customer.new_key(*ELASTICS_ACTIONS)
    assert refusal(server, usable, region="azure-westeurope")["code"] == "deployments.byok.invalid_key"


def test_another_key_for_a_deployment_and_removing_it_are_unsupported(server, customer):
    key, other = (customer.new_key(*ELASTICS_ACTIONS) for _ in range(2))
    created = server.create("acme-e6", key)
    for byok in ({"key_resource_path": other}, None):
        refused = server.call("PUT", f"/deployments/{created.id}", {"settings": {"byok": byok}})
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["code"] == "deployments.byok.unsupported"
    same = server.call("PUT", f"/deployments/{created.id}", {"settings": {"byok": {"key_resource_path": key}}})
    assert same.status_code == 200
    server.delete(created.id)
