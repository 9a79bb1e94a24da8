"""What the tests of the Azure half share: a home with an imported key and an account under it, and helpers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aws_server import until
from azure.core.exceptions import (
    HttpResponseError,
)
from azure_server import (
    Refused,
)
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

LAG = 0.2
DATA = b"the customer's record\n" * 50


def code_of(call: Callable[[], Any]) -> str:
    """The code of the refusal that `call` ends with."""
    with pytest.raises(HttpResponseError) as caught:
        call()
    code = caught.value.error_code  # an enumeration for the codes that the SDK knows
    return getattr(code, "value", code)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.code


def settled(call: Callable[[], Any], *codes: str) -> Any:
    """The result of `call`, tried again while a role's lag makes it one of `codes`."""

    def tried() -> list[Any] | None:
        try:
            return [call()]
        except (HttpResponseError, Refused) as error:
            if not any(code in str(error) for code in codes):
                raise
            return None

    return until(tried, "a role holds", 20)[0]


def wrapped(kek: Any, key: Any, **changes: Any) -> bytes:
    """A key transfer blob, as a customer's HSM or openssl makes it (Microsoft's byok-specification)."""
    public = rsa.RSAPublicNumbers(int.from_bytes(kek.key.e), int.from_bytes(kek.key.n)).public_key()
    aes = b"\x07" * 32
    sha1 = hashes.SHA1()
    first = public.encrypt(aes, padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None))
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ciphertext = first + aes_key_wrap_with_padding(aes, der)
    document = {
        "schema_version": "1.0.0",
        "header": {"kid": kek.id, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
        "ciphertext": base64.urlsafe_b64encode(ciphertext).decode(),
        "generator": "test",
    }
    document["header"] |= changes
    return json.dumps(document).encode()


@dataclass
class Home:
    """A group with a vault that holds a customer's imported key, an identity that may use it, an account under it."""

    group: str
    vault: dict[str, Any]
    kek: Any
    imported: Any
    identity: dict[str, Any]
    assignment: str
    account: dict[str, Any]
    runner: dict[str, Any]

    def encryption(self, key: str = "acme", version: str = "", **more: Any) -> dict[str, Any]:
        return {
            "identity": {"userAssignedIdentity": self.identity["id"]},
            "keySource": "Microsoft.Keyvault",
            "keyvaultproperties": {
                "keyname": key,
                "keyvaulturi": self.vault["properties"]["vaultUri"],
                "keyversion": version,
            },
            **more,
        }

    @property
    def attached(self) -> dict[str, Any]:
        return {"type": "UserAssigned", "userAssignedIdentities": {self.identity["id"]: {}}}


def current(account: dict[str, Any]) -> str:
    """The version of its key that an account says it is under."""
    return account["properties"]["encryption"]["keyvaultproperties"]["currentVersionedKeyIdentifier"]
