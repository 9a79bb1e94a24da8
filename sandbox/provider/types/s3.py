"""aws.s3: the bucket, and each of its sub-resources as the real provider splits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sandbox.provider.errors import ProviderError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource
from sandbox.provider.types.aws import (
    error_code,
    found_tags,
    from_pairs,
    gone_on,
    is_ours,
    pairs,
    wanted_tags,
)

_NO_BUCKET = ("NoSuchBucket", "404")
# Deprecated in the SDK; each has a resource type of its own.
_INLINE = frozenset(
    [
        "accelerationStatus",
        "acl",
        "corsRules",
        "grants",
        "lifecycleRules",
        "logging",
        "objectLockConfiguration",
        "policy",
        "replicationConfiguration",
        "requestPayer",
        "serverSideEncryptionConfiguration",
        "versioning",
        "website",
    ]
)


def _create_bucket(resource: Resource) -> str:
    name, s3 = resource.inputs["bucket"], resource.client("s3")
    parameters: dict[str, Any] = {"Bucket": name}
    if s3.meta.region_name != "us-east-1":
        parameters["CreateBucketConfiguration"] = {"LocationConstraint": s3.meta.region_name}
    if resource.inputs.get("objectLockEnabled"):
        parameters["ObjectLockEnabledForBucket"] = True
    try:
        s3.create_bucket(**parameters)
    except Exception as error:
        if error_code(error) != "BucketAlreadyOwnedByYou" or not is_ours(resource, _tags(resource, name)):
            raise
        return name
    # at once: without the mark a create that is lost after this line cannot be told from somebody else's bucket
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": pairs(wanted_tags(resource))})
    return name


def _tags(resource: Resource, name: str) -> dict[str, str]:
    try:
        return from_pairs(resource.client("s3").get_bucket_tagging(Bucket=name)["TagSet"])
    except Exception as error:
        if error_code(error) != "NoSuchTagSet":
            raise
        return {}


def _read_bucket(resource: Resource) -> Properties:
    name, s3 = resource.id, resource.client("s3")
    with gone_on(*_NO_BUCKET):
        s3.head_bucket(Bucket=name)
    region = s3.meta.region_name
    return {
        "arn": f"arn:aws:s3:::{name}",
        "bucket": name,
        "bucketDomainName": f"{name}.s3.amazonaws.com",
        "bucketNamespace": "global",
        "bucketRegion": region,
        "bucketRegionalDomainName": f"{name}.s3.{region}.amazonaws.com",
        "hostedZoneId": "Z1BKCTXD74EZPE" if region == "eu-west-1" else "",
        "objectLockEnabled": _has_object_lock(resource),
        "region": region,
        **found_tags(resource, _tags(resource, name)),
    }


def _has_object_lock(resource: Resource) -> bool:
    try:
        lock = resource.client("s3").get_object_lock_configuration(Bucket=resource.id)
    except Exception as error:
        if error_code(error) != "ObjectLockConfigurationNotFoundError":
            raise
        return False
    return lock["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"


def _update_bucket(resource: Resource) -> None:
    resource.client("s3").put_bucket_tagging(Bucket=resource.id, Tagging={"TagSet": pairs(wanted_tags(resource))})


def _delete_bucket(resource: Resource) -> None:
    s3 = resource.client("s3")
    with gone_on(*_NO_BUCKET):
        if resource.state.get("forceDestroy"):
            _empty(s3, resource.id)
        s3.delete_bucket(Bucket=resource.id)


def _empty(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        for version in versions:
            s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])


def _validate_bucket(inputs: Properties) -> Problems:
    name = inputs.get("bucket")
    if isinstance(name, str) and not 3 <= len(name) <= 63:
        yield "bucket", f"bucket must have 3 to 63 characters, got '{name}'"


# Sub-resources. Each is a part of its bucket: made by a put, read back, unmade by a delete or a put of nothing.


def _part(
    put: Callable[[Resource, str], None],
    read: Callable[[Resource, str], Properties],
    unmake: Callable[[Resource, str], None],
    *,
    force_new: frozenset[str] = frozenset(),
    **options: Any,
) -> Kind:
    """A Kind whose id is its bucket's name."""

    def create(resource: Resource) -> str:
        put(resource, resource.inputs["bucket"])
        return resource.inputs["bucket"]

    def read_with_bucket(resource: Resource) -> Properties:
        with gone_on(*_NO_BUCKET):
            found = read(resource, resource.id)
        return {"bucket": resource.id, "region": resource.client("s3").meta.region_name, **found}

    def delete(resource: Resource) -> None:
        with gone_on(*_NO_BUCKET):
            unmake(resource, resource.id)

    return Kind(
        create=create,
        read=read_with_bucket,
        update=lambda resource: put(resource, resource.id),
        delete=delete,
        force_new=force_new | {"bucket", "expectedBucketOwner", "region"},
        **options,
    )


