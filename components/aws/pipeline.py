"""How a change in a bucket reaches a search, and an edit in the search the bucket: rules, queues, worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_aws as aws

from components import naming
from components.aws.events import event_pattern, queue_policy
from components.index import EDITS, INDEX, KEPT
from components.retention import Retention

WORKER = Path(__file__).parent.parent / "worker"
WORKER_SECONDS = 60
WORKER_MEMORY_MB = 256
BATCH_SIZE = 10
ATTEMPTS = 5
# AWS advises six times the function's time against a throttled batch being seen twice, and asks for at
# least once. Twice is harmless here (documents carry versions), while a freeze waits, with jobs closed, for
# a message whose worker was lost. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
VISIBILITY_SECONDS = WORKER_SECONDS + 30
RETENTION_SECONDS = 14 * 24 * 3600
"""SQS's longest: what waits longer is lost, so a pipeline that was paused always reconciles."""

TICK = {"source": "keyshift.pipeline", "detail-type": "Tick"}
"""As the worker knows it; its module is not imported here, because it needs boto3. A test holds them together."""
OBJECT_CHANGES = ("Object Created", "Object Deleted")
TICKS = "rate(1 minute)"
"""EventBridge's shortest. How late an edit is taken up at most, beside the queue."""
RUNNING, DETACHED = "running", "detached"


@dataclass(frozen=True, kw_only=True)
class PipelineArgs:
    """`prefix` is the tenant's part of a shared bucket, or "" for a dedicated one.

    `takes_edits`: it runs, its search serves and jobs are open, so what is edited there goes to the bucket.
    `works_after`: what must stand before the worker takes its first message, such as its rights.
    """

    id: str
    tenant: str
    account: str
    region: str
    bucket: pulumi.Input[str]
    prefix: str
    search: str
    search_secret: str
    role_arn: pulumi.Input[str]
    state: str
    takes_edits: bool
    retention: Retention
    works_after: Sequence[pulumi.Resource] = ()


class Pipeline(pulumi.ComponentResource):
    """`running` works, `paused` keeps events, `detached` is made but no event reaches it."""

    queue_url: pulumi.Output[str]
    queue_arn: pulumi.Output[str]
    dlq_url: pulumi.Output[str]
    function_name: pulumi.Output[str]
    mapping_id: pulumi.Output[str]

    def __init__(self, name: str, args: PipelineArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:Pipeline", name, None, opts)
        queue, dead_letters = self._queues(args)
        if args.state != DETACHED:
            self._subscription(args, queue)
        self._schedule(args, queue)
        function = self._function(args, queue)
        mapping = aws.lambda_.EventSourceMapping(
            f"{args.id}-mapping",
            event_source_arn=queue.arn,
            function_name=function.name,
            batch_size=BATCH_SIZE,
            function_response_types=["ReportBatchItemFailures"],
            enabled=args.state == RUNNING,
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(args.works_after)),
        )
        self.queue_url, self.queue_arn, self.dlq_url = queue.url, queue.arn, dead_letters.url
        self.function_name, self.mapping_id = function.name, mapping.uuid
        self.register_outputs(
            {
                "queue_url": self.queue_url,
                "queue_arn": self.queue_arn,
                "dlq_url": self.dlq_url,
                "function_name": self.function_name,
                "mapping_id": self.mapping_id,
            }
        )

    def _queues(self, args: PipelineArgs) -> tuple[aws.sqs.Queue, aws.sqs.Queue]:
        # An event that waits is in no other place, nor is a letter that nobody has looked at.
        kept = args.retention.options(self)
        dead_letters = aws.sqs.Queue(
            f"{args.id}-dead-letters",
            name=naming.dead_letter_queue(args.tenant, args.id),
            sqs_managed_sse_enabled=True,
            message_retention_seconds=RETENTION_SECONDS,
            opts=kept,
        )
        queue = aws.sqs.Queue(
            f"{args.id}-queue",
            name=naming.pipeline(args.tenant, args.id),
            # Not the customer's key: the messages hold object names, and EventBridge would need a right to it.
            sqs_managed_sse_enabled=True,
            message_retention_seconds=RETENTION_SECONDS,
            visibility_timeout_seconds=VISIBILITY_SECONDS,
            redrive_policy=dead_letters.arn.apply(
                lambda arn: json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": ATTEMPTS}, sort_keys=True)
            ),
            opts=kept,
        )
        policy = queue_policy(
            naming.pipeline(args.tenant, args.id),
            region=args.region,
            account=args.account,
            rules=[naming.pipeline_ticks(args.tenant, args.id)],
        )
        aws.sqs.QueuePolicy(
            f"{args.id}-queue-policy",
            queue_url=queue.id,
            policy=json.dumps(policy, sort_keys=True),
            opts=pulumi.ResourceOptions(parent=self),
        )
        return queue, dead_letters

    def _subscription(self, args: PipelineArgs, queue: aws.sqs.Queue) -> None:
        child = pulumi.ResourceOptions(parent=self)
        rule = aws.cloudwatch.EventRule(
            f"{args.id}-rule",
            name=naming.pipeline(args.tenant, args.id),
            description=f"Keyshift tenant {args.tenant}: changes for {args.id}",
            event_pattern=pulumi.Output.from_input(args.bucket).apply(
                lambda bucket: json.dumps(
                    event_pattern(OBJECT_CHANGES, account=args.account, bucket=bucket, prefix=args.prefix),
                    sort_keys=True,
                )
            ),
            opts=child,
        )
        aws.cloudwatch.EventTarget(f"{args.id}-target", rule=rule.name, arn=queue.arn, opts=child)

    def _schedule(self, args: PipelineArgs, queue: aws.sqs.Queue) -> None:
        """Through the queue, so that the worker needs no other trigger and each tick measures how long the queue is."""
        child = pulumi.ResourceOptions(parent=self)
        rule = aws.cloudwatch.EventRule(
            f"{args.id}-ticks",
            name=naming.pipeline_ticks(args.tenant, args.id),
            description=f"Keyshift tenant {args.tenant}: {args.id} looks for edits",
            schedule_expression=TICKS,
            state="ENABLED" if args.takes_edits else "DISABLED",
            opts=child,
        )
        aws.cloudwatch.EventTarget(
            f"{args.id}-ticks-target",
            rule=rule.name,
            arn=queue.arn,
            input=json.dumps(TICK, sort_keys=True),
            opts=child,
        )

    def _function(self, args: PipelineArgs, queue: aws.sqs.Queue) -> aws.lambda_.Function:
        return aws.lambda_.Function(
            f"{args.id}-worker",
            name=naming.pipeline(args.tenant, args.id),
            role=args.role_arn,
            code=worker_code(),
            handler="worker.handler.handle",
            runtime="python3.12",
            timeout=WORKER_SECONDS,
            memory_size=WORKER_MEMORY_MB,
            environment=aws.lambda_.FunctionEnvironmentArgs(
                variables={
                    "BUCKET": args.bucket,
                    "PREFIX": args.prefix,
                    "INDEX": INDEX,
                    "EDITS": EDITS,
                    "KEPT": KEPT,
                    "SEARCH": args.search,
                    "SEARCH_SECRET": args.search_secret,
                    "QUEUE_URL": queue.url,
                }
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )


def worker_code() -> pulumi.AssetArchive:
    """The worker as a package: the files by name, so that a stray compiled file changes nothing."""
    return pulumi.AssetArchive(
        {f"worker/{path.name}": pulumi.FileAsset(str(path)) for path in sorted(WORKER.glob("*.py"))}
    )
