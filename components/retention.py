"""How a stateful resource is kept: what stands between it and a delete that nobody asked for."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, kw_only=True)
class Retention:
    """`protect` is lifted only in the phase before the unit is dropped; `hooks` ask for the verdict at the delete.

    What holds data takes both. What only belongs to it, such as a bucket's policy, takes `protect`, so
    that a destroy by hand does not strip what it cannot delete.
    """

    protect: bool
    hooks: pulumi.ResourceHookBinding

    def options(self, parent: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=parent, protect=self.protect, hooks=self.hooks)
