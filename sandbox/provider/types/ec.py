"""ec: Deployment, DeploymentTrafficFilter, by the Elastic Cloud API (https://api.elastic-cloud.com/api/v1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox.provider.clouds import MARK
from sandbox.provider.errors import GoneError, ProviderError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource
from sandbox.provider.types.aws import wait_until

if TYPE_CHECKING:
    import httpx

_REF_ID = "main-elasticsearch"
_START_SECONDS = 120
_STOP_SECONDS = 60


def _ask(client: httpx.Client, method: str, path: str, body: Any = None, **query: str) -> Any:
    """One call; ProviderError with the API's error codes, GoneError for a 404."""
    response = client.request(method, path, json=body, params=query or None)
    if response.status_code == 404:
        raise GoneError(f"{method} {path}: {_reasons(response)}")
    if response.is_error:
        raise ProviderError(f"{method} {path}: {response.status_code} {_reasons(response)}")
    return response.json() if response.content else {}


def _reasons(response: httpx.Response) -> str:
    try:
        errors = response.json()["errors"]
    except (ValueError, KeyError, TypeError):
        return response.text
    return "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)


def _create_deployment(resource: Resource) -> str:
    inputs = resource.inputs
    with resource.clouds.elastic_cloud() as client:
        lost = _lost_deployment(resource, client)
        if lost is not None:
            # its password was said to the create that died; the API gives a new one to whoever may administer it
            path = f"/deployments/{lost}/elasticsearch/{_REF_ID}/_reset-password"
            _remember(resource, _ask(client, "POST", path, {}))
            _wait_until_started(client, lost)
            return lost
        made = _ask(client, "POST", "/deployments", _body(resource), template_id=inputs["deploymentTemplateId"])
        for made_resource in made["resources"]:
            _remember(resource, made_resource.get("credentials") or {})
        _wait_until_started(client, made["id"])
        return made["id"]


def _remember(resource: Resource, credentials: dict[str, str]) -> None:
    if credentials:
        resource.said_once.update(
            elasticsearchUsername=credentials["username"], elasticsearchPassword=credentials["password"]
        )


def _lost_deployment(resource: Resource, client: httpx.Client) -> str | None:
    """The deployment of an earlier create that was never recorded: ids are random, so the mark is looked for."""
    if not resource.may_adopt:
        return None
    for entry in _ask(client, "GET", "/deployments")["deployments"]:
        if entry["name"] == resource.inputs["name"]:
            found = _ask(client, "GET", f"/deployments/{entry['id']}")
            if _tags(found).get(MARK) == resource.mark and not _is_stopped(found):
                return entry["id"]
    return None


def _body(resource: Resource) -> dict[str, Any]:
    """A create's or an update's body. The region and the key are said at the creation only."""
    inputs = resource.inputs
    body: dict[str, Any] = {
        "name": inputs["name"],
        "metadata": {"tags": [{"key": key, "value": value} for key, value in _wanted_tags(resource).items()]},
        "resources": {"elasticsearch": [_elasticsearch(inputs)]},
        "settings": {"traffic_filter_settings": {"rulesets": inputs.get("trafficFilters") or []}},
    }
    if inputs.get("alias"):
        body["alias"] = inputs["alias"]
    if inputs.get("encryptionKeyPath"):
        body["settings"]["byok"] = {"key_resource_path": inputs["encryptionKeyPath"]}
    return body


def _elasticsearch(inputs: Properties) -> dict[str, Any]:
    block = inputs["elasticsearch"]
    hot = block["hot"]
    topology: dict[str, Any] = {"id": "hot_content", "node_roles": ["master", "data_hot", "data_content", "ingest"]}
    if hot.get("size"):
        megabytes = int(float(hot["size"].removesuffix("g")) * 1024)
        topology["size"] = {"resource": hot.get("sizeResource", "memory"), "value": megabytes}
    if hot.get("zoneCount"):
        topology["zone_count"] = hot["zoneCount"]
    return {
        "ref_id": block.get("refId", _REF_ID),
        "region": inputs["region"],
        "plan": {
            "autoscaling_enabled": bool(block.get("autoscale")),
            "cluster_topology": [topology],
            "deployment_template": {"id": inputs["deploymentTemplateId"]},
            "elasticsearch": {"version": inputs["version"]},
        },
    }


