"""The layout: one tenant, complete and declarative.

A layout says which keys, storages, searches and pipelines exist, which of them serve, and what
Archive may do (the gate). `stacks/` turns a layout into resources and nothing else; `migrate/`
turns an operation into a list of layouts. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,30}[a-z0-9]$")]
KeyId = Annotated[str, StringConstraints(pattern=r"^k[1-9][0-9]*$")]
StorageId = Annotated[str, StringConstraints(pattern=r"^s[1-9][0-9]*$")]
SearchId = Annotated[str, StringConstraints(pattern=r"^e[1-9][0-9]*$")]
PipelineId = Annotated[str, StringConstraints(pattern=r"^p[1-9][0-9]*$")]


SEARCH_VERSION = "8.19.0"
"""Elasticsearch's version in a tenant's first search; a later search has that of the one which serves."""
SEARCH_VERSION_PATTERN = r"^[1-9][0-9]?\.[0-9]{1,3}\.[0-9]{1,3}$"


class Cloud(StrEnum):
    AWS = "aws"
    AZURE = "azure"


class Mode(StrEnum):
    STANDARD = "standard"
    BYOK = "byok"
    BYOKMS = "byokms"
    BYOKV = "byokv"


OFFERED: dict[Cloud, frozenset[Mode]] = {
    Cloud.AWS: frozenset({Mode.STANDARD, Mode.BYOK, Mode.BYOKMS}),
    Cloud.AZURE: frozenset({Mode.STANDARD, Mode.BYOK, Mode.BYOKV}),
}


SEARCHES_UNDER_CUSTOMER_KEYS = frozenset({Cloud.AWS})
"""Elsewhere a search lies under Elastic Cloud's own key, and a new key of the customer makes no new search."""


class KeyState(StrEnum):
    """`pending`: made, no material yet. `archived`: rotated away. `revoked`: access withdrawn."""

    PENDING = "pending"
    ACTIVE = "active"
    ARCHIVED = "archived"
    REVOKED = "revoked"


class StorageKind(StrEnum):
    SHARED = "shared"
    DEDICATED = "dedicated"


