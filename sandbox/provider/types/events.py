"""aws.cloudwatch: EventRule, EventTarget (EventBridge)."""

from __future__ import annotations

from typing import Any

from sandbox.provider.errors import GoneError, ProviderError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource
from sandbox.provider.types.aws import (
    found_tags,
    from_pairs,
    given,
    gone_on,
    pairs,
    surplus_tags,
    wanted_tags,
)

_GONE = "ResourceNotFoundException"
_DEFAULT_BUS = "default"


def _create_rule(resource: Resource) -> str:
    # PutRule creates or updates, in the real provider's create as well: an existing rule is taken over
    _put_rule(resource, Tags=pairs(wanted_tags(resource)))
    bus, name = resource.inputs["eventBusName"], resource.inputs["name"]
    return name if bus == _DEFAULT_BUS else f"{bus}/{name}"


def _put_rule(resource: Resource, **more: Any) -> None:
    names = {
        "description": "Description",
        "eventBusName": "EventBusName",
        "eventPattern": "EventPattern",
        "name": "Name",
        "roleArn": "RoleArn",
        "scheduleExpression": "ScheduleExpression",
        "state": "State",
    }
    resource.client("events").put_rule(**given(resource.inputs, names), **more)


def _rule_key(resource: Resource) -> dict[str, str]:
    bus, _, name = resource.id.rpartition("/")
    return {"Name": name, "EventBusName": bus or _DEFAULT_BUS}


def _read_rule(resource: Resource) -> Properties:
    events = resource.client("events")
    with gone_on(_GONE):
        found = events.describe_rule(**_rule_key(resource))
    tags = from_pairs(events.list_tags_for_resource(ResourceARN=found["Arn"]).get("Tags", []))
    return {
        "arn": found["Arn"],
        "description": found.get("Description") or None,
        "eventBusName": found.get("EventBusName") or _DEFAULT_BUS,
        "eventPattern": found.get("EventPattern") or None,
        "name": found["Name"],
        "region": found["Arn"].split(":")[3],
        "roleArn": found.get("RoleArn") or None,
        "scheduleExpression": found.get("ScheduleExpression") or None,
        "state": found["State"],
        **found_tags(resource, tags),
    }


def _update_rule(resource: Resource) -> None:
    events = resource.client("events")
    _put_rule(resource)
    arn = resource.state["arn"]
    present = from_pairs(events.list_tags_for_resource(ResourceARN=arn).get("Tags", []))
    events.tag_resource(ResourceARN=arn, Tags=pairs(wanted_tags(resource)))
    if surplus := surplus_tags(resource, present):
        events.untag_resource(ResourceARN=arn, TagKeys=surplus)


def _delete_rule(resource: Resource) -> None:
    key = _rule_key(resource)
    with gone_on(_GONE):
        # EventBridge deletes a rule that has targets for nobody, but not every emulator knows
        targets = resource.client("events").list_targets_by_rule(Rule=key["Name"], EventBusName=key["EventBusName"])[
            "Targets"
        ]
        if targets:
            raise ProviderError("ValidationException: Rule can't be deleted since it has targets.")
        resource.client("events").delete_rule(**key, Force=bool(resource.state.get("forceDestroy")))


def _validate_rule(inputs: Properties) -> Problems:
    if not inputs.get("eventPattern") and not inputs.get("scheduleExpression"):
        yield "eventPattern", "one of eventPattern, scheduleExpression must be given"


_TARGET_NAMES = {
    "arn": "Arn",
    "deadLetterConfig": "DeadLetterConfig",
    "input": "Input",
    "inputPath": "InputPath",
    "inputTransformer": "InputTransformer",
    "retryPolicy": "RetryPolicy",
    "roleArn": "RoleArn",
    "sqsTarget": "SqsParameters",
}
_TARGET_BLOCKS = {
    "deadLetterConfig": {"arn": "Arn"},
    "inputTransformer": {"inputPaths": "InputPathsMap", "inputTemplate": "InputTemplate"},
    "retryPolicy": {
        "maximumEventAgeInSeconds": "MaximumEventAgeInSeconds",
        "maximumRetryAttempts": "MaximumRetryAttempts",
    },
    "sqsTarget": {"messageGroupId": "MessageGroupId"},
}


