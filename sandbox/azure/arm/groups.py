"""Microsoft.Resources/resourceGroups."""

from __future__ import annotations

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit, bad_request
from sandbox.azure.arm.place import Place
from sandbox.azure.directory import Caller
from sandbox.azure.store import Document

# Whatever a group can hold, as kinds of the store.
_KINDS = ("account", "vault", "uami", "topic", "plan", "site")


class Groups:
    name = "Microsoft.Resources/resourceGroups"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        known = kit.world.store.get("group", place.id)
        location = (body.get("location") or "").lower().replace(" ", "")
        if not location:
            raise bad_request("LocationRequired", "The location property is required for this definition.")
        if known and known["location"] != location:
            raise bad_request(
                "InvalidResourceGroupLocation",
                f"Invalid resource group location '{location}'. The Resource group already exists in location "
                f"'{known['location']}'.",
            )
        document = {
            "id": place.id,
            "location": location,
            "name": place.name,
            "properties": {"provisioningState": "Succeeded"},
            "tags": body.get("tags") or {},
            "type": self.name,
        }
        kit.world.store.put("group", place.id, document)
        return (200 if known else 201), document

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("group", place.id)
        if found is None:
            raise refusals.NO_GROUP.error(name=place.name)
        return found

    def delete(self, kit: Kit, place: Place) -> None:
        self.get(kit, place)
        within = [
            document["id"]
            for kind in _KINDS
            for _, document in kit.world.store.all(kind)
            if document["id"].lower().startswith(f"{place.id.lower()}/") and not document.get("deleted")
        ]
        if within:
            raise refusals.GROUP_NOT_EMPTY.error(name=place.name, ids=", ".join(within))
        kit.world.store.delete("group", place.id)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        return [document for _, document in kit.world.store.all("group", f"/subscriptions/{place.subscription}/")]