def _owner(resource: Resource) -> dict[str, str]:
    owner = resource.inputs.get("expectedBucketOwner") or resource.state.get("expectedBucketOwner")
    return {"ExpectedBucketOwner": owner} if owner else {}


def _put_versioning(resource: Resource, bucket: str) -> None:
    status = resource.inputs["versioningConfiguration"]["status"]
    if status == "Disabled":
        was = (resource.state.get("versioningConfiguration") or {}).get("status")
        if was not in {None, "Disabled"}:
            raise ProviderError(f"versioningConfiguration.status cannot be updated from '{was}' to 'Disabled'")
        return  # what a new bucket is
    resource.client("s3").put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": status}, **_owner(resource)
    )


def _read_versioning(resource: Resource, bucket: str) -> Properties:
    found = resource.client("s3").get_bucket_versioning(Bucket=bucket, **_owner(resource))
    return {"versioningConfiguration": {"status": found.get("Status", "Disabled")}}


def _unmake_versioning(resource: Resource, bucket: str) -> None:
    if (resource.state.get("versioningConfiguration") or {}).get("status") == "Enabled":
        resource.client("s3").put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}, **_owner(resource)
        )


def _validate_versioning(inputs: Properties) -> Problems:
    status = (inputs.get("versioningConfiguration") or {}).get("status")
    if isinstance(status, str) and status not in {"Enabled", "Suspended", "Disabled"}:
        yield "versioningConfiguration.status", f"status must be Enabled, Suspended or Disabled, got '{status}'"


_ACCESS_BLOCK = {
    "blockPublicAcls": "BlockPublicAcls",
    "blockPublicPolicy": "BlockPublicPolicy",
    "ignorePublicAcls": "IgnorePublicAcls",
    "restrictPublicBuckets": "RestrictPublicBuckets",
}


def _put_access_block(resource: Resource, bucket: str) -> None:
    settings = {parameter: bool(resource.inputs.get(name)) for name, parameter in _ACCESS_BLOCK.items()}
    resource.client("s3").put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=settings)


def _read_access_block(resource: Resource, bucket: str) -> Properties:
    with gone_on("NoSuchPublicAccessBlockConfiguration"):
        found = resource.client("s3").get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    return {name: found.get(parameter, False) for name, parameter in _ACCESS_BLOCK.items()}


def _unmake_access_block(resource: Resource, bucket: str) -> None:
    if not resource.state.get("skipDestroy"):
        resource.client("s3").delete_public_access_block(Bucket=bucket)


def _put_ownership(resource: Resource, bucket: str) -> None:
    rule = {"ObjectOwnership": resource.inputs["rule"]["objectOwnership"]}
    resource.client("s3").put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [rule]})


def _read_ownership(resource: Resource, bucket: str) -> Properties:
    with gone_on("OwnershipControlsNotFoundError"):
        found = resource.client("s3").get_bucket_ownership_controls(Bucket=bucket)
    return {"rule": {"objectOwnership": found["OwnershipControls"]["Rules"][0]["ObjectOwnership"]}}


def _unmake_ownership(resource: Resource, bucket: str) -> None:
    with gone_on("OwnershipControlsNotFoundError"):
        resource.client("s3").delete_bucket_ownership_controls(Bucket=bucket)


def _put_encryption(resource: Resource, bucket: str) -> None:
    rules = []
    for rule in resource.inputs["rules"]:
        default = rule.get("applyServerSideEncryptionByDefault") or {}
        rules.append(
            _without_none(
                ApplyServerSideEncryptionByDefault=_without_none(
                    SSEAlgorithm=default.get("sseAlgorithm"), KMSMasterKeyID=default.get("kmsMasterKeyId")
                )
                or None,
                BucketKeyEnabled=rule.get("bucketKeyEnabled"),
                BlockedEncryptionTypes=_without_none(EncryptionType=rule.get("blockedEncryptionTypes")) or None,
            )
        )
    resource.client("s3").put_bucket_encryption(
        Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules}, **_owner(resource)
    )


