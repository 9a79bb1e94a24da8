"""What is kept of a deployment between runs: one JSON file each, replaced atomically, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BoundKey(_Frozen):
    """A customer's key as a deployment uses it.

    `path` is what the customer named (key or alias ARN), `key_arn` the key that wrapped `wrapped`, the
    deployment's data key as KMS returned it (base64).
    """

    path: str
    key_arn: str
    wrapped: str


class ApiKey(_Frozen):
    """Times in milliseconds since 1970. `digest` is the SHA-256 of the secret, which is not kept."""

    id: str
    name: str
    digest: str
    creation: int
    expiration: int | None
    invalidation: int | None = None
    role_descriptors: dict[str, Any]
    metadata: dict[str, Any]


class DeploymentRecord(_Frozen):
    """`request` is the body it was created from. `is_shut_down`: the data is gone, only the entry remains."""

    id: str
    cluster_id: str
    ref_id: str
    name: str
    region: str
    template_id: str | None
    request_id: str | None
    created: str
    port: int
    password_digest: str
    key: BoundKey | None
    request: dict[str, Any]
    tags: list[dict[str, str]] = []
    is_shut_down: bool = False
    api_keys: dict[str, ApiKey] = {}
    roles: dict[str, dict[str, Any]] = {}


class Ruleset(_Frozen):
    """A traffic filter: addresses that may reach the deployments it is associated with."""

    id: str
    name: str
    region: str
    type: str
    description: str = ""
    include_by_default: bool = False
    rules: list[dict[str, Any]]
    deployments: list[str] = []


Kept = TypeVar("Kept", DeploymentRecord, Ruleset)


class Store(Generic[Kept]):
    """A folder of records, one file each."""

    def __init__(self, folder: Path, kind: type[Kept]) -> None:
        self._folder = folder
        self._kind = kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> list[Kept]:
        return [self._kind.model_validate_json(path.read_bytes()) for path in sorted(self._folder.glob("*.json"))]

    def save(self, record: Kept) -> None:
        write_privately(self._folder / f"{record.id}.json", record.model_dump_json().encode())

    def delete(self, id: str) -> None:
        (self._folder / f"{id}.json").unlink(missing_ok=True)


def write_privately(path: Path, content: bytes) -> None:
    """Replace the file in one step, mode 600."""
    unfinished = path.with_suffix(".new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
