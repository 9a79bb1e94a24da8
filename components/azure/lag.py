"""A role that was just assigned is not in force yet: what needs it is tried again until it is, never after a guess.

Azure says up to ten minutes (https://learn.microsoft.com/azure/role-based-access-control/troubleshooting), and only
the account itself can tell whether it may use its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pulumi

HOOK = "keyshift-role-lag"
LIMIT_SECONDS = 15 * 60
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 20.0
NOT_YET = ("KeyVaultAuthenticationFailure", "PrincipalNotFound")
"""What Azure answers while a role, or an identity, has not spread. It also says so when the role is missing for good."""


@dataclass
class RoleLag:
    """Made once a program. Each resource has the whole time for itself, from its first refusal."""

    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    _first: dict[str, float] = field(default_factory=dict, init=False)
    _binding: pulumi.ResourceHookBinding | None = field(default=None, init=False)

    @property
    def binding(self) -> pulumi.ResourceHookBinding:
        if self._binding is None:
            self._binding = pulumi.ResourceHookBinding(on_error=[pulumi.ErrorHook(HOOK, self.again)])
        return self._binding

    def again(self, args: pulumi.ErrorHookArgs) -> bool:
        """Whether to try once more; returns after a pause that grows with each refusal."""
        newest = args.errors[0] if args.errors else ""
        if args.failed_operation == "delete" or not any(code in newest for code in NOT_YET):
            return False
        waited = self.clock() - self._first.setdefault(args.urn, self.clock())
        if waited >= LIMIT_SECONDS:
            return False
        self.pause(min(FIRST_PAUSE_SECONDS * 2 ** (len(args.errors) - 1), LONGEST_PAUSE_SECONDS))
        return True