def _read_encryption(resource: Resource, bucket: str) -> Properties:
    with gone_on("ServerSideEncryptionConfigurationNotFoundError"):
        found = resource.client("s3").get_bucket_encryption(Bucket=bucket, **_owner(resource))
    rules = []
    for rule in found["ServerSideEncryptionConfiguration"]["Rules"]:
        default = rule.get("ApplyServerSideEncryptionByDefault", {})
        rules.append(
            _without_none(
                applyServerSideEncryptionByDefault=_without_none(
                    sseAlgorithm=default.get("SSEAlgorithm"), kmsMasterKeyId=default.get("KMSMasterKeyID")
                ),
                bucketKeyEnabled=rule.get("BucketKeyEnabled", False),
                blockedEncryptionTypes=rule.get("BlockedEncryptionTypes", {}).get("EncryptionType"),
            )
        )
    return {"rules": rules}


def _are_same_encryption_rules(wanted: list[Properties], found: list[Properties]) -> bool:
    """S3 adds what it blocks on a new bucket (SSE-C) to a rule that says nothing of it."""
    if len(wanted) != len(found):
        return False
    says_nothing = [rule.get("blockedEncryptionTypes") is None for rule in wanted]
    compared = [
        {key: item for key, item in rule.items() if item and not (key == "blockedEncryptionTypes" and silent)}
        for rule, silent in zip(found, says_nothing, strict=True)
    ]
    return compared == [{key: item for key, item in rule.items() if item} for rule in wanted]


def _unmake_encryption(resource: Resource, bucket: str) -> None:
    resource.client("s3").delete_bucket_encryption(Bucket=bucket, **_owner(resource))


def _put_policy(resource: Resource, bucket: str) -> None:
    resource.client("s3").put_bucket_policy(Bucket=bucket, Policy=resource.inputs["policy"])


def _read_policy(resource: Resource, bucket: str) -> Properties:
    with gone_on("NoSuchBucketPolicy"):
        return {"policy": resource.client("s3").get_bucket_policy(Bucket=bucket)["Policy"]}


def _unmake_policy(resource: Resource, bucket: str) -> None:
    resource.client("s3").delete_bucket_policy(Bucket=bucket)


# The S3 API's names where they are not the property's own with a capital letter.
_LIFECYCLE_NAMES = {"id": "ID"}
_LIFECYCLE_WORDS = {api: name for name, api in _LIFECYCLE_NAMES.items()}


def _put_lifecycle(resource: Resource, bucket: str) -> None:
    rules = [_lifecycle_rule(rule) for rule in resource.inputs.get("rules") or []]
    resource.client("s3").put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": rules}, **_owner(resource)
    )


def _lifecycle_rule(rule: Properties) -> dict[str, Any]:
    """A rule in the API's names; one without a filter covers the bucket, which the API wants said."""
    return {
        "Filter": {"Prefix": rule.get("prefix", "")},
        **_capitalised({k: v for k, v in rule.items() if k != "prefix"}),
    }


def _capitalised(value: Any, name: str = "") -> Any:
    if name == "tags":  # their keys are the program's own words
        return pairs(value)
    if isinstance(value, dict):
        return {
            _LIFECYCLE_NAMES.get(key, key[0].upper() + key[1:]): _capitalised(item, key) for key, item in value.items()
        }
    return [_capitalised(item) for item in value] if isinstance(value, list) else value


def _uncapitalised(value: Any, name: str = "") -> Any:
    if name == "Tags":
        return from_pairs(value)
    if isinstance(value, dict):
        return {
            _LIFECYCLE_WORDS.get(key, key[0].lower() + key[1:]): _uncapitalised(item, key)
            for key, item in value.items()
        }
    return [_uncapitalised(item) for item in value] if isinstance(value, list) else value


def _read_lifecycle(resource: Resource, bucket: str) -> Properties:
    with gone_on("NoSuchLifecycleConfiguration"):
        found = resource.client("s3").get_bucket_lifecycle_configuration(Bucket=bucket, **_owner(resource))
    return {
        "rules": [_uncapitalised(rule) for rule in found.get("Rules", [])],
        "transitionDefaultMinimumObjectSize": found.get(
            "TransitionDefaultMinimumObjectSize", "all_storage_classes_128K"
        ),
    }


def _unmake_lifecycle(resource: Resource, bucket: str) -> None:
    resource.client("s3").delete_bucket_lifecycle(Bucket=bucket, **_owner(resource))


