"""The pipeline on AWS: queues that lose nothing and leak nothing, a worker no wider than its tenant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policies import kinds
from policies.facts import Facts
from policies.resource import UNKNOWN, Program, Resource, document
from policies.rule import Found, FoundInProgram, OnUnknown, Rule, Severity, Undecided, Violation
from policies.statements import allowed, statements

SQS = "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide"
LAMBDA = "https://docs.aws.amazon.com/lambda/latest/dg"
DAY = 24 * 3600
SQS_MOST_DAYS = 14


def _encrypted(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("sqsManagedSseEnabled") is not True and not isinstance(one.get("kmsMasterKeyId"), str):
        yield "the messages, which hold names of objects, would not be encrypted"


def _kept(one: Resource, settings: Mapping[str, Any]) -> Found:
    days = settings["retention_days"]
    seconds = one.get("messageRetentionSeconds", default=4 * DAY)
    if seconds is UNKNOWN or seconds < days * DAY:
        yield f"an event would be kept for less than {days:.0f} days"


def _dead_letters(program: Program, _facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for mapping in program.of(kinds.MAPPING):
        queue = next((q for q in program.of(kinds.QUEUE) if _reads(mapping, q)), None)
        if queue is None:
            yield Violation("the worker reads a queue that is not in the stack", mapping.urn)
        elif not _has_dead_letters(program, queue):
            yield Violation("a message that the worker cannot handle would be tried again until it is lost", queue.urn)


def _reads(mapping: Resource, queue: Resource) -> bool:
    source = mapping.get("eventSourceArn")
    if source is UNKNOWN:
        return mapping.comes_from("eventSourceArn") == {queue.name}
    return source == queue.outputs.get("arn")


def _has_dead_letters(program: Program, queue: Resource) -> bool:
    policy = queue.get("redrivePolicy")
    others = [other for other in program.of(kinds.QUEUE) if other.name != queue.name]
    if policy is UNKNOWN:
        return queue.comes_from("redrivePolicy") <= {q.name for q in others} and bool(queue.comes_from("redrivePolicy"))
    held = document(policy)
    target = held.get("deadLetterTargetArn") if isinstance(held, Mapping) else None
    return target is not None and target in {other.outputs.get("arn") for other in others}


def _one_sender(one: Resource, _: Mapping[str, Any]) -> Found:
    if not isinstance(statements(one.get("policy")), list):
        yield Undecided("its policy")
    for statement in allowed(one.get("policy")):
        if (
            set(statement.principals) != {"events.amazonaws.com"}
            or statement.actions != ("sqs:SendMessage",)
            or not _of_one_pipeline(statement.values("aws:SourceArn"))
        ):
            yield f"{statement.sid or 'a statement'} lets more into the queue than one pipeline's events and ticks"


def _of_one_pipeline(rules: Sequence[str]) -> bool:
    """The rule that hears of changes, and the one that ticks, which is named after it."""
    own = min(rules, key=len, default="*")
    return "*" not in own and set(rules) <= {own, f"{own}-ticks"}


def _own_worker(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.tenant is None:
        yield "a stamp has no worker"
        return
    name = re.escape(one.tenant)
    wanted = {
        "BUCKET": rf"keyshift-{name}-s\d+-[0-9a-f]{{8}}|keyshift-stamp-[a-z0-9-]+",
        "SEARCH_SECRET": rf"keyshift/{name}/e\d+/pipeline",
    }
    values = one.get("environment.variables", default={})
    if values is UNKNOWN:
        yield "the worker's environment is not known"
        return
    for variable, pattern in wanted.items():
        value = values.get(variable)
        if value is UNKNOWN or value is None or not re.fullmatch(pattern, str(value)):
            yield f"its {variable} is not one of tenant {one.tenant}'s: {value}"
    prefix = values.get("PREFIX", "")
    if str(values.get("BUCKET", "")).startswith("keyshift-stamp-") and prefix != f"t/{one.tenant}/":
        yield "it would read a shared bucket beyond the tenant's prefix"


def _own_events(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("eventPattern") is None and one.get("scheduleExpression") is not None:
        return  # a clock hears of nobody's objects
    pattern = document(one.get("eventPattern"))
    if pattern is UNKNOWN:
        yield Undecided("the rule's pattern")
        return
    detail = (pattern or {}).get("detail", {})
    buckets = detail.get("bucket", {}).get("name", [])
    prefixes = [key.get("prefix") for key in detail.get("object", {}).get("key", [])]
    is_shared = any(str(bucket).startswith("keyshift-stamp-") for bucket in buckets)
    if len(buckets) != 1:
        yield "the rule listens to more than one bucket"
    elif is_shared and prefixes != [f"t/{one.tenant}/"]:
        yield "the rule hears of other tenants' objects in the shared bucket"


def _rules() -> Iterator[Rule]:
    yield Rule(
        id="pipeline-queue-encrypted",
        topic="pipeline",
        sentence="A queue encrypts its messages.",
        remediation="Set sqs_managed_sse_enabled=True.",
        severity=Severity.HIGH,
        url=f"{SQS}/sqs-server-side-encryption.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.1",),
        types=frozenset({kinds.QUEUE}),
        check=_encrypted,
    )
    yield Rule(
        id="pipeline-queue-keeps",
        topic="pipeline",
        sentence="A queue keeps its messages for as long as the site asks: a pipeline may be paused for days.",
        remediation="Raise message_retention_seconds; SQS allows 14 days.",
        severity=Severity.MEDIUM,
        url=f"{SQS}/sqs-configure-queue-parameters.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 A1.2",),
        types=frozenset({kinds.QUEUE}),
        check=_kept,
        settings={
            "retention_days": {
                "type": "integer",
                "minimum": 4,
                "maximum": SQS_MOST_DAYS,
                "default": SQS_MOST_DAYS,
                "description": "For how many days a queue keeps a message",
            }
        },
    )
    yield Rule(
        id="pipeline-dead-letters",
        topic="pipeline",
        sentence="A queue that a worker reads has a dead-letter queue in the same stack.",
        remediation="Give the queue a redrive_policy with the ARN of the pipeline's dead-letter queue.",
        severity=Severity.HIGH,
        url=f"{SQS}/sqs-dead-letter-queues.html",
        unknown=OnUnknown.ORIGIN,
        controls=("SOC 2 PI1.3",),
        check_program=_dead_letters,
    )
    yield Rule(
        id="pipeline-one-sender",
        topic="pipeline",
        sentence="Only the events and ticks of one pipeline enter a queue.",
        remediation="Allow sqs:SendMessage to events.amazonaws.com with aws:SourceArn of the pipeline's rules.",
        severity=Severity.HIGH,
        url="https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-resource-based.html#eb-sqs-permissions",
        unknown=OnUnknown.UPDATE,
        controls=("SOC 2 CC6.6",),
        types=frozenset({kinds.QUEUE_POLICY}),
        check=_one_sender,
    )
    yield Rule(
        id="pipeline-own-worker",
        topic="pipeline",
        sentence="A worker reads its own tenant's bucket or prefix and writes its own tenant's search.",
        remediation="Take BUCKET, PREFIX and SEARCH_SECRET from the layout of the worker's tenant.",
        severity=Severity.CRITICAL,
        url=f"{LAMBDA}/lambda-permissions.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.1",),
        types=frozenset({kinds.FUNCTION}),
        check=_own_worker,
    )
    yield Rule(
        id="pipeline-own-events",
        topic="pipeline",
        sentence="A rule listens to one bucket, and in a shared one to its tenant's prefix.",
        remediation="Name one bucket in the pattern, and in a shared one the object key's prefix.",
        severity=Severity.CRITICAL,
        url="https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns.html",
        unknown=OnUnknown.UPDATE,
        controls=("SOC 2 CC6.1",),
        types=frozenset({kinds.EVENT_RULE}),
        check=_own_events,
    )


RULES = tuple(_rules())
