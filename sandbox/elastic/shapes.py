"""What the deployments API shows, in the shapes of the public client's models."""

from __future__ import annotations

from typing import Any

from sandbox.elastic.credentials import USER
from sandbox.elastic.deployment import Deployment, Phase
from sandbox.elastic.record import DeploymentRecord, Ruleset

_SHOWN_STATUS = {Phase.LOCKED: "stopped"}


def created(deployment: Deployment, password: str | None) -> dict[str, Any]:
    """The answer to a creation or a change. The password is there only when it is new."""
    record = deployment.record
    credentials = {} if password is None else {"credentials": {"username": USER, "password": password}}
    resources = [{**resource(record), **credentials}]
    return {"id": record.id, "name": record.name, "created": password is not None, "resources": resources}


def shown(deployment: Deployment, rulesets: list[Ruleset]) -> dict[str, Any]:
    """A deployment in full. `_sandbox` is the sandbox's own."""
    record = deployment.record
    key = record.key
    return {
        "id": record.id,
        "name": record.name,
        "alias": record.name,
        "healthy": deployment.phase is Phase.STARTED,
        "resources": {
            "elasticsearch": [{**resource(record), "info": cluster_info(deployment)}],
            **{kind: [] for kind in ("kibana", "apm", "integrations_server", "enterprise_search", "appsearch")},
        },
        "settings": {
            "traffic_filter_settings": {"rulesets": [each.id for each in rulesets]},
            **({} if key is None else {"byok": {"key_resource_path": key.path}}),
        },
        "metadata": {"tags": record.tags, "hidden": False, "last_modified": record.created},
        "_sandbox": {
            "phase": deployment.phase.value,
            "reason": deployment.reason,
            "key_arn": key.key_arn if key else None,
            "node_pid": deployment.node_pid(),
        },
    }


def resource(record: DeploymentRecord) -> dict[str, Any]:
    return {"id": record.cluster_id, "kind": "elasticsearch", "ref_id": record.ref_id, "region": record.region}


def listed(deployment: Deployment) -> dict[str, Any]:
    record = deployment.record
    return {"id": record.id, "name": record.name, "resources": [resource(record)]}


def cluster_info(deployment: Deployment) -> dict[str, Any]:
    record = deployment.record
    url = f"http://127.0.0.1:{record.port}"
    return {
        "cluster_id": record.cluster_id,
        "cluster_name": record.name,
        "deployment_id": record.id,
        "region": record.region,
        "healthy": deployment.phase is Phase.STARTED,
        "status": _SHOWN_STATUS.get(deployment.phase, deployment.phase.value),
        "metadata": {
            "endpoint": "127.0.0.1",
            "service_url": url,
            "aliased_url": url,
            "ports": {"http": record.port, "https": record.port},
            "last_modified": record.created,
        },
        "plan_info": {"current": {"plan": record.request["resources"]["elasticsearch"][0].get("plan", {})}},
    }


def ruleset(ruleset: Ruleset) -> dict[str, Any]:
    shown = ruleset.model_dump(exclude={"deployments"})
    return {**shown, "associations": [{"entity_type": "deployment", "id": id} for id in ruleset.deployments]}
