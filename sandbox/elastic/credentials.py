"""Who is calling a deployment: the user `elastic`, or an API key.

Secrets are random and long (128 bits and more), so a plain SHA-256 of them is enough to keep.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from sandbox.elastic.privileges import Privileges, from_descriptors
from sandbox.elastic.record import ApiKey, DeploymentRecord

USER = "elastic"


@dataclass(frozen=True)
class Principal:
    """`privileges` is None for `elastic`, who may do everything."""

    name: str
    privileges: Privileges | None = None
    api_key: ApiKey | None = None


def new_secret(length: int = 24) -> str:
    """Letters and digits, as Elastic Cloud makes passwords."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(alphabet) for _ in range(length))


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def authenticate(record: DeploymentRecord, header: str | None) -> Principal | None:
    """The caller that `Authorization` proves, or None."""
    scheme, _, value = (header or "").partition(" ")
    try:
        name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if scheme.lower() == "basic":
        matches = hmac.compare_digest(digest(secret), record.password_digest)
        return Principal(USER) if matches and name == USER else None
    if scheme.lower() == "apikey":
        return _by_api_key(record.api_keys.get(name), secret)
    return None


def _by_api_key(key: ApiKey | None, secret: str) -> Principal | None:
    if key is None or not hmac.compare_digest(digest(secret), key.digest) or not is_live(key):
        return None
    return Principal(f"API key id [{key.id}] of user [{USER}]", from_descriptors(key.role_descriptors), key)


def is_live(key: ApiKey) -> bool:
    return key.invalidation is None and (key.expiration is None or key.expiration > now_ms())
