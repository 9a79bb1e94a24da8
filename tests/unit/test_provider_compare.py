"""When two values mean the same, and what a refresh leaves of a program's spelling."""

from __future__ import annotations

import json

import pytest

from sandbox.provider import compare, schema
from sandbox.provider.kinds import kind_of
from sandbox.provider.values import UNKNOWN, Archive

QUEUE = "aws:sqs/queue:Queue"
POLICY = "aws:s3/bucketPolicy:BucketPolicy"


def changed(token: str, *, state: dict, inputs: dict, old_inputs: dict | None = None) -> list[str]:
    described = schema.load(token.partition(":")[0]).resources[token]
    return list(compare.changes(kind_of(token), described, state=state, old_inputs=old_inputs or {}, inputs=inputs))


def statement(**fields: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **fields}]})


SAME_POLICIES = [
    (statement(Action="s3:GetObject"), statement(Action=["s3:GetObject"])),
    (statement(Action=["a:B", "a:C"]), statement(Action=["a:C", "a:B"])),
    (
        statement(Principal={"AWS": "arn:aws:iam::111122223333:root"}),
        statement(Principal={"AWS": "111122223333"}),
    ),
    (
        statement(Condition={"Bool": {"aws:SecureTransport": False}}),
        statement(Condition={"Bool": {"aws:SecureTransport": "false"}}),
    ),
    (statement(Action="a:B", Sid="x"), statement(Sid="x", Action="a:B").replace(" ", "")),
]
OTHER_POLICIES = [
    (statement(Action="s3:GetObject"), statement(Action="s3:PutObject")),
    (statement(Action="a:B"), statement(NotAction="a:B")),
    (statement(Principal={"AWS": "111122223333"}), statement(Principal={"AWS": "444455556666"})),
    (statement(Resource=["a", "b"]), statement(Resource=["a"])),
]


@pytest.mark.parametrize(("one", "other"), SAME_POLICIES)
def test_policies_that_say_the_same_are_no_change(one: str, other: str) -> None:
    state = {"bucket": "b", "policy": one}
    assert changed(POLICY, state=state, inputs={"bucket": "b", "policy": other}) == []


@pytest.mark.parametrize(("one", "other"), OTHER_POLICIES)
def test_policies_that_say_something_else_are_a_change(one: str, other: str) -> None:
    state = {"bucket": "b", "policy": one}
    assert changed(POLICY, state=state, inputs={"bucket": "b", "policy": other}) == ["policy"]


def test_what_the_program_no_longer_says_is_a_change_unless_the_service_fills_it_in() -> None:
    state = {"name": "q", "kmsMasterKeyId": "k", "sqsManagedSseEnabled": True}
    assert changed(QUEUE, state=state, inputs={"name": "q"}) == ["kmsMasterKeyId"]


def test_drift_in_the_recorded_state_is_a_change_although_the_inputs_never_moved() -> None:
    inputs = {"name": "q", "visibilityTimeoutSeconds": 30}
    assert changed(QUEUE, state=inputs | {"visibilityTimeoutSeconds": 77}, old_inputs=inputs, inputs=inputs) == [
        "visibilityTimeoutSeconds"
    ]


def test_a_value_that_is_not_known_yet_is_a_change() -> None:
    assert changed(POLICY, state={"bucket": "b", "policy": "{}"}, inputs={"bucket": "b", "policy": UNKNOWN}) == [
        "policy"
    ]


def test_code_is_compared_by_its_hash() -> None:
    token = "aws:lambda/function:Function"
    state = {"role": "r", "code": Archive("one", path="a")}
    assert changed(token, state=state, inputs={"role": "r", "code": Archive("one", path="b")}) == []
    assert changed(token, state=state, inputs={"role": "r", "code": Archive("two", path="a")}) == ["code"]


def test_an_object_that_the_service_completes_is_compared_in_what_the_program_says() -> None:
    token = "ec:index/deployment:Deployment"
    said = {"hot": {"autoscaling": {}, "size": "1g"}}
    state = {"elasticsearch": {**said, "httpsEndpoint": "http://127.0.0.1:1"}}
    assert changed(token, state=state, old_inputs={"elasticsearch": said}, inputs={"elasticsearch": said}) == []
    more = {"hot": {"autoscaling": {}, "size": "2g"}}
    assert changed(token, state=state, old_inputs={"elasticsearch": said}, inputs={"elasticsearch": more}) == [
        "elasticsearch"
    ]
    less = {"hot": {"autoscaling": {}}}
    assert changed(token, state=state, old_inputs={"elasticsearch": said}, inputs={"elasticsearch": less}) == [
        "elasticsearch"
    ]


def test_a_read_keeps_the_programs_spelling_of_what_it_found() -> None:
    inputs = {"bucket": "b", "policy": SAME_POLICIES[0][0]}
    kept, state = compare.settle(kind_of(POLICY), inputs, {"bucket": "b", "policy": SAME_POLICIES[0][1]})
    assert kept == inputs, "otherwise a refresh would show a change that is none"
    assert state["policy"] == inputs["policy"]


def test_a_read_shows_what_was_changed_and_what_was_taken_away() -> None:
    inputs = {"name": "q", "visibilityTimeoutSeconds": 30, "kmsMasterKeyId": "k"}
    found = {"name": "q", "visibilityTimeoutSeconds": 77, "kmsMasterKeyId": None}
    kept, state = compare.settle(kind_of(QUEUE), inputs, found)
    assert kept == {"name": "q", "visibilityTimeoutSeconds": 77}
    assert state == {"name": "q", "visibilityTimeoutSeconds": 77}


def test_a_read_leaves_alone_what_cannot_be_read() -> None:
    code = Archive("h", path="a")
    kept, state = compare.settle(kind_of("aws:lambda/function:Function"), {"role": "r", "code": code}, {"role": "r"})
    assert kept["code"] == state["code"] == code


def test_an_index_template_is_the_same_however_elasticsearch_writes_its_settings() -> None:
    same = kind_of("elasticstack:index/indexTemplate:IndexTemplate").same["template"]
    wanted = {"settings": json.dumps({"index": {"translog": {"durability": "request"}}, "number_of_shards": 1})}
    found = {"settings": json.dumps({"index": {"translog.durability": "request", "number_of_shards": "1"}})}
    assert same(wanted, found)
    assert not same(wanted, {"settings": json.dumps({"index": {"number_of_shards": "2"}})})


def test_what_s3_blocks_by_itself_is_no_change_and_what_the_program_blocks_is() -> None:
    same = kind_of("aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration").same[
        "rules"
    ]
    rule = {"applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms"}}
    blocking = rule | {"blockedEncryptionTypes": ["SSE-C"]}
    assert same([rule], [blocking])
    assert not same([rule | {"blockedEncryptionTypes": ["NONE"]}], [blocking])
