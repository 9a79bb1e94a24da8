"""API keys and roles, as the front enforces them before a real node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from elastic_server import Created, running_elastic
from elasticsearch import AuthenticationException, AuthorizationException, BadRequestError, Elasticsearch, NotFoundError

pytestmark = pytest.mark.sandbox

INDEX, ALIAS = "records-000001", "records"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Created]:
    with running_elastic(tmp_path_factory.mktemp("elastic")) as server:
        created = server.create("acme-e1")
        server.wait_for(created.id, "started")
        client = created.client()
        for name in (INDEX, "secret"):
            client.indices.create(index=name, settings={"number_of_replicas": 0})
            for n in range(4):
                client.index(index=name, id=str(n), document={"n": n}, refresh=True)
        client.indices.put_alias(index=INDEX, name=ALIAS, filter={"range": {"n": {"lt": 2}}})
        yield created


def key_for(deployment: Created, *indices: tuple[str, list[str]], cluster: tuple[str, ...] = ()) -> Elasticsearch:
    granted = [{"names": [name], "privileges": privileges} for name, privileges in indices]
    descriptors: dict[str, Any] = {"role": {"cluster": list(cluster), "indices": granted}}
    made = deployment.client().security.create_api_key(name="limited", role_descriptors=descriptors)
    return deployment.client(api_key=made["encoded"], http_compress=True)


def test_a_reader_of_the_alias_sees_what_the_alias_shows_and_not_the_index(deployment):
    reader = key_for(deployment, (ALIAS, ["read"]))
    assert reader.count(index=ALIAS)["count"] == 2
    assert deployment.client().count(index=INDEX)["count"] == 4, "the index holds more"
    for refused in (INDEX, "secret", "*", f"{ALIAS},secret"):
        with pytest.raises(AuthorizationException) as answer:
            reader.search(index=refused)
        assert answer.value.body["error"]["type"] == "security_exception"
    with pytest.raises(AuthorizationException):
        reader.index(index=ALIAS, id="9", document={"n": 9})
    with pytest.raises(AuthorizationException):
        reader.info()


def test_a_point_in_time_on_an_alias_needs_read_on_the_index_behind_it(deployment):
    by_alias = key_for(deployment, (ALIAS, ["read"]))
    pit = by_alias.open_point_in_time(index=ALIAS, keep_alive="1m")["id"]
    with pytest.raises(AuthorizationException):
        by_alias.search(pit={"id": pit, "keep_alive": "1m"})
    assert by_alias.close_point_in_time(id=pit)["succeeded"]
    by_both = key_for(deployment, (ALIAS, ["read"]), (INDEX, ["read"]))
    pit = by_both.open_point_in_time(index=ALIAS, keep_alive="1m")["id"]
    found = by_both.search(pit={"id": pit, "keep_alive": "1m"})["hits"]["total"]["value"]
    assert found == 2, "the point in time keeps the alias' filter"
    with pytest.raises(AuthorizationException):
        key_for(deployment, (INDEX, ["read"])).search(pit={"id": pit, "keep_alive": "1m"})
    by_both.close_point_in_time(id=pit)


def test_a_bulk_writes_what_is_granted_and_refuses_the_other_items(deployment):
    writer = key_for(deployment, (INDEX, ["write"]))
    operations = [
        {"index": {"_index": INDEX, "_id": "bulk-1"}},
        {"n": 10},
        {"index": {"_index": "secret", "_id": "bulk-2"}},
        {"n": 11},
        {"index": {"_index": INDEX, "_id": "bulk-3"}},
        {"n": 12},
    ]
    answer = writer.bulk(operations=operations)
    assert answer["errors"]
    assert [(item["index"]["_id"], item["index"]["status"]) for item in answer["items"]] == [
        ("bulk-1", 201),
        ("bulk-2", 403),
        ("bulk-3", 201),
    ]
    assert not deployment.client().exists(index="secret", id="bulk-2")
    assert deployment.client().exists(index=INDEX, id="bulk-3")


def test_write_alone_does_not_create_an_index(deployment):
    writer = key_for(deployment, ("new-*", ["write"]))
    with pytest.raises(AuthorizationException):
        writer.index(index="new-1", id="1", document={"n": 1})
    item = writer.bulk(index="new-1", operations=[{"index": {"_id": "1"}}, {"n": 1}])["items"][0]["index"]
    assert item["status"] == 403
    assert not deployment.client().indices.exists(index="new-1")
    maker = key_for(deployment, ("new-*", ["write", "create_index"]))
    assert maker.index(index="new-1", id="1", document={"n": 1})["result"] == "created"
    deployment.client().indices.delete(index="new-1")


def test_cluster_privileges_open_the_cluster_only(deployment):
    monitor = key_for(deployment, cluster=("monitor",))
    assert monitor.info()["tagline"] == "You Know, for Search"
    assert monitor.cluster.health()["status"] in {"green", "yellow"}
    with pytest.raises(AuthorizationException):
        monitor.search(index=INDEX)
    with pytest.raises(AuthorizationException):
        monitor.indices.put_index_template(name="t", index_patterns=["x-*"])
    manager = key_for(deployment, cluster=("manage",))
    assert manager.indices.put_index_template(name="t", index_patterns=["x-*"])["acknowledged"]
    assert manager.indices.delete_index_template(name="t")["acknowledged"]
    with pytest.raises(AuthorizationException):
        manager.security.create_api_key(name="more")


def test_an_invalidated_or_expired_key_opens_nothing(deployment):
    client = deployment.client()
    made = client.security.create_api_key(name="to-end", role_descriptors={})
    ended = deployment.client(api_key=made["encoded"])
    assert ended.security.authenticate()["api_key"] == {"id": made["id"], "name": "to-end"}
    assert client.security.invalidate_api_key(ids=[made["id"]])["invalidated_api_keys"] == [made["id"]]
    with pytest.raises(AuthenticationException):
        ended.security.authenticate()
    assert client.security.get_api_key(id=made["id"])["api_keys"][0]["invalidated"]
    with pytest.raises(NotFoundError):
        client.security.get_api_key(id="unknown")
    brief = client.security.create_api_key(name="brief", expiration="1ms")
    with pytest.raises(AuthenticationException):
        deployment.client(api_key=brief["encoded"]).security.authenticate()


def test_a_role_is_kept_returned_and_deleted(deployment):
    security = deployment.client().security
    role = {"cluster": ["monitor"], "indices": [{"names": ["records"], "privileges": ["read"]}]}
    assert security.put_role(name="reader", **role)["role"]["created"]
    assert not security.put_role(name="reader", **role)["role"]["created"]
    assert security.get_role(name="reader")["reader"]["indices"][0]["privileges"] == ["read"]
    assert security.delete_role(name="reader")["found"]
    with pytest.raises(NotFoundError):
        security.get_role(name="reader")


def test_a_descriptor_that_cannot_be_enforced_makes_no_key(deployment):
    filtered = {"indices": [{"names": ["records"], "privileges": ["read"], "query": {"match_all": {}}}]}
    with pytest.raises(BadRequestError):
        deployment.client().security.create_api_key(name="filtered", role_descriptors={"role": filtered})
    assert not deployment.client().security.get_api_key(name="filtered")["api_keys"]


def test_a_key_that_is_updated_has_other_rights_at_once_and_the_same_secret(deployment):
    admin = deployment.client()
    granted = {"role": {"cluster": [], "indices": [{"names": [ALIAS], "privileges": ["read"]}]}}
    nothing = {"role": {"cluster": [], "indices": []}}
    made = admin.security.create_api_key(name="updated", role_descriptors=granted)
    reader = deployment.client(api_key=made["encoded"])
    assert reader.count(index=ALIAS)["count"] == 2
    assert admin.security.update_api_key(id=made["id"], role_descriptors=nothing)["updated"] is True
    with pytest.raises(AuthorizationException):
        reader.count(index=ALIAS)
    assert admin.security.update_api_key(id=made["id"], role_descriptors=nothing)["updated"] is False
    assert admin.security.update_api_key(id=made["id"], role_descriptors=granted)["updated"] is True
    assert reader.count(index=ALIAS)["count"] == 2


def test_a_key_is_updated_only_by_its_owner_and_only_while_it_lives(deployment):
    admin = deployment.client()
    made = admin.security.create_api_key(name="kept", role_descriptors={"role": {"cluster": ["manage_security"]}})
    with pytest.raises(BadRequestError):
        deployment.client(api_key=made["encoded"]).security.update_api_key(id=made["id"], role_descriptors={})
    with pytest.raises(NotFoundError):
        admin.security.update_api_key(id="nobody", role_descriptors={})
    admin.security.invalidate_api_key(ids=[made["id"]])
    with pytest.raises(BadRequestError):
        admin.security.update_api_key(id=made["id"], role_descriptors={})
