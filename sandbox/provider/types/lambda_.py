"""aws.lambda: Function, EventSourceMapping."""

from __future__ import annotations

from typing import Any

from sandbox.provider.archive import zipped
from sandbox.provider.errors import ProviderError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource
from sandbox.provider.types.aws import (
    error_code,
    found_tags,
    given,
    gone_on,
    is_ours,
    surplus_tags,
    wait_until,
    wanted_tags,
)

_GONE = "ResourceNotFoundException"
_EXISTS = "ResourceConflictException"

_SETTINGS = {
    "description": "Description",
    "handler": "Handler",
    "kmsKeyArn": "KMSKeyArn",
    "layers": "Layers",
    "memorySize": "MemorySize",
    "role": "Role",
    "runtime": "Runtime",
    "timeout": "Timeout",
}
_BLOCKS = {
    "deadLetterConfig": ("DeadLetterConfig", {"targetArn": "TargetArn"}),
    "environment": ("Environment", {"variables": "Variables"}),
    "ephemeralStorage": ("EphemeralStorage", {"size": "Size"}),
    "loggingConfig": (
        "LoggingConfig",
        {
            "applicationLogLevel": "ApplicationLogLevel",
            "logFormat": "LogFormat",
            "logGroup": "LogGroup",
            "systemLogLevel": "SystemLogLevel",
        },
    ),
    "tracingConfig": ("TracingConfig", {"mode": "Mode"}),
}


def _settings(inputs: Properties) -> dict[str, Any]:
    settings = given(inputs, _SETTINGS)
    for name, (parameter, fields) in _BLOCKS.items():
        if inputs.get(name):
            settings[parameter] = given(inputs[name], fields)
    return settings


def _code(inputs: Properties) -> dict[str, Any]:
    if inputs.get("code") is not None:
        return {"ZipFile": zipped(inputs["code"])}
    names = {"s3Bucket": "S3Bucket", "s3Key": "S3Key", "s3ObjectVersion": "S3ObjectVersion"}
    return given(inputs, names)


def _create_function(resource: Resource) -> str:
    client, inputs = resource.client("lambda"), resource.inputs
    name = inputs["name"]
    try:
        client.create_function(
            FunctionName=name,
            Code=_code(inputs),
            PackageType=inputs["packageType"],
            Publish=bool(inputs.get("publish")),
            Tags=wanted_tags(resource),
            **given(inputs, {"architectures": "Architectures"}),
            **_settings(inputs),
        )
    except Exception as error:
        if error_code(error) != _EXISTS:
            raise
        found = client.get_function(FunctionName=name)
        if not is_ours(resource, found.get("Tags", {})):
            raise
        _put_code(resource, name)
        _put_settings(resource, name)
    _wait_for_function(resource, name)
    return name


def _configure_function(resource: Resource) -> None:
    client, limit = resource.client("lambda"), resource.inputs.get("reservedConcurrentExecutions", -1)
    if limit >= 0:
        client.put_function_concurrency(FunctionName=resource.id, ReservedConcurrentExecutions=limit)
    elif resource.state.get("reservedConcurrentExecutions", -1) >= 0:
        client.delete_function_concurrency(FunctionName=resource.id)


def _put_code(resource: Resource, name: str) -> None:
    resource.client("lambda").update_function_code(
        FunctionName=name, Publish=bool(resource.inputs.get("publish")), **_code(resource.inputs)
    )
    _wait_for_function(resource, name)


def _put_settings(resource: Resource, name: str) -> None:
    settings = _settings(resource.inputs)
    # Lambda keeps what an update leaves out: what the program dropped is sent empty
    settings.setdefault("Description", "")
    settings.setdefault("KMSKeyArn", "")
    settings.setdefault("Layers", [])
    settings.setdefault("Environment", {"Variables": {}})
    resource.client("lambda").update_function_configuration(FunctionName=name, **settings)
    _wait_for_function(resource, name)


