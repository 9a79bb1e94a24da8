"""Azure's refusals as sentences of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from components.worker.azure.blob import code_of
from migrate.errors import CloudError, KeyUnavailable
from migrate.outage import UNREACHABLE

Made = TypeVar("Made")
DENIALS = frozenset({"AuthorizationPermissionMismatch", "AuthorizationFailure", "InsufficientAccountPermissions"})
"""A caller that is known and may not. REST reference, "Common REST API error codes"."""


def is_about_a_key(error: BaseException) -> bool:
    """Whether Storage could not use the account's key. Customer-managed keys overview, "Revoke access"."""
    return code_of(error).startswith("KeyVault")


def explained(error: AzureError, doing: str) -> CloudError:
    """What was being done, and what Azure said."""
    said = str(getattr(error, "reason", None) or "")
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        code = code_of(error) or str(error.status_code)
        first = (error.message or "").splitlines()
        text = f"{doing}: Azure answered {code} ({first[0].rstrip('.') if first else said})"
        if is_about_a_key(error):
            hint = "see that the key is enabled and its vault open to us before a retry"
            return KeyUnavailable(text, cloud_code=code, hint=hint)
        return CloudError(text, cloud_code=code, hint="mend what Azure names, then run the same command again")
    if isinstance(error, ClientAuthenticationError):
        hint = "see AZURE_TENANT_ID, AZURE_FEDERATED_TOKEN_FILE and the operator's credentials, then run it again"
        return CloudError(f"{doing}: Entra gave no token ({_line(error)})", cloud_code="no-token", hint=hint)
    hint = "see that the network is up, then run the same command again"
    return CloudError(f"{doing}: Azure cannot be reached ({_line(error)})", cloud_code=UNREACHABLE, hint=hint)


def _line(error: AzureError) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Azure's refusals, raised as CloudError that says what was being done."""
    try:
        yield
    except AzureError as error:
        raise explained(error, doing) from error


def called(doing: str, call: Callable[..., Made], *arguments: Any, **parameters: Any) -> Made:
    """`call(…)` under `told`."""
    with told(doing):
        return call(*arguments, **parameters)