_TARGETS = {
    "lambdaFunctions": ("LambdaFunctionConfigurations", "lambdaFunctionArn", "LambdaFunctionArn"),
    "queues": ("QueueConfigurations", "queueArn", "QueueArn"),
    "topics": ("TopicConfigurations", "topicArn", "TopicArn"),
}


def _put_notification(resource: Resource, bucket: str) -> None:
    configuration: dict[str, Any] = {}
    if resource.inputs.get("eventbridge"):
        configuration["EventBridgeConfiguration"] = {}
    for name, (group, property_, parameter) in _TARGETS.items():
        targets = resource.inputs.get(name) or []
        if targets:
            configuration[group] = [_target(target, property_, parameter) for target in targets]
    resource.client("s3").put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)


def _target(target: Properties, property_: str, parameter: str) -> dict[str, Any]:
    filters = [
        {"Name": word, "Value": target[name]}
        for name, word in (("filterPrefix", "prefix"), ("filterSuffix", "suffix"))
        if target.get(name)
    ]
    return _without_none(
        **{parameter: target.get(property_)},
        Id=target.get("id"),
        Events=target["events"],
        Filter={"Key": {"FilterRules": filters}} if filters else None,
    )


def _read_notification(resource: Resource, bucket: str) -> Properties:
    found = resource.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    groups = {
        name: [_found_target(target, property_, parameter) for target in found.get(group, [])] or None
        for name, (group, property_, parameter) in _TARGETS.items()
    }
    return {"eventbridge": "EventBridgeConfiguration" in found, **groups}


def _found_target(target: dict[str, Any], property_: str, parameter: str) -> Properties:
    rules = target.get("Filter", {}).get("Key", {}).get("FilterRules", [])
    words = {rule["Name"].lower(): rule["Value"] for rule in rules}
    return _without_none(
        **{property_: target[parameter]},
        id=target.get("Id"),
        events=target["Events"],
        filterPrefix=words.get("prefix") or None,
        filterSuffix=words.get("suffix") or None,
    )


def _unmake_notification(resource: Resource, bucket: str) -> None:
    resource.client("s3").put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})


def _are_same_targets(wanted: list[Properties], found: list[Properties]) -> bool:
    """Whether notifications are the same, in any order; an id that the program leaves out is AWS's own."""
    return sorted(_comparable(wanted), key=repr) == sorted(_comparable(found, like=wanted), key=repr)


def _comparable(targets: list[Properties], like: list[Properties] | None = None) -> Iterator[Properties]:
    has_ids = any(target.get("id") for target in (targets if like is None else like))
    for target in targets:
        yield {
            key: sorted(value) if key == "events" else value
            for key, value in sorted(target.items())
            if value and (key != "id" or has_ids)
        }


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


KINDS = {
    "Bucket": Kind(
        create=_create_bucket,
        read=_read_bucket,
        update=_update_bucket,
        delete=_delete_bucket,
        autoname=Autoname("bucket", max_length=63, is_lower=True),
        defaults={"forceDestroy": False},
        force_new=frozenset({"bucket", "bucketNamespace", "objectLockEnabled", "region"}),
        unsupported=_INLINE | {"bucketPrefix"},
        absent=_INLINE | {"bucketPrefix", "websiteDomain", "websiteEndpoint"},
        validate=_validate_bucket,
    ),
    "BucketVersioning": _part(
        _put_versioning,
        _read_versioning,
        _unmake_versioning,
        partial=frozenset({"versioningConfiguration"}),
        unsupported=frozenset({"mfa"}),
        validate=_validate_versioning,
    ),
    "BucketPublicAccessBlock": _part(
        _put_access_block,
        _read_access_block,
        _unmake_access_block,
        defaults=dict.fromkeys(_ACCESS_BLOCK, False),
    ),
    "BucketOwnershipControls": _part(_put_ownership, _read_ownership, _unmake_ownership),
    "BucketServerSideEncryptionConfiguration": _part(
        _put_encryption, _read_encryption, _unmake_encryption, same={"rules": _are_same_encryption_rules}
    ),
    "BucketPolicy": _part(_put_policy, _read_policy, _unmake_policy, policies=frozenset({"policy"})),
    "BucketLifecycleConfiguration": _part(
        _put_lifecycle,
        _read_lifecycle,
        _unmake_lifecycle,
        partial=frozenset({"rules"}),
        unsupported=frozenset({"timeouts"}),
    ),
    "BucketNotification": _part(
        _put_notification,
        _read_notification,
        _unmake_notification,
        defaults={"eventbridge": False},
        same=dict.fromkeys(_TARGETS, _are_same_targets),
    ),
}
