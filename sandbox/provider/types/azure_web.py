"""azure-native.web: AppServicePlan, WebApp."""

from __future__ import annotations

from sandbox.provider.kinds import Properties, Resource
from sandbox.provider.types.azure import (
    Arm,
    Document,
    attached,
    given,
    group_path,
    is_same_id,
    is_same_identity,
    kind,
    told,
)

_API = "2024-04-01"
_PLAN = {name: name for name in ("reserved", "targetWorkerCount", "zoneRedundant")}
_SITE = {
    name: name
    for name in (
        "clientAffinityEnabled",
        "enabled",
        "httpsOnly",
        "hyperV",
        "isXenon",
        "keyVaultReferenceIdentity",
        "publicNetworkAccess",
        "reserved",
        "scmSiteAlsoStopped",
        "serverFarmId",
        "siteConfig",
    )
}


def _plan(resource: Resource) -> str:
    return group_path(resource, f"/providers/Microsoft.Web/serverfarms/{resource.inputs['name']}")


def _site(resource: Resource) -> str:
    return group_path(resource, f"/providers/Microsoft.Web/sites/{resource.inputs['name']}")


def _plan_body(inputs: Properties) -> Document:
    return {
        "kind": inputs.get("kind"),
        "location": inputs.get("location"),
        "properties": given(inputs, _PLAN),
        "sku": inputs.get("sku"),
        "tags": inputs.get("tags") or {},
    }


def _site_body(inputs: Properties) -> Document:
    body = {
        "kind": inputs.get("kind"),
        "location": inputs.get("location"),
        "properties": given(inputs, _SITE),
        "tags": inputs.get("tags") or {},
    }
    return body | ({"identity": attached(inputs["identity"])} if inputs.get("identity") else {})


def _common(found: Document) -> Properties:
    return {"kind": found["kind"], "location": found["location"], "tags": found["tags"] or None}


KINDS = {
    "AppServicePlan": kind(
        Arm(
            token="azure-native:web:AppServicePlan",
            api=_API,
            path=_plan,
            body=_plan_body,
            shown=lambda found: {
                **_common(found),
                **told(found["properties"], {**_PLAN, "provisioningState": "provisioningState", "status": "status"}),
                "sku": found["sku"],
            },
            name="name",
            takes=frozenset({"kind", "location", "name", "resourceGroupName", "sku", "tags", *_PLAN}),
            fixed=frozenset({"location", "name", "resourceGroupName"}),
        ),
        partial=frozenset({"sku"}),
        computed=frozenset({"kind"}),
    ),
    "WebApp": kind(
        Arm(
            token="azure-native:web:WebApp",
            api=_API,
            path=_site,
            body=_site_body,
            shown=lambda found: {
                **_common(found),
                **told(found["properties"], {**_SITE, "defaultHostName": "defaultHostName", "state": "state"}),
                "identity": found.get("identity"),
            },
            name="name",
            takes=frozenset({"identity", "kind", "location", "name", "resourceGroupName", "tags", *_SITE}),
            fixed=frozenset({"location", "name", "resourceGroupName"}),
        ),
        partial=frozenset({"identity"}),
        same={"identity": is_same_identity, "serverFarmId": is_same_id},
        unforeseen=frozenset({"identity", "siteConfig"}),
        unread=frozenset({"siteConfig"}),
        computed=frozenset(
            {
                *("clientAffinityEnabled", "enabled", "httpsOnly", "hyperV", "isXenon", "kind", "publicNetworkAccess"),
                *("reserved", "scmSiteAlsoStopped"),
            }
        ),
        volatile=frozenset({"state"}),
    ),
}
