"""Elastic Cloud's deployments API, the node behind a deployment, and what survives which end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from elastic_server import Created, ElasticServer, deployment_body, running_elastic, until
from elasticsearch import ApiError, AuthenticationException, ConflictError

from migrate import elastic_cloud
from migrate.errors import CloudError
from sandbox.elastic.launch import VERSION

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticServer]:
    with running_elastic(tmp_path_factory.mktemp("elastic")) as server:
        yield server


@pytest.fixture(scope="module")
def deployment(server: ElasticServer) -> Created:
    created = server.create("acme-e1")
    server.wait_for(created.id, "started")
    return created


@pytest.fixture
def index(deployment: Created) -> Iterator[str]:
    client = deployment.client()
    client.indices.create(index="records-000001", settings={"number_of_replicas": 0})
    yield "records-000001"
    client.indices.delete(index="records-000001")


def test_the_versions_that_are_offered_are_the_ones_that_can_be_made(
    server: ElasticServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EC_ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("EC_API_KEY", server.api_key)
    assert elastic_cloud.offered_versions() == [VERSION]
    body = deployment_body("acme-e9", None, "eu-west-1")
    body["resources"]["elasticsearch"][0]["plan"]["elasticsearch"]["version"] = "8.99.0"
    assert server.call("POST", "/deployments", body).status_code == 400
    monkeypatch.setenv("EC_API_KEY", "another one")
    with pytest.raises(CloudError, match="401"):
        elastic_cloud.offered_versions()


def accepts(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) == 0


def is_alive(pid: int) -> bool:
    """Alive and not a zombie: init reaps late in some containers."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_deployment_is_listed_and_shows_its_url_and_no_password(server, deployment):
    listed = server.call("GET", "/deployments").json()["deployments"]
    assert (deployment.id, "acme-e1") in [(each["id"], each["name"]) for each in listed]
    shown = server.call("GET", f"/deployments/{deployment.id}")
    info = shown.json()["resources"]["elasticsearch"][0]["info"]
    assert (info["status"], info["healthy"]) == ("started", True)
    assert info["metadata"]["service_url"] == deployment.url
    assert deployment.password not in shown.text, "the password is shown once, at the creation"
    assert "byok" not in shown.json()["settings"]


def test_without_the_organizations_key_nothing_is_told(server):
    refused = server.call("GET", "/deployments", api_key="wrong")
    assert refused.status_code == 401
    assert refused.json()["errors"][0]["code"] == "root.unauthorized"


def test_a_repeated_request_makes_no_second_deployment_and_a_new_password_can_be_had(server):
    path = "/deployments?request_id=once"
    first = server.call("POST", path, deployment_body("twice"))
    second = server.call("POST", path, deployment_body("twice"))
    id = first.json()["id"]
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["id"] == id, "a provider that lost the first answer must find the same deployment"
    assert "credentials" not in second.json()["resources"][0]
    reset = server.call("POST", f"/deployments/{id}/elasticsearch/main-elasticsearch/_reset-password").json()
    assert reset["password"] != first.json()["resources"][0]["credentials"]["password"]
    server.delete(id)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"resources": {"elasticsearch": []}},
        {"resources": {**deployment_body("x")["resources"], "kibana": [{"plan": {}}]}},
        {"resources": {"elasticsearch": [{"region": "eu-west-1", "plan": {"elasticsearch": {"version": "9.1.0"}}}]}},
        {"settings": {"byok": {"key_resource_path": "arn:aws:kms:eu-west-1:444455556666:key/any"}}},
    ],
    ids=["no name", "no resource", "kibana", "another version", "a key but no KMS"],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_left(server, deployment, change):
    before = server.call("GET", "/deployments").json()
    refused = server.call("POST", "/deployments", {**deployment_body("refused"), **change})
    assert refused.status_code == 400, refused.text
    assert server.call("GET", "/deployments").json() == before


