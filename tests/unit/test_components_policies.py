"""The policies as functions: who may do what, in each position of the gate."""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

import pytest

from components.audiences import ARCHIVE, AUDIENCES, PIPELINE, WRITERS
from components.audiences import RUNNER as RUNNER_AUDIENCE
from components.aws.access import Place, Tenancy, archive_policy, pipeline_policy, runner_policy
from components.aws.closed import WRITES
from components.aws.key import ELASTIC_ORG_PATH, customer_key_policy, vendor_key_policy
from components.aws.storage import bucket_policy
from components.index import READER, WRITER, records_filter
from components.routes import Route

ACCOUNT, REGION = "111122223333", "eu-west-1"
RUNNER = f"arn:aws:iam::{ACCOUNT}:role/keyshift-acme-runner"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k1"
OLD_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k0"
VENDOR_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/vendor"

SHARED = Place(bucket="shared", prefix="t/acme/", key_arn=VENDOR_KEY, key_arns=[VENDOR_KEY])
DEDICATED = Place(bucket="dedicated", prefix="", key_arn=KEY, key_arns=[OLD_KEY, KEY])

TENANCY = Tenancy(
    tenant="acme",
    account=ACCOUNT,
    region=REGION,
    places={"s1": SHARED, "s2": DEDICATED},
    routes=[
        Route(id="p1", storage="s1", search="e1", is_attached=True),
        Route(id="p2", storage="s2", search="e2", is_attached=False),
    ],
    serving_storage="s1",
    serving_search="e1",
    are_jobs_open=True,
    is_access_open=True,
)


def allows(policy: dict, action: str, resource: str) -> bool:
    """What IAM would say without looking at conditions: an explicit deny wins."""
    effects = {
        statement["Effect"]
        for statement in policy["Statement"]
        if _any(statement["Action"], action) and _any(statement["Resource"], resource)
    }
    return "Allow" in effects and "Deny" not in effects


def _any(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


def test_archive_reaches_what_serves_and_nothing_else():
    policy = archive_policy(TENANCY)
    assert allows(policy, "s3:PutObject", "arn:aws:s3:::shared/t/acme/records/a.json")
    assert not allows(policy, "s3:GetObject", "arn:aws:s3:::shared/t/other/records/a.json"), "another tenant's entity"
    assert not allows(policy, "s3:GetObject", "arn:aws:s3:::dedicated/records/a.json"), "a copy that does not serve yet"
    assert not allows(policy, "s3:DeleteObjectVersion", "arn:aws:s3:::shared/t/acme/records/a.json")


def test_a_listing_of_the_shared_bucket_is_limited_to_the_tenants_entity():
    listing = next(s for s in archive_policy(TENANCY)["Statement"] if s.get("Sid") == "ListServing")
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "t/acme/*"}}


@pytest.mark.parametrize(
    "action", ["s3:PutObject", "s3:PutObjectTagging", "s3:DeleteObject", "s3:DeleteObjectTagging", "s3:RestoreObject"]
)
def test_archive_is_refused_by_name_to_write_while_jobs_are_closed(action):
    closed = archive_policy(dataclasses.replace(TENANCY, are_jobs_open=False))
    assert not allows(closed, action, "arn:aws:s3:::shared/t/acme/records/a.json")
    assert allows(closed, "s3:GetObject", "arn:aws:s3:::shared/t/acme/records/a.json"), "searches go on in a freeze"


def test_closed_access_refuses_archive_and_pipeline_everything_and_the_runner_nothing():
    sealed = dataclasses.replace(TENANCY, is_access_open=False)
    one = "arn:aws:s3:::shared/t/acme/records/a.json"
    assert not allows(archive_policy(sealed), "s3:GetObject", one)
    assert not allows(pipeline_policy(sealed), "s3:GetObject", one)
    assert allows(runner_policy(sealed, [KEY]), "s3:GetObject", one), "the check before a restore has to read"


def test_before_anything_serves_archive_may_do_nothing_at_all():
    empty = dataclasses.replace(TENANCY, places={}, routes=[], serving_storage=None, serving_search=None)
    for policy in (archive_policy(empty), pipeline_policy(empty)):
        assert [statement["Effect"] for statement in policy["Statement"]] == ["Deny"]
    assert runner_policy(empty, [])["Statement"], "IAM refuses a policy without statements"


def test_in_a_rotation_old_objects_stay_readable_while_new_ones_come_under_the_new_key():
    serving = dataclasses.replace(TENANCY, serving_storage="s2", serving_search="e2")
    policy = archive_policy(serving)
    assert allows(policy, "kms:Decrypt", OLD_KEY)
    assert allows(policy, "kms:GenerateDataKey", KEY)
    assert allows(policy, "kms:GenerateDataKey", OLD_KEY), (
        "the bucket's default may still be the old key for an instant"
    )


