"""The ec and elasticstack plugins against the sandbox's Elastic Cloud and a real Elasticsearch node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from provider_plugin import Plugin, boto_client, sandbox_up, started

from sandbox.provider import values
from sandbox.provider.protocol import provider_pb2

pytestmark = pytest.mark.sandbox

DEPLOYMENT = "ec:index/deployment:Deployment"
FILTER = "ec:index/deploymentTrafficFilter:DeploymentTrafficFilter"
TEMPLATE = "elasticstack:index/indexTemplate:IndexTemplate"
INDEX = "elasticstack:index/index:Index"
ROLE = "elasticstack:index/securityRole:SecurityRole"
API_KEY = "elasticstack:index/securityApiKey:SecurityApiKey"
CONNECTION = "elasticsearchConnection"

MAPPING = json.dumps({"dynamic": False, "properties": {"id": {"type": "keyword"}, "revision": {"type": "long"}}})
WRITER = json.dumps({"writer": {"cluster": [], "indices": [{"names": ["records-*"], "privileges": ["write"]}]}})


def filtered(name: str) -> list[dict[str, str]]:
    return [{"name": name, "filter": json.dumps({"bool": {"must_not": [{"term": {"deleted": True}}]}})}]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with sandbox_up(tmp_path_factory.mktemp("elastic") / "sandbox") as variables:
        yield variables


@pytest.fixture(scope="module")
def ec(environment: dict[str, str]) -> Iterator[Plugin]:
    with started("ec", environment) as running:
        yield running


@pytest.fixture(scope="module")
def elasticstack(environment: dict[str, str]) -> Iterator[Plugin]:
    with started("elasticstack", environment) as running:
        yield running


def wanted(**more: Any) -> dict[str, Any]:
    return {
        "name": "acme-e1",
        "region": "aws-eu-west-1",
        "version": "8.19.0",
        "deploymentTemplateId": "aws-storage-optimized",
        "elasticsearch": {"hot": {"autoscaling": {}}},
        "tags": {"a": "b"},
        **more,
    }


@pytest.fixture(scope="module")
def deployment(ec: Plugin) -> tuple[str, dict[str, Any]]:
    """One node for the whole module; it goes with the sandbox."""
    return ec.create(DEPLOYMENT, "shared", wanted())


@pytest.fixture(scope="module")
def connection(deployment: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    state = deployment[1]
    return {
        "endpoints": [state["elasticsearch"]["httpsEndpoint"]],
        "username": state["elasticsearchUsername"],
        "password": state["elasticsearchPassword"],
    }


def assert_settled(plugin: Plugin, token: str, id: str, state: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Neither an `up` nor a refresh right after finds anything to do."""
    assert not plugin.diff(token, "shared", state=state, old_inputs=inputs, inputs=inputs).diffs
    found = plugin.read(token, "shared", id, inputs, state)
    assert values.decode(found.properties)[0] == state
    assert values.decode(found.inputs)[0] == inputs


def test_a_deployment_is_up_when_it_is_made_and_says_how_to_reach_it(
    ec: Plugin, deployment: tuple[str, dict[str, Any]], connection: dict[str, Any]
) -> None:
    id, state = deployment
    assert_settled(ec, DEPLOYMENT, id, state, ec.checked(DEPLOYMENT, "shared", wanted()))
    health = httpx.get(
        f"{connection['endpoints'][0]}/_cluster/health", auth=(connection["username"], connection["password"])
    )
    assert health.json()["status"] in {"green", "yellow"}


def test_tags_are_changed_in_place_and_the_password_stays(ec: Plugin, deployment: tuple[str, dict[str, Any]]) -> None:
    id, state = deployment
    inputs = ec.checked(DEPLOYMENT, "shared", wanted(tags={"c": "d"}))
    difference = ec.diff(
        DEPLOYMENT, "shared", state=state, old_inputs=ec.checked(DEPLOYMENT, "shared", wanted()), inputs=inputs
    )
    assert (list(difference.diffs), list(difference.replaces)) == (["tags"], [])
    changed = ec.update(DEPLOYMENT, "shared", id, state, inputs)
    assert changed["elasticsearchPassword"] == state["elasticsearchPassword"], "it is said at the creation only"
    assert_settled(ec, DEPLOYMENT, id, changed, inputs)
    ec.update(DEPLOYMENT, "shared", id, changed, ec.checked(DEPLOYMENT, "shared", wanted()))


