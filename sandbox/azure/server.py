"""All of the Azure half put together: its parts, its ports, its first objects."""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sandbox.azure import ports
from sandbox.azure.arm.front import ResourceManager
from sandbox.azure.arm.kit import Kit
from sandbox.azure.authority import Authority
from sandbox.azure.azurite import Azurite
from sandbox.azure.blob.gate import BlobGate
from sandbox.azure.customer_key import CustomerKeys
from sandbox.azure.directory import Directory
from sandbox.azure.events import Events
from sandbox.azure.functions import Apps
from sandbox.azure.graph import Graph
from sandbox.azure.queue import QueueGate
from sandbox.azure.rbac import Rbac
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Store
from sandbox.azure.vault.service import Vaults
from sandbox.azure.world import (
    CUSTOMER_SUBSCRIPTION,
    CUSTOMER_TENANT,
    GRAPH,
    MANAGEMENT,
    VENDOR_SUBSCRIPTION,
    VENDOR_TENANT,
    World,
)
from sandbox.elastic.web import LoopbackServer, Request, Response, json_response
from sandbox.supervisor import WORKLOAD_SUBJECT

log = logging.getLogger(__name__)

_OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
_TOKEN_LIFE = 24 * 3600.0
_TOKEN_RENEWED = 3600.0
_PEOPLE = {"operator": (VENDOR_TENANT, VENDOR_SUBSCRIPTION), "customer": (CUSTOMER_TENANT, CUSTOMER_SUBSCRIPTION)}