def test_the_pipeline_reads_only_where_events_come_from_and_writes_no_object():
    policy = pipeline_policy(TENANCY)
    assert allows(policy, "s3:GetObject", "arn:aws:s3:::shared/t/acme/records/a.json")
    assert not allows(policy, "s3:GetObject", "arn:aws:s3:::dedicated/records/a.json"), "p2 is detached"
    assert not allows(policy, "s3:PutObject", "arn:aws:s3:::shared/t/acme/records/a.json")
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:keyshift-acme-p2"
    assert allows(policy, "sqs:ReceiveMessage", queue), "Lambda refuses a mapping whose role cannot read the queue"


SERVING = dataclasses.replace(
    TENANCY, routes=[dataclasses.replace(route, takes_edits=route.id == "p1") for route in TENANCY.routes]
)


def test_the_pipeline_that_serves_writes_what_was_edited_and_deletes_nothing():
    policy, one = pipeline_policy(SERVING), "arn:aws:s3:::shared/t/acme/records/a.json"
    assert allows(policy, "s3:PutObject", one)
    assert allows(policy, "kms:GenerateDataKey", VENDOR_KEY)
    assert not allows(policy, "s3:PutObject", "arn:aws:s3:::dedicated/records/a.json"), "p2 does not serve"
    assert not allows(policy, "s3:PutObject", "arn:aws:s3:::shared/t/other/records/a.json")
    for action in ("s3:DeleteObject", "s3:DeleteObjectVersion"):
        assert not allows(policy, action, one), action
    closed = pipeline_policy(dataclasses.replace(SERVING, are_jobs_open=False))
    assert not allows(closed, "s3:PutObject", one), "a freeze holds for the worker too"
    assert allows(closed, "s3:GetObject", one), "events that wait are worked on in a freeze"


def test_every_role_that_may_write_to_the_serving_storage_is_probed_in_a_freeze():
    """WRITES holds patterns, and so may a policy: either may cover the other."""
    policies = {ARCHIVE: archive_policy(TENANCY), PIPELINE: pipeline_policy(SERVING)}
    assert {*policies, RUNNER_AUDIENCE} == set(AUDIENCES), "a new role: is it a writer?"
    writers = {
        audience
        for audience, policy in policies.items()
        for statement in policy["Statement"]
        for action in statement["Action"]
        if statement["Effect"] == "Allow" and any(fnmatchcase(action, w) or fnmatchcase(w, action) for w in WRITES)
    }
    assert writers == set(WRITERS)


def test_the_runner_hears_of_tag_changes_only_where_a_storage_is_watched_and_nobody_else_does():
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:keyshift-acme-s1-tags"
    watching = dataclasses.replace(TENANCY, watched=["s1"])
    for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"):
        assert allows(runner_policy(watching, [KEY]), action, queue)
        assert not allows(runner_policy(watching, [KEY]), action, queue.replace("s1", "s2"))
        assert not allows(runner_policy(TENANCY, [KEY]), action, queue)
        assert not allows(archive_policy(watching), action, queue)
        assert not allows(pipeline_policy(watching), action, queue)


def test_each_role_reads_the_credentials_of_its_audience_only():
    def secret(name: str) -> str:
        return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:keyshift/acme/{name}-AbCdEf"

    read = "secretsmanager:GetSecretValue"
    assert allows(archive_policy(TENANCY), read, secret("e1/archive"))
    assert not allows(archive_policy(TENANCY), read, secret("e1/admin"))
    assert not allows(archive_policy(TENANCY), read, secret("e2/archive")), "a search that does not serve yet"
    assert allows(pipeline_policy(TENANCY), read, secret("e1/pipeline"))
    assert not allows(pipeline_policy(TENANCY), read, secret("e1/archive"))
    assert allows(runner_policy(TENANCY, [KEY]), read, secret("e2/admin"))


@pytest.mark.parametrize(
    "action",
    [
        "s3:GetObjectVersion",
        "s3:DeleteObjectVersion",
        "s3:PutObjectTagging",
        "s3:AbortMultipartUpload",
        "s3:UpdateObjectEncryption",
    ],
)
def test_the_runner_moves_objects_of_every_storage_of_the_tenant(action):
    policy = runner_policy(TENANCY, [KEY])
    assert allows(policy, action, "arn:aws:s3:::shared/t/acme/records/a.json")
    assert allows(policy, action, "arn:aws:s3:::dedicated/records/a.json")
    assert not allows(policy, action, "arn:aws:s3:::shared/t/other/records/a.json")


def test_no_role_may_read_or_change_a_key_policy():
    for policy in (archive_policy(TENANCY), pipeline_policy(TENANCY), runner_policy(TENANCY, [KEY])):
        for action in ("kms:GetKeyPolicy", "kms:PutKeyPolicy", "kms:DisableKey", "kms:CreateGrant"):
            assert not allows(policy, action, KEY), action


def customer_policy() -> dict:
    return customer_key_policy(
        account=ACCOUNT, region=REGION, roles=[RUNNER], runner_role=RUNNER, buckets=["keyshift-acme-s*-20e5733a"]
    )


