"""The connections of one configured provider, each made when it is first used.

Neither boto3 nor httpx is imported before a call needs it: an `up` without changes calls no cloud. A
real cloud is never called: a plugin that was left on PATH refuses what does not lead to this machine.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sandbox.provider.errors import ProviderError

if TYPE_CHECKING:
    import boto3
    import httpx

    from sandbox.provider.azure import Azure

MARK = "keyshift:urn"
_HERE = ("127.0.0.1", "localhost")


class Clouds:
    """What a provider's configuration says, and clients made from it. Thread-safe."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = {name: _parsed(value) for name, value in config.items()}
        self._lock = threading.RLock()
        self._clients: dict[tuple[str, str | None], Any] = {}

    @functools.cached_property
    def session(self) -> boto3.Session:
        import boto3  # noqa: PLC0415 - costs 0.3 s, see above

        return boto3.Session(
            region_name=self.config.get("region") or os.environ.get("AWS_REGION"),
            profile_name=self.config.get("profile"),
            aws_access_key_id=self.config.get("accessKey"),
            aws_secret_access_key=self.config.get("secretKey"),
            aws_session_token=self.config.get("token"),
        )

    def client(self, service: str, region: str | None = None) -> Any:
        """The boto3 client of a service, in the provider's region unless another is named."""
        with self._lock:  # making a client is not thread-safe in boto3, using one is
            key = (service, region)
            if key not in self._clients:
                from botocore.config import Config  # noqa: PLC0415 - with boto3, see above

                client = self.session.client(
                    service,
                    region_name=region,
                    config=Config(retries={"mode": "standard", "max_attempts": 4}, max_pool_connections=32),
                )
                # asked of the client: a service can have an endpoint variable of its own
                _refuse_elsewhere("AWS_ENDPOINT_URL", client.meta.endpoint_url)
                self._clients[key] = client
            return self._clients[key]

    @property
    def region(self) -> str:
        """The provider's region; boto3 is asked only where neither configuration nor environment names it."""
        named = self.config.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if named:
            return named
        with self._lock:
            return self.session.region_name

    @functools.cached_property
    def caller(self) -> dict[str, str]:
        """STS GetCallerIdentity: Account, Arn, UserId."""
        identity = self.client("sts").get_caller_identity()
        return {name: identity[name] for name in ("Account", "Arn", "UserId")}

    @property
    def default_tags(self) -> dict[str, str]:
        return (self.config.get("defaultTags") or {}).get("tags") or {}

    @functools.cached_property
    def _azure(self) -> Azure:
        from sandbox.provider.azure import Azure  # noqa: PLC0415 - see above

        return Azure(self.config, _refuse_elsewhere)

    @property
    def azure(self) -> Azure:
        """Azure, with the credentials of the configuration or of ARM_*."""
        with self._lock:
            return self._azure

    def elastic_cloud(self) -> httpx.Client:
        """A client of the Elastic Cloud API, authenticated as terraform-provider-ec is."""
        import httpx  # noqa: PLC0415 - see above

        endpoint = self.config.get("endpoint") or os.environ.get("EC_ENDPOINT", "")
        _refuse_elsewhere("EC_ENDPOINT", endpoint)
        key = self.config.get("apikey") or os.environ.get("EC_API_KEY", "")
        return httpx.Client(
            base_url=f"{endpoint.rstrip('/')}/api/v1", headers={"Authorization": f"ApiKey {key}"}, timeout=60
        )

    def elasticsearch(self, connection: dict[str, Any] | None) -> httpx.Client:
        """A client of one cluster: the resource's own connection, else the provider's."""
        import httpx  # noqa: PLC0415 - see above

        chosen = connection or self.config.get("elasticsearch") or {}
        endpoints = chosen.get("endpoints") or os.environ.get("ELASTICSEARCH_ENDPOINTS", "").split(",")
        if not endpoints[0]:
            raise ProviderError("no Elasticsearch endpoint is configured: set elasticsearch.endpoints")
        _refuse_elsewhere("elasticsearch.endpoints", endpoints[0])
        headers, auth = {}, None
        if chosen.get("apiKey"):
            headers["Authorization"] = f"ApiKey {chosen['apiKey']}"
        elif chosen.get("username"):
            auth = (chosen["username"], chosen.get("password", ""))
        return httpx.Client(base_url=endpoints[0].rstrip("/"), headers=headers, auth=auth, timeout=60)


def _refuse_elsewhere(name: str, url: str) -> None:
    if urlsplit(url).hostname not in _HERE:
        raise ProviderError(
            f"this is the sandbox's provider, and {name} ({url or 'not set'}) does not lead to the sandbox:"
            " take the sandbox's bin folder off PATH, or read the sandbox's env file"
        )


def _parsed(value: Any) -> Any:
    """Provider configuration arrives as strings; whatever is not one is JSON in a string."""
    if not isinstance(value, str) or not value.startswith(("{", "[")):
        return value
    return json.loads(value)
