"""Keys and their versions: what each operation does and refuses. Kind in the store: `key`, by `<vault>/<name>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sandbox.azure import refusals
from sandbox.azure.store import Document
from sandbox.azure.vault import byok
from sandbox.azure.vault.byok import BlobError, decode, encode
from sandbox.azure.world import World, new_id

SIZES = (2048, 3072, 4096)
TYPES = ("RSA", "RSA-HSM")
OPERATIONS = ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey", "import")
_DEFAULT_OPERATIONS = tuple(name for name in OPERATIONS if name != "import")
_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
_PADDINGS = {
    "RSA-OAEP": padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None),
    "RSA-OAEP-256": padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None),
    "RSA1_5": padding.PKCS1v15(),
}


@dataclass(frozen=True)
class Keys:
    """The keys of all vaults. A vault is its document; who calls is judged before."""

    world: World

    # Making

    def create(self, vault: Document, name: str, body: dict[str, Any]) -> Document:
        """A new key, or a new version of a known one. Raises AzureError."""
        size = body.get("key_size") or 2048
        version = self._version(vault, name, body, body)
        if size not in SIZES:
            raise refusals.BAD_PARAMETER.error(why=f"RSA key size {size} is not supported; use one of {list(SIZES)}.")
        version["pem"] = _pem(rsa.generate_private_key(public_exponent=65537, key_size=size))
        return self._add(vault, name, version)

    def import_key(self, vault: Document, name: str, body: dict[str, Any]) -> Document:
        """A key from a transfer blob, as a new version if the name is known. Raises AzureError."""
        jwk = body.get("key")
        if not isinstance(jwk, dict):
            raise refusals.BAD_PARAMETER.error(why="Property key has invalid value.")
        version = self._version(vault, name, body, jwk)
        blob = jwk.get("key_hsm")
        if not isinstance(blob, str):
            # A software key's material would come in clear; Keyshift's promise is that it never does.
            raise refusals.NOT_OFFERED.error(what="the import of a key in clear: send key_hsm, a key transfer blob")
        try:
            key = self._unwrapped(vault, blob)
        except BlobError as error:
            raise refusals.BAD_BLOB.error(why=error) from error
        if jwk.get("kty") != "RSA-HSM":
            raise refusals.BAD_BLOB.error(why=f"a transfer blob makes keys of type RSA-HSM, not {jwk.get('kty')}")
        if key.key_size not in SIZES:
            raise refusals.BAD_BLOB.error(why=f"an RSA key of {key.key_size} bits; use one of {list(SIZES)}")
        version["pem"] = _pem(key)
        return self._add(vault, name, version)

    def _unwrapped(self, vault: Document, text: str) -> rsa.RSAPrivateKey:
        try:
            blob = decode(text)
        except ValueError as error:
            raise BlobError("key_hsm is not base64url") from error
        document = byok.parsed(blob)
        kid = document["header"]["kid"]
        parts = kid.removeprefix(vault["uri"]).split("/")
        if not kid.startswith(vault["uri"]) or len(parts) != 3 or parts[0] != "keys":
            raise BlobError(f"its header's kid must be a key with its version in this vault, not {kid}")
        version = self._found(vault, parts[1], parts[2])
        if "import" not in version["key_ops"]:
            raise BlobError(f"{kid} is no key exchange key: its key_ops are {version['key_ops']}")
        self._check_use(version, "import", decrypts=False)
        return byok.unwrapped(document, _private(version))

    def _version(self, vault: Document, name: str, body: dict[str, Any], key: dict[str, Any]) -> Document:
        """A version without its material, its description checked; `key` says its type and operations."""
        kty, operations = key.get("kty"), key.get("key_ops")
        if not _NAME.fullmatch(name):
            raise refusals.BAD_PARAMETER.error(why=f"The request URI contains an invalid name: {name}")
        if kty not in TYPES:
            raise refusals.BAD_PARAMETER.error(why=f"Property kty has invalid value: {kty!r}; here: {list(TYPES)}.")
        if kty == "RSA-HSM" and vault["properties"]["sku"]["name"].lower() != "premium":
            raise refusals.NEEDS_PREMIUM.error()
        operations = list(_DEFAULT_OPERATIONS if operations is None else operations)
        if unknown := sorted(set(operations) - set(OPERATIONS)):
            raise refusals.BAD_PARAMETER.error(why=f"Property key_ops has invalid values {unknown}.")
        if "import" in operations and (operations != ["import"] or kty != "RSA-HSM"):
            raise refusals.BAD_PARAMETER.error(
                why="The import operation is exclusive: key_ops must be exactly [import], and kty RSA-HSM."
            )
        if body.get("release_policy") or (body.get("attributes") or {}).get("exportable"):
            raise refusals.NOT_OFFERED.error(what="exportable keys")
        return {
            "attributes": _attributes(body.get("attributes"), {"enabled": True}, self.world.now()),
            "key_ops": operations,
            "kty": kty,
            "made": self.world.now(),
            "tags": dict(body.get("tags") or {}),
        }

    def _add(self, vault: Document, name: str, version: Document) -> Document:
        with self.world.store.alone():
            key = self.world.store.get("key", _place(vault, name)) or {
                "name": name,
                "vault": vault["name"],
                "versions": {},
            }
            if key.get("deleted"):
                raise refusals.OBJECT_IS_DELETED.error(what="Key", name=name)
            version["version"] = new_id().replace("-", "")
            key["versions"][version["version"]] = version
            key["latest"] = version["version"]
            self.world.store.put("key", _place(vault, name), key)
        return self.bundle(vault, name, version)

    # Looking

    def get(self, vault: Document, name: str, version: str = "") -> Document:
        """The public part of a version, the latest if none is named. Raises AzureError."""
        return self.bundle(vault, name, self._found(vault, name, version))

    def versions(self, vault: Document, name: str) -> list[Document]:
        key = self._key(vault, name)
        if key is None:
            return []
        return [self._item(vault, key["name"], each) for each in key["versions"].values()]

    def names(self, vault: Document, *, deleted: bool) -> list[Document]:
        found = []
        for _, key in self.world.store.all("key", f"{vault['name']}/"):
            if bool(key.get("deleted")) == deleted:
                item = self._item(vault, key["name"], key["versions"][key["latest"]])
                item["kid"] = item["kid"].rsplit("/", 1)[0]
                found.append(item | self._deletion(vault, key))
        return found

    def deleted(self, vault: Document, name: str) -> Document:
        key = self.world.store.get("key", _place(vault, name))
        if key is None or not key.get("deleted"):
            raise refusals.KEY_NOT_FOUND.error(name=name)
        return self.bundle(vault, key["name"], key["versions"][key["latest"]]) | self._deletion(vault, key)

    def kid(self, vault: Document, name: str, version: str) -> str:
        return f"{vault['uri']}keys/{name}/{version}"

    def bundle(self, vault: Document, name: str, version: Document) -> Document:
        """A version as the service shows it: never more than its public key."""
        numbers = _private(version).public_key().public_numbers()
        return {
            "attributes": _shown(version, vault),
            "key": {
                "e": encode(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8)),
                "key_ops": version["key_ops"],
                "kid": self.kid(vault, name, version["version"]),
                "kty": version["kty"],
                "n": encode(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)),
            },
            "tags": version["tags"],
        }

    def _item(self, vault: Document, name: str, version: Document) -> Document:
        return {
            "attributes": _shown(version, vault),
            "kid": self.kid(vault, name, version["version"]),
            "tags": version["tags"],
        }

    def _deletion(self, vault: Document, key: Document) -> Document:
        if not key.get("deleted"):
            return {}
        return {
            "deletedDate": int(key["deleted"]),
            "recoveryId": f"{vault['uri']}deletedkeys/{key['name']}",
            "scheduledPurgeDate": int(key["deleted"]) + _retention(vault),
        }

    # Changing

    def update(self, vault: Document, name: str, version: str, body: dict[str, Any]) -> Document:
        """New attributes, operations or tags of one version. Raises AzureError."""
        with self.world.store.alone():
            found = self._found(vault, name, version)
            if body.get("key_ops") is not None:
                operations = list(body["key_ops"])
                if set(operations) - set(OPERATIONS) or ("import" in operations) != ("import" in found["key_ops"]):
                    raise refusals.BAD_PARAMETER.error(why="Property key_ops has invalid values.")
                found["key_ops"] = operations
            if body.get("tags") is not None:
                found["tags"] = dict(body["tags"])
            found["attributes"] = _attributes(body.get("attributes"), found["attributes"], self.world.now())
            key = self._key(vault, name)
            assert key is not None
            key["versions"][found["version"]] = found
            self.world.store.put("key", _place(vault, name), key)
        return self.bundle(vault, name, found)

    def delete(self, vault: Document, name: str) -> Document:
        with self.world.store.alone():
            self._found(vault, name, "")
            key = self._key(vault, name)
            assert key is not None
            key["deleted"] = self.world.now()
            self.world.store.put("key", _place(vault, name), key)
        return self.deleted(vault, name)

    def recover(self, vault: Document, name: str) -> Document:
        with self.world.store.alone():
            self.deleted(vault, name)
            key = self.world.store.get("key", _place(vault, name))
            assert key is not None
            del key["deleted"]
            self.world.store.put("key", _place(vault, name), key)
        return self.get(vault, name)

    def purge(self, vault: Document, name: str) -> None:
        self.deleted(vault, name)
        if vault["properties"].get("enablePurgeProtection"):
            raise refusals.OBJECT_PURGE.error()
        self.world.store.delete("key", _place(vault, name))

    # Using

    def wrap(self, vault: Document, name: str, version: str, algorithm: str, plaintext: bytes) -> tuple[str, bytes]:
        """(kid, ciphertext). Raises AzureError."""
        found = self._usable(vault, name, version, "wrapKey")
        try:
            wrapped = _private(found).public_key().encrypt(plaintext, _padding(algorithm))
        except ValueError as error:
            raise refusals.BAD_PARAMETER.error(why="The value is too long for this key and algorithm.") from error
        return self.kid(vault, name, found["version"]), wrapped

    def unwrap(self, vault: Document, name: str, version: str, algorithm: str, ciphertext: bytes) -> tuple[str, bytes]:
        """(kid, plaintext). Raises AzureError."""
        found = self._usable(vault, name, version, "unwrapKey")
        try:
            return self.kid(vault, name, found["version"]), _private(found).decrypt(ciphertext, _padding(algorithm))
        except ValueError as error:
            raise refusals.BAD_PARAMETER.error(why="The parameter is incorrect: it does not decrypt.") from error

    def _usable(self, vault: Document, name: str, version: str, operation: str) -> Document:
        found = self._found(vault, name, version)
        self._check_use(found, operation, decrypts=operation in ("unwrapKey", "decrypt"))
        if operation not in found["key_ops"]:
            raise refusals.KEY_OPERATION.error(operation=operation)
        return found

    def _check_use(self, version: Document, operation: str, *, decrypts: bool) -> None:
        attributes, now = version["attributes"], self.world.now()
        if not attributes["enabled"]:
            raise refusals.KEY_DISABLED.error(operation=operation)
        if decrypts:
            return  # Docs, about-keys: what was encrypted stays readable outside the key's dates
        if attributes.get("exp") is not None and now >= attributes["exp"]:
            raise refusals.KEY_EXPIRED.error(operation=operation)
        if attributes.get("nbf") is not None and now < attributes["nbf"]:
            raise refusals.KEY_NOT_YET_VALID.error(operation=operation)

    def _key(self, vault: Document, name: str) -> Document | None:
        key = self.world.store.get("key", _place(vault, name))
        return None if key is None or key.get("deleted") else key

    def _found(self, vault: Document, name: str, version: str) -> Document:
        key = self._key(vault, name)
        found = key["versions"].get(version or key["latest"]) if key else None
        if found is None:
            raise refusals.KEY_NOT_FOUND.error(name=f"{name}/{version}" if version else name)
        return found


def _place(vault: Document, name: str) -> str:
    return f"{vault['name']}/{name}"


def _padding(algorithm: str) -> padding.AsymmetricPadding:
    if algorithm not in _PADDINGS:
        raise refusals.BAD_PARAMETER.error(why=f"Property alg has invalid value {algorithm!r}.")
    return _PADDINGS[algorithm]


def _private(version: Document) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(version["pem"].encode(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _attributes(wanted: dict[str, Any] | None, present: dict[str, Any], now: float) -> dict[str, Any]:
    """`enabled`, `exp`, `nbf`, as the request changes them."""
    kept = {name: present[name] for name in ("enabled", "exp", "nbf") if present.get(name) is not None}
    for name in ("enabled", "exp", "nbf"):
        if (wanted or {}).get(name) is not None:
            kept[name] = (wanted or {})[name]
    if kept.get("exp") is not None and kept.get("nbf") is not None and kept["exp"] <= kept["nbf"]:
        raise refusals.BAD_PARAMETER.error(why="The attribute exp must be later than nbf.")
    return kept | {"created": present.get("created", int(now)), "updated": int(now)}


def _shown(version: Document, vault: Document) -> dict[str, Any]:
    level = "Recoverable" if vault["properties"].get("enablePurgeProtection") else "Recoverable+Purgeable"
    return version["attributes"] | {
        "exportable": False,
        "recoverableDays": vault["properties"]["softDeleteRetentionInDays"],
        "recoveryLevel": level,
    }


def _retention(vault: Document) -> int:
    return vault["properties"]["softDeleteRetentionInDays"] * 86400
