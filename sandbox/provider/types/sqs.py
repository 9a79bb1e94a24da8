"""aws.sqs: Queue, QueuePolicy."""

from __future__ import annotations

import re
from typing import Any

from sandbox.provider.errors import GoneError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource
from sandbox.provider.types.aws import error_code, found_tags, gone_on, is_ours, surplus_tags, wanted_tags

_GONE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
_EXISTS = frozenset({"QueueAlreadyExists", "QueueNameExists"})
_DATA_KEY_SECONDS = 300

_ATTRIBUTES = {
    "contentBasedDeduplication": "ContentBasedDeduplication",
    "deduplicationScope": "DeduplicationScope",
    "delaySeconds": "DelaySeconds",
    "fifoQueue": "FifoQueue",
    "fifoThroughputLimit": "FifoThroughputLimit",
    "kmsDataKeyReusePeriodSeconds": "KmsDataKeyReusePeriodSeconds",
    "kmsMasterKeyId": "KmsMasterKeyId",
    "maxMessageSize": "MaximumMessageSize",
    "messageRetentionSeconds": "MessageRetentionPeriod",
    "policy": "Policy",
    "receiveWaitTimeSeconds": "ReceiveMessageWaitTimeSeconds",
    "redriveAllowPolicy": "RedriveAllowPolicy",
    "redrivePolicy": "RedrivePolicy",
    "sqsManagedSseEnabled": "SqsManagedSseEnabled",
    "visibilityTimeoutSeconds": "VisibilityTimeout",
}
_FIFO_ONLY = frozenset({"contentBasedDeduplication", "deduplicationScope", "fifoQueue", "fifoThroughputLimit"})
_BOOLEANS = frozenset({"contentBasedDeduplication", "fifoQueue", "sqsManagedSseEnabled"})
_NUMBERS = frozenset(name for name in _ATTRIBUTES if name.endswith("Seconds") or name == "maxMessageSize")
_DEFAULTS = {
    "contentBasedDeduplication": False,
    "delaySeconds": 0,
    "fifoQueue": False,
    "maxMessageSize": 262144,
    "messageRetentionSeconds": 345600,
    "receiveWaitTimeSeconds": 0,
    "visibilityTimeoutSeconds": 30,
}


def _attributes(inputs: Properties) -> dict[str, str]:
    attributes = {}
    for name, attribute in _ATTRIBUTES.items():
        value = inputs.get(name)
        if value is None or (name in _FIFO_ONLY and not inputs.get("fifoQueue")):
            continue
        attributes[attribute] = str(value).lower() if isinstance(value, bool) else str(value)
    return attributes


def _create_queue(resource: Resource) -> str:
    sqs, name = resource.client("sqs"), resource.inputs["name"]
    try:
        made = sqs.create_queue(QueueName=name, Attributes=_attributes(resource.inputs), tags=wanted_tags(resource))
    except Exception as error:
        if error_code(error) not in _EXISTS:
            raise
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        if not is_ours(resource, sqs.list_queue_tags(QueueUrl=url).get("Tags", {})):
            raise
        sqs.set_queue_attributes(QueueUrl=url, Attributes=_attributes(resource.inputs))
        return url
    return made["QueueUrl"]


def _found(resource: Resource) -> dict[str, str]:
    with gone_on(*_GONE):
        return resource.client("sqs").get_queue_attributes(QueueUrl=resource.id, AttributeNames=["All"])["Attributes"]


def _read_queue(resource: Resource) -> Properties:
    attributes = _found(resource)
    found: Properties = {name: _value(name, attributes.get(attribute)) for name, attribute in _ATTRIBUTES.items()}
    arn = attributes["QueueArn"]
    return {
        **_DEFAULTS,
        **{name: value for name, value in found.items() if value is not None or name not in _DEFAULTS},
        # only an encrypted queue says it; the real provider states AWS's default for the others
        "kmsDataKeyReusePeriodSeconds": found["kmsDataKeyReusePeriodSeconds"] or _DATA_KEY_SECONDS,
        "arn": arn,
        "name": arn.rsplit(":", 1)[1],
        "region": arn.split(":")[3],
        "url": resource.id,
        **found_tags(resource, resource.client("sqs").list_queue_tags(QueueUrl=resource.id).get("Tags", {})),
    }


