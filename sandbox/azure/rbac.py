"""Role definitions and assignments, and whether a principal may do something somewhere.

An assignment holds, and stops to hold, only after a lag (Azure: up to 10 minutes, in either direction).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sandbox.azure.world import World

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
_CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
_DELEGATION = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"
_QUEUES = "Microsoft.Storage/storageAccounts/queueServices/queues"
_MESSAGES = f"{_QUEUES}/messages"
_VAULTS = "Microsoft.KeyVault/vaults"
_WRAPPING = (f"{_VAULTS}/keys/read", f"{_VAULTS}/keys/wrap/action", f"{_VAULTS}/keys/unwrap/action")


@dataclass(frozen=True)
class Role:
    """What a role lets its holders do; patterns with `*`."""

    name: str
    actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    not_data_actions: tuple[str, ...] = ()

    def allows(self, action: str, *, is_data: bool) -> bool:
        granted, withheld = (self.data_actions, self.not_data_actions) if is_data else (self.actions, self.not_actions)
        return _matches(granted, action) and not _matches(withheld, action)


# Docs: articles/role-based-access-control/built-in-roles (general, storage, security).
BUILT_IN = {
    "8e3af657-a8ff-443c-a75c-2fe8c4bcb635": Role("Owner", ("*",)),
    "b24988ac-6180-42a0-ab88-20f7382dd24c": Role(
        "Contributor",
        ("*",),
        not_actions=(
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
        ),
    ),
    "acdd72a7-3385-48ef-bd42-f606fba81ae7": Role("Reader", ("*/read",)),
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": Role(
        "Storage Blob Data Contributor",
        (f"{_CONTAINERS}/delete", f"{_CONTAINERS}/read", f"{_CONTAINERS}/write", _DELEGATION),
        (f"{_BLOBS}/delete", f"{_BLOBS}/read", f"{_BLOBS}/write", f"{_BLOBS}/move/action", f"{_BLOBS}/add/action"),
    ),
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": Role(
        "Storage Blob Data Owner", (f"{_CONTAINERS}/*", _DELEGATION), (f"{_BLOBS}/*",)
    ),
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": Role(
        "Storage Blob Data Reader", (f"{_CONTAINERS}/read", _DELEGATION), (f"{_BLOBS}/read",)
    ),
    "db58b8e5-c6ad-4a2a-8342-4190687cbf4a": Role("Storage Blob Delegator", (_DELEGATION,)),
    "974c5e8b-45b9-4653-ba55-5f855dd0fad8": Role(
        "Storage Queue Data Contributor",
        (f"{_QUEUES}/delete", f"{_QUEUES}/read", f"{_QUEUES}/write"),
        (f"{_MESSAGES}/delete", f"{_MESSAGES}/read", f"{_MESSAGES}/write", f"{_MESSAGES}/process/action"),
    ),
    "19e7f393-937e-4f77-808e-94535e297925": Role(
        "Storage Queue Data Reader", (f"{_QUEUES}/read",), (f"{_MESSAGES}/read",)
    ),
    "8a0f0c08-91a1-4084-bc3d-661d67233fed": Role(
        "Storage Queue Data Message Processor", (), (f"{_MESSAGES}/read", f"{_MESSAGES}/process/action")
    ),
    "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a": Role("Storage Queue Data Message Sender", (), (f"{_MESSAGES}/add/action",)),
    "00482a5a-887f-4fb3-b363-3b7fe8e74483": Role(
        "Key Vault Administrator", ("Microsoft.KeyVault/*/read",), (f"{_VAULTS}/*",)
    ),
    "14b46e9e-c2b7-41b4-b07b-48a6ebf60603": Role(
        "Key Vault Crypto Officer",
        ("Microsoft.KeyVault/*/read",),
        (f"{_VAULTS}/keys/*", f"{_VAULTS}/keyrotationpolicies/*"),
    ),
    "12338af0-0e69-4776-bea7-57ae8d297424": Role(
        "Key Vault Crypto User",
        (),
        (
            f"{_VAULTS}/keys/read",
            f"{_VAULTS}/keys/update/action",
            f"{_VAULTS}/keys/backup/action",
            f"{_VAULTS}/keys/encrypt/action",
            f"{_VAULTS}/keys/decrypt/action",
            f"{_VAULTS}/keys/wrap/action",
            f"{_VAULTS}/keys/unwrap/action",
            f"{_VAULTS}/keys/sign/action",
            f"{_VAULTS}/keys/verify/action",
        ),
    ),
    "e147488a-f6f5-4113-8e2d-b22465e65bf6": Role("Key Vault Crypto Service Encryption User", (), _WRAPPING),
    "b86a8fe4-44ce-4948-aee5-eccb2c155cd7": Role(
        "Key Vault Secrets Officer", ("Microsoft.KeyVault/*/read",), (f"{_VAULTS}/secrets/*",)
    ),
    "4633458b-17de-408a-b874-0445c86b69e6": Role(
        "Key Vault Secrets User",
        (),
        (f"{_VAULTS}/secrets/getSecret/action", f"{_VAULTS}/secrets/readMetadata/action"),
    ),
    "21090545-7ca7-4776-b22c-e363652d74d2": Role(
        "Key Vault Reader",
        ("Microsoft.KeyVault/*/read",),
        (f"{_VAULTS}/*/read", f"{_VAULTS}/secrets/readMetadata/action"),
    ),
}


class Rbac:
    """Judges by the assignments in the store. Kinds there: `role`, `assignment`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def is_allowed(self, principal: str, action: str, scope: str, *, is_data: bool) -> bool:
        """Whether one of the principal's assignments that hold now, at `scope` or above, grants the action."""
        return any(role.allows(action, is_data=is_data) for role in self._roles_at(principal, scope))

    def _roles_at(self, principal: str, scope: str) -> Iterator[Role]:
        now, lag, at = self._world.now(), self._world.settings.role_lag_seconds, scope.lower()
        for _, assignment in self._world.store.all("assignment"):
            if assignment["principal"] != principal or not _is_within(at, assignment["scope"].lower()):
                continue
            ended = assignment.get("ended")
            if ended is not None and now >= ended + lag:
                self._world.store.delete("assignment", assignment["id"])
            elif assignment.get("holds") or now >= assignment["made"] + lag:
                self._hold(assignment)
                yield self.role(assignment["role"])

    def _hold(self, assignment: dict[str, Any]) -> None:
        """From now on, whatever the lag is set to."""
        if assignment.get("holds"):
            return
        with self._world.store.alone():
            if self._world.store.get("assignment", assignment["id"]) == assignment:
                self._world.store.put("assignment", assignment["id"], assignment | {"holds": True})

    def role(self, definition: str) -> Role:
        """The role of a definition's id; KeyError if there is none."""
        guid = definition.rsplit("/", 1)[-1].lower()
        if guid in BUILT_IN:
            return BUILT_IN[guid]
        custom = self._world.store.get("role", guid)
        if custom is None:
            return Role("a definition that was deleted")
        return _custom(custom)

    def has_role(self, definition: str) -> bool:
        guid = definition.rsplit("/", 1)[-1].lower()
        return guid in BUILT_IN or self._world.store.get("role", guid) is not None


def _custom(document: dict[str, Any]) -> Role:
    permissions = document["permissions"]

    def joined(name: str) -> tuple[str, ...]:
        return tuple(action for permission in permissions for action in permission.get(name) or ())

    return Role(
        document["roleName"],
        joined("actions"),
        joined("dataActions"),
        joined("notActions"),
        joined("notDataActions"),
    )


def _is_within(scope: str, of: str) -> bool:
    of = of.rstrip("/")
    return scope == of or scope.startswith(f"{of}/")


def _matches(patterns: tuple[str, ...], action: str) -> bool:
    return any(_pattern(pattern).fullmatch(action) for pattern in patterns)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")), re.IGNORECASE)
