"""Reads the property names and types of the offered resource types out of the installed Pulumi SDKs."""

from __future__ import annotations

import collections.abc
import importlib
import importlib.metadata
import inspect
import json
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

import pulumi

# Pulumi's token and where its Python class is. Only the types that Keyshift's components use.
RESOURCES = {
    "aws:cloudwatch/eventRule:EventRule": "pulumi_aws.cloudwatch:EventRule",
    "aws:cloudwatch/eventTarget:EventTarget": "pulumi_aws.cloudwatch:EventTarget",
    "aws:iam/role:Role": "pulumi_aws.iam:Role",
    "aws:iam/rolePolicy:RolePolicy": "pulumi_aws.iam:RolePolicy",
    "aws:kms/alias:Alias": "pulumi_aws.kms:Alias",
    "aws:kms/externalKey:ExternalKey": "pulumi_aws.kms:ExternalKey",
    "aws:kms/key:Key": "pulumi_aws.kms:Key",
    "aws:lambda/eventSourceMapping:EventSourceMapping": "pulumi_aws.lambda_:EventSourceMapping",
    "aws:lambda/function:Function": "pulumi_aws.lambda_:Function",
    "aws:s3/bucket:Bucket": "pulumi_aws.s3:Bucket",
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": "pulumi_aws.s3:BucketLifecycleConfiguration",
    "aws:s3/bucketNotification:BucketNotification": "pulumi_aws.s3:BucketNotification",
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": "pulumi_aws.s3:BucketOwnershipControls",
    "aws:s3/bucketPolicy:BucketPolicy": "pulumi_aws.s3:BucketPolicy",
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "pulumi_aws.s3:BucketPublicAccessBlock",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": (
        "pulumi_aws.s3:BucketServerSideEncryptionConfiguration"
    ),
    "aws:s3/bucketVersioning:BucketVersioning": "pulumi_aws.s3:BucketVersioning",
    "aws:secretsmanager/secret:Secret": "pulumi_aws.secretsmanager:Secret",
    "aws:secretsmanager/secretVersion:SecretVersion": "pulumi_aws.secretsmanager:SecretVersion",
    "aws:sqs/queue:Queue": "pulumi_aws.sqs:Queue",
    "aws:sqs/queuePolicy:QueuePolicy": "pulumi_aws.sqs:QueuePolicy",
    "azure-native:authorization:RoleAssignment": "pulumi_azure_native.authorization:RoleAssignment",
    "azure-native:authorization:RoleDefinition": "pulumi_azure_native.authorization:RoleDefinition",
    "azure-native:eventgrid:SystemTopic": "pulumi_azure_native.eventgrid:SystemTopic",
    "azure-native:eventgrid:SystemTopicEventSubscription": "pulumi_azure_native.eventgrid:SystemTopicEventSubscription",
    "azure-native:keyvault:Key": "pulumi_azure_native.keyvault:Key",
    "azure-native:keyvault:Secret": "pulumi_azure_native.keyvault:Secret",
    "azure-native:keyvault:Vault": "pulumi_azure_native.keyvault:Vault",
    "azure-native:managedidentity:FederatedIdentityCredential": (
        "pulumi_azure_native.managedidentity:FederatedIdentityCredential"
    ),
    "azure-native:managedidentity:UserAssignedIdentity": "pulumi_azure_native.managedidentity:UserAssignedIdentity",
    "azure-native:resources:ResourceGroup": "pulumi_azure_native.resources:ResourceGroup",
    "azure-native:storage:BlobContainer": "pulumi_azure_native.storage:BlobContainer",
    "azure-native:storage:BlobServiceProperties": "pulumi_azure_native.storage:BlobServiceProperties",
    "azure-native:storage:Queue": "pulumi_azure_native.storage:Queue",
    "azure-native:storage:StorageAccount": "pulumi_azure_native.storage:StorageAccount",
    "azure-native:web:AppServicePlan": "pulumi_azure_native.web:AppServicePlan",
    "azure-native:web:WebApp": "pulumi_azure_native.web:WebApp",
    "azuread:index/applicationFederatedIdentityCredential:ApplicationFederatedIdentityCredential": (
        "pulumi_azuread:ApplicationFederatedIdentityCredential"
    ),
    "azuread:index/applicationRegistration:ApplicationRegistration": "pulumi_azuread:ApplicationRegistration",
    "ec:index/deployment:Deployment": "pulumi_ec:Deployment",
    "ec:index/deploymentTrafficFilter:DeploymentTrafficFilter": "pulumi_ec:DeploymentTrafficFilter",
    "elasticstack:index/index:Index": "pulumi_elasticstack:Index",
    "elasticstack:index/indexTemplate:IndexTemplate": "pulumi_elasticstack:IndexTemplate",
    "elasticstack:index/securityApiKey:SecurityApiKey": "pulumi_elasticstack:SecurityApiKey",
    "elasticstack:index/securityRole:SecurityRole": "pulumi_elasticstack:SecurityRole",
}
PROVIDERS = {
    "aws": "pulumi_aws:Provider",
    "azure-native": "pulumi_azure_native:Provider",
    "azuread": "pulumi_azuread:Provider",
    "ec": "pulumi_ec:Provider",
    "elasticstack": "pulumi_elasticstack:Provider",
}