def test_another_key_needs_another_deployment_made_beside_it(
    ec: Plugin, deployment: tuple[str, dict[str, Any]]
) -> None:
    inputs = ec.checked(DEPLOYMENT, "shared", wanted(encryptionKeyPath="arn:aws:kms:eu-west-1:1:key/k"))
    difference = ec.diff(DEPLOYMENT, "shared", state=deployment[1], old_inputs={}, inputs=inputs)
    assert list(difference.replaces) == ["encryptionKeyPath"]
    assert not difference.deleteBeforeReplace


def test_a_key_that_elastic_may_not_use_is_refused_in_its_words(ec: Plugin, environment: dict[str, str]) -> None:
    arn = boto_client(environment, "kms").create_key()["KeyMetadata"]["Arn"]
    with pytest.raises(grpc.RpcError, match=r"deployments\.byok\."):
        ec.create(DEPLOYMENT, "refused", wanted(name="refused", encryptionKeyPath=arn))


def test_a_lost_deployment_is_taken_up_again_and_once_shut_down_is_gone(
    environment: dict[str, str], ec: Plugin
) -> None:
    with started("ec", environment) as dying:
        lost, lost_state = dying.create(DEPLOYMENT, "lost", wanted(name="lost"))
    inputs = ec.checked(DEPLOYMENT, "lost", wanted(name="lost"))
    id, state = ec.create(DEPLOYMENT, "lost", inputs)
    assert id == lost, "a second node would stay behind for ever"
    assert state["elasticsearchPassword"] != lost_state["elasticsearchPassword"], "the first was said to the dead"
    login = ("elastic", state["elasticsearchPassword"])
    assert httpx.get(state["elasticsearch"]["httpsEndpoint"], auth=login).status_code == 200

    ec.delete(DEPLOYMENT, "lost", id, state)
    ec.delete(DEPLOYMENT, "lost", id, state)  # an interrupted delete is asked for again
    assert ec.read(DEPLOYMENT, "lost", id, inputs, state).id == ""


def test_the_password_comes_back_secret(ec: Plugin, deployment: tuple[str, dict[str, Any]]) -> None:
    id, state = deployment
    inputs = ec.checked(DEPLOYMENT, "shared", wanted())
    found = ec.read(DEPLOYMENT, "shared", id, inputs, state)
    assert "elasticsearchPassword" in values.decode(found.properties)[1], "also after a refresh of an old state"


def test_a_traffic_filter_lives_without_a_change_that_nobody_made(ec: Plugin) -> None:
    inputs = ec.checked(
        FILTER,
        "shared",
        {"name": "office", "region": "aws-eu-west-1", "type": "ip", "rules": [{"source": "127.0.0.1"}]},
    )
    id, state = ec.create(FILTER, "shared", inputs)
    assert_settled(ec, FILTER, id, state, inputs)
    more = inputs | {"description": "two"}
    state = ec.update(FILTER, "shared", id, state, more)
    assert_settled(ec, FILTER, id, state, more)
    ec.delete(FILTER, "shared", id, state)
    assert ec.read(FILTER, "shared", id, more, state).id == ""


Inputs = dict[str, Any]
CASES: list[tuple[str, Inputs, Inputs]] = [
    (
        TEMPLATE,
        {
            "name": "records",
            "indexPatterns": ["records-*"],
            "template": {
                "mappings": MAPPING,
                "settings": json.dumps({"index": {"number_of_shards": "1", "translog": {"durability": "request"}}}),
            },
        },
        {"priority": 5},
    ),
    (
        INDEX,
        {"name": "records-000001", "mappings": MAPPING, "aliases": filtered("records")},
        {"aliases": filtered("other"), "refreshInterval": "5s"},
    ),
    (
        ROLE,
        {"name": "reader", "clusters": ["monitor"], "indices": [{"names": ["records"], "privileges": ["read"]}]},
        {"indices": [{"names": ["records"], "privileges": ["read", "write"]}]},
    ),
    (API_KEY, {"name": "writer", "roleDescriptors": WRITER}, {}),
]