def test_an_administrator_of_our_account_manages_a_customers_key_but_cannot_use_it():
    admin = customer_policy()["Statement"][0]
    assert admin["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    assert "kms:PutKeyPolicy" in admin["Action"], "KMS refuses a policy that nobody could change again"
    for use in ("kms:Decrypt", "kms:GenerateDataKey", "kms:Encrypt", "kms:ReEncryptFrom", "kms:CreateGrant"):
        assert not _any(admin["Action"], use), use


def test_data_is_opened_only_through_s3_and_only_for_the_tenants_buckets():
    data = customer_policy()["Statement"][1]
    assert data["Condition"]["StringEquals"] == {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}
    assert data["Condition"]["ArnEquals"] == {"aws:PrincipalArn": [RUNNER]}
    assert data["Condition"]["StringLike"]["kms:EncryptionContext:aws:s3:arn"] == [
        "arn:aws:s3:::keyshift-acme-s*-20e5733a",
        "arn:aws:s3:::keyshift-acme-s*-20e5733a/*",
    ], "the object's ARN without bucket keys, the bucket's with them"


def test_the_runners_probes_are_not_bound_to_s3():
    probes = customer_policy()["Statement"][2]
    assert set(probes["Action"]) == {"kms:DescribeKey", "kms:GenerateDataKey", "kms:Decrypt"}
    assert probes["Condition"] == {"ArnEquals": {"aws:PrincipalArn": RUNNER}}


@pytest.mark.parametrize("policy", [customer_policy(), vendor_key_policy(account=ACCOUNT)])
def test_everybody_is_a_principal_only_under_elastics_organization(policy):
    open_to_all = [s for s in policy["Statement"] if s["Principal"] == {"AWS": "*"}]
    assert [s["Condition"] for s in open_to_all] == [
        {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": ELASTIC_ORG_PATH}}
    ]


def test_a_customer_key_policy_holds_four_statements_and_nothing_else():
    sids = [statement["Sid"] for statement in customer_policy()["Statement"]]
    assert sids == ["AccountAdministersTheKey", "TenantDataThroughS3", "RunnerProbes", "ElasticKeyAccess"]


def sids(policy: dict) -> list[str]:
    return [statement["Sid"] for statement in policy["Statement"]]


def test_a_bucket_refuses_plain_http_another_algorithm_another_key_and_keys_in_the_request():
    policy = bucket_policy(bucket="b", key_arn=KEY)
    assert sids(policy) == [
        "DenyInsecureTransport",
        "DenyAnotherAlgorithm",
        "DenyAnotherKey",
        "DenyCustomerProvidedKey",
    ]
    for header in policy["Statement"][1:]:
        assert set(header["Condition"]["Null"].values()) == {"false"}, (
            "without it a PUT that leaves the header out, and so takes the bucket's default, would be refused"
        )


def test_a_frozen_bucket_refuses_writes_of_everybody_but_the_runner():
    frozen = bucket_policy(bucket="b", key_arn=KEY, runner_role=RUNNER, writable=False)["Statement"][-1]
    assert frozen["Sid"] == "DenyFrozen"
    assert frozen["Condition"] == {"ArnNotEquals": {"aws:PrincipalArn": RUNNER}}
    assert _any(frozen["Action"], "s3:DeleteObjectVersion")
    assert not _any(frozen["Action"], "s3:GetObject")
    assert not _any(frozen["Action"], "s3:AbortMultipartUpload"), "a freeze aborts unfinished uploads"


def test_a_sealed_bucket_refuses_reads_writes_and_listings_but_stays_manageable():
    policy = bucket_policy(bucket="b", key_arn=KEY, runner_role=RUNNER, writable=False, readable=False)
    sealed = policy["Statement"][-1]
    assert sealed["Sid"] == "DenySealed"
    for action in ("s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:ListBucketVersions"):
        assert _any(sealed["Action"], action), action
    for action in ("s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectTagging"):
        assert _any(sealed["Action"], action), action
    assert sealed["Condition"] == {"ArnNotEquals": {"aws:PrincipalArn": RUNNER}}
    for action in ("s3:PutBucketPolicy", "s3:GetBucketPolicy", "s3:DeleteBucketPolicy"):
        assert not _any(sealed["Action"], action), f"{action}: the seal could not be lifted again"


def test_the_read_alias_hides_tombstones_and_what_is_not_older_than_the_cutoff():
    import layouts

    assert records_filter() == {"bool": {"must_not": [{"term": {"deleted": True}}]}}
    cut = records_filter(layouts.CUTOFF)["bool"]["filter"]
    assert cut == [{"range": {"archived_at": {"lt": "2026-01-02T03:04:05.000+00:00"}}}]


def test_archives_credential_sees_the_alias_only_and_may_add_edits_but_read_or_change_none():
    assert READER["indices"] == [
        {"names": ["records"], "privileges": ["read"]},
        {"names": ["edits-000001"], "privileges": ["create_doc"]},
    ]
    assert WRITER["cluster"] == READER["cluster"] == []