def _wanted_tags(resource: Resource) -> dict[str, str]:
    return (resource.inputs.get("tags") or {}) | {MARK: resource.mark}


def _tags(found: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in (found.get("metadata") or {}).get("tags") or []}


def _info(found: dict[str, Any]) -> dict[str, Any]:
    return found["resources"]["elasticsearch"][0]["info"]


def _is_stopped(found: dict[str, Any]) -> bool:
    """Whether a deployment is shut down. One that is locked because its key is lost may come back."""
    is_locked = (found.get("_sandbox") or {}).get("phase") == "locked"
    return not found["resources"].get("elasticsearch") or (_info(found).get("status") == "stopped" and not is_locked)


def _wait_until_started(client: httpx.Client, id_: str) -> None:
    def is_started() -> bool:
        status = _info(_ask(client, "GET", f"/deployments/{id_}")).get("status")
        if status == "stopped":
            raise ProviderError(f"deployment {id_} is stopped")
        return status == "started"

    wait_until(is_started, what=f"deployment {id_} started", limit=_START_SECONDS, interval=0.5)


def _read_deployment(resource: Resource) -> Properties:
    with resource.clouds.elastic_cloud() as client:
        found = _ask(client, "GET", f"/deployments/{resource.id}")
    if _is_stopped(found):
        raise GoneError(f"deployment {resource.id} is shut down")
    cluster, info = found["resources"]["elasticsearch"][0], _info(found)
    settings = found.get("settings") or {}
    plan = ((info.get("plan_info") or {}).get("current") or {}).get("plan") or {}
    tags = {key: value for key, value in _tags(found).items() if key != MARK}
    rulesets = (settings.get("traffic_filter_settings") or {}).get("rulesets")
    if rulesets is None:
        rulesets = ((info.get("settings") or {}).get("traffic_filter_settings") or {}).get("rulesets") or []
    return {
        "alias": found.get("alias") or "",
        "deploymentTemplateId": (plan.get("deployment_template") or {}).get("id")
        or resource.inputs.get("deploymentTemplateId"),
        "elasticsearch": _found_elasticsearch(resource, cluster, info),
        "encryptionKeyPath": (settings.get("byok") or {}).get("key_resource_path"),
        "name": found["name"],
        "region": cluster["region"],
        "tags": tags or None,
        "trafficFilters": rulesets,
        "version": (plan.get("elasticsearch") or {}).get("version") or resource.inputs.get("version"),
    }


def _found_elasticsearch(resource: Resource, cluster: dict[str, Any], info: dict[str, Any]) -> Properties:
    metadata = info.get("metadata") or {}
    # `service_url` is what a client uses; real deployments have https only, the sandbox's http only
    url = metadata.get("aliased_url") or metadata.get("service_url") or ""
    return {
        **resource.inputs.get("elasticsearch", {}),
        "cloudId": metadata.get("cloud_id", ""),
        "httpEndpoint": url,
        "httpsEndpoint": url,
        "refId": cluster.get("ref_id", _REF_ID),
        "region": cluster["region"],
        "resourceId": cluster["id"],
    }


def _update_deployment(resource: Resource) -> None:
    inputs, state = resource.inputs, resource.state
    if inputs["region"] != state.get("region"):
        raise ProviderError("a deployment's region cannot be changed: make a new deployment")
    with resource.clouds.elastic_cloud() as client:
        body = _body(resource) | {"prune_orphans": True}
        body["settings"].pop("byok", None)
        _ask(client, "PUT", f"/deployments/{resource.id}", body)
        _wait_until_started(client, resource.id)
        if inputs.get("resetElasticsearchPassword"):
            path = f"/deployments/{resource.id}/elasticsearch/{_REF_ID}/_reset-password"
            _remember(resource, _ask(client, "POST", path, {}))


