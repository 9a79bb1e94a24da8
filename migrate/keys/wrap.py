"""Wrapping a key for import: the customer's side. It needs our public key and no cloud at all.

RSAES-OAEP with SHA-256 and MGF1-SHA-256, as KMS unwraps it (KMS developer guide, "Encrypt the key
material"). The plaintext never leaves the customer: what is uploaded is the wrapped file and its
SHA-256.
"""

from __future__ import annotations

import hashlib
import secrets
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from migrate.errors import RefusedInput
from migrate.files import write_private

KEY_BYTES = 32
WRAPPING_KEY_BITS = 4096
WRAPPED_BYTES = WRAPPING_KEY_BITS // 8
PLAINTEXT_FILE = "PlaintextKeyMaterial.bin"
WRAPPED_FILE = "EncryptedKeyMaterial.bin"


@dataclass(frozen=True)
class Wrapped:
    """A wrapped key and what it was made from. Only hashes show in its repr."""

    wrapped: bytes = field(repr=False)
    wrapped_sha256: str
    key_material: bytes = field(repr=False)
    key_material_sha256: str


def wrap(public_key_der: bytes, key_material: bytes | None = None) -> Wrapped:
    """Wrap a 256-bit key with the public key that we handed out (DER, RSA-4096).

    Without `key_material` 32 random bytes are drawn. Raises RefusedInput for anything that KMS would
    refuse later with a less helpful answer.
    """
    public_key = _public_key(public_key_der)
    material = secrets.token_bytes(KEY_BYTES) if key_material is None else _raw_key(key_material)
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm=hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    wrapped = public_key.encrypt(material, oaep)
    return Wrapped(
        wrapped=wrapped,
        wrapped_sha256=hashlib.sha256(wrapped).hexdigest(),
        key_material=material,
        key_material_sha256=hashlib.sha256(material).hexdigest(),
    )


def save(wrapped: Wrapped, wrapped_to: Path, plaintext_to: Path | None) -> None:
    """Write the wrapped key and, where asked, the plaintext: each whole, mode 0600.

    A file with another plaintext is never replaced: it may be the only copy of a key in use. Raises
    RefusedInput then, with nothing written.
    """
    if plaintext_to is not None:
        keep_plaintext(wrapped.key_material, plaintext_to)
    write_private(wrapped_to, wrapped.wrapped)


def keep_plaintext(material: bytes, file: Path) -> None:
    """Writes a key for its owner alone. Raises RefusedInput, with nothing written, where another one stands."""
    if not file.exists():
        write_private(file, material, replace=False)
    elif file.read_bytes() != material:
        raise RefusedInput(
            f"{file} already holds another key, which would have been overwritten",
            hint="name another file, or move that one to where you keep your keys",
            code="key-file-exists",
        )


def openssl_lines(
    public_key: Path, wrapped_to: Path = Path(WRAPPED_FILE), plaintext: Path = Path(PLAINTEXT_FILE)
) -> tuple[str, str, str]:
    """The same in three lines for a customer who would rather trust openssl than us: draw, wrap, hash."""
    key, wrapped, material = (shlex.quote(str(path)) for path in (public_key, wrapped_to, plaintext))
    options = "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256"
    return (
        f"openssl rand -out {material} {KEY_BYTES}",
        f"openssl pkeyutl -encrypt -in {material} -out {wrapped} -inkey {key} -keyform DER -pubin {options}",
        f"openssl dgst -sha256 {wrapped}",
    )


def _public_key(der: bytes) -> rsa.RSAPublicKey:
    if der.lstrip().startswith(b"-----BEGIN"):
        raise RefusedInput(
            "the public key is PEM text, but it has to be the DER file that we handed out",
            hint="take the file as it was sent; it is binary",
            code="public-key-is-pem",
        )
    try:
        key = serialization.load_der_public_key(der)
    except ValueError as error:
        raise RefusedInput(
            f"the public key cannot be read: {len(der)} bytes that are not a DER public key",
            hint="take the file as it was sent; it is binary",
            code="public-key-unreadable",
        ) from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != WRAPPING_KEY_BITS:
        raise RefusedInput(
            f"the public key is not RSA-{WRAPPING_KEY_BITS}, which is what we hand out",
            hint="check that this is the file from the import request",
            code="public-key-kind",
        )
    return key


def _raw_key(material: bytes) -> bytes:
    if len(material) != KEY_BYTES:
        raise RefusedInput(
            f"the key is {len(material)} bytes long; a 256-bit key is exactly {KEY_BYTES} raw bytes",
            hint="hex and base64 text have to be decoded first",
            code="key-material-length",
        )
    return material
