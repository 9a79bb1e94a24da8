"""Microsoft.KeyVault: vaults, deleted vaults, and the keys and secrets that Resource Manager can make."""

from __future__ import annotations

import re
from typing import Any

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit, bad_request, group_location, known, missing
from sandbox.azure.arm.place import Place
from sandbox.azure.directory import Caller
from sandbox.azure.ports import free_port
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.vault.byok import decode
from sandbox.azure.world import SUBSCRIPTIONS, timestamp

_NAME = re.compile(r"[a-zA-Z](?!.*--)[a-zA-Z0-9-]{1,22}[a-zA-Z0-9]")
_PROPERTIES = (
    "createMode",
    "enablePurgeProtection",
    "enableRbacAuthorization",
    "enableSoftDelete",
    "enabledForDeployment",
    "enabledForDiskEncryption",
    "enabledForTemplateDeployment",
    "publicNetworkAccess",
    "sku",
    "softDeleteRetentionInDays",
    "tenantId",
)
_RETENTION_DAYS = 90


class VaultsType:
    name = "Microsoft.KeyVault/vaults"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        location = group_location(kit, place)
        properties = body.get("properties") or {}
        known(properties, _PROPERTIES)
        present = kit.world.store.get("vault", place.name)
        recovers = properties.get("createMode") == "recover"
        if present and (present["id"].lower() != place.id.lower() or (present.get("deleted") and not recovers)):
            raise refusals.VAULT_EXISTS.error(name=place.name)
        if recovers and not (present and present.get("deleted")):
            raise refusals.VAULT_RESTS_ON.error(why=f"There is no deleted vault {place.name} to recover.")
        if not _NAME.fullmatch(place.name):
            raise bad_request(
                "VaultNameNotValid", f"The vault name '{place.name}' is invalid: 3-24 alphanumerics and hyphens."
            )
        kept = _checked(properties, place, present)
        if present is None:
            port = free_port(kit.world.store)
            present = {
                "audience": f"https://0.0.1:{port}",  # what the SDK takes for the domain of 127.0.0.1:port
                "id": place.id,
                "name": place.name,
                "port": port,
                "tenant": SUBSCRIPTIONS[place.subscription],
                "uri": f"https://127.0.0.1:{port}/",
            }
        document = present | {
            "location": body.get("location") or location,
            "properties": kept,
            "tags": body.get("tags") or {},
        }
        document.pop("deleted", None)
        kit.world.store.put("vault", place.name, document)
        kit.vaults.open(document)
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        return _shown(found_vault(kit, place, place.name))

    def delete(self, kit: Kit, place: Place) -> None:
        found = kit.world.store.get("vault", place.name)
        if found is None or found.get("deleted"):
            return
        found["deleted"] = kit.world.now()
        kit.world.store.put("vault", place.name, found)
        kit.vaults.close(found["name"])
        # Docs, key vault soft delete: role assignments go with the vault and do not come back with it.
        for key, _ in kit.world.store.all("assignment", f"{found['id']}/"):
            kit.world.store.delete("assignment", key)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        prefix = (place.group_id if place.group else f"/subscriptions/{place.subscription}").lower()
        return [
            _shown(vault)
            for _, vault in kit.world.store.all("vault")
            if vault["id"].lower().startswith(f"{prefix}/") and not vault.get("deleted")
        ]


def _checked(properties: Document, place: Place, present: Document | None) -> Document:
    before = present["properties"] if present else {}
    if properties.get("enablePurgeProtection") is False:
        raise refusals.PURGE_PROTECTION_OFF.error()
    if properties.get("enableSoftDelete") is False:
        raise refusals.VAULT_RESTS_ON.error(
            why='The property "enableSoftDelete" can be set to false only for creating new vault.'
        )
    if properties.get("tenantId") != SUBSCRIPTIONS[place.subscription]:
        raise refusals.VAULT_RESTS_ON.error(why="The tenant ID in the request does not match the subscription's.")
    if not properties.get("enableRbacAuthorization"):
        raise refusals.NOT_OFFERED.error(what="vault access policies: set enableRbacAuthorization")
    sku = properties.get("sku") or {}
    if (sku.get("name") or "").lower() not in {"standard", "premium"} or sku.get("family") != "A":
        raise refusals.VAULT_RESTS_ON.error(why="The parameter sku is invalid: family A, name standard or premium.")
    days = properties.get("softDeleteRetentionInDays") or before.get("softDeleteRetentionInDays") or _RETENTION_DAYS
    if not 7 <= days <= 90 or days != before.get("softDeleteRetentionInDays", days):
        raise refusals.VAULT_RESTS_ON.error(
            why='The property "softDeleteRetentionInDays" must be 7 to 90, and cannot be changed later.'
        )
    kept = {name: properties[name] for name in _PROPERTIES if properties.get(name) is not None and name != "createMode"}
    if before.get("enablePurgeProtection"):
        kept["enablePurgeProtection"] = True  # left out: it stays
    return {
        "enabledForDeployment": False,
        "publicNetworkAccess": "Enabled",
        **kept,
        "enableSoftDelete": True,
        "softDeleteRetentionInDays": days,
    }


