"""Signed tokens (RS256): Entra's own, and those of the operator's workload issuer."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


class TokenError(Exception):
    """The token is none, is not ours, or its time is over; the message says which."""


@dataclass(frozen=True)
class Signer:
    """One issuer's key pair, in a file of its own."""

    file: Path

    def ensure(self) -> None:
        if self.file.exists():
            return
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        handle = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        key = serialization.load_pem_private_key(self.file.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key

    @cached_property
    def key_id(self) -> str:
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.urlsafe_b64encode(sha256(public).digest()[:20]).decode().rstrip("=")

    def sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.key_id})

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token that this issuer signed and whose time it is; audience and issuer are the caller's.

        Raises TokenError.
        """
        try:
            return jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                leeway=5,
                options={"verify_aud": False, "require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenError("its time is over") from error
        except jwt.PyJWTError as error:
            raise TokenError(str(error)) from error

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        numbers = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return {"keys": [{**numbers, "use": "sig", "alg": "RS256", "kid": self.key_id}]}


def unverified(token: str) -> dict[str, Any]:
    """What a token claims, believed by nobody yet. Raises TokenError."""
    try:
        return jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise TokenError(str(error)) from error
