"""The sandbox's Azure half as a process of its own, for tests: without AWS and Elasticsearch, so in seconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aws_server import until
from azure.identity import ClientSecretCredential, WorkloadIdentityCredential
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from azure.storage.queue import QueueClient

from sandbox.supervisor import azure_environment

LOCATION = "westeurope"
MANAGEMENT = "https://management.azure.com/.default"
STORAGE_API, VAULT_API, IDENTITY_API, ROLE_API = "2024-01-01", "2024-11-01", "2024-11-30", "2022-04-01"
CRYPTO_OFFICER = "14b46e9e-c2b7-41b4-b07b-48a6ebf60603"
ENCRYPTION_USER = "e147488a-f6f5-4113-8e2d-b22465e65bf6"
BLOB_OWNER = "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"
BLOB_READER = "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1"


@dataclass
class Refused(Exception):
    """Resource Manager's refusal."""

    status: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


@dataclass
class AzureServer:
    """A running Azure half. Calls are made as `operator` unless `who` says `customer`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    people: dict[str, dict[str, str]] = field(default_factory=dict)
    credentials: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def bundle(self) -> str:
        return str(self.folder / "azure" / "trust.pem")

    @property
    def environment(self) -> dict[str, str]:
        return azure_environment(self.folder / "azure", self.port)

    def person(self, who: str = "operator") -> dict[str, str]:
        if who not in self.people:
            self.people[who] = json.loads((self.folder / "azure" / f"{who}.json").read_text())
        return self.people[who]

    # Credentials

    def credential(self, who: str = "operator") -> ClientSecretCredential:
        if who not in self.credentials:
            person = self.person(who)
            self.credentials[who] = ClientSecretCredential(
                person["tenant_id"],
                person["client_id"],
                person["client_secret"],
                authority=self.url,
                disable_instance_discovery=True,
            )
        return self.credentials[who]

    def acting_as(self, client_id: str) -> WorkloadIdentityCredential:
        """As the runner acts as a managed identity: through its federated credential."""
        return WorkloadIdentityCredential(
            tenant_id=self.person()["tenant_id"],
            client_id=client_id,
            token_file_path=str(self.folder / "azure" / "workload-token"),
            authority=self.url,
            disable_instance_discovery=True,
        )

    # Resource Manager

    def arm(
        self, method: str, id_: str, body: dict[str, Any] | None = None, *, api: str = ROLE_API, who: str = "operator"
    ) -> Any:
        """The answer's document; Refused where it is none. `id_` begins below the subscription or with /subscriptions."""
        path = (
            id_ if id_.startswith("/subscriptions/") else f"/subscriptions/{self.person(who)['subscription_id']}{id_}"
        )
        token = self.credential(who).get_token(MANAGEMENT).token
        answer = httpx.request(
            method,
            f"{self.url}{path}",
            params={"api-version": api},
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        if not answer.is_success:
            error = answer.json()["error"]
            raise Refused(answer.status_code, error["code"], error["message"])
        return answer.json() if answer.content else None

    def graph(self, method: str, path: str, body: dict[str, Any] | None = None, *, who: str = "operator") -> Any:
        token = self.credential(who).get_token("https://graph.microsoft.com/.default").token
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.request(method, f"{self.url}/v1.0{path}", json=body, headers=headers, timeout=60)
        if not answer.is_success:
            error = answer.json()["error"]
            raise Refused(answer.status_code, error["code"], error["message"])
        return answer.json() if answer.content else None

    def settings(self, **changes: float) -> None:
        answer = httpx.post(f"{self.url}/_sandbox/settings", json=changes)
        assert answer.status_code == 200, answer.text

    def group(self, name: str, *, who: str = "operator") -> str:
        return self.arm("PUT", f"/resourceGroups/{name}", {"location": LOCATION}, who=who)["id"]

    def vault(self, group: str, name: str, *, who: str = "operator", **properties: Any) -> dict[str, Any]:
        """A premium vault with roles and purge protection, unless `properties` say otherwise."""
        wanted = {
            "enablePurgeProtection": True,
            "enableRbacAuthorization": True,
            "sku": {"family": "A", "name": "premium"},
            "softDeleteRetentionInDays": 7,
            "tenantId": self.person(who)["tenant_id"],
            **properties,
        }
        body = {"location": LOCATION, "properties": {key: value for key, value in wanted.items() if value is not None}}
        return self.arm("PUT", f"{group}/providers/Microsoft.KeyVault/vaults/{name}", body, api=VAULT_API, who=who)

    def identity(self, group: str, name: str) -> dict[str, Any]:
        """A managed identity that the operator's workload may act as."""
        id_ = f"{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
        made = self.arm("PUT", id_, {"location": LOCATION}, api=IDENTITY_API)
        trust = {
            "audiences": ["api://AzureADTokenExchange"],
            "issuer": self.environment["KEYSHIFT_WORKLOAD_ISSUER"],
            "subject": self.environment["KEYSHIFT_WORKLOAD_SUBJECT"],
        }
        self.arm("PUT", f"{id_}/federatedIdentityCredentials/runner", {"properties": trust}, api=IDENTITY_API)
        return {"id": id_, **made["properties"]}

    def assign(self, scope: str, role: str, principal: str, name: str, *, who: str = "operator") -> str:
        """A role assignment; its id. `name` ends a GUID."""
        guid = f"00000000-0000-4000-8000-{name:0>12}"
        subscription = self.person(who)["subscription_id"]
        definition = f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role}"
        properties = {"principalId": principal, "principalType": "ServicePrincipal", "roleDefinitionId": definition}
        id_ = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{guid}"
        return self.arm("PUT", id_, {"properties": properties}, who=who)["id"]

    def keys(self, vault: dict[str, Any], who: str = "operator") -> KeyClient:
        return KeyClient(vault["properties"]["vaultUri"], self.credential(who), connection_verify=self.bundle)

    def secrets(self, vault: dict[str, Any], credential: Any = None) -> SecretClient:
        uri = vault["properties"]["vaultUri"]
        return SecretClient(uri, credential or self.credential(), connection_verify=self.bundle)

    def container(self, account: dict[str, Any], name: str, credential: Any) -> ContainerClient:
        endpoint = account["properties"]["primaryEndpoints"]["blob"]
        return ContainerClient(endpoint, name, credential, connection_verify=self.bundle, retry_total=0)

    def queue(self, account: dict[str, Any], name: str, credential: Any) -> QueueClient:
        endpoint = account["properties"]["primaryEndpoints"]["queue"]
        return QueueClient(endpoint, name, credential=credential, connection_verify=self.bundle, retry_total=0)

    def account(self, group: str, name: str, **more: Any) -> dict[str, Any]:
        """A storage account as Keyshift makes them. `encryption` and `identity` under Resource Manager's names."""
        properties = {"allowSharedKeyAccess": False, "minimumTlsVersion": "TLS1_2", **more.pop("properties", {})}
        if "encryption" in more:
            properties["encryption"] = more.pop("encryption")
        body = {
            "kind": "StorageV2",
            "location": LOCATION,
            "properties": properties,
            "sku": {"name": "Standard_ZRS"},
            **more,
        }
        return self.arm("PUT", f"{group}/providers/Microsoft.Storage/storageAccounts/{name}", body, api=STORAGE_API)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def log(self) -> str:
        return (self.folder / "azure.log").read_text(errors="replace")


def start(folder: Path, port: int | None = None) -> AzureServer:
    """Start it in `folder` and wait until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    if port is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    with (folder / "azure.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox.azure", "--dir", folder, "--port", str(port)],
            env={name: value for name, value in os.environ.items() if not name.startswith(("ARM_", "AZURE_"))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = AzureServer(folder, port, process)

    def is_healthy() -> bool:
        assert process.poll() is None, server.log()
        try:
            return httpx.get(f"{server.url}/_sandbox/health", verify=False).status_code == 200
        except httpx.TransportError:
            return False

    until(is_healthy, "the Azure half answers")
    return server


@contextmanager
def running_azure(folder: Path, **settings: float) -> Iterator[AzureServer]:
    """An Azure half for a block; httpx and Azure's SDKs trust it meanwhile."""
    server = start(folder)
    before = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    os.environ.update(dict.fromkeys(before, server.bundle))
    try:
        if settings:
            server.settings(**settings)
        yield server
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.stop()
