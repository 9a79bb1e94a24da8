"""The key transfer blob (`.byok`): CKM_RSA_AES_KEY_WRAP really unwrapped.

Docs: articles/key-vault/keys/byok-specification.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding

_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)
_AES_BYTES = 32


class BlobError(Exception):
    """The blob cannot be imported; the message says why, and holds no key bytes."""


def parsed(blob: bytes) -> dict[str, Any]:
    """The blob's document, its header checked for form. Raises BlobError."""
    try:
        document = json.loads(blob)
        header, ciphertext = document["header"], document["ciphertext"]
        fields = {
            "schema_version": document["schema_version"],
            **{name: header[name] for name in ("kid", "alg", "enc")},
        }
    except (ValueError, KeyError, TypeError) as error:
        raise BlobError(
            "it is not a JSON document with schema_version, header (kid, alg, enc) and ciphertext"
        ) from error
    for name, wanted in (("schema_version", "1.0.0"), ("alg", "dir"), ("enc", "CKM_RSA_AES_KEY_WRAP")):
        if fields[name] != wanted:
            raise BlobError(f"{name} must be {wanted}, not {fields[name]!r}")
    if not isinstance(ciphertext, str) or not isinstance(fields["kid"], str):
        raise BlobError("kid and ciphertext must be text")
    return document


def unwrapped(document: dict[str, Any], kek: rsa.RSAPrivateKey) -> rsa.RSAPrivateKey:
    """The key within the blob. Raises BlobError."""
    try:
        ciphertext = decode(document["ciphertext"])
    except (binascii.Error, ValueError) as error:
        raise BlobError("its ciphertext is not base64url") from error
    size = kek.key_size // 8
    try:
        aes = kek.decrypt(ciphertext[:size], _OAEP)
    except ValueError as error:
        raise BlobError("its first part does not decrypt under the key exchange key") from error
    if len(aes) != _AES_BYTES:
        raise BlobError(f"its AES key has {len(aes) * 8} bits, and 256 are needed")
    try:
        der = aes_key_unwrap_with_padding(aes, ciphertext[size:])
    except (InvalidUnwrap, ValueError) as error:
        raise BlobError("its second part does not unwrap under the AES key in its first") from error
    try:
        key = serialization.load_der_private_key(der, None)
    except (ValueError, TypeError) as error:
        raise BlobError("what it wraps is no private key in PKCS #8") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BlobError("what it wraps is no RSA key")
    return key


def decode(text: str) -> bytes:
    """Base64url, padded or not."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
