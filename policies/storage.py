"""Storage on AWS: under exactly its own key, private, whole in its history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies import kinds
from policies.facts import Facts
from policies.keys import is_key_arn, under_its_key
from policies.resource import UNKNOWN, Program, Resource
from policies.rule import Found, FoundInProgram, OnUnknown, Rule, Severity, Undecided, Violation
from policies.statements import Statement, denied, statements

S3 = "https://docs.aws.amazon.com/AmazonS3/latest/userguide"
DEFAULT = "rules.0.applyServerSideEncryptionByDefault"
NEEDED = {
    kinds.ENCRYPTION: "no default encryption",
    kinds.OWNERSHIP: "no ownership controls",
    kinds.PUBLIC_ACCESS: "no public access block",
    kinds.BUCKET_POLICY: "no policy",
    kinds.VERSIONING: "no versioning",
    kinds.LIFECYCLE: "no rule that ends unfinished uploads",
}


def _encrypted(one: Resource, _: Mapping[str, Any]) -> Found:
    algorithm = one.get(f"{DEFAULT}.sseAlgorithm")
    if algorithm not in {"aws:kms", "aws:kms:dsse"}:
        yield f"new objects would be encrypted by {algorithm or 'nothing that is named'}, not by a KMS key"
    key = one.get(f"{DEFAULT}.kmsMasterKeyId")
    if key is not UNKNOWN and not is_key_arn(key):
        yield "the key is not named by its ARN: an alias can be moved, and without a name AWS's own key is taken"


def _own_key(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for one in program.of(kinds.ENCRYPTION):
        wrong = under_its_key(program, facts, "storages", one, f"{DEFAULT}.kmsMasterKeyId")
        if wrong:
            yield Violation(wrong, one.urn)


def _no_customer_provided(one: Resource, _: Mapping[str, Any]) -> Found:
    if "SSE-C" not in _known_list(one.get("rules.0.blockedEncryptionTypes")):
        yield "objects could be stored under a key that comes with the request (SSE-C)"


def _no_bucket_key(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.tenant is not None and one.get("rules.0.bucketKeyEnabled") is not False:
        yield "a bucket key would be kept by S3 for an unstated time after the customer's key was revoked"


def _private(one: Resource, _: Mapping[str, Any]) -> Found:
    wanted = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    if missing := [name for name in wanted if one.get(name) is not True]:
        yield f"public access is not blocked: {', '.join(missing)}"


def _owner_enforced(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("rule.objectOwnership") != "BucketOwnerEnforced":
        yield "access control lists are in force: an object could be given away beside every policy"


def _versioned(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("versioningConfiguration.status") != "Enabled":
        yield "an overwritten or deleted object would be gone"


def _kept(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("forceDestroy", default=False) is not False:
        yield "a delete of the bucket would delete every object in it first"


def _nothing_expires(one: Resource, _: Mapping[str, Any]) -> Found:
    rules = one.get("rules", default=[])
    if rules is UNKNOWN:
        yield "the lifecycle rules are not known"
        return
    for rule in rules:
        if rule is UNKNOWN:
            yield "a lifecycle rule is not known"
            continue
        ends = {
            "expiration",
            "noncurrentVersionExpiration",
            "transitions",
            "noncurrentVersionTransitions",
        } & rule.keys()
        if ends:
            yield f"the lifecycle rule {rule.get('id')} has {', '.join(sorted(ends))}: the customer's data would go by itself"


def _whole(program: Program, _facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for bucket in program.of(kinds.BUCKET):
        missing = [what for type_, what in NEEDED.items() if program.belonging(type_, bucket.unit) is None]
        if missing:
            yield Violation(", ".join(missing), bucket.urn)


def _tls(one: Resource, _: Mapping[str, Any]) -> Found:
    yield from _denies(one, "s3:GetObject", _is_about_tls, "requests without TLS are not denied")


def _other_keys(one: Resource, _: Mapping[str, Any]) -> Found:
    for header, what in (
        ("s3:x-amz-server-side-encryption", "another algorithm"),
        ("s3:x-amz-server-side-encryption-aws-kms-key-id", "another key"),
        ("s3:x-amz-server-side-encryption-customer-algorithm", "a key of its own (SSE-C)"),
    ):
        yield from _denies(
            one,
            "s3:PutObject",
            lambda statement, header=header: header in statement.condition_keys,
            f"a request that names {what} is not denied",
        )


def _denies(one: Resource, action: str, is_about: Any, what: str) -> Found:
    found = statements(one.get("policy"))
    if not isinstance(found, list):
        yield Undecided("its policy")
    elif not any(_is_for_all(s) and s.covers(action) and is_about(s) for s in denied(one.get("policy"))):
        yield what


def _is_for_all(statement: Statement) -> bool:
    return statement.is_open and any(resource.endswith("*") for resource in statement.resources)


def _is_about_tls(statement: Statement) -> bool:
    return [value.lower() for value in statement.values("aws:SecureTransport")] == ["false"]


def _known_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rules() -> Iterator[Rule]:
    yield Rule(
        id="storage-encrypted-by-kms",
        topic="storage",
        sentence="A bucket encrypts by a KMS key that is named by its ARN.",
        remediation="Set sse_algorithm='aws:kms' and kms_master_key_id to the ARN of the key.",
        severity=Severity.CRITICAL,
        url=f"{S3}/UsingKMSEncryption.html",
        unknown=OnUnknown.ORIGIN,
        controls=("CIS AWS 3.1.4", "NIST 800-57 5.3", "SOC 2 CC6.1"),
        types=frozenset({kinds.ENCRYPTION}),
        check=_encrypted,
    )
    yield Rule(
        id="storage-under-its-own-key",
        topic="storage",
        sentence="A bucket lies under the one key that the layout names for it.",
        remediation="Take the key's ARN from the layout's key of this storage; in a stamp, from the vendor's key.",
        severity=Severity.CRITICAL,
        url=f"{S3}/bucket-encryption.html",
        unknown=OnUnknown.ORIGIN,
        controls=("NIST 800-57 5.2", "SOC 2 CC6.1"),
        check_program=_own_key,
    )
    yield Rule(
        id="storage-no-customer-provided-keys",
        topic="storage",
        sentence="A bucket refuses objects under a key that comes with the request.",
        remediation="Set blocked_encryption_types=['SSE-C'].",
        severity=Severity.HIGH,
        url=f"{S3}/blocking-unblocking-s3-c-encryption-gpb.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.1",),
        types=frozenset({kinds.ENCRYPTION}),
        check=_no_customer_provided,
    )
    yield Rule(
        id="storage-no-bucket-key",
        topic="storage",
        sentence="A bucket under a customer's key has no bucket key.",
        remediation="Set bucket_key_enabled=False on the tenant's bucket.",
        severity=Severity.HIGH,
        url=f"{S3}/bucket-key.html",
        unknown=OnUnknown.DENIED,
        controls=("NIST 800-57 8.3.5", "SOC 2 CC6.1"),
        modes=("byok", "byokms"),
        types=frozenset({kinds.ENCRYPTION}),
        check=_no_bucket_key,
    )
    yield Rule(
        id="storage-private",
        topic="storage",
        sentence="A bucket blocks public access in all four ways.",
        remediation="Set all four arguments of BucketPublicAccessBlock to True.",
        severity=Severity.CRITICAL,
        url=f"{S3}/access-control-block-public-access.html",
        unknown=OnUnknown.DENIED,
        controls=("CIS AWS 3.1.4", "SOC 2 CC6.6"),
        types=frozenset({kinds.PUBLIC_ACCESS}),
        check=_private,
    )
    yield Rule(
        id="storage-owner-enforced",
        topic="storage",
        sentence="A bucket has no access control lists.",
        remediation="Set object_ownership='BucketOwnerEnforced'.",
        severity=Severity.HIGH,
        url=f"{S3}/about-object-ownership.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 CC6.1",),
        types=frozenset({kinds.OWNERSHIP}),
        check=_owner_enforced,
    )
    yield Rule(
        id="storage-versioned",
        topic="storage",
        sentence="A bucket keeps every version of its objects.",
        remediation="Set versioning_configuration.status='Enabled'.",
        severity=Severity.HIGH,
        url=f"{S3}/Versioning.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 A1.2",),
        types=frozenset({kinds.VERSIONING}),
        check=_versioned,
    )
    yield Rule(
        id="storage-kept",
        topic="storage",
        sentence="A bucket that still holds objects cannot be deleted.",
        remediation="Set force_destroy=False; a purge under a verdict empties a bucket.",
        severity=Severity.CRITICAL,
        url=f"{S3}/delete-bucket.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 A1.2",),
        types=frozenset({kinds.BUCKET}),
        check=_kept,
    )
    yield Rule(
        id="storage-nothing-expires",
        topic="storage",
        sentence="No lifecycle rule ends or moves the customer's data.",
        remediation="Keep to the rule that aborts unfinished uploads.",
        severity=Severity.HIGH,
        url=f"{S3}/object-lifecycle-mgmt.html",
        unknown=OnUnknown.DENIED,
        controls=("SOC 2 A1.2", "SOC 2 C1.2"),
        types=frozenset({kinds.LIFECYCLE}),
        check=_nothing_expires,
    )
    yield Rule(
        id="storage-whole",
        topic="storage",
        sentence="A bucket comes with encryption, ownership, public access block, policy, versioning and lifecycle.",
        remediation="Make the bucket by SharedBucket or DedicatedBucket and leave none of its settings out.",
        severity=Severity.CRITICAL,
        url=f"{S3}/security-best-practices.html",
        unknown=OnUnknown.NONE,
        controls=("CIS AWS 3.1", "SOC 2 CC6.1"),
        check_program=_whole,
    )
    yield Rule(
        id="storage-tls-only",
        topic="storage",
        sentence="A bucket's policy denies everybody who comes without TLS.",
        remediation="Deny s3:* to * on bucket and objects where aws:SecureTransport is false.",
        severity=Severity.HIGH,
        url=f"{S3}/security-best-practices.html#transit",
        unknown=OnUnknown.UPDATE,
        controls=("CIS AWS 3.1.1", "SOC 2 CC6.7"),
        types=frozenset({kinds.BUCKET_POLICY}),
        check=_tls,
    )
    yield Rule(
        id="storage-no-other-key",
        topic="storage",
        sentence="A bucket's policy denies a write that names another algorithm or another key.",
        remediation="Deny s3:PutObject whose x-amz-server-side-encryption headers differ from the bucket's default.",
        severity=Severity.HIGH,
        url=f"{S3}/UsingKMSEncryption.html#require-sse-kms",
        unknown=OnUnknown.UPDATE,
        controls=("NIST 800-57 5.2", "SOC 2 CC6.1"),
        types=frozenset({kinds.BUCKET_POLICY}),
        check=_other_keys,
    )


RULES = tuple(_rules())