def test_adding_a_key_to_a_deployment_is_unsupported_and_a_new_name_is_not(server, deployment):
    body = {"settings": {"byok": {"key_resource_path": "arn:aws:kms:eu-west-1:444455556666:key/any"}}}
    refused = server.call("PUT", f"/deployments/{deployment.id}", body)
    assert refused.status_code == 400
    assert "unsupported" in refused.text
    server.call("PUT", f"/deployments/{deployment.id}", {"name": "acme-e1-renamed"}).raise_for_status()
    assert server.show(deployment.id)["name"] == "acme-e1-renamed"


def test_the_official_client_indexes_searches_and_pages(deployment, index):
    client = deployment.client()
    assert client.info()["version"]["number"] == "8.19.0"
    for number in range(25):
        client.index(index=index, id=f"invoice/{number}", document={"n": number}, version=3, version_type="external")
    with pytest.raises(ConflictError):
        client.index(index=index, id="invoice/1", document={"n": 0}, version=2, version_type="external")
    client.indices.refresh(index=index)
    assert client.get(index=index, id="invoice/7")["_source"] == {"n": 7}, "an id with a slash keeps it"
    client.indices.put_alias(index=index, name="records", filter={"range": {"n": {"lt": 10}}})
    assert client.count(index="records")["count"] == 10
    pit = client.open_point_in_time(index="records", keep_alive="1m")["id"]
    found, after = [], None
    while True:
        page = client.search(
            pit={"id": pit, "keep_alive": "1m"}, size=4, sort=["_shard_doc"], search_after=after, track_total_hits=False
        )
        if not page["hits"]["hits"]:
            break
        found += [hit["_id"] for hit in page["hits"]["hits"]]
        after = page["hits"]["hits"][-1]["sort"]
    assert len(found) == 10
    client.close_point_in_time(id=pit)


def test_a_wrong_password_is_refused_without_the_products_header(deployment):
    with pytest.raises(AuthenticationException):
        deployment.client().options(basic_auth=("elastic", "wrong")).info()
    refused = httpx.get(deployment.url, trust_env=False)
    assert refused.status_code == 401
    assert "x-elastic-product" not in refused.headers, "Elasticsearch's own 401 has none"
    assert refused.headers["www-authenticate"].startswith("Basic")


def test_a_compressed_bulk_and_a_compressed_answer_pass_untouched(deployment, index):
    client = deployment.client(http_compress=True)
    operations = [line for n in range(50) for line in ({"index": {"_id": str(n)}}, {"text": "word " * 50})]
    assert not client.bulk(index=index, operations=operations, refresh=True)["errors"]
    assert client.search(index=index, size=50)["hits"]["total"]["value"] == 50


def test_a_traffic_filter_closes_the_deployment_to_addresses_it_does_not_name(server, deployment):
    rules = {"name": "nobody", "region": "eu-west-1", "type": "ip", "rules": [{"source": "192.0.2.1/32"}]}
    id = server.call("POST", "/deployments/traffic-filter/rulesets", rules).json()["id"]
    association = {"entity_type": "deployment", "id": deployment.id}
    associations = f"/deployments/traffic-filter/rulesets/{id}/associations"
    assert deployment.client().ping()
    server.call("POST", associations, association).raise_for_status()
    with pytest.raises(ApiError) as closed:
        deployment.client().cluster.health()
    assert closed.value.status_code == 403
    assert server.call("DELETE", f"/deployments/traffic-filter/rulesets/{id}").status_code == 400, "it is in use"
    server.call("DELETE", f"{associations}/deployment/{deployment.id}").raise_for_status()
    assert deployment.client().ping()
    server.call("DELETE", f"/deployments/traffic-filter/rulesets/{id}").raise_for_status()


