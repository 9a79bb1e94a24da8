"""A stamp: the vendor's shared side of one region, on which tenants sit."""

from __future__ import annotations

from typing import Any

import pulumi
import pulumi_aws as aws
import sqlalchemy as sql

from components import naming
from components.aws.key import VendorKey, VendorKeyArgs
from components.aws.storage import SharedBucket, SharedBucketArgs
from components.retention import Retention
from stacks.config import StampSettings
from stacks.errors import ConfigError
from stacks.guard import stamp_hook
from stacks.layout import Cloud
from stacks.tenant import refuse_foreign_region

EVENT_BUS = "default"
"""S3 sends its events to the account's default bus and to no other."""


def build(settings: StampSettings, engine: sql.Engine) -> dict[str, Any]:
    """Registers the stamp's resources; returns the stack's outputs. Raises ConfigError where it cannot stand."""
    if settings.cloud is not Cloud.AWS:
        raise ConfigError(f"{settings.name} should be on {settings.cloud}; this version provisions aws only")
    refuse_foreign_region(settings.name, settings.region)
    account = aws.get_caller_identity().account_id
    retention = Retention(
        protect=True, hooks=pulumi.ResourceHookBinding(before_delete=[stamp_hook(settings.name, engine)])
    )
    keys = {number: _vendor_key(settings, number, account, retention) for number in range(1, settings.vendor_keys + 1)}
    key = keys[settings.vendor_key]
    shared = SharedBucket(
        "shared",
        SharedBucketArgs(
            bucket=naming.shared_bucket(stamp=settings.name, account=account, region=settings.region),
            key_arn=key.arn,
            retention=retention,
        ),
    )
    return {
        "bucket": shared.bucket,
        "bucket_arn": shared.arn,
        "vendor_key_arn": key.arn,
        # Whatever something may lie under, or is about to: the tenants' roles may use these.
        "vendor_key_arns": [keys[number].arn for number in keys if number >= settings.oldest_vendor_key],
        "region": settings.region,
        "account_id": account,
        "event_bus": EVENT_BUS,
    }


def _vendor_key(settings: StampSettings, number: int, account: str, retention: Retention) -> VendorKey:
    """The first one's name has no number: it is a state key of stamps that were made before there was a second."""
    name = "vendor" if number == 1 else f"vendor-{number}"
    return VendorKey(name, VendorKeyArgs(stamp=settings.name, number=number, account=account, retention=retention))
