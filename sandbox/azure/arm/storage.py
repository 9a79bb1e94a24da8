"""Microsoft.Storage: accounts with their key, containers, queues. Kinds: `account` by name, `container`, `queue`."""

from __future__ import annotations

import re
from typing import Any

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit, bad_request, group_location, known, missing
from sandbox.azure.arm.place import Place
from sandbox.azure.customer_key import KeyReference
from sandbox.azure.directory import Caller
from sandbox.azure.store import Document
from sandbox.azure.world import new_id, timestamp

_NAME = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"[a-z0-9](?!.*--)[a-z0-9-]{1,61}[a-z0-9]")
_DEFAULTS: Document = {
    "accessTier": "Hot",
    "allowBlobPublicAccess": False,
    "allowCrossTenantReplication": False,
    "allowSharedKeyAccess": True,
    "defaultToOAuthAuthentication": False,
    "isHnsEnabled": False,
    "minimumTlsVersion": "TLS1_0",
    "networkAcls": {"bypass": "AzureServices", "defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
    "publicNetworkAccess": "Enabled",
    "supportsHttpsTrafficOnly": True,
}
_PROPERTIES = (*_DEFAULTS, "encryption")
_FIXED = ("isHnsEnabled",)
_SERVICES = ("blob", "file", "queue", "table")


class Accounts:
    name = "Microsoft.Storage/storageAccounts"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        location = group_location(kit, place)
        with kit.world.store.alone():
            present = kit.world.store.get("account", place.name)
            if present and present["id"].lower() != place.id.lower():
                raise refusals.ACCOUNT_TAKEN.error(name=place.name)
            if not _NAME.fullmatch(place.name):
                raise refusals.ACCOUNT_NAME.error(name=place.name)
            document = _wanted(kit, place, body, present, location)
            kit.world.store.put("account", place.name, document)
        return (200 if present else 201), self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        return _shown(kit, current_account(kit, place))

    def delete(self, kit: Kit, place: Place) -> None:
        with kit.world.store.alone():
            account = kit.world.store.get("account", place.name)
            if account is None or account["id"].lower() != place.id.lower():
                return
            for kind, drop in (("container", kit.backend.delete_container), ("queue", kit.backend.delete_queue)):
                for key, each in kit.world.store.all(kind, f"{account['name']}/"):
                    drop(account, each["name"])
                    kit.world.store.delete(kind, key)
            kit.world.store.delete("account", place.name)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        prefix = (place.group_id if place.group else f"/subscriptions/{place.subscription}").lower()
        accounts = [account for _, account in kit.world.store.all("account")]
        return [_shown(kit, account) for account in accounts if account["id"].lower().startswith(f"{prefix}/")]


def _wanted(kit: Kit, place: Place, body: Document, present: Document | None, location: str) -> Document:
    properties: Document = body.get("properties") or {}
    known(properties, _PROPERTIES)
    kind, sku = body.get("kind") or "StorageV2", (body.get("sku") or {}).get("name") or "Standard_LRS"
    if kind not in {"StorageV2", "BlockBlobStorage"}:
        raise refusals.NOT_OFFERED.error(what=f"storage accounts of kind {kind}")
    if properties.get("allowSharedKeyAccess") is not False:
        raise refusals.NOT_OFFERED.error(what="accounts with shared keys: set allowSharedKeyAccess to false")
    if properties.get("isHnsEnabled") or properties.get("allowBlobPublicAccess"):
        raise refusals.NOT_OFFERED.error(what="hierarchical namespaces and public blobs")
    settings = {name: properties.get(name, default) for name, default in _DEFAULTS.items()}
    settings["networkAcls"] = {**_DEFAULTS["networkAcls"], **(settings["networkAcls"] or {})}
    identities = _identities(kit, place, body.get("identity"))
    if present and (present["kind"] != kind or any(present["settings"][name] != settings[name] for name in _FIXED)):
        raise bad_request(
            "AccountPropertyCannotBeUpdated",
            "The property 'kind' was specified in the input, but it cannot be updated.",
        )
    document = {
        **(
            present
            or {"generation": new_id().replace("-", ""), "made": kit.world.now(), "name": place.name, "id": place.id}
        ),
        "identities": identities,
        "kind": kind,
        "location": body.get("location") or location,
        "settings": settings,
        "sku": sku,
        "tags": body.get("tags") or {},
    }
    return document | _encryption(kit, properties.get("encryption"), present, identities)


def _identities(kit: Kit, place: Place, identity: Any) -> list[str]:
    kind = (identity or {}).get("type") or "None"
    if kind not in {"None", "UserAssigned"}:
        raise refusals.NOT_OFFERED.error(what=f"identities of type {kind}: UserAssigned")
    ids = sorted((identity or {}).get("userAssignedIdentities") or {})
    if len(ids) > 1:
        raise refusals.TOO_MANY_IDENTITIES.error()
    if (kind == "UserAssigned") != bool(ids):
        raise bad_request("InvalidIdentityType", "The identity type and the user assigned identities do not agree.")
    for each in ids:
        if kit.world.store.get("uami", each) is None:
            raise refusals.NO_IDENTITY.error(account=place.name, identity=each)
    return ids


def _encryption(kit: Kit, wanted: Document | None, present: Document | None, identities: list[str]) -> Document:
    """`encryption` as it is stated, and `key`: what wraps the account's data key, None under Microsoft's."""
    before: Document = present["encryption"] if present else {}
    if wanted is None:
        if before.get("keySource") == "Microsoft.Keyvault":
            _check_attached(KeyReference.of(before), identities)
        return {"encryption": before or _ours({}), "key": present["key"] if present else None}
    known(
        wanted,
        ("identity", "keySource", "keyvaultproperties", "requireInfrastructureEncryption", "services"),
        "encryption",
    )
    _check_services(wanted.get("services") or {}, before.get("services"), is_new=present is None)
    if (wanted.get("keySource") or "Microsoft.Storage").lower() == "microsoft.storage":
        if present and present["key"]:
            kit.keys.unwrap(present["key"])  # Storage needs the old key to take the data key back
        return {"encryption": _ours(wanted), "key": None}
    reference = KeyReference.of(wanted)
    if not reference.uri or not reference.name:
        raise refusals.KEY_SOURCE_INCOMPLETE.error(parameters="properties.encryption.keyvaultproperties")
    if not reference.identity:
        raise refusals.NO_ENCRYPTION_IDENTITY.error()
    _check_attached(reference, identities)
    held = present["key"] if present else None
    if held is not None:
        old = KeyReference(**held["reference"])
        if (old.uri, old.name, old.version) != (reference.uri, reference.name, reference.version) and (
            (old.identity, old.federated_app) != (reference.identity, reference.federated_app)
        ):
            raise refusals.KEY_AND_IDENTITY.error()
        if old == reference:
            return {"encryption": _theirs(wanted), "key": held}
    return {
        "encryption": _theirs(wanted),
        "key": kit.keys.set(reference, held, is_new=present is None),
    }


def _check_attached(reference: KeyReference, identities: list[str]) -> None:
    if reference.identity not in {each.lower() for each in identities}:
        raise refusals.IDENTITY_NOT_ATTACHED.error()


def _check_services(wanted: Document, present: Document | None, *, is_new: bool) -> None:
    known(wanted, _SERVICES, "encryption.services")
    for name, service in wanted.items():
        kind = (service or {}).get("keyType") or "Account"
        before = ((present or {}).get(name) or {}).get("keyType") or (
            "Account" if name in {"blob", "file"} else "Service"
        )
        if not is_new and name in {"queue", "table"} and kind != before:
            raise refusals.KEY_TYPE_OF_SERVICE.error()


def _services(wanted: Document) -> Document:
    asked = wanted.get("services") or {}
    return {
        name: {"enabled": True, "keyType": (asked.get(name) or {}).get("keyType") or "Account"}
        for name in {"blob", "file", *asked}
    }


def _ours(wanted: Document) -> Document:
    return {"keySource": "Microsoft.Storage", "services": _services(wanted)}


def _theirs(wanted: Document) -> Document:
    properties = wanted["keyvaultproperties"]
    return {
        "identity": dict(wanted["identity"]),
        "keySource": "Microsoft.Keyvault",
        "keyvaultproperties": {name: properties.get(name) for name in ("keyname", "keyvaulturi", "keyversion")},
        "requireInfrastructureEncryption": bool(wanted.get("requireInfrastructureEncryption")),
        "services": _services(wanted),
    }


def current_account(kit: Kit, place: Place) -> Document:
    """The account a place is in, after the daily look for a new version of its key. Raises AzureError."""
    account = kit.world.store.get("account", place.names[0])
    if account is None or not place.id.lower().startswith(account["id"].lower()):
        raise missing(place)
    return kit.keys.follow(account)


def _shown(kit: Kit, account: Document) -> Document:
    encryption = dict(account["encryption"])
    if account["key"]:
        encryption["keyvaultproperties"] = {
            **encryption["keyvaultproperties"],
            "currentVersionedKeyIdentifier": account["key"]["kid"],
            "lastKeyRotationTimestamp": timestamp(account["key"]["at"]),
        }
    name = account["name"]
    identity = {}
    if account["identities"]:
        attached = {each: kit.world.store.get("uami", each) or {} for each in account["identities"]}
        identity["identity"] = {
            "type": "UserAssigned",
            "userAssignedIdentities": {
                each: {"clientId": known_.get("clientId"), "principalId": known_.get("principalId")}
                for each, known_ in attached.items()
            },
        }
    properties = {
        **account["settings"],
        "creationTime": timestamp(account["made"]),
        "encryption": encryption,
        "primaryEndpoints": {"blob": kit.world.blob_endpoint(name), "queue": kit.world.queue_endpoint(name)},
        "primaryLocation": account["location"],
        "provisioningState": "Succeeded",
        "statusOfPrimary": "available",
    }
    return {
        "id": account["id"],
        "kind": account["kind"],
        "location": account["location"],
        "name": name,
        "properties": properties,
        "sku": {"name": account["sku"], "tier": account["sku"].partition("_")[0]},
        "tags": account["tags"],
        "type": Accounts.name,
        **identity,
    }


class BlobServices:
    name = "Microsoft.Storage/storageAccounts/blobServices"
    _allowed = ("isVersioningEnabled", "deleteRetentionPolicy", "containerDeleteRetentionPolicy", "changeFeed")

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        account = current_account(kit, place)
        properties = body.get("properties") or {}
        known(properties, self._allowed)
        for name in self._allowed:
            setting = properties.get(name)
            if setting is True or (isinstance(setting, dict) and setting.get("enabled")):
                raise refusals.NOT_OFFERED.error(what=f"{name}: versions, soft delete and the change feed are off")
        account["blobService"] = {name: properties[name] for name in self._allowed if name in properties}
        kit.world.store.put("account", account["name"], account)
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        account = current_account(kit, place)
        properties = {
            "deleteRetentionPolicy": {"enabled": False},
            "containerDeleteRetentionPolicy": {"enabled": False},
            "isVersioningEnabled": False,
            **account.get("blobService", {}),
        }
        return {
            "id": place.id,
            "name": "default",
            "properties": properties,
            "sku": {"name": account["sku"]},
            "type": self.name,
        }

    def delete(self, kit: Kit, place: Place) -> None:
        raise bad_request("OperationNotAllowed", "blobServices/default exists as long as its account.")

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)