_UNIONS = {typing.Union, types.UnionType}
_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number", pulumi.Archive: "archive"}
_Types = dict[str, dict[str, str]]


def generate() -> dict[str, Any]:
    """The schema of the installed SDKs, as `schema.json` holds it (a trailing `!` marks what is required)."""
    packages: dict[str, Any] = {}
    for package, provider in PROVIDERS.items():
        nested: _Types = {}
        packages[package] = {
            "version": importlib.metadata.version(f"pulumi_{package}"),
            "config": _inputs(_args_class(provider), nested),
            "resources": {
                token: {"inputs": _inputs(_args_class(path), nested), "outputs": dict(_outputs(_class(path)))}
                for token, path in RESOURCES.items()
                if token.startswith(f"{package}:")
            },
            "types": nested,
        }
    return packages


def render(packages: dict[str, Any]) -> str:
    """The text of `schema.json`."""
    return json.dumps(packages, indent=1, sort_keys=True) + "\n"


def _class(path: str) -> type:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def _args_class(path: str) -> type:
    module, name = vars(sys.modules[_class(path).__module__]), path.split(":")[1]
    return module.get(f"{name}InitArgs") or module[f"{name}Args"]  # Init where a nested type has the plain name


def _inputs(cls: type, nested: _Types) -> dict[str, str]:
    parameters = inspect.signature(cls.__init__).parameters
    found = {}
    for python_name, wire_name, hint in _hints(cls):
        is_required = parameters[python_name].default is inspect.Parameter.empty
        found[wire_name] = _wire_type(hint, nested) + ("!" if is_required else "")
    return found


def _outputs(cls: type) -> Iterator[tuple[str, bool]]:
    for _, wire_name, hint in _hints(cls):
        (value,) = typing.get_args(hint)  # Output[value]
        yield wire_name, not (typing.get_origin(value) in _UNIONS and type(None) in typing.get_args(value))


def _hints(cls: type) -> Iterator[tuple[str, str, Any]]:
    """(Python name, wire name, type) of each property of a generated SDK class."""
    for python_name, member in vars(cls).items():
        getter = getattr(member, "fget", None)
        if hasattr(getter, "_pulumi_name"):
            # pulumi.Input refers forward to Output[T], which only the SDK's own module resolves
            hints = typing.get_type_hints(getter, localns={"Output": pulumi.Output, "T": typing.TypeVar("T")})
            yield python_name, getter._pulumi_name, hints["return"]  # noqa: SLF001 - where the SDK keeps it


def _wire_type(hint: Any, nested: _Types) -> str:
    names: dict[str, None] = {}  # in order, each once
    for alternative in _alternatives(hint):
        arguments = typing.get_args(alternative)
        if hasattr(alternative, "_pulumi_input_type"):
            names[_object(alternative, nested)] = None
        elif typing.get_origin(alternative) is collections.abc.Sequence:
            names[f"[{_wire_type(arguments[0], nested)}]"] = None
        elif typing.get_origin(alternative) is collections.abc.Mapping:
            names[f"{{{_wire_type(arguments[1], nested)}}}"] = None
        elif alternative in _SCALARS:
            names[_SCALARS[alternative]] = None
    return "|".join(names) or "any"


def _object(cls: type, nested: _Types) -> str:
    if cls.__name__ == "PolicyDocumentArgs":
        return "{any}"  # the class leaves out half of IAM's grammar; the service judges the document
    module = cls.__module__.split(".")[1].rstrip("_")
    name = f"{'index' if module == '_inputs' else module}.{cls.__name__.removesuffix('Args')}"
    if name not in nested:
        nested[name] = {}  # in place before its fields are read: a type may refer to itself
        nested[name].update(_inputs(cls, nested))
    return f"#{name}"


def _alternatives(hint: Any) -> Iterator[Any]:
    """The plain types within `pulumi.Input[...]`, optionals and unions."""
    origin = typing.get_origin(hint)
    if origin in _UNIONS:
        for argument in typing.get_args(hint):
            yield from _alternatives(argument)
    elif hint is not type(None) and origin not in {pulumi.Output, collections.abc.Awaitable}:
        yield hint
