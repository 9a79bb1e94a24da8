"""What every part of the Azure half shares: the documents, the addresses, the settings, the clock."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sandbox.azure.store import Store

VENDOR_TENANT = "11111111-aaaa-4aaa-8aaa-111111111111"
CUSTOMER_TENANT = "44444444-bbbb-4bbb-8bbb-444444444444"
VENDOR_SUBSCRIPTION = "11111111-5555-4555-8555-111111111111"
CUSTOMER_SUBSCRIPTION = "44444444-5555-4555-8555-444444444444"

SUBSCRIPTIONS = {VENDOR_SUBSCRIPTION: VENDOR_TENANT, CUSTOMER_SUBSCRIPTION: CUSTOMER_TENANT}

MANAGEMENT = "https://management.azure.com"
STORAGE = "https://storage.azure.com"
GRAPH = "https://graph.microsoft.com"
TOKEN_EXCHANGE = "api://AzureADTokenExchange"


@dataclass
class Settings:
    """What a test may change while the sandbox runs. Azure's own documented bound for roles is 10 minutes."""

    role_lag_seconds: float = 2.0
    directory_lag_seconds: float = 2.0
    key_check_seconds: float = 86400.0  # how often Storage looks for a new version of a key named without one
    container_lag_seconds: float = 0.0  # Azure: at least 30 s, in which the name of a deleted container is taken
    event_lag_seconds: float = 0.0
    lose_events: int = 0

    def update(self, changes: dict[str, Any]) -> None:
        """Raises ValueError for what is no setting, or no number of its kind."""
        known = {each.name: type(getattr(self, each.name)) for each in fields(self)}
        for name, value in changes.items():
            if name not in known or isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"no such setting, or no number from 0: {name}={value!r}; there are {sorted(known)}")
        for name, value in changes.items():
            setattr(self, name, known[name](value))

    def state(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class World:
    """`port` is that of Resource Manager, Entra and Graph; blobs and queues have their own."""

    folder: Path
    port: int
    store: Store
    blob_port: int = 0
    queue_port: int = 0
    settings: Settings = field(default_factory=Settings)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def workload_issuer(self) -> str:
        return f"{self.url}/_workload"

    def issuer(self, tenant: str) -> str:
        return f"{self.url}/{tenant}/v2.0"

    def blob_endpoint(self, account: str) -> str:
        return f"https://127.0.0.1:{self.blob_port}/{account}/"

    def queue_endpoint(self, account: str) -> str:
        return f"https://127.0.0.1:{self.queue_port}/{account}/"

    def now(self) -> float:
        return time.time()


def new_id() -> str:
    return str(uuid.uuid4())


def timestamp(seconds: float) -> str:
    """A time as Resource Manager writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
