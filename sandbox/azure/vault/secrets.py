"""Secrets and their versions. Kind in the store: `secret`, by `<vault>/<name>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sandbox.azure import refusals
from sandbox.azure.store import Document
from sandbox.azure.world import World, new_id

_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
_LARGEST = 25 * 1024


@dataclass(frozen=True)
class Secrets:
    """The secrets of all vaults. Who calls is judged before."""

    world: World

    def set(self, vault: Document, name: str, body: dict[str, Any]) -> Document:
        """A new secret, or a new version. Raises AzureError."""
        value = body.get("value")
        if not _NAME.fullmatch(name):
            raise refusals.BAD_PARAMETER.error(why=f"The request URI contains an invalid name: {name}")
        if not isinstance(value, str) or len(value.encode()) > _LARGEST:
            raise refusals.BAD_PARAMETER.error(why="Property value must be a text of at most 25 KB.")
        with self.world.store.alone():
            place = f"{vault['name']}/{name}"
            secret = self.world.store.get("secret", place) or {"name": name, "vault": vault["name"], "versions": {}}
            if secret.get("deleted"):
                raise refusals.OBJECT_IS_DELETED.error(what="Secret", name=name)
            now = int(self.world.now())
            version = {
                "attributes": {"enabled": True, **_given(body.get("attributes")), "created": now, "updated": now},
                "contentType": body.get("contentType"),
                "tags": dict(body.get("tags") or {}),
                "value": value,
                "version": new_id().replace("-", ""),
            }
            secret["versions"][version["version"]] = version
            secret["latest"] = version["version"]
            self.world.store.put("secret", place, secret)
        return self._bundle(vault, name, version)

    def get(self, vault: Document, name: str, version: str = "", *, with_value: bool = True) -> Document:
        found = self._found(vault, name, version)
        if with_value and not found["attributes"]["enabled"]:
            raise refusals.SECRET_DISABLED.error()
        bundle = self._bundle(vault, name, found)
        if not with_value:
            del bundle["value"]
        return bundle

    def update(self, vault: Document, name: str, version: str, body: dict[str, Any]) -> Document:
        """New attributes or tags of one version. Raises AzureError."""
        with self.world.store.alone():
            found = self._found(vault, name, version)
            found["attributes"] |= {**_given(body.get("attributes")), "updated": int(self.world.now())}
            for field in ("tags", "contentType"):
                if body.get(field) is not None:
                    found[field] = body[field]
            secret = self._secret(vault, name)
            secret["versions"][found["version"]] = found
            self.world.store.put("secret", f"{vault['name']}/{name}", secret)
        bundle = self._bundle(vault, name, found)
        del bundle["value"]
        return bundle

    def names(self, vault: Document, *, deleted: bool) -> list[Document]:
        found = []
        for _, secret in self.world.store.all("secret", f"{vault['name']}/"):
            if bool(secret.get("deleted")) == deleted:
                item = self._bundle(vault, secret["name"], secret["versions"][secret["latest"]])
                del item["value"]
                found.append(item | {"id": item["id"].rsplit("/", 1)[0]} | _deletion(vault, secret))
        return found

    def versions(self, vault: Document, name: str) -> list[Document]:
        secret = self.world.store.get("secret", f"{vault['name']}/{name}")
        if secret is None or secret.get("deleted"):
            return []
        bundles = [self._bundle(vault, name, version) for version in secret["versions"].values()]
        return [{field: value for field, value in bundle.items() if field != "value"} for bundle in bundles]

    def delete(self, vault: Document, name: str) -> Document:
        with self.world.store.alone():
            secret = self._secret(vault, name)
            secret["deleted"] = self.world.now()
            self.world.store.put("secret", f"{vault['name']}/{name}", secret)
        return self.deleted(vault, name)

    def deleted(self, vault: Document, name: str) -> Document:
        secret = self.world.store.get("secret", f"{vault['name']}/{name}")
        if secret is None or not secret.get("deleted"):
            raise refusals.SECRET_NOT_FOUND.error(name=name)
        bundle = self._bundle(vault, name, secret["versions"][secret["latest"]])
        del bundle["value"]
        return bundle | _deletion(vault, secret)

    def recover(self, vault: Document, name: str) -> Document:
        with self.world.store.alone():
            self.deleted(vault, name)
            secret = self.world.store.get("secret", f"{vault['name']}/{name}")
            assert secret is not None
            del secret["deleted"]
            self.world.store.put("secret", f"{vault['name']}/{name}", secret)
        return self.get(vault, name, with_value=False)

    def purge(self, vault: Document, name: str) -> None:
        self.deleted(vault, name)
        if vault["properties"].get("enablePurgeProtection"):
            raise refusals.OBJECT_PURGE.error()
        self.world.store.delete("secret", f"{vault['name']}/{name}")

    def _secret(self, vault: Document, name: str) -> Document:
        secret = self.world.store.get("secret", f"{vault['name']}/{name}")
        if secret is None or secret.get("deleted"):
            raise refusals.SECRET_NOT_FOUND.error(name=name)
        return secret

    def _found(self, vault: Document, name: str, version: str) -> Document:
        secret = self._secret(vault, name)
        found = secret["versions"].get(version or secret["latest"])
        if found is None:
            raise refusals.SECRET_NOT_FOUND.error(name=f"{name}/{version}")
        return found

    def _bundle(self, vault: Document, name: str, version: Document) -> Document:
        shown = {"recoverableDays": vault["properties"]["softDeleteRetentionInDays"], "recoveryLevel": "Recoverable"}
        bundle = {
            "attributes": version["attributes"] | shown,
            "id": f"{vault['uri']}secrets/{name}/{version['version']}",
            "tags": version["tags"],
            "value": version["value"],
        }
        return bundle | ({"contentType": version["contentType"]} if version.get("contentType") else {})


def _given(attributes: dict[str, Any] | None) -> dict[str, Any]:
    return {
        name: (attributes or {})[name] for name in ("enabled", "exp", "nbf") if (attributes or {}).get(name) is not None
    }


def _deletion(vault: Document, secret: Document) -> Document:
    if not secret.get("deleted"):
        return {}
    return {
        "deletedDate": int(secret["deleted"]),
        "recoveryId": f"{vault['uri']}deletedsecrets/{secret['name']}",
        "scheduledPurgeDate": int(secret["deleted"]) + vault["properties"]["softDeleteRetentionInDays"] * 86400,
    }
