# ruff: noqa: SLF001 - ministack offers no public functions; its version is pinned.
"""Places where ministack's IAM and S3 events differ from AWS, mended from outside.

ministack is pinned (requirements/sandbox.txt); each correction replaces one function by a wrapper.
"""

from __future__ import annotations

import contextvars
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ministack.core import iam_actions
from ministack.core import iam_evaluator as evaluator
from ministack.core import lambda_runtime as environments
from ministack.core.responses import get_account_id
from ministack.services import eventbridge, iam, lambda_svc, s3, sqs

from sandbox.aws.identity import principal_arn

_event_name: contextvars.ContextVar[str | None] = contextvars.ContextVar("event_name", default=None)
_event_version: contextvars.ContextVar[str | None] = contextvars.ContextVar("event_version", default=None)

_resolve_condition_key = evaluator._resolve_condition_key
_fire = s3._fire_s3_event
_default_headers = s3._bucket_default_sse_headers
_dispatch_event = eventbridge._dispatch_event
_invoke_target = eventbridge._invoke_target
_validate_role_arn = evaluator.validate_role_arn
_action_from_target = iam_actions._action_from_target
_update_code = lambda_svc._update_code
_update_config = lambda_svc._update_config
_release_worker = lambda_svc.release_worker
_send_to_queue = eventbridge._dispatch_to_sqs
_log = logging.getLogger("sandbox.aws")
_retired: set[Any] = set()
"""Execution environments of a function that was updated while they were at work."""
KNOWN_DEFAULTS = 64
_known_defaults: dict[Any, dict[str, str]] = {}
_announcers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="s3-events")


def apply() -> None:
    """Install the corrections. Done once, before the first request."""
    evaluator._resolve_condition_key = _condition_key
    s3._fire_s3_event_async = _fire_named
    s3._bucket_default_sse_headers = _known_default_headers
    s3._fire_s3_event = _fire_with_version
    eventbridge._dispatch_event = _dispatch_with_version
    eventbridge._invoke_target = _invoke_if_allowed
    evaluator.validate_role_arn = _validate_function_role
    iam_actions._action_from_target = _action_of_a_batch
    lambda_svc._update_code = _spare_busy(_update_code)
    lambda_svc._update_config = _spare_busy(_update_config)
    lambda_svc.release_worker = _release
    eventbridge._dispatch_to_sqs = _send_alone
    # S3 User Guide, "EventBridge event types and detail": a change of tags is an event of its own.
    s3._S3_EVENTBRIDGE_EVENT_DETAIL_TYPE |= {
        "ObjectTagging:Put": "Object Tags Added",
        "ObjectTagging:Delete": "Object Tags Deleted",
    }


@contextmanager
def events_named(name: str) -> Iterator[None]:
    """Writes within are announced as `name`: the gate copies by reading and putting."""
    token = _event_name.set(name)
    try:
        yield
    finally:
        _event_name.reset(token)


def _condition_key(key: str, context: evaluator.EvalContext) -> Any:
    name = key.lower()
    if name == "aws:principalarn":
        # IAM User Guide, global condition keys: for a role session this is the role's ARN, not the session's.
        return principal_arn(context.principal_arn)
    if name in ("aws:resourceaccount", "s3:resourceaccount") and name in context.service_context:
        # An S3 ARN names no account; ministack then takes the caller's.
        return context.service_context[name]
    return _resolve_condition_key(key, context)


def _fire_named(bucket: str, key: str, event_name: str, **details: Any) -> None:
    """Beside the answer, as ministack does it, but without a new thread for each event: they took a twentieth of a PUT."""
    if bucket not in s3._bucket_notifications:
        return
    name = _event_name.get() or event_name
    details["sequencer"] = s3._next_event_sequencer(name)
    done = _announcers.submit(contextvars.copy_context().run, s3._fire_s3_event, bucket, key, name, **details)
    done.add_done_callback(_log_failure)


