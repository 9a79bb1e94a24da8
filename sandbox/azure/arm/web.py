"""Microsoft.Web: plans, and sites that run the worker."""

from __future__ import annotations

from typing import Any

from sandbox.azure.arm.kit import Kit, bad_request, group_location, known, missing
from sandbox.azure.arm.place import Place
from sandbox.azure.directory import Caller
from sandbox.azure.store import Document

_SITE = (
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
_CONFIG = (
    "alwaysOn",
    "appCommandLine",
    "appSettings",
    "acrUseManagedIdentityCreds",
    "acrUserManagedIdentityID",
    "ftpsState",
    "healthCheckPath",
    "http20Enabled",
    "linuxFxVersion",
    "localMySqlEnabled",
    "minTlsVersion",
    "netFrameworkVersion",
    "numberOfWorkers",
)


class Plans:
    name = "Microsoft.Web/serverfarms"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        location = group_location(kit, place)
        properties = body.get("properties") or {}
        known(properties, ("reserved", "targetWorkerCount", "zoneRedundant"))
        if not (body.get("sku") or {}).get("name"):
            raise bad_request("BadRequest", "The parameter SKU.Name has an invalid value.")
        document = {
            "id": place.id,
            "kind": body.get("kind") or "app",
            "location": body.get("location") or location,
            "properties": {**properties, "provisioningState": "Succeeded", "status": "Ready"},
            "sku": body["sku"],
            "tags": body.get("tags") or {},
        }
        kit.world.store.put("plan", place.id, document)
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("plan", place.id)
        if found is None:
            raise missing(place)
        return {**found, "name": place.name, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        self_id = place.id.lower()
        used = [
            site["id"]
            for _, site in kit.world.store.all("site")
            if site["properties"]["serverFarmId"].lower() == self_id
        ]
        if used:
            raise bad_request(
                "Conflict",
                f"Server farm '{place.name}' cannot be deleted because it has web app(s) {', '.join(used)} assigned to it.",
            )
        kit.world.store.delete("plan", place.id)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


class Sites:
    name = "Microsoft.Web/sites"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        location = group_location(kit, place)
        properties: Document = body.get("properties") or {}
        known(properties, _SITE)
        config: Document = properties.get("siteConfig") or {}
        known(config, _CONFIG, "siteConfig")
        if kit.world.store.get("plan", properties.get("serverFarmId") or "") is None:
            raise bad_request("BadRequest", f"Cannot find serverFarm with name {properties.get('serverFarmId')}.")
        for _, other in kit.world.store.all("site"):
            if other["id"].rsplit("/", 1)[1].lower() == place.name.lower() and other["id"].lower() != place.id.lower():
                raise bad_request("Conflict", f"Website with given name {place.name} already exists.")
        document = {
            "id": place.id,
            "identities": _identities(kit, body.get("identity")),
            "kind": body.get("kind") or "app",
            "location": body.get("location") or location,
            "properties": {"enabled": True, "httpsOnly": False, **properties, "siteConfig": config},
            "tags": body.get("tags") or {},
        }
        kit.functions.stop(place.id)
        kit.world.store.put("site", place.id, document)
        if document["properties"]["enabled"]:
            kit.functions.start(document)
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("site", place.id)
        if found is None:
            raise missing(place)
        attached = {each: kit.world.store.get("uami", each) or {} for each in found["identities"]}
        identity: Document = {}
        if attached:
            identity["identity"] = {
                "type": "UserAssigned",
                "userAssignedIdentities": {
                    each: {"clientId": uami.get("clientId"), "principalId": uami.get("principalId")}
                    for each, uami in attached.items()
                },
            }
        # The real answer leaves the settings out: they are read by a call of their own.
        config = {name: value for name, value in found["properties"]["siteConfig"].items() if name != "appSettings"}
        return {
            "id": found["id"],
            "kind": found["kind"],
            "location": found["location"],
            "name": place.name,
            "properties": {
                **found["properties"],
                "defaultHostName": f"{place.name}.azurewebsites.net",
                "siteConfig": config,
                "state": "Running" if found["properties"]["enabled"] else "Stopped",
            },
            "tags": found["tags"],
            "type": self.name,
            **identity,
        }

    def delete(self, kit: Kit, place: Place) -> None:
        kit.functions.stop(place.id)
        kit.world.store.delete("site", place.id)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


def _identities(kit: Kit, identity: Any) -> list[str]:
    ids = sorted((identity or {}).get("userAssignedIdentities") or {})
    for each in ids:
        if kit.world.store.get("uami", each) is None:
            raise bad_request("LinkedInvalidPropertyId", f"Property id '{each}' at path 'identity' is invalid.")
    return ids


class AppSettings:
    """`sites/<name>/config/appsettings`, read by POST …/list: a secret way round, as in Azure."""

    name = "Microsoft.Web/sites/config"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        raise missing(place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("site", place.parent_id)
        if found is None or place.name.lower() != "appsettings":
            raise missing(place)
        settings = found["properties"]["siteConfig"].get("appSettings") or []
        properties = {each["name"]: each.get("value") for each in settings}
        return {"id": place.id, "name": "appsettings", "properties": properties, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        raise missing(place)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)