def _wait_for_function(resource: Resource, name: str) -> None:
    def is_settled() -> bool:
        found = resource.client("lambda").get_function_configuration(FunctionName=name)
        if found.get("State") == "Failed" or found.get("LastUpdateStatus") == "Failed":
            raise ProviderError(found.get("StateReason") or found.get("LastUpdateStatusReason") or "function failed")
        return found.get("State", "Active") != "Pending" and found.get("LastUpdateStatus") != "InProgress"

    wait_until(is_settled, what=f"function {name} active")


def _read_function(resource: Resource) -> Properties:
    client = resource.client("lambda")
    with gone_on(_GONE):
        answer = client.get_function(FunctionName=resource.id)
    found = answer["Configuration"]
    arn, region = found["FunctionArn"], found["FunctionArn"].split(":")[3]
    invocations = f"arn:aws:apigateway:{region}:lambda:path"
    return {
        **{name: found.get(parameter) or None for name, parameter in _SETTINGS.items()},
        **{name: _block(found.get(parameter), fields) for name, (parameter, fields) in _BLOCKS.items()},
        "architectures": found.get("Architectures", ["x86_64"]),
        "arn": arn,
        "codeSha256": found["CodeSha256"],
        "invokeArn": f"{invocations}/2015-03-31/functions/{arn}/invocations",
        "lastModified": found["LastModified"],
        "layers": [layer["Arn"] for layer in found.get("Layers", [])] or None,
        "name": found["FunctionName"],
        "packageType": found.get("PackageType", "Zip"),
        "qualifiedArn": f"{arn}:{found['Version']}",
        "qualifiedInvokeArn": f"{invocations}/2015-03-31/functions/{arn}:{found['Version']}/invocations",
        "region": region,
        "reservedConcurrentExecutions": answer.get("Concurrency", {}).get("ReservedConcurrentExecutions", -1),
        "responseStreamingInvokeArn": f"{invocations}/2021-11-15/functions/{arn}/response-streaming-invocations",
        "sourceCodeHash": found["CodeSha256"],
        "sourceCodeSize": found["CodeSize"],
        "version": found["Version"],
        **found_tags(resource, answer.get("Tags", {})),
    }


def _block(found: dict[str, Any] | None, fields: dict[str, str]) -> Properties | None:
    if not found:
        return None
    block = {name: found[parameter] for name, parameter in fields.items() if found.get(parameter) not in (None, "", {})}
    return block or None


def _update_function(resource: Resource) -> None:
    client, inputs, state = resource.client("lambda"), resource.inputs, resource.state
    if any(inputs.get(name) != state.get(name) for name in ("code", "s3Bucket", "s3Key", "s3ObjectVersion")):
        _put_code(resource, resource.id)
    _put_settings(resource, resource.id)
    client.tag_resource(Resource=state["arn"], Tags=wanted_tags(resource))
    present = client.list_tags(Resource=state["arn"]).get("Tags", {})
    if surplus := surplus_tags(resource, present):
        client.untag_resource(Resource=state["arn"], TagKeys=surplus)


def _delete_function(resource: Resource) -> None:
    if not resource.state.get("skipDestroy"):
        with gone_on(_GONE):
            resource.client("lambda").delete_function(FunctionName=resource.id)


def _validate_function(inputs: Properties) -> Problems:
    if inputs.get("packageType") == "Image":
        yield "packageType", "the sandbox runs functions from zip packages only"
    elif inputs.get("code") is None and inputs.get("s3Bucket") is None:
        yield "code", "one of code, s3Bucket must be given"
    for name in ("handler", "runtime"):
        if inputs.get(name) is None:
            yield name, f"{name} must be given when packageType is Zip"


# Event source mappings

_MAPPING = {
    "batchSize": "BatchSize",
    "bisectBatchOnFunctionError": "BisectBatchOnFunctionError",
    "enabled": "Enabled",
    "functionName": "FunctionName",
    "functionResponseTypes": "FunctionResponseTypes",
    "kmsKeyArn": "KMSKeyArn",
    "maximumBatchingWindowInSeconds": "MaximumBatchingWindowInSeconds",
}
_SQS_BATCH = 10