class Containers:
    name = "Microsoft.Storage/storageAccounts/blobServices/containers"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        account = current_account(kit, place)
        properties = body.get("properties") or {}
        known(properties, ("publicAccess", "metadata"))
        if (properties.get("publicAccess") or "None") != "None":
            raise bad_request("PublicAccessNotPermitted", "Public access is not permitted on this storage account.")
        is_new = make_container(kit, account, place.name, properties.get("metadata") or {})
        return (201 if is_new else 200), self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        account = current_account(kit, place)
        found = kit.world.store.get("container", f"{account['name']}/{place.name}")
        if found is None or found.get("deleted"):
            raise refusals.NO_CONTAINER.error()
        properties = {
            "defaultEncryptionScope": "$account-encryption-key",
            "denyEncryptionScopeOverride": False,
            "hasImmutabilityPolicy": False,
            "hasLegalHold": False,
            "lastModifiedTime": timestamp(found["made"]),
            "metadata": found["metadata"],
            "publicAccess": "None",
        }
        return {"id": place.id, "name": place.name, "properties": properties, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        drop_container(kit, current_account(kit, place), place.name)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        account = current_account(kit, place)
        return [
            {"id": f"{place.id}/containers/{each['name']}", "name": each["name"], "type": self.name}
            for _, each in kit.world.store.all("container", f"{account['name']}/")
            if not each.get("deleted")
        ]


def make_container(kit: Kit, account: Document, name: str, metadata: dict[str, str]) -> bool:
    """True if it was not there. Raises AzureError."""
    if not _CONTAINER.fullmatch(name):
        raise refusals.BAD_NAME.error()
    with kit.world.store.alone():
        key = f"{account['name']}/{name}"
        present = kit.world.store.get("container", key)
        if present and present.get("deleted"):
            if kit.world.now() < present["deleted"] + kit.world.settings.container_lag_seconds:
                raise refusals.CONTAINER_BEING_DELETED.error()
            present = None
        if present is None:
            kit.backend.create_container(account, name)
        document = present or {"made": kit.world.now(), "name": name}
        kit.world.store.put("container", key, document | {"metadata": metadata})
    return present is None


def drop_container(kit: Kit, account: Document, name: str) -> bool:
    """False if there was none."""
    with kit.world.store.alone():
        key = f"{account['name']}/{name}"
        present = kit.world.store.get("container", key)
        if present is None or present.get("deleted"):
            return False
        kit.backend.delete_container(account, name)
        kit.world.store.put("container", key, present | {"deleted": kit.world.now()})
    return True


class Queues:
    name = "Microsoft.Storage/storageAccounts/queueServices/queues"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        account = current_account(kit, place)
        properties = body.get("properties") or {}
        known(properties, ("metadata",))
        if not _CONTAINER.fullmatch(place.name):
            raise refusals.BAD_NAME.error()
        with kit.world.store.alone():
            key = f"{account['name']}/{place.name}"
            present = kit.world.store.get("queue", key)
            if present is None:
                kit.backend.create_queue(account, place.name)
            kit.world.store.put("queue", key, {"metadata": properties.get("metadata") or {}, "name": place.name})
        return 200, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        account = current_account(kit, place)
        found = kit.world.store.get("queue", f"{account['name']}/{place.name}")
        if found is None:
            raise refusals.NO_QUEUE.error()
        return {"id": place.id, "name": place.name, "properties": {"metadata": found["metadata"]}, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        account = current_account(kit, place)
        with kit.world.store.alone():
            if kit.world.store.delete("queue", f"{account['name']}/{place.name}"):
                kit.backend.delete_queue(account, place.name)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)
