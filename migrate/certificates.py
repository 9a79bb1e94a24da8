"""Certificates: signed statements about a key that outlive it, in the tenant's state folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from migrate.errors import VerificationFailed
from migrate.files import private_folder, write_private
from migrate.signing import Signer, check

FOLDER = "certificates"


class Certificates:
    """The certificates of one tenant, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._signer = Signer(folder)

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def store(self, name: str, certificate: dict[str, Any]) -> str:
        """Signs and stores; returns the SHA-256 of what is signed, for the log."""
        content = _signed_bytes(certificate)
        private_folder(self._folder)
        stored = {"certificate": certificate, **self._signer.sign(content)}
        write_private(self.path(name), json.dumps(stored, indent=1, sort_keys=True).encode())
        return hashlib.sha256(content).hexdigest()

    def load(self, name: str) -> dict[str, Any] | None:
        """The certificate, its signature checked; None if there is none. Raises VerificationFailed for a forged one."""
        if not self.path(name).exists():
            return None
        try:
            stored = json.loads(self.path(name).read_bytes())
            certificate, signature = stored["certificate"], str(stored["signature"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._forged(name) from error
        if not check(self._signer.public_key(), _signed_bytes(certificate), signature):
            raise self._forged(name)
        return certificate

    def _forged(self, name: str) -> VerificationFailed:
        return VerificationFailed(
            f"the signature of the certificate {name} does not fit: it was changed, or signed with another key",
            hint="keep the file as it is; the tenant's log holds the SHA-256 of the true one",
            code="certificate-forged",
        )


def _signed_bytes(certificate: dict[str, Any]) -> bytes:
    return json.dumps(certificate, sort_keys=True, separators=(",", ":")).encode()