def _target_key(inputs: Properties) -> dict[str, str]:
    # the real provider takes a rule's id too, which names the bus
    rule = inputs["rule"].rpartition("/")[2]
    return {"Rule": rule, "EventBusName": inputs.get("eventBusName") or _DEFAULT_BUS}


def _put_target(resource: Resource) -> None:
    inputs = resource.inputs
    target = {"Id": inputs["targetId"], **given(inputs, _TARGET_NAMES)}
    for name, fields in _TARGET_BLOCKS.items():
        if inputs.get(name):
            target[_TARGET_NAMES[name]] = given(inputs[name], fields)
    answer = resource.client("events").put_targets(**_target_key(inputs), Targets=[target])
    for entry in answer.get("FailedEntries", []):
        raise ProviderError(f"{entry.get('ErrorCode')}: {entry.get('ErrorMessage')}")


def _create_target(resource: Resource) -> str:
    _put_target(resource)
    key = _target_key(resource.inputs)
    bus = "" if key["EventBusName"] == _DEFAULT_BUS else f"{key['EventBusName']}-"
    return f"{bus}{key['Rule']}-{resource.inputs['targetId']}"


def _read_target(resource: Resource) -> Properties:
    known = resource.inputs | resource.state or _imported_target(resource.id)
    key = _target_key(known)
    events = resource.client("events")
    with gone_on(_GONE):
        targets = events.list_targets_by_rule(**key)["Targets"]
    for target in targets:
        if target["Id"] == known["targetId"]:
            return _found_target(resource, key, target)
    raise GoneError(f"rule {key['Rule']} has no target {known['targetId']}")


def _imported_target(id_: str) -> Properties:
    """What an import names: `<rule>/<target>`, with `<bus>/` before it where the bus is not the default."""
    parts = id_.split("/")
    if len(parts) < 2:
        raise ProviderError(f"a target is imported as <rule>/<target>, not '{id_}'")
    *bus, rule, target = parts
    return {"eventBusName": "/".join(bus) or _DEFAULT_BUS, "rule": rule, "targetId": target}


def _found_target(resource: Resource, key: dict[str, str], target: dict[str, Any]) -> Properties:
    found: Properties = {name: target.get(parameter) or None for name, parameter in _TARGET_NAMES.items()}
    for name, fields in _TARGET_BLOCKS.items():
        if found[name]:
            found[name] = {field: found[name].get(parameter) for field, parameter in fields.items()}
    return {
        **found,
        "eventBusName": key["EventBusName"],
        "region": resource.client("events").meta.region_name,
        "rule": key["Rule"],
        "targetId": target["Id"],
    }


def _delete_target(resource: Resource) -> None:
    with gone_on(_GONE):
        resource.client("events").remove_targets(**_target_key(resource.state), Ids=[resource.state["targetId"]])


KINDS = {
    "EventRule": Kind(
        create=_create_rule,
        read=_read_rule,
        update=_update_rule,
        delete=_delete_rule,
        autoname=Autoname("name", max_length=64),
        defaults={"eventBusName": _DEFAULT_BUS, "forceDestroy": False, "state": "ENABLED"},
        force_new=frozenset({"eventBusName", "name", "region"}),
        documents=frozenset({"eventPattern"}),
        unsupported=frozenset({"isEnabled", "namePrefix"}),
        absent=frozenset({"namePrefix"}),
        validate=_validate_rule,
    ),
    "EventTarget": Kind(
        create=_create_target,
        read=_read_target,
        update=_put_target,
        delete=_delete_target,
        autoname=Autoname("targetId", max_length=64, deletes_first=False),
        defaults={"eventBusName": _DEFAULT_BUS, "forceDestroy": False},
        force_new=frozenset({"eventBusName", "region", "rule", "targetId"}),
        documents=frozenset({"input"}),
        unsupported=frozenset(
            [
                "appsyncTarget",
                "batchTarget",
                "ecsTarget",
                "httpTarget",
                "kinesisTarget",
                "redshiftTarget",
                "runCommandTargets",
                "sagemakerPipelineTarget",
            ]
        ),
    ),
}
