"""Wrapping a key for Azure Key Vault: the customer's side. It needs our key exchange key and no cloud at all.

A `.byok` file is JSON around one ciphertext: an AES key under our public key (RSA-OAEP over SHA-1, as the specification
fixes it), and behind it the customer's private key under that AES key (RFC 5649).
https://learn.microsoft.com/azure/key-vault/keys/byok-specification
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from migrate.errors import RefusedInput

SCHEMA, ALGORITHM, MECHANISM = "1.0.0", "dir", "CKM_RSA_AES_KEY_WRAP"
TARGET_BITS = (2048, 3072, 4096)
"""What storage takes as a customer's key; Key Vault would refuse RSA-1024 too."""
DEFAULT_BITS = 3072
LEAST_TARGET_BYTES = 1200
"""A wrapped RSA-2048 private key is a little more; RSA-1024, EC and oct are far less."""
WRAPPED_FILE, TARGET_FILE = "key.byok", "target-key.der"
_KEK_ID = re.compile(r"https://[^/\s]+/keys/[^/\s]+/[^/\s]+")


@dataclass(frozen=True)
class KeyExchangeKey:
    """Our public key and what it is called. As a file: two lines of words above the PEM, which openssl reads over."""

    id: str
    public_key: rsa.RSAPublicKey = field(repr=False)
    valid_until: str

    @property
    def bytes(self) -> int:
        return self.public_key.key_size // 8

    def text(self) -> str:
        pem = self.public_key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        return f"kid: {self.id}\nvalid until: {self.valid_until}\n{pem}"

    @classmethod
    def read(cls, text: bytes) -> KeyExchangeKey:
        """From the file that we handed out. Raises RefusedInput."""
        head = text.partition(b"-----BEGIN")[0].decode(errors="replace")
        said = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        if not _KEK_ID.fullmatch(said.get("kid", "")):
            raise RefusedInput(
                "the file does not say which key exchange key it is: the line `kid: https://…` is missing",
                hint="take the file as it was sent",
                code="kek-unnamed",
            )
        try:
            key = serialization.load_pem_public_key(text[text.find(b"-----BEGIN") :])
        except ValueError as error:
            raise RefusedInput(
                "the public key below the line `kid:` cannot be read",
                hint="take the file as it was sent",
                code="kek-unreadable",
            ) from error
        if not isinstance(key, rsa.RSAPublicKey):
            raise RefusedInput("the public key is no RSA key", hint="take the file as it was sent", code="kek-kind")
        return cls(said["kid"], key, said.get("valid until", ""))


@dataclass(frozen=True)
class Wrapped:
    """A `.byok` file and what it was made from. Only hashes and sizes show in its repr."""

    file: bytes = field(repr=False)
    sha256: str
    private_key: bytes = field(repr=False)  # PKCS#8 DER
    bits: int


def wrap(kek: KeyExchangeKey, private_key: bytes | None = None) -> Wrapped:
    """Wrap an RSA private key (PEM or DER, without a password); without one, a new one is made. Raises RefusedInput."""
    key = rsa.generate_private_key(65537, DEFAULT_BITS) if private_key is None else _target(private_key)
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    between = secrets.token_bytes(32)
    sha1 = hashes.SHA1()  # noqa: S303 - the specification's; OAEP does not rest on its being collision-free
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm=sha1), algorithm=sha1, label=None)
    ciphertext = kek.public_key.encrypt(between, oaep) + keywrap.aes_key_wrap_with_padding(between, der)
    file = json.dumps(
        {
            "schema_version": SCHEMA,
            "header": {"kid": kek.id, "alg": ALGORITHM, "enc": MECHANISM},
            "ciphertext": base64.urlsafe_b64encode(ciphertext).rstrip(b"=").decode(),
            "generator": "keyshift",
        }
    ).encode()
    return Wrapped(file, hashlib.sha256(file).hexdigest(), der, key.key_size)


