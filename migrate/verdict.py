"""Verdicts: signed, stored records of what was proven. Nothing is purged or dropped without one."""

from __future__ import annotations

import json
import re
from datetime import datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from migrate.errors import RefusedInput, VerificationFailed
from migrate.files import private_folder, write_private
from migrate.signing import Signer, check

FOLDER = "verdicts"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class VerdictKind(StrEnum):
    """`storage`, `index`: a copy is complete. `untouched`: a source is. `purge`: nothing is left.

    `inventory`: this is all that there was when its deletion began.
    """

    STORAGE = "storage"
    INDEX = "index"
    UNTOUCHED = "untouched"
    PURGE = "purge"
    INVENTORY = "inventory"


class Verdict(BaseModel):
    """What was compared with what, and what came of it. `subject` is what it covers: `s1`, `e2`…

    `counts` are numbers of things; `merkle_root` and `manifest_sha256` are hex and empty where the kind
    has none. `details` holds plain facts (storages, key ARNs, the server's times), never a secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: VerdictKind
    tenant: str
    operation: str
    subject: str
    passed: bool
    counts: dict[str, int]
    bytes: int = 0
    merkle_root: str = ""
    manifest_sha256: str = ""
    started_at: datetime
    finished_at: datetime
    details: dict[str, Any] = {}

    def signed_bytes(self) -> bytes:
        """What the signature is over: JSON with sorted keys."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


class Verdicts:
    """The verdicts of one tenant, in its state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signer = Signer(folder)

    def store(self, verdict: Verdict) -> Path:
        """Sign and store.

        The same verdict again changes nothing. Another one under the same id is refused, unless the one
        that stands there had not passed: a failed comparison may be repeated.
        """
        path = self._path(verdict.id)
        stands = self.load(verdict.id)
        if stands == verdict:
            return path
        if stands is not None and stands.passed:
            raise RefusedInput(
                f"the verdict {verdict.id} stands already, and this is another one",
                hint="a verdict is never replaced; a new verification needs a new id",
                code="verdict-stands",
            )
        private_folder(path.parent)
        signature = self._signer.sign(verdict.signed_bytes())
        content = {"verdict": verdict.model_dump(mode="json"), **signature}
        write_private(path, json.dumps(content, indent=1, sort_keys=True).encode())
        return path

    def load(self, id: str) -> Verdict | None:
        """The verdict with its signature checked, or None. Raises VerificationFailed for a forged or broken one."""
        path = self._path(id)
        if not path.exists():
            return None
        verdict = check_verdict(path.read_bytes(), self._signer.public_key())
        if verdict.id != id:
            raise VerificationFailed(f"the file {path.name} holds the verdict {verdict.id}", code="verdict-forged")
        return verdict

    def void(self, id: str) -> None:
        """Take a verdict out of force: what it was over has changed since. The signed file is kept, aside."""
        path = self._path(id)
        aside = (path.with_name(f"{path.name}.void-{n}") for n in count(1))
        path.rename(next(other for other in aside if not other.exists()))

    def all(self) -> list[Verdict]:
        """Every verdict, the oldest first."""
        files = sorted((self._folder / FOLDER).glob("*.json"))
        found = [verdict for file in files if (verdict := self.load(file.stem)) is not None]
        return sorted(found, key=lambda verdict: (verdict.finished_at, verdict.id))

    def _path(self, id: str) -> Path:
        if not _ID.fullmatch(id):
            raise RefusedInput(f"{id!r} is not the id of a verdict", hint="keyshift verdict list TENANT")
        return self._folder / FOLDER / f"{id}.json"


def check_verdict(content: bytes, public_key: bytes) -> Verdict:
    """The verdict in a stored file, if it was signed with this key (raw Ed25519). Raises VerificationFailed."""
    try:
        stored = json.loads(content)
        verdict = Verdict.model_validate(stored["verdict"])
        signature = str(stored["signature"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise VerificationFailed("the stored verdict cannot be read", code="verdict-forged") from error
    if not check(public_key, verdict.signed_bytes(), signature):
        raise VerificationFailed(
            f"the signature of the verdict {verdict.id} does not fit: it was changed, or signed with another key",
            hint="nothing may be deleted under it; verify again",
            code="verdict-forged",
        )
    return verdict
