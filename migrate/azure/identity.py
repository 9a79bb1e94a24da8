"""Who asks Azure: whoever runs the command, and the tenant's roles.

A role is a user-assigned identity. It trusts the workload token of whoever runs moves (a federated credential on the
identity), which the standard environment names: AZURE_FEDERATED_TOKEN_FILE. No secret of a role exists.
"""

from __future__ import annotations

import os
from typing import Any

import requests
from azure.core.credentials import TokenCredential
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import DefaultAzureCredential, WorkloadIdentityCredential
from requests.adapters import HTTPAdapter

STORAGE = "https://storage.azure.com/.default"


def _plain() -> dict[str, Any]:
    """Who names an authority of their own means it: a private cloud is not known at login.microsoftonline.com."""
    return {"disable_instance_discovery": "AZURE_AUTHORITY_HOST" in os.environ}


def transport(connections: int = 32) -> RequestsTransport:
    """As many connections as the threads that share a client: the SDK's own keeps ten."""
    session = requests.Session()
    session.mount("https://", HTTPAdapter(pool_maxsize=connections, pool_connections=connections))
    return RequestsTransport(session=session, session_owner=False)


def operator() -> TokenCredential:
    return DefaultAzureCredential(exclude_workload_identity_credential=True, **_plain())


def role(client_id: str) -> TokenCredential:
    """The identity with this client id. Its token is asked for at the first call, and renewed by itself."""
    return WorkloadIdentityCredential(client_id=client_id, **_plain())
