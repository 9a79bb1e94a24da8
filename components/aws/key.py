"""What a key gets: the vendor's own key of a stamp, and a customer's uploaded (imported) key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components import naming
from components.retention import Retention

DELETION_WINDOW_DAYS = 30
"""KMS's longest: until it ends a deletion can still be cancelled."""

ELASTIC_ORG_PATH = "o-ygducmlz12/r-e5t3/ou-e5t3-fzpdq76p/ou-e5t3-ysfcmd95/ou-e5t3-hwt05su3/*"
"""Elastic's accounts cannot be known in advance, only their place in its organization.
https://www.elastic.co/docs/deploy-manage/security/encrypt-deployment-with-customer-managed-encryption-key"""

# No right to use the key, and none to grant it away: an administrator of our account manages a
# customer's key but cannot read with it.
ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:DeleteImportedKeyMaterial",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:GetParametersForImport",
    "kms:ImportKeyMaterial",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
)

# https://docs.aws.amazon.com/AmazonS3/latest/API/API_UpdateObjectEncryption.html asks for all four
USE_THROUGH_S3 = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*")
PROBE = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey")
ELASTIC_USE = ("kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey", "kms:GetKeyRotationStatus")


def customer_key_policy(
    *, account: str, region: str, roles: Sequence[str], runner_role: str, buckets: Sequence[str]
) -> dict[str, Any]:
    """The policy of a customer's key in our account; `buckets` may be patterns.

    Roles are named by the account root with `aws:PrincipalArn`: a role ARN as the principal is
    refused while the role does not exist, and is bound to the unique id of one that is re-created.
    """
    contexts = [context for bucket in buckets for context in (f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*")]
    return _document(
        {
            "Sid": "AccountAdministersTheKey",
            "Effect": "Allow",
            "Principal": _root(account),
            "Action": list(ADMINISTRATION),
            "Resource": "*",
        },
        {
            "Sid": "TenantDataThroughS3",
            "Effect": "Allow",
            "Principal": _root(account),
            "Action": list(USE_THROUGH_S3),
            "Resource": "*",
            "Condition": {
                "ArnEquals": {"aws:PrincipalArn": sorted(roles)},
                "StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"},
                "StringLike": {"kms:EncryptionContext:aws:s3:arn": contexts},
            },
        },
        {
            "Sid": "RunnerProbes",
            "Effect": "Allow",
            "Principal": _root(account),
            "Action": list(PROBE),
            "Resource": "*",
            "Condition": {"ArnEquals": {"aws:PrincipalArn": runner_role}},
        },
        _elastic_statement(),
    )


def vendor_key_policy(*, account: str) -> dict[str, Any]:
    """The policy of the vendor's key: our account's IAM policies decide, and Elastic may use it."""
    return _document(
        {
            "Sid": "AccountDecides",
            "Effect": "Allow",
            "Principal": _root(account),
            "Action": "kms:*",
            "Resource": "*",
        },
        _elastic_statement(),
    )


@dataclass(frozen=True, kw_only=True)
class VendorKeyArgs:
    """`number`: of this key among the stamp's; a rotation makes the next one."""

    stamp: str
    number: int = 1
    account: str
    retention: Retention


class VendorKey(pulumi.ComponentResource):
    """The key of a stamp: shared data and the searches of standard tenants lie under it."""

    arn: pulumi.Output[str]

    def __init__(self, name: str, args: VendorKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:VendorKey", name, None, opts)
        key = aws.kms.Key(
            f"{name}-key",
            description=f"Keyshift {args.stamp}: the vendor's key{'' if args.number == 1 else f' {args.number}'}",
            enable_key_rotation=True,
            deletion_window_in_days=DELETION_WINDOW_DAYS,
            policy=json.dumps(vendor_key_policy(account=args.account), sort_keys=True),
            opts=args.retention.options(self),
        )
        aws.kms.Alias(
            f"{name}-key-alias",
            name=naming.vendor_key_alias(args.stamp, args.number),
            target_key_id=key.key_id,
            opts=pulumi.ResourceOptions(parent=self, protect=args.retention.protect),
        )
        self.arn = key.arn
        self.register_outputs({"arn": self.arn})


@dataclass(frozen=True, kw_only=True)
class ImportedKeyArgs:
    """`enabled` is None until the customer's material is in: KMS refuses to enable a key without any.

    `labels` say whose it is: tenant, customer, mode, key, unit.
    """

    id: str
    tenant: str
    account: str
    region: str
    enabled: bool | None
    labels: Mapping[str, str]
    retention: Retention


class ImportedKey(pulumi.ComponentResource):
    """A customer's key in our account, made without material; the runner imports what the customer wraps.

    Material as an input would be the customer's key in clear text, in the state. Each upload gets a
    key of its own, so that an old one can be destroyed.
    """

    arn: pulumi.Output[str]
    key_id: pulumi.Output[str]

    def __init__(self, name: str, args: ImportedKeyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:ImportedKey", name, None, opts)
        roles = {
            audience: naming.arn("iam", f"role/{naming.role(args.tenant, audience)}", account=args.account)
            for audience in ("archive", "pipeline", "runner")
        }
        policy = customer_key_policy(
            account=args.account,
            region=args.region,
            roles=list(roles.values()),
            runner_role=roles["runner"],
            buckets=[
                naming.dedicated_bucket_pattern(tenant=args.tenant, account=args.account, region=args.region),
            ],
        )
        key = aws.kms.ExternalKey(
            f"{args.id}-key",
            description=f"Keyshift tenant {args.tenant}: customer key {args.id}",
            enabled=args.enabled,
            deletion_window_in_days=DELETION_WINDOW_DAYS,
            policy=json.dumps(policy, sort_keys=True),
            tags=naming.tags(args.labels),
            opts=pulumi.ResourceOptions.merge(
                args.retention.options(self),
                # The import sets both outside Pulumi; a refresh would show them as drift.
                pulumi.ResourceOptions(ignore_changes=["validTo", "keyMaterialBase64"]),
            ),
        )
        self.arn = key.arn
        # The provider's resource id is the key's id.
        self.key_id = key.id
        self.register_outputs({"arn": self.arn, "key_id": self.key_id})


def _document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _root(account: str) -> dict[str, str]:
    return {"AWS": naming.arn("iam", "root", account=account)}


def _elastic_statement() -> dict[str, Any]:
    return {
        "Sid": "ElasticKeyAccess",
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": list(ELASTIC_USE),
        "Resource": "*",
        "Condition": {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": ELASTIC_ORG_PATH}},
    }