def _delete_deployment(resource: Resource) -> None:
    with resource.clouds.elastic_cloud() as client:
        _ask(client, "POST", f"/deployments/{resource.id}/_shutdown")
        wait_until(
            lambda: _is_stopped(_ask(client, "GET", f"/deployments/{resource.id}")),
            what=f"deployment {resource.id} shut down",
            limit=_STOP_SECONDS,
        )
        _ask(client, "DELETE", f"/deployments/{resource.id}")


def _validate_deployment(inputs: Properties) -> Problems:
    for block in ("apm", "enterpriseSearch", "integrationsServer", "kibana", "observability"):
        if inputs.get(block) is not None:
            yield block, f"the sandbox's Elastic Cloud has Elasticsearch only, no {block}"


# Traffic filters

_FILTERS = "/deployments/traffic-filter/rulesets"


def _filter_body(inputs: Properties) -> dict[str, Any]:
    return {
        "name": inputs["name"],
        "region": inputs["region"],
        "type": inputs["type"],
        "description": inputs.get("description", ""),
        "include_by_default": bool(inputs.get("includeByDefault")),
        "rules": [
            {key: rule[key] for key in ("source", "description") if rule.get(key)} for rule in inputs.get("rules") or []
        ],
    }


def _create_filter(resource: Resource) -> str:
    with resource.clouds.elastic_cloud() as client:
        if resource.may_adopt:
            # rulesets carry no tags: one of our name with nothing else to tell it by is what a lost create made
            for ruleset in _ask(client, "GET", _FILTERS)["rulesets"]:
                if ruleset["name"] == resource.inputs["name"]:
                    _ask(client, "PUT", f"{_FILTERS}/{ruleset['id']}", _filter_body(resource.inputs))
                    return ruleset["id"]
        return _ask(client, "POST", _FILTERS, _filter_body(resource.inputs))["id"]


def _read_filter(resource: Resource) -> Properties:
    with resource.clouds.elastic_cloud() as client:
        found = _ask(client, "GET", f"{_FILTERS}/{resource.id}")
    rules = [
        {key: rule[key] for key in ("source", "description", "id") if rule.get(key)}
        for rule in found.get("rules") or []
    ]
    return {
        "description": found.get("description") or None,
        "includeByDefault": bool(found.get("include_by_default")),
        "name": found["name"],
        "region": found["region"],
        "rules": rules or None,
        "type": found["type"],
    }


def _update_filter(resource: Resource) -> None:
    with resource.clouds.elastic_cloud() as client:
        _ask(client, "PUT", f"{_FILTERS}/{resource.id}", _filter_body(resource.inputs))


def _delete_filter(resource: Resource) -> None:
    with resource.clouds.elastic_cloud() as client:
        _ask(client, "DELETE", f"{_FILTERS}/{resource.id}", ignore_associations="true")


KINDS = {
    "Deployment": Kind(
        create=_create_deployment,
        read=_read_deployment,
        update=_update_deployment,
        delete=_delete_deployment,
        autoname=Autoname("name", deletes_first=False),
        force_new=frozenset({"encryptionKeyPath"}),
        sets=frozenset({"trafficFilters"}),
        partial=frozenset({"elasticsearch"}),
        secrets=frozenset({"apmSecretToken", "elasticsearchPassword"}),
        unsupported=frozenset({"migrateToLatestHardware", "requestId"}),
        absent=frozenset({"apmSecretToken", "requestId"}),
        validate=_validate_deployment,
    ),
    "DeploymentTrafficFilter": Kind(
        create=_create_filter,
        read=_read_filter,
        update=_update_filter,
        delete=_delete_filter,
        autoname=Autoname("name", deletes_first=False),
        defaults={"includeByDefault": False},
        force_new=frozenset({"region", "type"}),
        partial=frozenset({"rules"}),
    ),
}