def found_vault(kit: Kit, place: Place, name: str) -> Document:
    """The document of a live vault. Raises AzureError."""
    found = kit.world.store.get("vault", name)
    if found is None or found.get("deleted") or not place.id.lower().startswith(found["id"].lower()):
        raise missing(place)
    return found


def _shown(vault: Document) -> Document:
    properties = {
        **vault["properties"],
        "accessPolicies": [],
        "provisioningState": "Succeeded",
        "vaultUri": vault["uri"],
    }
    return {
        "id": vault["id"],
        "location": vault["location"],
        "name": vault["name"],
        "properties": properties,
        "tags": vault["tags"],
        "type": VaultsType.name,
    }


class DeletedVaults:
    name = "Microsoft.KeyVault/locations/deletedVaults"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        raise missing(place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("vault", place.name)
        if found is None or not found.get("deleted"):
            raise missing(place)
        days = found["properties"]["softDeleteRetentionInDays"]
        properties = {
            "deletionDate": timestamp(found["deleted"]),
            "location": found["location"],
            "purgeProtectionEnabled": bool(found["properties"].get("enablePurgeProtection")),
            "scheduledPurgeDate": timestamp(found["deleted"] + days * 86400),
            "vaultId": found["id"],
        }
        return {"id": place.id, "name": place.name, "properties": properties, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        """A purge."""
        self.get(kit, place)
        found = kit.world.store.get("vault", place.name) or {}
        if found["properties"].get("enablePurgeProtection"):
            raise refusals.PURGE_REFUSED.error()
        for kind in ("key", "secret"):
            for key, _ in kit.world.store.all(kind, f"{place.name}/"):
                kit.world.store.delete(kind, key)
        kit.world.store.delete("vault", place.name)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


class KeysType:
    """Docs, keyvault/keys: a PUT makes what does not exist, and never changes or adds a version."""

    name = "Microsoft.KeyVault/vaults/keys"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        vault = found_vault(kit, place, place.names[0])
        properties = body.get("properties") or {}
        known(properties, ("attributes", "keyOps", "keySize", "kty"))
        with kit.world.store.alone():
            if not _exists(kit, "key", vault, place.name):
                attributes = properties.get("attributes") or {}
                kit.vaults.keys.create(
                    vault,
                    place.name,
                    {
                        "attributes": {name: attributes.get(name) for name in ("enabled", "exp", "nbf")},
                        "key_ops": properties.get("keyOps"),
                        "key_size": properties.get("keySize"),
                        "kty": properties.get("kty"),
                        "tags": body.get("tags"),
                    },
                )
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        vault = found_vault(kit, place, place.names[0])
        try:
            bundle = kit.vaults.keys.get(vault, place.name)
        except AzureError as error:
            raise missing(place) from error
        kid = bundle["key"]["kid"]
        attributes: dict[str, Any] = bundle["attributes"]
        properties = {
            "attributes": {
                name: attributes[name]
                for name in ("enabled", "exp", "nbf", "created", "updated", "recoveryLevel")
                if name in attributes
            },
            "keyOps": bundle["key"]["key_ops"],
            "keySize": _bits(bundle["key"]["n"]),
            "keyUri": kid.rsplit("/", 1)[0],
            "keyUriWithVersion": kid,
            "kty": bundle["key"]["kty"],
        }
        return {
            "id": place.id,
            "location": vault["location"],
            "name": place.name,
            "properties": properties,
            "tags": bundle["tags"],
            "type": self.name,
        }

    def delete(self, kit: Kit, place: Place) -> None:
        raise _no_method("keys")

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


class SecretsType:
    """Its value can be written through Resource Manager and is never shown there."""

    name = "Microsoft.KeyVault/vaults/secrets"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        vault = found_vault(kit, place, place.names[0])
        properties = body.get("properties") or {}
        known(properties, ("attributes", "contentType", "value"))
        kit.vaults.secrets.set(vault, place.name, properties | {"tags": body.get("tags")})
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        vault = found_vault(kit, place, place.names[0])
        try:
            bundle = kit.vaults.secrets.get(vault, place.name, with_value=False)
        except AzureError as error:
            raise missing(place) from error
        properties = {
            "attributes": {name: bundle["attributes"][name] for name in ("enabled", "created", "updated")},
            "contentType": bundle.get("contentType"),
            "secretUri": bundle["id"].rsplit("/", 1)[0],
            "secretUriWithVersion": bundle["id"],
        }
        return {
            "id": place.id,
            "location": vault["location"],
            "name": place.name,
            "properties": properties,
            "tags": bundle["tags"],
            "type": self.name,
        }

    def delete(self, kit: Kit, place: Place) -> None:
        raise _no_method("secrets")

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


def _exists(kit: Kit, kind: str, vault: Document, name: str) -> bool:
    found = kit.world.store.get(kind, f"{vault['name']}/{name}")
    return found is not None and not found.get("deleted")


def _bits(modulus: str) -> int:
    return len(decode(modulus)) * 8


def _no_method(kind: str) -> AzureError:
    return AzureError("MethodNotAllowed", f"Resource Manager deletes no {kind}: use the vault's own DELETE.", 405)