def _mapping(inputs: Properties) -> dict[str, Any]:
    mapping = given(inputs, _MAPPING)
    if inputs.get("filterCriteria"):
        filters = [{"Pattern": item["pattern"]} for item in inputs["filterCriteria"].get("filters", [])]
        mapping["FilterCriteria"] = {"Filters": filters}
    if inputs.get("scalingConfig"):
        mapping["ScalingConfig"] = {"MaximumConcurrency": inputs["scalingConfig"]["maximumConcurrency"]}
    return mapping


def _create_mapping(resource: Resource) -> str:
    client, inputs = resource.client("lambda"), resource.inputs
    # looked for, because not every emulator refuses the second mapping that Lambda refuses
    existing = client.list_event_source_mappings(
        EventSourceArn=inputs["eventSourceArn"], FunctionName=inputs["functionName"]
    )["EventSourceMappings"]
    if existing and not resource.may_adopt:
        raise ProviderError(
            f"{_EXISTS}: an event source mapping with {inputs['eventSourceArn']} and function"
            f" {inputs['functionName']} already exists, with UUID {existing[0]['UUID']}"
        )
    if existing:  # one queue feeds one function once, so this is what a lost create made
        uuid = existing[0]["UUID"]
        client.update_event_source_mapping(UUID=uuid, **_mapping(inputs))
    else:
        uuid = client.create_event_source_mapping(
            EventSourceArn=inputs["eventSourceArn"], Tags=wanted_tags(resource), **_mapping(inputs)
        )["UUID"]
    _wait_for_mapping(resource, uuid)
    return uuid


def _wait_for_mapping(resource: Resource, uuid: str) -> None:
    moving = {"Creating", "Enabling", "Disabling", "Updating"}
    wait_until(
        lambda: resource.client("lambda").get_event_source_mapping(UUID=uuid)["State"] not in moving,
        what=f"event source mapping {uuid} settled",
    )


def _read_mapping(resource: Resource) -> Properties:
    client = resource.client("lambda")
    with gone_on(_GONE):
        found = client.get_event_source_mapping(UUID=resource.id)
    modified = found.get("LastModified")
    region = found["FunctionArn"].split(":")[3]
    arn = found.get("EventSourceMappingArn") or (
        f"arn:aws:lambda:{region}:{found['FunctionArn'].split(':')[4]}:event-source-mapping:{found['UUID']}"
    )
    filters = [{"pattern": item["Pattern"]} for item in (found.get("FilterCriteria") or {}).get("Filters", [])]
    scaling = (found.get("ScalingConfig") or {}).get("MaximumConcurrency")
    return {
        "arn": arn,
        "batchSize": found.get("BatchSize"),
        "bisectBatchOnFunctionError": found.get("BisectBatchOnFunctionError") or None,
        "enabled": found["State"] in {"Enabled", "Enabling", "Creating"},
        "eventSourceArn": found.get("EventSourceArn"),
        "filterCriteria": {"filters": filters} if filters else None,
        "functionArn": found["FunctionArn"],
        "functionName": found["FunctionArn"],
        "functionResponseTypes": found.get("FunctionResponseTypes") or None,
        "kmsKeyArn": found.get("KMSKeyArn") or None,
        "lastModified": modified.strftime("%Y-%m-%dT%H:%M:%SZ") if hasattr(modified, "strftime") else "",
        "lastProcessingResult": found.get("LastProcessingResult", ""),
        "maximumBatchingWindowInSeconds": found.get("MaximumBatchingWindowInSeconds") or None,
        "region": region,
        "scalingConfig": {"maximumConcurrency": scaling} if scaling else None,
        "state": found["State"],
        "stateTransitionReason": found.get("StateTransitionReason", ""),
        "uuid": found["UUID"],
        **found_tags(resource, client.list_tags(Resource=arn).get("Tags", {})),
    }