def _log_failure(done: Future[None]) -> None:
    if (error := done.exception()) is not None:
        _log.error("an S3 event was not announced", exc_info=error)


def _known_default_headers(bucket: str) -> dict[str, str]:
    """ministack reads the bucket's XML twice at every write; its text decides, so it is read once for each text."""
    raw = s3._bucket_encryption.get(bucket)
    if raw not in _known_defaults:
        if len(_known_defaults) >= KNOWN_DEFAULTS:
            _known_defaults.clear()
        _known_defaults[raw] = _default_headers(bucket)
    return dict(_known_defaults[raw])


def _fire_with_version(*args: Any, version_id: str | None = None, **details: Any) -> None:
    _event_version.set(version_id)
    _fire(*args, version_id=version_id, **details)


def _dispatch_with_version(event: dict[str, Any]) -> Any:
    version = _event_version.get()
    if version and event.get("Source") == "aws.s3":
        detail = json.loads(event["Detail"])
        detail["object"]["version-id"] = version
        event = {**event, "Detail": json.dumps(detail)}
    return _dispatch_event(event)


def _invoke_if_allowed(target: dict[str, Any], event: dict[str, Any], rule: dict[str, Any], view: Any = None) -> None:
    """EventBridge User Guide, "Using resource-based policies": a queue must let the rule send to it."""
    arn = target.get("Arn", "")
    is_queue = arn.startswith("arn:aws:sqs:")
    if is_queue and not sqs.queue_policy_allows(arn, "events.amazonaws.com", rule["Arn"], get_account_id()):
        _log.warning("the policy of %s does not let %s send to it; the event is lost, as in AWS", arn, rule["Arn"])
        return
    _invoke_target(target, event, rule, view)


def _action_of_a_batch(headers: dict[str, str]) -> str | None:
    """SQS Developer Guide, "Amazon SQS API permissions": a batch needs the right to do the same with one message."""
    action = _action_from_target(headers)
    is_batch = action is not None and headers["x-amz-target"].startswith("AmazonSQS.")
    return action.removesuffix("Batch") if action and is_batch else action


def _validate_function_role(role_arn: str) -> str | None:
    """Lambda Developer Guide, "Defining Lambda function permissions": the role must trust Lambda."""
    problem = _validate_role_arn(role_arn)
    if problem is not None:
        return problem
    role = iam._roles[role_arn.rpartition("/")[2]]
    trust = role["AssumeRolePolicyDocument"]
    document = json.loads(trust) if isinstance(trust, str) else trust
    statements = document["Statement"] if isinstance(document["Statement"], list) else [document["Statement"]]
    is_trusted = any(
        statement["Effect"] == "Allow"
        and evaluator._service_principal_matches(statement.get("Principal"), "lambda.amazonaws.com")
        for statement in statements
    )
    return None if is_trusted else "The role defined for the function cannot be assumed by Lambda."


def _spare_busy(update: Callable[[str, dict[str, Any]], Any]) -> Callable[[str, dict[str, Any]], Any]:
    """Lambda Developer Guide, "Updating function code": invocations in flight end with the code that they began with.

    ministack kills every environment of an updated function. The batch in one of them was then neither done
    nor failed by the function, and its messages stayed in flight until their visibility timeout.
    """

    def updated(name: str, data: dict[str, Any]) -> Any:
        with environments._lock:
            for key, pool in environments._workers.items():
                if key.split(":")[-2] == name:
                    _retired.update(worker for worker in pool if worker.in_use)
                    pool[:] = [worker for worker in pool if not worker.in_use]
        return update(name, data)

    return updated


def _release(worker: Any) -> None:
    _release_worker(worker)
    if worker in _retired:
        _retired.discard(worker)
        environments.kill_workers([worker])


def _send_alone(*args: Any, **named: Any) -> None:
    """The poller puts a new list of messages in the place of the old: one that is added meanwhile would be lost."""
    with sqs._queues_lock:
        _send_to_queue(*args, **named)