def test_bulks_can_be_made_to_fail_as_on_a_loaded_cluster(server, deployment, index):
    server.call("POST", "/_sandbox/faults", {"deployment": deployment.id, "bulk_429": 2}).raise_for_status()
    client = deployment.client()
    operations = [{"index": {"_id": "1"}}, {"a": 1}]
    for _ in range(2):
        with pytest.raises(ApiError) as refused:
            client.options(max_retries=0).bulk(index=index, operations=operations)
        assert refused.value.status_code == 429
    assert not client.bulk(index=index, operations=operations)["errors"]


def test_a_node_that_dies_is_started_again_and_has_lost_nothing(server, deployment, index):
    deployment.client().index(index=index, id="kept", document={"a": 1})
    pid = server.show(deployment.id)["_sandbox"]["node_pid"]
    server.call("POST", "/_sandbox/faults", {"deployment": deployment.id, "kill_node": True}).raise_for_status()
    until(lambda: server.show(deployment.id)["_sandbox"]["node_pid"] not in {pid, None}, "another node is there")
    server.wait_for(deployment.id, "started")
    deployment.client().cluster.health(wait_for_status="yellow", index=index)
    assert deployment.client().get(index=index, id="kept")["found"]


def test_a_deployment_is_shut_down_first_then_deleted_and_leaves_neither_port_nor_data(server, tmp_path_factory):
    created = server.create("short-lived")
    pid = server.wait_for(created.id, "started")["_sandbox"]["node_pid"]
    cluster = server.show(created.id)["resources"]["elasticsearch"][0]["id"]
    data = server.log.parent / "elastic" / "nodes" / cluster
    assert data.is_dir()
    assert accepts(created.url)
    refused = server.call("DELETE", f"/deployments/{created.id}")
    assert refused.status_code == 400, "the API reference: 400 while the resources have not been shut down"
    server.call("POST", f"/deployments/{created.id}/_shutdown").raise_for_status()
    assert server.show(created.id)["resources"]["elasticsearch"][0]["info"]["status"] == "stopped"
    assert not data.exists()
    assert not is_alive(pid)
    assert not accepts(created.url)
    server.call("DELETE", f"/deployments/{created.id}").raise_for_status()
    assert server.call("GET", f"/deployments/{created.id}").status_code == 404


def test_everything_survives_a_clean_stop_and_a_kill_and_no_node_outlives_the_server(tmp_path):
    with running_elastic(tmp_path, keep_data=True) as server:
        created = server.create("durable")
        first = server.wait_for(created.id, "started")["_sandbox"]["node_pid"]
        client = created.client()
        client.indices.create(index="kept", settings={"number_of_replicas": 0})
        client.index(index="kept", id="1", document={"run": 1})
        key = client.security.create_api_key(name="reader")["encoded"]
    assert not is_alive(first), "SIGTERM stops the nodes"

    with running_elastic(tmp_path, keep_data=True) as server:
        second = server.wait_for(created.id, "started")["_sandbox"]["node_pid"]
        assert server.api_key == (tmp_path / "elastic" / "api-key").read_text()
        reader = created.client(api_key=key)
        reader.cluster.health(wait_for_status="yellow", index="kept")
        assert reader.get(index="kept", id="1")["_source"] == {"run": 1}
        created.client().index(index="kept", id="2", document={"run": 2})
        os.kill(server.process.pid, signal.SIGKILL)
        until(lambda: not is_alive(second), "the node follows the killed server", 30)

    with running_elastic(tmp_path) as server:
        server.wait_for(created.id, "started")
        created.client().cluster.health(wait_for_status="yellow", index="kept")
        assert created.client().get(index="kept", id="2")["_source"] == {"run": 2}


def test_secrets_on_disk_are_for_their_owner_only_and_passwords_are_not_kept(server, deployment):
    folder = server.log.parent / "elastic"
    assert (folder / "api-key").stat().st_mode & 0o777 == 0o600
    records = list((folder / "deployments").glob("*.json"))
    assert records, "there is something to look at"
    assert all(record.stat().st_mode & 0o777 == 0o600 for record in records)
    assert not any(deployment.password in record.read_text() for record in records)
    assert deployment.password not in server.log.read_text()