class Azure:
    """Everything in one process. `open` starts it, `close` stops it."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._authority = Authority(folder)
        self._authority.ensure()
        self._tls = self._authority.context()
        store = Store(folder / "azure.sqlite")
        self.world = World(folder, port, store)
        kept = _kept_ports(store)
        self.world.blob_port, self.world.queue_port = kept["blob"], kept["queue"]
        self._azurite = Azurite(folder, kept["azurite-blob"], kept["azurite-queue"], kept["azurite-table"])
        self.directory = Directory(self.world)
        rbac = Rbac(self.world)
        vaults = Vaults(self.world, self.directory, rbac, self._listen)
        keys = CustomerKeys(self.world, self.directory, vaults)
        self._apps = Apps(self.world, self.directory, self._authority)
        kit = Kit(self.world, self.directory, rbac, vaults, keys, self._azurite, self._apps)
        self._kit = kit
        self._resources = ResourceManager(kit)
        self._graph = Graph(self.world, self.directory)
        self._events = Events(kit, self._azurite)
        self._blobs = BlobGate(kit, self._azurite, self._events)
        self._queues = QueueGate(kit, self._azurite)
        self._servers: list[LoopbackServer] = []
        self._stopping = threading.Event()

    def open(self) -> None:
        self._azurite.start()
        self._people()
        self._write_token()
        self._servers = [
            self._listen(self.world.blob_port, self._blobs.answer),
            self._listen(self.world.queue_port, self._queues.answer),
        ]
        self._kit.vaults.open_all()
        self._events.start()
        self._servers.append(self._listen(self.world.port, self.answer))
        self._apps.start_all()
        threading.Thread(target=self._renew_token, name="workload-token", daemon=True).start()

    def close(self) -> None:
        self._stopping.set()
        self._apps.stop_all()
        self._events.stop()
        for server in self._servers:
            server.close()
        self._kit.vaults.close_all()
        self._azurite.stop()
        self.world.store.close()

    def _listen(self, port: int, answer: Callable[[Request], Response]) -> LoopbackServer:
        return LoopbackServer(port, answer, self._tls)

    # The door of Resource Manager, Entra and Graph

    def answer(self, request: Request) -> Response:
        first = request.segments[0] if request.segments else ""
        if first == "_sandbox":
            return self._admin(request)
        if first in {"subscriptions", "providers"}:
            return self._resources.answer(request)
        if first == "v1.0":
            return self._graph.answer(request)
        if first == "metadata":
            return json_response(200, self._metadata())
        if first == "_identity":
            return self._apps.identity(request)
        if first == "_workload":
            is_keys = request.segments[1:] == ("keys",)
            return json_response(
                200, self.directory.workload_keys() if is_keys else self.directory.workload_configuration()
            )
        return self._entra(request)

    def _entra(self, request: Request) -> Response:
        tenant, rest = request.segments[0] if request.segments else "", "/".join(request.segments[1:])
        try:
            if request.method == "GET" and rest == "v2.0/.well-known/openid-configuration":
                return json_response(200, self.directory.configuration(tenant))
            if request.method == "GET" and rest == "discovery/v2.0/keys":
                return json_response(200, self.directory.keys())
            if request.method == "POST" and rest == "oauth2/v2.0/token":
                form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
                return json_response(200, self.directory.token(tenant, form), ("cache-control", "no-store"))
        except AzureError as error:
            return json_response(error.status, {"error": error.code, "error_description": error.message})
        return json_response(404, {"error": {"code": "NotFound", "message": f"{request.method} {request.target}"}})

    def _metadata(self) -> dict[str, Any]:
        """What pulumi-azure-native and Terraform ask a cloud for (`ARM_METADATA_HOSTNAME`)."""
        url = self.world.url
        return {
            "authentication": {"audiences": [MANAGEMENT], "loginEndpoint": f"{url}/", "tenant": "common"},
            "microsoftGraphResourceId": GRAPH,
            "name": "AzureCloud",
            "resourceManager": url,
            "suffixes": {"keyVaultDns": "0.0.1", "storage": "core.windows.net"},
        }

    def _admin(self, request: Request) -> Response:
        settings = self.world.settings
        match (request.method, *request.segments[1:]):
            case ("GET", "health"):
                return json_response(200, {"status": "ok"})
            case ("GET", "settings"):
                return json_response(200, settings.state())
            case ("POST", "settings"):
                try:
                    settings.update(request.json())
                except ValueError as error:
                    return json_response(400, {"message": str(error)})
                return json_response(200, settings.state())
        return json_response(404, {"message": "not found"})

    # The first objects

    def _people(self) -> None:
        """An operator who owns the vendor's subscription, and a customer who owns theirs. Neither may touch data."""
        for name, (tenant, subscription) in _PEOPLE.items():
            file = self.world.folder / f"{name}.json"
            if file.exists():
                continue
            secret = secrets.token_urlsafe(32)
            application = self.directory.add_application(tenant, name, "AzureADMyOrg", secret=secret)
            application["administrator"] = True
            self.world.store.put("application", application["appId"], application)
            principal = self.directory.add_principal(tenant, application["appId"])
            scope = f"/subscriptions/{subscription}"
            assignment = {
                "holds": True,
                "id": f"{scope}/providers/Microsoft.Authorization/roleAssignments/{principal['id']}",
                "made": self.world.now(),
                "name": principal["id"],
                "principal": principal["id"],
                "principalType": "ServicePrincipal",
                "role": f"{scope}/providers/Microsoft.Authorization/roleDefinitions/{_OWNER}",
                "scope": scope,
            }
            self.world.store.put("assignment", assignment["id"], assignment)
            person = {
                "client_id": application["appId"],
                "client_secret": secret,
                "object_id": principal["id"],
                "subscription_id": subscription,
                "tenant_id": tenant,
            }
            _write(file, json.dumps(person, indent=1))

    def _write_token(self) -> None:
        token = self.directory.workload_token(WORKLOAD_SUBJECT, _TOKEN_LIFE)
        _write(self.world.folder / "workload-token", token)

    def _renew_token(self) -> None:
        while not self._stopping.wait(_TOKEN_RENEWED):
            self._write_token()


def _kept_ports(store: Store) -> dict[str, int]:
    """A port for each door, the same at every start. Raises PortsTakenError."""
    kept = store.get("settings", "ports") or {}
    for name in ("blob", "queue", "azurite-blob", "azurite-queue", "azurite-table"):
        if name not in kept:
            kept[name] = ports.free_port(store)
    store.put("settings", "ports", kept)
    return kept


def _write(file: Path, text: str) -> None:
    unfinished = file.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    unfinished.replace(file)
