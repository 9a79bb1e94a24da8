"""The functions (invokes) that the sandbox's providers offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.provider.clouds import Clouds
from sandbox.provider.errors import ProviderError

Arguments = dict[str, Any]


def _caller_identity(_arguments: Arguments, clouds: Clouds) -> dict[str, Any]:
    caller = clouds.caller
    return {"accountId": caller["Account"], "arn": caller["Arn"], "id": caller["Account"], "userId": caller["UserId"]}


def _region(arguments: Arguments, clouds: Clouds) -> dict[str, Any]:
    name = arguments.get("region") or arguments.get("name") or clouds.region
    return {
        "description": "Europe (Ireland)" if name == "eu-west-1" else name,
        "endpoint": f"ec2.{name}.amazonaws.com",
        "id": name,
        "name": name,
        "region": name,
    }


def _client_config(_arguments: Arguments, clouds: Clouds) -> dict[str, Any]:
    azure = clouds.azure
    return {
        "clientId": azure.client_id,
        "objectId": azure.object_id,
        "subscriptionId": azure.subscription,
        "tenantId": azure.tenant,
    }


_FUNCTIONS: dict[str, Callable[[Arguments, Clouds], dict[str, Any]]] = {
    "aws:index/getCallerIdentity:getCallerIdentity": _caller_identity,
    "aws:index/getRegion:getRegion": _region,
    "azure-native:authorization:getClientConfig": _client_config,
}


def invoke(token: str, arguments: Arguments, clouds: Clouds) -> dict[str, Any]:
    """The result of a function; ProviderError if the sandbox does not offer it."""
    if token not in _FUNCTIONS:
        raise ProviderError(f"the sandbox's providers do not offer the function {token}")
    return _FUNCTIONS[token](arguments, clouds)