def _update_mapping(resource: Resource) -> None:
    client, arn = resource.client("lambda"), resource.state["arn"]
    mapping = _mapping(resource.inputs)
    mapping.setdefault("BatchSize", _SQS_BATCH)
    mapping.setdefault("FunctionResponseTypes", [])
    client.update_event_source_mapping(UUID=resource.id, **mapping)
    _wait_for_mapping(resource, resource.id)
    present = client.list_tags(Resource=arn).get("Tags", {})
    client.tag_resource(Resource=arn, Tags=wanted_tags(resource))
    if surplus := surplus_tags(resource, present):
        client.untag_resource(Resource=arn, TagKeys=surplus)


def _delete_mapping(resource: Resource) -> None:
    client = resource.client("lambda")
    with gone_on(_GONE):
        client.delete_event_source_mapping(UUID=resource.id)

    def is_gone() -> bool:
        try:
            client.get_event_source_mapping(UUID=resource.id)
        except Exception as error:
            if error_code(error) != _GONE:
                raise
            return True
        return False

    wait_until(is_gone, what=f"event source mapping {resource.id} deleted")


def _is_same_function(one: str, other: str) -> bool:
    return one.rsplit(":", 1)[-1] == other.rsplit(":", 1)[-1]


def _validate_mapping(inputs: Properties) -> Problems:
    if inputs.get("eventSourceArn") is None:
        yield "eventSourceArn", "the sandbox maps SQS queues only: eventSourceArn must be given"


KINDS = {
    "Function": Kind(
        create=_create_function,
        configure=_configure_function,
        read=_read_function,
        update=_update_function,
        delete=_delete_function,
        autoname=Autoname("name", max_length=64),
        defaults={
            "memorySize": 128,
            "packageType": "Zip",
            "publish": False,
            "reservedConcurrentExecutions": -1,
            "skipDestroy": False,
            "timeout": 3,
        },
        force_new=frozenset({"name", "packageType", "region"}),
        partial=frozenset({"ephemeralStorage", "loggingConfig", "tracingConfig"}),
        unsupported=frozenset(
            [
                "capacityProviderConfig",
                "codeSha256",
                "codeSigningConfigArn",
                "durableConfig",
                "fileSystemConfig",
                "imageConfig",
                "imageUri",
                "publishTo",
                "replaceSecurityGroupsOnDestroy",
                "replacementSecurityGroupIds",
                "snapStart",
                "sourceKmsKeyArn",
                "tenancyConfig",
                "useResourceTimeoutForPropagation",
                "vpcConfig",
            ]
        ),
        absent=frozenset({"signingJobArn", "signingProfileVersionArn"}),
        volatile=frozenset({"codeSha256", "lastModified", "sourceCodeHash", "sourceCodeSize"}),
        validate=_validate_function,
    ),
    "EventSourceMapping": Kind(
        create=_create_mapping,
        read=_read_mapping,
        update=_update_mapping,
        delete=_delete_mapping,
        defaults={"enabled": True},
        force_new=frozenset({"eventSourceArn", "region"}),
        sets=frozenset({"functionResponseTypes"}),
        same={"functionName": _is_same_function},
        computed=frozenset({"batchSize"}),  # 10 for SQS, where the program leaves it out
        unsupported=frozenset(
            [
                "amazonManagedKafkaEventSourceConfig",
                "destinationConfig",
                "documentDbEventSourceConfig",
                "maximumRecordAgeInSeconds",
                "maximumRetryAttempts",
                "metricsConfig",
                "parallelizationFactor",
                "provisionedPollerConfig",
                "queues",
                "selfManagedEventSource",
                "selfManagedKafkaEventSourceConfig",
                "sourceAccessConfigurations",
                "startingPosition",
                "startingPositionTimestamp",
                "topics",
                "tumblingWindowInSeconds",
                "useResourceTimeoutForPropagation",
            ]
        ),
        absent=frozenset(
            [
                "amazonManagedKafkaEventSourceConfig",
                "maximumRecordAgeInSeconds",
                "maximumRetryAttempts",
                "parallelizationFactor",
                "selfManagedKafkaEventSourceConfig",
            ]
        ),
        volatile=frozenset({"lastModified", "state", "stateTransitionReason"}),
        validate=_validate_mapping,
    ),
}
