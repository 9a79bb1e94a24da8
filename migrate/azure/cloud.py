"""Azure, as a move needs it: containers, queues, keys and secrets behind `migrate.cloud.Cloud`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from azure.storage.queue import QueueClient

from components.audiences import WRITERS
from migrate.azure import drain, identity
from migrate.azure.errors import told
from migrate.azure.queues import StorageQueues
from migrate.cloud import Role, WorkerProbe
from migrate.copy import blob_engine, blob_preflight
from migrate.copy.blob import BlobSide
from migrate.copy.places import ContainerRef
from migrate.copy.preflight import Preflight
from migrate.copy.store import Store
from migrate.copy.tags import TagQueue
from migrate.copy.transfer import CopyPass, Transfer
from migrate.errors import KeyUnavailable
from migrate.live import Live
from migrate.progress import Report
from migrate.queues import Pipe
from migrate.rekey.engine import Left

if TYPE_CHECKING:
    from migrate.moves import Moves
    from migrate.operations import Move

CHUNK = 4 * 1024 * 1024
"""What a download holds in memory, a thread."""


class _Fenced(SansIOHTTPPolicy[Any, Any]):
    """Every request is sent under the runner's fence, repeated ones too."""

    def __init__(self, live: Live) -> None:
        self._fence = live.fence

    def on_request(self, request: Any) -> None:  # noqa: ARG002 - whatever it asks for
        if self._fence is not None:
            self._fence.check()


class AzureCloud:
    refused_within = 900.0
    """Ten minutes for the removal of a role assignment. Azure RBAC, "Troubleshoot", "role assignment changes"."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._credentials: dict[str, TokenCredential] = {}
        self._containers: dict[tuple[str, str], ContainerClient] = {}
        self._queues: dict[str, QueueClient] = {}

    def _as(self, role: Role) -> TokenCredential:
        if role not in self._credentials:
            self._credentials[role] = identity.role(self._live.outputs["roles"][role]["client_id"])
        return self._credentials[role]

    def _policies(self) -> dict[str, Any]:
        return {"per_retry_policies": [_Fenced(self._live)]} if self._live.fence is not None else {}

    def store(self, id: str, role: Role) -> BlobSide:
        unit = self._live.outputs["storages"][id]
        place = ContainerRef(_ending(unit["endpoint"]), unit["container"], unit.get("key_uri"))
        if (str(place), role) not in self._containers:
            self._containers[str(place), role] = self._container(place, self._as(role))
        return self._side(place, self._containers[str(place), role], self._as(role))

    def _container(self, place: ContainerRef, credential: TokenCredential) -> ContainerClient:
        return ContainerClient(
            place.endpoint.rstrip("/"),
            place.container,
            credential=credential,
            max_single_get_size=CHUNK,
            max_chunk_get_size=CHUNK,
            transport=identity.transport(),
            **self._policies(),
        )

    def _side(self, place: ContainerRef, container: ContainerClient, credential: TokenCredential) -> BlobSide:
        def right() -> dict[str, Any]:
            return {"source_authorization": f"Bearer {credential.get_token(identity.STORAGE).token}"}

        return BlobSide(container, place, right)

    def in_place(self, moves: Moves) -> dict[str, Callable[[Move], dict[str, Any]]]:
        """Nothing is re-keyed version by version: the account is pinned to another key by `up`."""
        return {"drain": partial(drain.drain, moves)}

    def left_under(self, storage: str, old: str, report: Report) -> Left:
        return drain.left_under(self._live, storage, old, report)

    def as_operator(self, place: Any) -> Store:
        credential = identity.operator()
        return self._side(place, self._container(place, credential), credential)

    def secret(self, name: str, role: Role) -> Mapping[str, str]:
        vault, held = _of_vault(name)
        with told(f"reading the secret {name}"), SecretClient(vault, self._as(role), **self._policies()) as secrets:
            return json.loads(secrets.get_secret(held).value or "")

    @cached_property
    def queues(self) -> StorageQueues:
        return StorageQueues(self._queue)

    def _queue(self, url: str) -> QueueClient:
        if url not in self._queues:
            endpoint, _, name = url.rpartition("/")
            self._queues[url] = QueueClient(endpoint, name, credential=self._as("runner"), **self._policies())
        return self._queues[url]

    def pipe(self, id: str) -> Pipe:
        made = self._live.outputs["pipelines"][id]
        endpoint = _ending(made["queue_endpoint"])
        return Pipe(id=id, queue_url=endpoint + made["queue"], dead_letters_url=endpoint + made["dlq"])

    def tag_queue(self, storage: str) -> TagQueue | None:  # noqa: ARG002 - a listing shows tags
        return None

    def writers(self, storage: str) -> dict[str, Store]:
        """The worker's role too: it trusts the runner's workload token, as the others do."""
        return {role: self._live.storage(storage, role) for role in WRITERS}

    def workers(self, pipelines: list[str]) -> dict[str, WorkerProbe]:  # noqa: ARG002 - see `writers`
        return {}

    def key_id(self, key: str) -> str:
        return str(self._live.outputs["keys"][key]["key_id"])

    def key_refusal(self, key: str) -> str:
        """By an object of our own in each account under it: Storage asks the vault at a write. No role of ours has the key."""
        for unit in self._live.layout.storages:
            if unit.key == key and unit.id in self._live.outputs.get("storages", {}):
                try:
                    side = self.store(unit.id, "runner")
                    side.put(_TRIAL, b"key", {})
                    side.read_now(_TRIAL, lambda content: sum(map(len, content.chunks)))
                    side.remove(_TRIAL)
                except KeyUnavailable as lost:
                    return f"{lost.cloud_code} ({lost.message})"
        return ""

    def survey(self, source: Any, place: str, report: Report) -> Preflight:  # noqa: ARG002 - a container has no prefix
        return blob_preflight.survey(source, report)

    def copy_pass(self, transfer: Transfer[Any], report: Report) -> CopyPass:
        return blob_engine.copy_pass(transfer, report)

    def tidy(self, transfer: Transfer[Any]) -> None:
        blob_engine.tidy(transfer)

    def encryption(self, storage: str) -> tuple[str, str | None]:
        unit = self._live.outputs["storages"][storage]
        return unit["account"], unit["current_key"]


_TRIAL = ".keyshift/probe/key"


def _ending(endpoint: str) -> str:
    return endpoint.rstrip("/") + "/"


def _of_vault(address: str) -> tuple[str, str]:
    """Vault and name of a secret, from its address."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}", parts.path.removeprefix("/secrets/").partition("/")[0]
