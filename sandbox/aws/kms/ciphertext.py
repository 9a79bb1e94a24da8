"""The ciphertext blob: AES-256-GCM under one material, which the blob names.

Layout: magic (4), key id (16), key material id (32), nonce (12), ciphertext and tag. The header,
the key's ARN and the encryption context are authenticated, so a blob opens only under the key, the
material and the context it was made with.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from sandbox.aws.kms.model import Key, Material

_MAGIC = b"SKM\x01"
_HEADER = len(_MAGIC) + 16 + 32
_NONCE = 12
_TAG = 16


class NotACiphertext(ValueError):
    """The bytes are no blob of this KMS, or do not open under this key and context."""


@dataclass(frozen=True)
class Ciphertext:
    """A blob taken apart; nothing is verified before `unseal`."""

    key_id: str
    material_id: str
    header: bytes
    nonce: bytes
    body: bytes

    @classmethod
    def read(cls, blob: bytes) -> "Ciphertext":
        if len(blob) < _HEADER + _NONCE + _TAG or not blob.startswith(_MAGIC):
            raise NotACiphertext
        header, nonce, body = blob[:_HEADER], blob[_HEADER : _HEADER + _NONCE], blob[_HEADER + _NONCE :]
        return cls(str(uuid.UUID(bytes=header[4:20])), header[20:].hex(), header, nonce, body)


def seal(key: Key, material: Material, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    if material.cipher is None:
        raise NotACiphertext
    header = _MAGIC + uuid.UUID(key.id).bytes + bytes.fromhex(material.id)
    nonce = os.urandom(_NONCE)
    return header + nonce + material.cipher.encrypt(nonce, plaintext, _bound_to(key, header, context))


def unseal(key: Key, ciphertext: Ciphertext, context: Mapping[str, str]) -> bytes:
    material = key.material(ciphertext.material_id)
    if material is None or material.cipher is None or not material.is_permanent:
        raise NotACiphertext
    try:
        return material.cipher.decrypt(ciphertext.nonce, ciphertext.body, _bound_to(key, ciphertext.header, context))
    except InvalidTag as error:
        raise NotACiphertext from error


def _bound_to(key: Key, header: bytes, context: Mapping[str, str]) -> bytes:
    """Lengths before each part: no two contexts give the same bytes. Pairs are sorted: their order means nothing."""
    parts = [key.arn.encode()]
    for name in sorted(context):
        parts += [name.encode(), context[name].encode()]
    return header + b"".join(len(part).to_bytes(4) + part for part in parts)
