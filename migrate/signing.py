"""The vendor's signature (Ed25519) under verdicts and the log."""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from migrate.errors import KeyshiftError
from migrate.files import private_folder, write_private

PRIVATE_KEY_FILE = "signing-key.pem"
PUBLIC_KEY_FILE = "signing-key.pub.pem"


class Signer:
    """Signs with the key in `folder`; the first signature makes it (0600, once, the public half beside it)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sign(self, content: bytes) -> dict[str, str]:
        """`signature` (base64) and `signed_by` (the key's fingerprint)."""
        signature = base64.b64encode(self._key.sign(content)).decode()
        return {"signature": signature, "signed_by": fingerprint(self.public_key())}

    def public_key(self) -> bytes:
        """The raw 32 bytes that `check` takes."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        path = private_folder(self._folder) / PRIVATE_KEY_FILE
        if not path.exists():
            self._make(path)
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyshiftError(f"{path} does not hold an Ed25519 key", code="signing-key")
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        beside = self._folder / PUBLIC_KEY_FILE
        if not beside.exists():
            write_private(beside, public)
        return key

    @staticmethod
    def _make(path: Path) -> None:
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            write_private(path, made, replace=False)
        except FileExistsError:
            return  # another process made it in the same instant; that one is the key


def check(public_key: bytes, content: bytes, signature: str) -> bool:
    """True if `signature` (base64) is this key's under `content`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(base64.b64decode(signature, validate=True), content)
    except (InvalidSignature, binascii.Error):
        return False
    return True


def fingerprint(public_key: bytes) -> str:
    """The first 16 hex digits of the SHA-256 of a public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]