class PipelineState(StrEnum):
    """`paused`: events are kept, none is worked on. `detached`: made, no events reach it."""

    RUNNING = "running"
    PAUSED = "paused"
    DETACHED = "detached"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Key(_Frozen):
    """A customer key. `arn` and `alias` are set only for a key that we do not make (byokms, byokv).

    On AWS `alias` is the ARN that the customer gave and `arn` the key behind it when it was taken into use; on Azure
    both are the key's identifier without a version, and `directory` is the customer's Entra tenant. `material` is the
    id of the key material that was current then, on Azure the key's version: a rotation changes one of the two. Azure
    alone knows it of a key of ours too, whose storage is pinned to it. `release`: verdict under which
    `protect` is lifted from a key that we made, at the end of its tenant. `archived_under`: the verdict that nothing is
    left under it.
    """

    id: KeyId
    state: KeyState
    arn: str | None = None
    alias: str | None = None
    material: str | None = None
    directory: str | None = None
    release: str | None = None
    archived_under: str | None = None

    @model_serializer(mode="wrap")
    def _said(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a directory where there is none: a digest must not change by what a layout does not say."""
        said = serialize(self)
        return said if self.directory is not None else {k: v for k, v in said.items() if k != "directory"}


class Storage(_Frozen):
    """`key` is None for the vendor's key. `release`: verdict under which `protect` is lifted.

    `watched`: it is being copied, and tag changes in it are heard of.
    """

    id: StorageId
    kind: StorageKind
    key: KeyId | None = None
    release: str | None = None
    watched: bool = False


class Search(_Frozen):
    """`version`: Elasticsearch's. It is fixed when the search is made: another version is another search."""

    id: SearchId
    key: KeyId | None = None
    release: str | None = None
    version: Annotated[str, StringConstraints(pattern=SEARCH_VERSION_PATTERN)] = SEARCH_VERSION


class Pipeline(_Frozen):
    id: PipelineId
    storage: StorageId
    search: SearchId
    state: PipelineState


class Serves(_Frozen):
    storage: StorageId
    search: SearchId
    pipeline: PipelineId


class Gate(_Frozen):
    """What Archive may do. `search_cutoff`: only records archived before it are found.

    `warnings`: what Archive shows its users until it is taken away.
    """

    jobs: Annotated[str, StringConstraints(pattern="^(open|closed)$")] = "open"
    access: Annotated[str, StringConstraints(pattern="^(open|closed)$")] = "open"
    search_cutoff: datetime | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()


class OnRotation(_Frozen):
    """What a rotation in the customer's own account does.

    `pause`: at `any` rotation Archive waits for the customer's confirmation, or only where the `alias` has moved to
    another key. `rebuilds_search`: a new search deployment is made also where the key's ARN has stayed.
    """

    pause: Annotated[str, StringConstraints(pattern="^(any|alias)$")] = "any"
    rebuilds_search: bool = True


class Dropped(_Frozen):
    """A unit that is no longer in the layout, and the verdict that allowed it to go."""

    id: str
    verdict: str


class Layout(_Frozen):
    tenant: Name
    customer: Name
    cloud: Cloud
    region: str
    stamp: str
    mode: Mode
    keys: tuple[Key, ...] = ()
    storages: tuple[Storage, ...] = ()
    searches: tuple[Search, ...] = ()
    pipelines: tuple[Pipeline, ...] = ()
    serves: Serves | None = Field(default=None, description="None until a new byok tenant's key is in")
    gate: Gate = Gate()
    on_rotation: OnRotation = OnRotation()
    dropped: tuple[Dropped, ...] = ()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for wrong in (self._unoffered(), self._doubled(), self._under_no_key(), self._joining_nothing()):
            if wrong:
                raise ValueError(wrong)
        return self

    def _unoffered(self) -> str | None:
        if self.mode in OFFERED[self.cloud]:
            return None
        return f"mode {self.mode} is not offered on {self.cloud} (offered: {', '.join(sorted(OFFERED[self.cloud]))})"

    def _doubled(self) -> str | None:
        ids = [u.id for units in (self.keys, self.storages, self.searches, self.pipelines) for u in units]
        twice = sorted({id for id in ids if ids.count(id) > 1})
        return f"the same id stands twice: {', '.join(twice)}" if twice else None

    def _under_no_key(self) -> str | None:
        keys = {key.id for key in self.keys}
        for unit in (*self.storages, *self.searches):
            if unit.key is not None and unit.key not in keys:
                return f"{unit.id} names the key {unit.key}, which the layout does not hold"
        for storage in self.storages:
            if storage.kind is StorageKind.SHARED and storage.key is not None:
                return f"{storage.id} is shared and cannot be under the customer key {storage.key}"
        return None

    def _joining_nothing(self) -> str | None:
        units = {unit.id for unit in (*self.storages, *self.searches)}
        for pipeline in self.pipelines:
            if not {pipeline.storage, pipeline.search} <= units:
                return f"{pipeline.id} joins {pipeline.storage} and {pipeline.search}, not both here"
        serving = set(self.serves.model_dump().values()) if self.serves else set()
        missing = sorted(serving - units - {pipeline.id for pipeline in self.pipelines})
        return f"{', '.join(missing)} should serve but does not exist in the layout" if missing else None

    def key(self, id: str) -> Key:
        return next(key for key in self.keys if key.id == id)

    def storage(self, id: str) -> Storage:
        return next(storage for storage in self.storages if storage.id == id)

    def search(self, id: str) -> Search:
        return next(search for search in self.searches if search.id == id)

    def pipeline(self, id: str) -> Pipeline:
        return next(pipeline for pipeline in self.pipelines if pipeline.id == id)

    def verdict_for_drop(self, id: str) -> str | None:
        """The verdict that allows the unit `id` to be deleted, or None: then a delete is refused."""
        return next((dropped.verdict for dropped in self.dropped if dropped.id == id), None)

    def canonical(self) -> str:
        """The layout as JSON with sorted keys: what the digest is taken over and the stack file holds."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of `canonical()`, in hex."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()
