"""How tag changes are heard while a storage is copied: a rule and a queue of their own.

A tag change moves no ETag and makes no version, so that no listing shows it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from components import naming
from components.aws.events import event_pattern, queue_policy

TAG_CHANGES = ("Object Tags Added", "Object Tags Deleted")
"""https://docs.aws.amazon.com/eventbridge/latest/ref/events-ref-s3.html: delivered durably, at least once, in any order."""
RETENTION_SECONDS = 14 * 24 * 3600
"""SQS's longest. A copy that stands still for longer reads every tag again."""
VISIBILITY_SECONDS = 30


@dataclass(frozen=True, kw_only=True)
class TagWatchArgs:
    """`prefix` is the tenant's part of a shared bucket, or "" for a dedicated one."""

    storage: str
    tenant: str
    account: str
    region: str
    bucket: pulumi.Input[str]
    prefix: str


class TagWatch(pulumi.ComponentResource):
    """Lives for the length of a copy. What waits in its queue is no data: nothing protects it."""

    queue_url: pulumi.Output[str]

    def __init__(self, name: str, args: TagWatchArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:TagWatch", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        called = naming.tag_watch(args.tenant, args.storage)
        queue = aws.sqs.Queue(
            f"{name}-queue",
            name=called,
            sqs_managed_sse_enabled=True,
            message_retention_seconds=RETENTION_SECONDS,
            visibility_timeout_seconds=VISIBILITY_SECONDS,
            opts=child,
        )
        policed = aws.sqs.QueuePolicy(
            f"{name}-queue-policy",
            queue_url=queue.id,
            policy=json.dumps(queue_policy(called, region=args.region, account=args.account), sort_keys=True),
            opts=child,
        )
        rule = aws.cloudwatch.EventRule(
            f"{name}-rule",
            name=called,
            description=f"Keyshift tenant {args.tenant}: tag changes in {args.storage} while it is copied",
            event_pattern=pulumi.Output.from_input(args.bucket).apply(
                lambda bucket: json.dumps(
                    event_pattern(TAG_CHANGES, account=args.account, bucket=bucket, prefix=args.prefix), sort_keys=True
                )
            ),
            opts=child,
        )
        aws.cloudwatch.EventTarget(
            f"{name}-target",
            rule=rule.name,
            arn=queue.arn,
            # An event that finds no way into the queue is lost, and nobody would hear of it.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policed]),
        )
        self.queue_url = queue.url
        self.register_outputs({"queue_url": self.queue_url})