def _value(name: str, text: str | None) -> Any:
    if text is None or text == "":
        return None
    if name in _BOOLEANS:
        return text == "true"
    return int(text) if name in _NUMBERS else text


def _update_queue(resource: Resource) -> None:
    sqs = resource.client("sqs")
    # SQS keeps what an update leaves out: a key that the program dropped is sent empty
    has_dropped_key = resource.state.get("kmsMasterKeyId") and not resource.inputs.get("kmsMasterKeyId")
    dropped = {"KmsMasterKeyId": ""} if has_dropped_key else {}
    changeable = {name: value for name, value in resource.inputs.items() if name != "fifoQueue"}
    sqs.set_queue_attributes(QueueUrl=resource.id, Attributes=_attributes(changeable) | dropped)
    present = sqs.list_queue_tags(QueueUrl=resource.id).get("Tags", {})
    sqs.tag_queue(QueueUrl=resource.id, Tags=wanted_tags(resource))
    if surplus := surplus_tags(resource, present):
        sqs.untag_queue(QueueUrl=resource.id, TagKeys=surplus)


def _delete_queue(resource: Resource) -> None:
    with gone_on(*_GONE):
        resource.client("sqs").delete_queue(QueueUrl=resource.id)


def _validate_queue(inputs: Properties) -> Problems:
    name, is_fifo = inputs.get("name"), bool(inputs.get("fifoQueue"))
    pattern = r"[0-9A-Za-z_-]{1,75}\.fifo" if is_fifo else r"[0-9A-Za-z_-]{1,80}"
    if isinstance(name, str) and not re.fullmatch(pattern, name):
        yield "name", f"invalid queue name: {name}"
    if inputs.get("kmsMasterKeyId") and inputs.get("sqsManagedSseEnabled"):
        yield "sqsManagedSseEnabled", "conflicts with kmsMasterKeyId"
    if inputs.get("contentBasedDeduplication") and not is_fifo:
        yield "contentBasedDeduplication", "content-based deduplication can only be set for FIFO queue"
    for property_, low, high in (
        ("delaySeconds", 0, 900),
        ("kmsDataKeyReusePeriodSeconds", 60, 86_400),
        ("maxMessageSize", 1024, 1_048_576),
        ("messageRetentionSeconds", 60, 1_209_600),
        ("visibilityTimeoutSeconds", 0, 43_200),
    ):
        value = inputs.get(property_)
        if isinstance(value, int) and not low <= value <= high:
            yield property_, f"{property_} must be {low} to {high}, got {value}"


def _put_policy(resource: Resource) -> None:
    resource.client("sqs").set_queue_attributes(
        QueueUrl=resource.inputs["queueUrl"], Attributes={"Policy": resource.inputs["policy"]}
    )


def _create_policy(resource: Resource) -> str:
    _put_policy(resource)
    return resource.inputs["queueUrl"]


def _read_policy(resource: Resource) -> Properties:
    attributes = _found(resource)
    if not attributes.get("Policy"):
        raise GoneError(f"queue {resource.id} has no policy")
    return {
        "policy": attributes["Policy"],
        "queueUrl": resource.id,
        "region": attributes["QueueArn"].split(":")[3],
    }


def _delete_policy(resource: Resource) -> None:
    with gone_on(*_GONE):
        resource.client("sqs").set_queue_attributes(QueueUrl=resource.id, Attributes={"Policy": ""})


KINDS = {
    "Queue": Kind(
        create=_create_queue,
        read=_read_queue,
        update=_update_queue,
        delete=_delete_queue,
        autoname=Autoname("name", max_length=80),
        defaults=_DEFAULTS,
        force_new=frozenset({"fifoQueue", "name", "region"}),
        policies=frozenset({"policy"}),
        documents=frozenset({"redriveAllowPolicy", "redrivePolicy"}),
        unsupported=frozenset({"namePrefix"}),
        absent=frozenset({"namePrefix", "deduplicationScope", "fifoThroughputLimit", "redriveAllowPolicy"}),
        validate=_validate_queue,
    ),
    "QueuePolicy": Kind(
        create=_create_policy,
        read=_read_policy,
        update=_put_policy,
        delete=_delete_policy,
        force_new=frozenset({"queueUrl", "region"}),
        policies=frozenset({"policy"}),
    ),
}
