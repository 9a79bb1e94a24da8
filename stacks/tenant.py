"""A layout into resources, and nothing else: no layout is changed here and none is chosen."""

from __future__ import annotations

from typing import Any

import pulumi

from stacks.guard import verdict_hook
from stacks.layout import Cloud, Layout


def build(layout: Layout) -> dict[str, Any]:
    """Registers the tenant's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    hooks = pulumi.ResourceHookBinding(before_delete=[verdict_hook(layout)])
    # One cloud's SDK alone: a program pays for an import at every preview and every update.
    if layout.cloud is Cloud.AZURE:
        from stacks import azure  # noqa: PLC0415 - as said

        return azure.build_tenant(layout, hooks)
    from stacks import aws  # noqa: PLC0415 - as said

    return aws.build_tenant(layout, hooks)