def openssl_lines(kek: KeyExchangeKey, file: Path, wrapped_to: Path = Path(WRAPPED_FILE)) -> tuple[str, ...]:
    """The same for a customer who would rather trust OpenSSL 3 than us: on a machine that nobody else uses.

    `openssl enc` takes the AES key as an argument only, so that others there could see it while it runs.
    """
    pem, out = shlex.quote(str(file)), shlex.quote(str(wrapped_to))
    head = json.dumps({"kid": kek.id, "alg": ALGORITHM, "enc": MECHANISM}, separators=(",", ":"))
    whole = f'{{"schema_version":"{SCHEMA}","header":{head},"ciphertext":"%s","generator":"openssl"}}'
    options = "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha1 -pkeyopt rsa_mgf1_md:sha1"
    between = "$(od -An -v -tx1 between.bin | tr -d ' \\n')"
    return (
        f"openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{DEFAULT_BITS} -outform DER -out {TARGET_FILE}",
        "openssl rand -out between.bin 32",
        f"openssl pkeyutl -encrypt -pubin -inkey {pem} -in between.bin -out between.wrapped {options}",
        f"openssl enc -id-aes256-wrap-pad -iv A65959A6 -K {between} -in {TARGET_FILE} -out target.wrapped",
        f"printf {shlex.quote(whole)} \"$(cat between.wrapped target.wrapped | base64 | tr -d '\\n=' | tr '+/' '-_')\" > {out}",
        f"openssl dgst -sha256 {out}",
    )


def checked(file: bytes, kek: KeyExchangeKey) -> None:
    """Refuse a file that Key Vault could not import under `kek`, before it is asked. Raises RefusedInput."""
    try:
        said = json.loads(file)
        header, ciphertext = said["header"], said["ciphertext"]
        kid, mechanism, sealed = str(header["kid"]), header["enc"], _decoded(str(ciphertext))
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise RefusedInput(
            f"the file is no .byok file: {_looks_like(file)}",
            hint="upload the file that `keyshift key wrap --azure` wrote, as it is",
            code="byok-form",
        ) from error
    if kid != kek.id:
        raise RefusedInput(
            f"the file was wrapped for another key exchange key, {kid}, and this upload's is {kek.id}",
            hint="have the key wrapped again with the file of this request",
            code="byok-other-kek",
        )
    if mechanism != MECHANISM or said.get("schema_version") != SCHEMA:
        raise RefusedInput(
            f"the file says {said.get('schema_version')} and {mechanism}; Key Vault imports {SCHEMA} and {MECHANISM}",
            hint="wrap it again with `keyshift key wrap --azure`",
            code="byok-mechanism",
        )
    if len(sealed) < kek.bytes + LEAST_TARGET_BYTES:
        raise RefusedInput(
            f"{len(sealed)} bytes are wrapped, too few for an RSA private key of {TARGET_BITS[0]} bits or more: it may "
            "be RSA-1024, an EC or a symmetric key, none of which a storage account can lie under",
            hint=f"wrap an RSA key of {', '.join(map(str, TARGET_BITS))} bits",
            code="byok-target",
        )


def _target(data: bytes) -> rsa.RSAPrivateKey:
    load = (
        serialization.load_pem_private_key
        if data.lstrip().startswith(b"-----BEGIN")
        else serialization.load_der_private_key
    )
    try:
        key = load(data, None)
    except (ValueError, TypeError) as error:
        raise RefusedInput(
            "the key cannot be read as an RSA private key in PEM or DER without a password",
            hint="a symmetric key cannot be imported into a vault; openssl pkey -in FILE -out PLAIN removes a password",
            code="target-unreadable",
        ) from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size not in TARGET_BITS:
        kind = f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPrivateKey) else type(key).__name__.strip("_")
        raise RefusedInput(
            f"the key is {kind}, and a storage account lies under RSA of {', '.join(map(str, TARGET_BITS))} bits only",
            hint="leave --key out, and one is made",
            code="target-kind",
        )
    return key


def _decoded(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _looks_like(file: bytes) -> str:
    text = file.strip()
    if text.startswith(b"-----BEGIN") and b"PRIVATE" in text[:40]:
        return "it is a private key in clear text, which must never leave you; treat that key as lost"
    if len(file) == 512:
        return "it is 512 bytes, as a key wrapped for AWS is"
    return "it should be JSON with a header, its kid and a ciphertext in base64url"