@pytest.mark.parametrize(("token", "inputs", "update"), CASES, ids=[case[0].rpartition(":")[2] for case in CASES])
def test_what_is_in_a_cluster_lives_without_a_change_that_nobody_made(
    token: str, inputs: Inputs, update: Inputs, elasticstack: Plugin, connection: dict[str, Any]
) -> None:
    inputs = elasticstack.checked(token, "shared", {**inputs, CONNECTION: connection})
    id, state = elasticstack.create(token, "shared", inputs)
    assert_settled(elasticstack, token, id, state, inputs)
    if update:
        more = elasticstack.checked(token, "shared", inputs | update)
        difference = elasticstack.diff(token, "shared", state=state, old_inputs=inputs, inputs=more)
        assert (set(difference.diffs), list(difference.replaces)) == (update.keys(), [])
        state, inputs = elasticstack.update(token, "shared", id, state, more), more
        assert_settled(elasticstack, token, id, state, inputs)
    elasticstack.delete(token, "shared", id, state)
    elasticstack.delete(token, "shared", id, state)
    assert elasticstack.read(token, "shared", id, inputs, state).id == ""


def test_an_alias_that_the_program_leaves_to_others_is_no_change(
    elasticstack: Plugin, connection: dict[str, Any]
) -> None:
    inputs = elasticstack.checked(
        INDEX, "ignored", {"name": "records-000002", "aliases": filtered("records"), CONNECTION: connection}
    )
    id, state = elasticstack.create(INDEX, "ignored", inputs)
    swap = {"actions": [{"add": {"index": "records-000002", "alias": "records", "filter": {"match_all": {}}}}]}
    answer = httpx.post(
        f"{connection['endpoints'][0]}/_aliases", json=swap, auth=(connection["username"], connection["password"])
    )
    assert answer.status_code == 200
    now, _ = values.decode(elasticstack.read(INDEX, "ignored", id, inputs, state).properties)

    def seen(ignore: tuple[str, ...]) -> list[str]:
        return list(
            elasticstack.diff(INDEX, "ignored", state=now, old_inputs=inputs, inputs=inputs, ignore=ignore).diffs
        )

    assert seen(()) == ["aliases"], "the swap is seen"
    assert seen(("aliases",)) == []
    elasticstack.delete(INDEX, "ignored", id, state)


def test_an_api_keys_secrets_are_said_once_and_come_back_secret(
    elasticstack: Plugin, connection: dict[str, Any]
) -> None:
    inputs = elasticstack.checked(API_KEY, "hidden", {"name": "k", "roleDescriptors": WRITER, CONNECTION: connection})
    answer = elasticstack.stub.Create(
        provider_pb2.CreateRequest(
            urn=elasticstack.urn(API_KEY, "hidden"), properties=values.encode(inputs, secrets={CONNECTION})
        )
    )
    state, secrets = values.decode(answer.properties)
    assert secrets == {"apiKey", "encoded", CONNECTION}
    found = elasticstack.read(API_KEY, "hidden", answer.id, inputs, state)
    assert values.decode(found.properties)[0]["encoded"] == state["encoded"], "a refresh must not lose it"


def test_an_api_key_cannot_be_changed_as_the_real_provider_says(
    elasticstack: Plugin, connection: dict[str, Any]
) -> None:
    inputs = elasticstack.checked(API_KEY, "fixed", {"name": "f", CONNECTION: connection})
    id, state = elasticstack.create(API_KEY, "fixed", inputs)
    with pytest.raises(grpc.RpcError, match="update not currently supported"):
        elasticstack.update(API_KEY, "fixed", id, state, inputs)


def test_an_index_keeps_what_cannot_be_changed_by_being_replaced(
    elasticstack: Plugin, connection: dict[str, Any]
) -> None:
    inputs = elasticstack.checked(INDEX, "fixed", {"name": "i", "numberOfShards": 1, CONNECTION: connection})
    difference = elasticstack.diff(
        INDEX, "fixed", state=inputs, old_inputs=inputs, inputs=inputs | {"numberOfShards": 2}
    )
    assert list(difference.replaces) == ["numberOfShards"]
    assert difference.deleteBeforeReplace, "two indices cannot have the one name that the program gives"


def test_a_cluster_says_why_it_refuses(elasticstack: Plugin, connection: dict[str, Any]) -> None:
    bad = {"name": "bad", "mappings": json.dumps({"properties": {"a": {"type": "nonsense"}}}), CONNECTION: connection}
    with pytest.raises(grpc.RpcError, match=r"400 mapper_parsing_exception.*nonsense"):
        elasticstack.create(INDEX, "bad", bad)


def test_without_an_endpoint_it_says_which_configuration_is_missing(elasticstack: Plugin) -> None:
    with pytest.raises(grpc.RpcError, match=r"set elasticsearch\.endpoints"):
        elasticstack.create(INDEX, "nowhere", {"name": "nowhere"})
