"""What Check refuses and what it fills in, as the real providers do."""

from __future__ import annotations

import dataclasses

import pytest

from sandbox.provider import check, schema
from sandbox.provider.kinds import Autoname, Kind, kind_of
from sandbox.provider.values import UNKNOWN, Archive

BUCKET = "aws:s3/bucket:Bucket"
ENCRYPTION = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
URN = f"urn:pulumi:dev::toy::{BUCKET}::Store"


def refused(token: str, inputs: dict) -> dict[str, str]:
    described = schema.load(token.partition(":")[0])
    found = check.problems(described, token, described.resources[token].inputs, inputs)
    return {**dict(found), **dict(check.kind_problems(kind_of(token), inputs))}


def filled(kind: Kind, inputs: dict, *, olds: dict | None = None, taken: str | None = None) -> dict:
    return check.filled(kind, inputs, urn=URN, olds=olds or {}, taken=taken)


def test_an_unknown_property_is_refused_with_its_name() -> None:
    assert refused(BUCKET, {"bucket": "name", "bucketNmae": "c"}) == {
        "bucketNmae": f"unknown property 'bucketNmae': {BUCKET} has no property of that name"
    }


def test_a_missing_required_property_is_refused_with_its_name() -> None:
    assert refused("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "b"}) == {
        "policy": "missing required property 'policy' of aws:s3/bucketPolicy:BucketPolicy"
    }


def test_a_null_does_not_stand_for_a_required_property() -> None:
    assert "policy" in refused("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "b", "policy": None})


def test_unknown_and_missing_properties_are_refused_at_any_depth() -> None:
    rule = {"applyServerSideEncryptionByDefault": {"kmsKey": "k"}}
    at = "rules[0].applyServerSideEncryptionByDefault"
    assert refused(ENCRYPTION, {"bucket": "b", "rules": [rule]}).keys() == {f"{at}.kmsKey", f"{at}.sseAlgorithm"}


def test_a_value_that_is_not_known_yet_passes_wherever_it_stands() -> None:
    assert not refused(ENCRYPTION, {"bucket": UNKNOWN, "rules": UNKNOWN})
    rule = {"applyServerSideEncryptionByDefault": {"sseAlgorithm": UNKNOWN}}
    assert not refused(ENCRYPTION, {"bucket": "b", "rules": [rule]})


@pytest.mark.parametrize(
    ("inputs", "path", "wanted"),
    [
        ({"bucket": 1}, "bucket", "a string"),
        ({"bucket": True}, "bucket", "a string"),
        ({"forceDestroy": "yes"}, "forceDestroy", "a boolean"),
        ({"tags": ["a"]}, "tags", "a map"),
        ({"tags": {"a": 1}}, "tags.a", "a string"),
    ],
)
def test_a_value_of_another_type_is_refused(inputs: dict, path: str, wanted: str) -> None:
    reasons = refused(BUCKET, inputs)
    assert reasons.keys() == {path}
    assert f"must be {wanted}, not" in reasons[path]


def test_a_policy_may_be_text_or_an_object_and_must_be_json() -> None:
    policy = "aws:s3/bucketPolicy:BucketPolicy"
    assert not refused(policy, {"bucket": "b", "policy": '{"Statement": []}'})
    assert not refused(policy, {"bucket": "b", "policy": {"Statement": [], "Version": "2012-10-17"}})
    assert "invalid JSON" in refused(policy, {"bucket": "b", "policy": "{"})["policy"]


def test_what_the_sandbox_does_not_do_is_refused_and_not_ignored() -> None:
    reasons = refused(BUCKET, {"bucket": "buckets", "versioning": {"enabled": True}})
    assert "not offered by the sandbox" in reasons["versioning"]


@pytest.mark.parametrize(
    ("token", "inputs", "at"),
    [
        ("aws:kms/key:Key", {"deletionWindowInDays": 3}, "deletionWindowInDays"),
        ("aws:kms/alias:Alias", {"name": "k", "targetKeyId": "t"}, "name"),
        ("aws:kms/externalKey:ExternalKey", {"keyMaterialBase64": "AAAA"}, "keyMaterialBase64"),
        ("aws:sqs/queue:Queue", {"name": "a b"}, "name"),
        ("aws:sqs/queue:Queue", {"kmsMasterKeyId": "k", "sqsManagedSseEnabled": True}, "sqsManagedSseEnabled"),
        ("aws:sqs/queue:Queue", {"visibilityTimeoutSeconds": 50_000}, "visibilityTimeoutSeconds"),
        ("aws:secretsmanager/secret:Secret", {"recoveryWindowInDays": 3}, "recoveryWindowInDays"),
        ("aws:cloudwatch/eventRule:EventRule", {"name": "r"}, "eventPattern"),
        ("aws:lambda/function:Function", {"role": "r", "code": Archive("h"), "runtime": "python3.12"}, "handler"),
        ("elasticstack:index/index:Index", {"name": "Records"}, "name"),
    ],
)
def test_values_that_the_real_provider_refuses_are_refused(token: str, inputs: dict, at: str) -> None:
    assert at in refused(token, inputs)


def test_defaults_are_filled_in_and_listed_as_the_real_provider_lists_them() -> None:
    added = filled(kind_of("aws:sqs/queue:Queue"), {"name": "q", "delaySeconds": 5})
    assert "delaySeconds" not in added, "what the program says stands"
    assert added["visibilityTimeoutSeconds"] == 30
    assert "visibilityTimeoutSeconds" in added[check.DEFAULTS]


def test_a_name_left_out_is_made_from_the_logical_name_and_is_the_same_for_the_same_urn() -> None:
    kind = kind_of(BUCKET)
    name = filled(kind, {})["bucket"]
    assert name.startswith("store-"), "bucket names are lower case"
    assert len(name) == len("store-") + 7
    assert filled(kind, {})["bucket"] == name, "a lost create must find its bucket again"


def test_a_name_made_earlier_is_kept_and_one_dropped_from_the_program_is_not() -> None:
    kind = kind_of(BUCKET)
    assert filled(kind, {}, olds={"bucket": "store-1", check.DEFAULTS: ["bucket"]})["bucket"] == "store-1"
    assert filled(kind, {}, olds={"bucket": "given", check.DEFAULTS: []})["bucket"] != "given"


def test_the_replacement_of_a_named_object_gets_another_name() -> None:
    kind = kind_of(BUCKET)
    first = filled(kind, {})["bucket"]
    assert filled(kind, {}, taken=first)["bucket"] != first, "both stand side by side for a moment"


def test_long_logical_names_are_cut_to_what_the_service_takes() -> None:
    kind = dataclasses.replace(kind_of(BUCKET), autoname=Autoname("bucket", prefix="x/", max_length=20))
    name = check.filled(kind, {}, urn=f"urn:pulumi:dev::toy::{BUCKET}::{'n' * 50}", olds={}, taken=None)["bucket"]
    assert len(name) == 20
    assert name.startswith("x/nnn")


def test_a_given_name_makes_a_replacement_delete_first_and_a_made_one_does_not() -> None:
    kind = kind_of(BUCKET)
    given = {"bucket": "given", **filled(kind, {"bucket": "given"})}
    assert check.is_deleted_first(kind, given)
    assert not check.is_deleted_first(kind, filled(kind, {}))


def test_a_deployments_replacement_stands_beside_it_whatever_its_name() -> None:
    kind = kind_of("ec:index/deployment:Deployment")
    given = {"name": "acme-e1", **filled(kind, {"name": "acme-e1"})}
    assert not check.is_deleted_first(kind, given), "names are not unique in Elastic Cloud"
