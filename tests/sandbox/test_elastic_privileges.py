"""Which request a role descriptor allows: the table and the rules, without a server."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

import pytest

from sandbox.elastic import bulk
from sandbox.elastic.actions import demands
from sandbox.elastic.privileges import DescriptorError, from_descriptors, validate
from sandbox.elastic.web import BadRequestError, Request


def request(method: str, target: str, body: Any = b"") -> Request:
    return Request(method, target, Message(), body if isinstance(body, bytes) else json.dumps(body).encode())


def allows(descriptor: dict[str, Any], method: str, target: str, body: Any = b"") -> bool:
    privileges = from_descriptors({"role": descriptor})
    needed = demands(request(method, target, body))
    if needed is None:
        return False
    return all(
        privileges.allow_cluster(demand.action)
        if demand.names is None
        else all(privileges.allow_index(demand.action, name) for name in demand.names)
        for demand in needed
    )


READ_ALIAS = {"indices": [{"names": ["records"], "privileges": ["read"]}]}
WRITE_INDEX = {"indices": [{"names": ["records-*"], "privileges": ["write"]}]}
MONITOR = {"cluster": ["monitor"]}


@pytest.mark.parametrize(
    ("descriptor", "method", "target", "body"),
    [
        (READ_ALIAS, "POST", "/records/_search", {"query": {"match_all": {}}}),
        (READ_ALIAS, "GET", "/_search?index=records", b""),
        (READ_ALIAS, "GET", "/records/_doc/invoice%2F1", b""),
        (READ_ALIAS, "POST", "/_mget", {"docs": [{"_index": "records", "_id": "1"}]}),
        (READ_ALIAS, "POST", "/_msearch", b'{"index":"records"}\n{"query":{"match_all":{}}}\n'),
        (READ_ALIAS, "POST", "/records/_pit?keep_alive=1m", b""),
        (WRITE_INDEX, "PUT", "/records-000001/_doc/1", {"a": 1}),
        (WRITE_INDEX, "DELETE", "/records-000001/_doc/1", b""),
        (MONITOR, "GET", "/", b""),
        (MONITOR, "GET", "/_cluster/health", b""),
        ({"cluster": ["manage"]}, "PUT", "/_index_template/t", {}),
        ({"indices": [{"names": ["*"], "privileges": ["all"]}]}, "GET", "/_search", b""),
    ],
)
def test_a_key_may_do_what_its_role_grants(descriptor, method, target, body):
    assert allows(descriptor, method, target, body)


@pytest.mark.parametrize(
    ("descriptor", "method", "target", "body", "why"),
    [
        (READ_ALIAS, "POST", "/records-000001/_search", {}, "an alias does not open its index"),
        (WRITE_INDEX, "PUT", "/records/_doc/1", {}, "an index does not open its alias"),
        (READ_ALIAS, "GET", "/_search", b"", "no index means all of them"),
        (READ_ALIAS, "GET", "/_all/_search", b"", "all of them"),
        (READ_ALIAS, "GET", "/records,secret/_search", b"", "one of two names is not granted"),
        (READ_ALIAS, "GET", "/records%2Csecret/_search", b"", "an encoded comma separates as well"),
        (READ_ALIAS, "GET", "/_search?index=secret", b"", "the index may stand in the query"),
        (READ_ALIAS, "GET", "/records*/_search", b"", "a wildcard means more than the grant"),
        (READ_ALIAS, "GET", "/records/_search/../../secret", b"", "dot segments hide a path"),
        (READ_ALIAS, "PUT", "/records/_doc/1", {}, "read is not write"),
        (READ_ALIAS, "POST", "/_mget", {"docs": [{"_index": "secret", "_id": "1"}]}, "the body names the index"),
        (READ_ALIAS, "POST", "/records/_mget", {"docs": [{"_index": "secret", "_id": "1"}]}, "body over path"),
        (READ_ALIAS, "POST", "/records/_msearch", b'{"index":"secret"}\n{}\n', "the header line names the index"),
        (
            READ_ALIAS,
            "POST",
            "/records/_search",
            {"query": {"terms": {"user": {"index": "secret", "id": "1", "path": "x"}}}},
            "a terms lookup reads another index",
        ),
        (WRITE_INDEX, "GET", "/records-000001/_search", b"", "write is not read"),
        (WRITE_INDEX, "PUT", "/records-000002", {}, "write does not create indices"),
        (
            WRITE_INDEX,
            "POST",
            "/_aliases",
            {"actions": [{"add": {"index": "records-1", "alias": "records-a"}}]},
            "admin",
        ),
        (
            {"indices": [{"names": ["records-*"], "privileges": ["manage"]}]},
            "POST",
            "/_aliases",
            {"actions": [{"add": {"index": "records-1", "alias": "secret"}}]},
            "the alias' name needs the privilege as well",
        ),
        (
            {"indices": [{"names": ["records-*"], "privileges": ["create_index"]}]},
            "PUT",
            "/records-000002",
            {"aliases": {"records": {}}},
            "aliases in a new index need the privilege as well",
        ),
        (MONITOR, "PUT", "/_cluster/settings", {}, "monitor changes nothing"),
        ({"cluster": ["all"]}, "GET", "/records/_search", b"", "cluster privileges open no index"),
        ({"cluster": ["all"]}, "POST", "/_some/unknown/path", b"", "what is not understood is refused"),
    ],
)
def test_a_key_may_not_do_more_than_its_role_grants(descriptor, method, target, body, why):
    assert not allows(descriptor, method, target, body), why


def test_manage_is_everything_on_the_cluster_but_security():
    manage = from_descriptors({"role": {"cluster": ["manage"]}})
    assert manage.allow_cluster("cluster:admin/settings/update")
    assert not manage.allow_cluster("cluster:admin/xpack/security/api_key/create"), "a key could give itself more"


@pytest.mark.parametrize(
    "descriptor",
    [
        {"cluster": ["everything"]},
        {"indices": [{"names": ["a"], "privileges": ["reed"]}]},
        {"indices": [{"names": [], "privileges": ["read"]}]},
        {"indices": [{"names": ["a"], "privileges": ["read"], "query": {"match_all": {}}}]},
        {"indices": [{"names": ["/a.*/"], "privileges": ["read"]}]},
        {"indexes": []},
    ],
)
def test_a_descriptor_that_could_not_be_enforced_is_refused(descriptor):
    with pytest.raises(DescriptorError):
        validate(descriptor)


def test_a_bulk_is_judged_item_by_item_and_answers_keep_their_places():
    body = b"".join(
        [
            b'{"index":{"_index":"mine","_id":"1"}}\n{"a":1}\n',
            b'{"delete":{"_index":"theirs","_id":"2"}}\n',
            b'{"create":{"_id":"3"}}\n{"a":3}\n',
        ]
    )
    split = bulk.split(body, "mine", lambda item: {"type": "no"} if item.index == "theirs" else None)
    assert split.body == b'{"index":{"_index":"mine","_id":"1"}}\n{"a":1}\n{"create":{"_id":"3"}}\n{"a":3}\n'
    merged = split.merge({"errors": False, "items": [{"index": {"_id": "1"}}, {"create": {"_id": "3"}}]})
    assert [next(iter(item.values()))["_id"] for item in merged["items"]] == ["1", "2", "3"]
    assert merged["errors"], "a client that trusts `errors` must learn of the refusal"


@pytest.mark.parametrize("body", [b'{"index":{"_index":"a"}}\n{}', b'{"upsert":{}}\n', b'{"delete":{"_id":"1"}}\n'])
def test_a_bulk_that_cannot_be_read_is_refused_whole(body):
    with pytest.raises(BadRequestError):
        bulk.split(body, None, lambda _: None)
