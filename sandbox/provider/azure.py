"""Azure's Resource Manager, Graph and key vaults, as the real providers call them: with tokens of the operator's app."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sandbox.provider.errors import GoneError, ProviderError

if TYPE_CHECKING:
    import httpx

_MANAGEMENT = "https://management.azure.com"
_GRAPH = "https://graph.microsoft.com"
_EARLY_SECONDS = 120
_NOT_FOUND = frozenset({404, 410})


class AzureCallError(ProviderError):
    """A refusal in Azure's words; `code` is Azure's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"Status={status} Code={code!r} Message={message!r}")
        self.status = status
        self.code = code


class Azure:
    """One set of credentials. Thread-safe."""

    def __init__(self, config: dict[str, Any], refuse_elsewhere: Callable[[str, str], None]) -> None:
        import httpx  # noqa: PLC0415 - see sandbox.provider.clouds

        self.tenant = _named(config, "tenantId", "ARM_TENANT_ID")
        self.client_id = _named(config, "clientId", "ARM_CLIENT_ID")
        self.subscription = config.get("subscriptionId") or os.environ.get("ARM_SUBSCRIPTION_ID", "")
        self._secret = _named(config, "clientSecret", "ARM_CLIENT_SECRET")
        host = _named(config, "metadataHost", "ARM_METADATA_HOSTNAME")
        self._base = host if host.startswith("https://") else f"https://{host}"
        self._refuse_elsewhere = refuse_elsewhere
        refuse_elsewhere("ARM_METADATA_HOSTNAME", self._base)
        self._http: httpx.Client = httpx.Client(timeout=300)
        self._tokens: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def resource_manager(self, method: str, id_: str, api: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's document. Raises GoneError for what does not exist, AzureCallError otherwise."""
        return self._call(method, f"{self._base}{id_}", _MANAGEMENT, body, params={"api-version": api})

    def graph(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """As `resource_manager`, of a path such as `/applications/<id>`."""
        return self._call(method, f"{self._base}/v1.0{path}", _GRAPH, body)

    def delete_in_vault(self, uri: str, kind: str, name: str) -> None:
        """Deletes a key or a secret through its vault, as pulumi-azure-native does. `uri` is the vault's."""
        self._refuse_elsewhere("vaultUri", uri)
        parts = urlsplit(uri)
        audience = f"https://{parts.netloc.removeprefix('127.')}"
        self._call("DELETE", f"{uri.rstrip('/')}/{kind}/{name}", audience, None, params={"api-version": "7.5"})

    @property
    def object_id(self) -> str:
        """The operator's service principal, as its token says."""
        import base64  # noqa: PLC0415
        import json  # noqa: PLC0415

        claims = self._token(_MANAGEMENT).split(".")[1]
        return json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["oid"]

    def _call(
        self, method: str, url: str, audience: str, body: dict[str, Any] | None, params: dict[str, str] | None = None
    ) -> Any:
        headers = {"Authorization": f"Bearer {self._token(audience)}"}
        answer = self._http.request(method, url, json=body, headers=headers, params=params)
        if answer.is_success:
            return answer.json() if answer.content else None
        error = _error(answer)
        if answer.status_code in _NOT_FOUND and method != "PUT":
            raise GoneError(error[1])
        raise AzureCallError(answer.status_code, *error)

    def _token(self, audience: str) -> str:
        with self._lock:
            token, until = self._tokens.get(audience, ("", 0.0))
            if time.monotonic() > until - _EARLY_SECONDS:
                form = {
                    "client_id": self.client_id,
                    "client_secret": self._secret,
                    "grant_type": "client_credentials",
                    "scope": f"{audience}/.default",
                }
                answer = self._http.post(f"{self._base}/{self.tenant}/oauth2/v2.0/token", data=form)
                if not answer.is_success:
                    raise AzureCallError(answer.status_code, *_error(answer))
                document = answer.json()
                token, until = document["access_token"], time.monotonic() + document["expires_in"]
                self._tokens[audience] = (token, until)
            return token


def _error(answer: httpx.Response) -> tuple[str, str]:
    try:
        document = answer.json()
    except ValueError:
        return str(answer.status_code), answer.text
    error = document.get("error")
    if isinstance(error, dict):
        return error.get("code", ""), error.get("message", "")
    return error or str(answer.status_code), document.get("error_description") or answer.text


def _named(config: dict[str, Any], property_: str, variable: str) -> str:
    value = config.get(property_) or os.environ.get(variable)
    if not value:
        raise ProviderError(f"{property_} is not configured, nor {variable} set: read the sandbox's env file")
    return value
