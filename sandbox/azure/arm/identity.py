"""Microsoft.ManagedIdentity: user-assigned identities and their federated credentials."""

from __future__ import annotations

from sandbox.azure.arm.kit import Kit, bad_request, group_location, known, missing
from sandbox.azure.arm.place import Place
from sandbox.azure.directory import Caller
from sandbox.azure.store import Document
from sandbox.azure.world import SUBSCRIPTIONS, new_id

_MOST_CREDENTIALS = 20


class Identities:
    name = "Microsoft.ManagedIdentity/userAssignedIdentities"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        location = group_location(kit, place)
        present = kit.world.store.get("uami", place.id)
        if present is None:
            tenant = SUBSCRIPTIONS[place.subscription]
            principal = kit.directory.add_principal(tenant, new_id(), resource=place.id)
            present = {
                "clientId": principal["appId"],
                "id": place.id,
                "principalId": principal["id"],
                "tenantId": tenant,
            }
        document = present | {"location": body.get("location") or location, "tags": body.get("tags") or {}}
        kit.world.store.put("uami", place.id, document)
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("uami", place.id)
        if found is None:
            raise missing(place)
        properties = {name: found[name] for name in ("clientId", "principalId", "tenantId")}
        return {
            "id": place.id,
            "location": found["location"],
            "name": place.name,
            "properties": properties,
            "tags": found["tags"],
            "type": self.name,
        }

    def delete(self, kit: Kit, place: Place) -> None:
        found = kit.world.store.delete("uami", place.id)
        if found is not None:
            kit.world.store.delete("principal", found["principalId"])
            for key, _ in kit.world.store.all("federation", f"{place.id}/"):
                kit.world.store.delete("federation", key)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


class Federations:
    name = "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        if kit.world.store.get("uami", place.parent_id) is None:
            raise missing(place)
        properties = body.get("properties") or {}
        known(properties, ("issuer", "subject", "audiences"))
        for name in ("issuer", "subject", "audiences"):
            if not properties.get(name):
                raise bad_request("BadRequest", f"The required property '{name}' is missing.")
        siblings = kit.world.store.all("federation", f"{place.parent_id}/")
        others = [each for key, each in siblings if key != place.id.lower()]
        if len(others) >= _MOST_CREDENTIALS:
            raise bad_request("BadRequest", f"Too many Federated Identity Credentials: at most {_MOST_CREDENTIALS}.")
        if any((each["issuer"], each["subject"]) == (properties["issuer"], properties["subject"]) for each in others):
            raise bad_request("BadRequest", "Issuer and subject combination already exists for this Managed Identity.")
        kit.world.store.put("federation", place.id, properties)
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("federation", place.id)
        if found is None:
            raise missing(place)
        return {"id": place.id, "name": place.name, "properties": found, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        kit.world.store.delete("federation", place.id)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)
