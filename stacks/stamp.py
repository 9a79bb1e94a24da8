"""A stamp: the vendor's shared side of one region, on which tenants sit."""

from __future__ import annotations

from typing import Any

import pulumi
import sqlalchemy as sql

from components.retention import Retention
from stacks.config import StampSettings
from stacks.guard import stamp_hook
from stacks.layout import Cloud


def build(settings: StampSettings, engine: sql.Engine) -> dict[str, Any]:
    """Registers the stamp's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    hooks = pulumi.ResourceHookBinding(before_delete=[stamp_hook(settings.name, engine)])
    retention = Retention(protect=True, hooks=hooks)
    # One cloud's SDK alone: a program pays for an import at every preview and every update.
    if settings.cloud is Cloud.AZURE:
        from stacks import azure  # noqa: PLC0415 - as said

        return azure.build_stamp(settings, retention)
    from stacks import aws  # noqa: PLC0415 - as said

    return aws.build_stamp(settings, retention)
