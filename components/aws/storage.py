"""What a bucket gets: the shared bucket of a stamp, and a tenant's dedicated bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components import naming
from components.aws import closed
from components.aws.closed import WRITES
from components.retention import Retention

ABORT_UPLOADS_AFTER_DAYS = 7


def bucket_policy(
    *,
    bucket: str,
    key_arn: str,
    runner_role: str | None = None,
    writable: bool = True,
    readable: bool = True,
) -> dict[str, Any]:
    """TLS only, no other key than `key_arn`, and what the gate closes.

    What is closed is closed to everybody but `runner_role`, which copies, proves and purges.
    """
    bucket_arn = naming.arn("s3", bucket)
    objects = f"{bucket_arn}/*"
    statements = [
        _deny("InsecureTransport", "s3:*", [bucket_arn, objects], {"Bool": {"aws:SecureTransport": "false"}}),
        _deny_header("AnotherAlgorithm", objects, "s3:x-amz-server-side-encryption", {"StringNotEquals": "aws:kms"}),
        _deny_header(
            "AnotherKey", objects, "s3:x-amz-server-side-encryption-aws-kms-key-id", {"StringNotEquals": key_arn}
        ),
        _deny_header("CustomerProvidedKey", objects, "s3:x-amz-server-side-encryption-customer-algorithm", {}),
    ]
    but_the_runner = {"ArnNotEquals": {"aws:PrincipalArn": runner_role}} if runner_role else {}
    if not writable:
        statements.append(_deny("Frozen", list(WRITES), [objects], but_the_runner))
    if not readable:
        statements.append(closed.bucket_statement(bucket, runner_role))
    return {"Version": "2012-10-17", "Statement": statements}


@dataclass(frozen=True, kw_only=True)
class SharedBucketArgs:
    bucket: str
    key_arn: pulumi.Input[str]
    retention: Retention


class SharedBucket(pulumi.ComponentResource):
    """The bucket of a stamp, under the vendor's key; a tenant's entity is a prefix in it."""

    bucket: pulumi.Output[str]
    arn: pulumi.Output[str]

    def __init__(self, name: str, args: SharedBucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:SharedBucket", name, None, opts)
        policy = pulumi.Output.from_input(args.key_arn).apply(
            lambda key_arn: json.dumps(bucket_policy(bucket=args.bucket, key_arn=key_arn), sort_keys=True)
        )
        bucket = _bucket(
            self, "shared", bucket=args.bucket, key_arn=args.key_arn, policy=policy, retention=args.retention
        )
        self.bucket = bucket.bucket
        self.arn = bucket.arn
        self.register_outputs({"bucket": self.bucket, "arn": self.arn})


@dataclass(frozen=True, kw_only=True)
class DedicatedBucketArgs:
    """`is_writable`: Archive may write. `is_readable`: not sealed. The runner may always do both.

    `labels` say whose it is: tenant, customer, mode, key, unit.
    """

    id: str
    bucket: str
    key_arn: pulumi.Input[str]
    runner_role: str
    is_writable: bool
    is_readable: bool
    labels: Mapping[str, str]
    retention: Retention


class DedicatedBucket(pulumi.ComponentResource):
    """A tenant's own bucket, under the customer's key and no other."""

    bucket: pulumi.Output[str]
    arn: pulumi.Output[str]

    def __init__(self, name: str, args: DedicatedBucketArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:DedicatedBucket", name, None, opts)
        policy = pulumi.Output.from_input(args.key_arn).apply(
            lambda key_arn: json.dumps(
                bucket_policy(
                    bucket=args.bucket,
                    key_arn=key_arn,
                    runner_role=args.runner_role,
                    writable=args.is_writable,
                    readable=args.is_readable,
                ),
                sort_keys=True,
            )
        )
        bucket = _bucket(
            self,
            args.id,
            bucket=args.bucket,
            key_arn=args.key_arn,
            policy=policy,
            retention=args.retention,
            # A bucket key would outlive the revocation of the customer's key for an unstated time.
            bucket_key_enabled=False,
            tags=naming.tags(args.labels),
        )
        self.bucket = bucket.bucket
        self.arn = bucket.arn
        self.register_outputs({"bucket": self.bucket, "arn": self.arn})


def _bucket(  # noqa: PLR0913 - each is one fact about the bucket, all of them by name
    parent: pulumi.Resource,
    unit: str,
    *,
    bucket: str,
    key_arn: pulumi.Input[str],
    policy: pulumi.Input[str],
    retention: Retention,
    bucket_key_enabled: bool = True,
    tags: Mapping[str, str] | None = None,
) -> aws.s3.Bucket:
    """A bucket and its settings, one after the other: S3 answers OperationAborted to two at once."""
    made = aws.s3.Bucket(
        f"{unit}-bucket", bucket=bucket, force_destroy=False, tags=tags, opts=retention.options(parent)
    )

    def after(*previous: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=parent, depends_on=previous, deleted_with=made, protect=retention.protect)

    ownership = aws.s3.BucketOwnershipControls(
        f"{unit}-bucket-ownership",
        bucket=made.id,
        rule=aws.s3.BucketOwnershipControlsRuleArgs(object_ownership="BucketOwnerEnforced"),
        opts=after(made),
    )
    private = aws.s3.BucketPublicAccessBlock(
        f"{unit}-bucket-private",
        bucket=made.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
        opts=after(ownership),
    )
    policed = aws.s3.BucketPolicy(f"{unit}-bucket-policy", bucket=made.id, policy=policy, opts=after(private))
    versioned = aws.s3.BucketVersioning(
        f"{unit}-bucket-versioning",
        bucket=made.id,
        versioning_configuration=aws.s3.BucketVersioningVersioningConfigurationArgs(status="Enabled"),
        opts=after(policed),
    )
    encrypted = aws.s3.BucketServerSideEncryptionConfiguration(
        f"{unit}-bucket-encryption",
        bucket=made.id,
        rules=[_encryption(key_arn, bucket_key_enabled=bucket_key_enabled)],
        opts=after(versioned),
    )
    tidied = aws.s3.BucketLifecycleConfiguration(
        f"{unit}-bucket-lifecycle", bucket=made.id, rules=_lifecycle(), opts=after(encrypted)
    )
    # EventBridge for every bucket: a bucket's own notifications refuse two queues for the same
    # event, and in a rotation two pipelines listen to one bucket.
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html
    aws.s3.BucketNotification(f"{unit}-bucket-events", bucket=made.id, eventbridge=True, opts=after(tidied))
    return made


def _encryption(
    key_arn: pulumi.Input[str], *, bucket_key_enabled: bool
) -> aws.s3.BucketServerSideEncryptionConfigurationRuleArgs:
    return aws.s3.BucketServerSideEncryptionConfigurationRuleArgs(
        apply_server_side_encryption_by_default=aws.s3.BucketServerSideEncryptionConfigurationRuleApplyServerSideEncryptionByDefaultArgs(
            sse_algorithm="aws:kms", kms_master_key_id=key_arn
        ),
        bucket_key_enabled=bucket_key_enabled,
        blocked_encryption_types=["SSE-C"],
    )


def _lifecycle() -> Sequence[aws.s3.BucketLifecycleConfigurationRuleArgs]:
    """Nothing here expires data: only the customer and a signed manifest do."""
    return [
        aws.s3.BucketLifecycleConfigurationRuleArgs(
            id="abort-incomplete-uploads",
            status="Enabled",
            filter=aws.s3.BucketLifecycleConfigurationRuleFilterArgs(prefix=""),
            abort_incomplete_multipart_upload=aws.s3.BucketLifecycleConfigurationRuleAbortIncompleteMultipartUploadArgs(
                days_after_initiation=ABORT_UPLOADS_AFTER_DAYS
            ),
        )
    ]


def _deny(sid: str, actions: str | list[str], resources: list[str], condition: dict[str, Any]) -> dict[str, Any]:
    statement = {"Sid": f"Deny{sid}", "Effect": "Deny", "Principal": "*", "Action": actions, "Resource": resources}
    return {**statement, "Condition": condition} if condition else statement


def _deny_header(sid: str, objects: str, header: str, unless: dict[str, str]) -> dict[str, Any]:
    """Refuses a PUT that sends the header, `unless` it has the right value; one without it takes the default.

    `StringNotEquals` alone also matches an absent header, hence the `Null`.
    """
    condition = {"Null": {header: "false"}, **{operator: {header: value} for operator, value in unless.items()}}
    return _deny(sid, "s3:PutObject", [objects], condition)
