"""Access on AWS: roles that name their own tenant's resources only, and the denials that a layout asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policies import kinds
from policies.facts import Facts
from policies.resource import Program, Resource
from policies.rule import Found, FoundInProgram, OnUnknown, Rule, Severity, Undecided, Violation
from policies.statements import Statement, allowed, denied, statements

IAM = "https://docs.aws.amazon.com/IAM/latest/UserGuide"
POLICY_OF = {
    kinds.BUCKET_POLICY: "policy",
    kinds.QUEUE_POLICY: "policy",
    kinds.KEY: "policy",
    kinds.IMPORTED_KEY: "policy",
    kinds.ROLE: "assumeRolePolicy",
}
WRITES = ("s3:PutObject", "s3:DeleteObject", "s3:PutObjectTagging", "s3:DeleteObjectVersion")
READS = ("s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket")
FORBIDDEN = {
    "aws:iam/user:User": "a user has a password or keys that do not expire",
    "aws:iam/accessKey:AccessKey": "an access key does not expire, and stands in the state",
    "aws:iam/userPolicy:UserPolicy": "rights are given to roles only",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "a managed policy is wider than one tenant",
    "aws:iam/policyAttachment:PolicyAttachment": "a managed policy is wider than one tenant",
    "aws:kms/grant:Grant": "a grant gives a key away beside its policy",
    "aws:kms/ciphertext:Ciphertext": "its plaintext would stand in the state",
    "aws:lambda/functionUrl:FunctionUrl": "a worker would be reachable from outside",
    "aws:lambda/permission:Permission": "only the worker's own queue calls it",
    "aws:s3/bucketAcl:BucketAcl": "access control lists stand beside every policy",
    "aws:s3/bucketWebsiteConfiguration:BucketWebsiteConfiguration": "a website is public",
    "aws:s3/bucketReplicationConfig:BucketReplicationConfig": "copies would lie under another key",
    "aws:s3/bucketObjectv2:BucketObjectv2": "data does not belong in a program",
    "aws:s3/bucketObject:BucketObject": "data does not belong in a program",
}


def _no_open_principal(one: Resource, _: Mapping[str, Any]) -> Found:
    policy = one.get(POLICY_OF[one.type])
    if not isinstance(statements(policy), list):
        yield Undecided("its policy")
    for statement in allowed(policy):
        may_elastic = one.type in {kinds.KEY, kinds.IMPORTED_KEY} and statement.is_elastics
        if statement.is_open and not may_elastic:
            yield f"{statement.sid or 'a statement'} lets everybody {', '.join(statement.actions[:3])}"


def _trust(one: Resource, _: Mapping[str, Any]) -> Found:
    trusted = list(allowed(one.get("assumeRolePolicy")))
    accounts = set[str]().union(*(statement.accounts for statement in trusted))
    if len(accounts) > 1:
        yield f"the role is trusted to the accounts {', '.join(sorted(accounts))}; one may"
    services = {p for s in trusted for p in s.principals if p.endswith(".amazonaws.com")} - {"lambda.amazonaws.com"}
    if services:
        yield f"the role is trusted to {', '.join(sorted(services))}"


def _no_wildcards(one: Resource, _: Mapping[str, Any]) -> Found:
    if not isinstance(statements(one.get("policy")), list):
        yield Undecided("its policy")
    for statement in allowed(one.get("policy")):
        wide = [action for action in statement.actions if action == "*" or action.endswith(":*")]
        if wide:
            yield f"{statement.sid or 'a statement'} allows {', '.join(wide)}"
        if "*" in statement.resources:
            yield f"{statement.sid or 'a statement'} allows {', '.join(statement.actions[:3])} on every resource"


def _own_only(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.tenant is None:
        return
    if not isinstance(statements(one.get("policy")), list):
        yield Undecided("its policy")
    for statement in allowed(one.get("policy")):
        foreign = [arn for arn in statement.resources if arn != "*" and not _is_own(one.tenant, arn, statement)]
        if foreign:
            yield f"{statement.sid or 'a statement'} names what is not the tenant's: {', '.join(foreign[:3])}"


def _is_own(tenant: str, arn: str, statement: Statement) -> bool:
    """By the names alone: they hold the tenant, and what several tenants share is limited to its part."""
    name = re.escape(tenant)
    own_bucket = rf"keyshift-{name}-s\d+-[0-9a-f]{{8}}"
    own = (
        rf"arn:aws:s3:::{own_bucket}(/.*)?",
        rf"arn:aws:s3:::keyshift-stamp-[a-z0-9-]+/t/{name}/\*",
        rf"arn:aws:sqs:[^:]*:\d+:keyshift-{name}-(p\d+(-\w+)?|s\d+-tags)",
        rf"arn:aws:secretsmanager:[^:]*:\d+:secret:keyshift/{name}/.+",
        rf"arn:aws:logs:[^:]*:\d+:log-group:/aws/lambda/keyshift-{name}-p\d+(:\*)?",
        rf"arn:aws:lambda:[^:]*:\d+:function:keyshift-{name}-p\d+",
    )
    if any(re.fullmatch(pattern, arn) for pattern in own):
        return True
    if re.fullmatch(r"arn:aws:s3:::keyshift-stamp-[a-z0-9-]+", arn):
        return _is_settings_only(statement) or statement.values("s3:prefix") == [f"t/{tenant}/*"]
    # A key's own policy decides who uses it; "every key" only of an account whose alias the customer moves.
    return re.fullmatch(r"arn:aws:kms:[^:]*:\d{12}:key/(\*|[A-Za-z0-9-]+)", arn) is not None


def _is_settings_only(statement: Statement) -> bool:
    """About a shared bucket itself, and nothing that lies in it. A listing of uploads knows no prefix condition."""
    return all(
        action.startswith("s3:GetBucket")
        or action in {"s3:GetEncryptionConfiguration", "s3:ListBucketMultipartUploads"}
        for action in statement.actions
    )


def _freeze(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    if facts.layout is None:
        return
    if facts.cloud == "azure":
        yield from _still_given(program, _closed_to_writes(facts), ("archive-write", "pipeline-annotate"))
        return
    if not facts.are_jobs_open and facts.serves:
        yield from _role_denies(program, "archive", WRITES, "writes are not denied to it although jobs are closed")
    for storage in _dedicated(facts):
        serves = facts.serves.get("storage") == storage
        if serves and facts.are_jobs_open:
            continue
        why = "jobs are closed" if serves else "it does not serve"
        yield from _bucket_denies(program, storage, WRITES, f"writes are not denied although {why}")


def _seal(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    if facts.layout is None or facts.is_access_open:
        return
    if facts.cloud == "azure":
        every = [str(one["id"]) for one in facts.units("storages")]
        yield from _still_given(program, every, ("archive-read", "archive-write", "pipeline-read", "pipeline-annotate"))
        return
    for audience in ("archive", "pipeline"):
        yield from _role_denies(program, audience, (*READS, *WRITES), "not everything is denied to it, sealed as it is")
    for storage in _dedicated(facts):
        yield from _bucket_denies(program, storage, (*READS, *WRITES), "it can be read or written, sealed as it is")


def _closed_to_writes(facts: Facts) -> list[str]:
    """All storages but the one that serves, and that one too while jobs are closed."""
    open_one = facts.serves.get("storage") if facts.are_jobs_open else None
    return [str(one["id"]) for one in facts.units("storages") if one["id"] != open_one]


def _still_given(program: Program, storages: list[str], rights: tuple[str, ...]) -> Iterator[Violation]:
    """Azure knows no denial of ours: what is closed must not be in the graph."""
    for one in program.of(kinds.AZURE_ROLE_ASSIGNMENT):
        if one.name in {f"{storage}-{right}" for storage in storages for right in rights}:
            yield Violation(f"the layout closes what the assignment {one.name} gives", one.urn)


def _dedicated(facts: Facts) -> list[str]:
    return [str(one["id"]) for one in facts.units("storages") if one.get("kind") == "dedicated"]


def _role_denies(program: Program, audience: str, actions: tuple[str, ...], message: str) -> Iterator[Violation]:
    policy = program.named(f"{audience}-role-policy")
    if policy is None or not _is_denied(policy, actions, lambda one: "*" in one.resources and not one.condition):
        yield Violation(message, policy.urn if policy else "")


def _bucket_denies(program: Program, storage: str, actions: tuple[str, ...], message: str) -> Iterator[Violation]:
    policy = program.belonging(kinds.BUCKET_POLICY, storage)
    if policy is None or not _is_denied(policy, actions, _spares_the_runner_only):
        yield Violation(message, policy.urn if policy else "")


def _spares_the_runner_only(statement: Statement) -> bool:
    if not statement.is_open or any(key != "aws:principalarn" for key in statement.condition_keys):
        return False
    spared = statement.values("aws:PrincipalArn")
    return all(re.fullmatch(r"arn:aws:iam::\d{12}:role/keyshift-[a-z0-9-]+-runner", arn) for arn in spared)


def _is_denied(policy: Resource, actions: tuple[str, ...], is_right: Any) -> bool:
    """A policy that is not known yet is judged when it is: the key that it names is only being made."""
    if not isinstance(statements(policy.get("policy")), list):
        return bool(policy.deps.get("policy"))
    right = [statement for statement in denied(policy.get("policy")) if is_right(statement)]
    return all(any(statement.covers(action) for statement in right) for action in actions)


def _no_forbidden_kind(one: Resource, _: Mapping[str, Any]) -> Found:
    yield FORBIDDEN[one.type]


def _rules() -> Iterator[Rule]:
    yield Rule(
        id="access-no-open-principal",
        topic="access",
        sentence="No policy lets everybody in; Elastic's statement limited by aws:PrincipalOrgPaths is the one exception.",
        remediation="Name the principals. On a key, Elastic may be admitted by its place in its organization.",
        severity=Severity.CRITICAL,
        url=f"{IAM}/reference_policies_elements_principal.html#principal-anonymous",
        unknown=OnUnknown.UPDATE,
        controls=("CIS AWS 3.1.4", "SOC 2 CC6.3"),
        types=frozenset(POLICY_OF),
        check=_no_open_principal,
    )
    yield Rule(
        id="access-trusted-at-home",
        topic="access",
        sentence="A role is assumed from its own account or by Lambda.",
        remediation="Trust the account's root or lambda.amazonaws.com.",
        severity=Severity.CRITICAL,
        url=f"{IAM}/id_roles_manage_trust-policy.html",
        unknown=OnUnknown.NONE,
        controls=("SOC 2 CC6.3",),
        types=frozenset({kinds.ROLE}),
        check=_trust,
    )
    yield Rule(
        id="access-no-wildcards",
        topic="access",
        sentence="No role is allowed all actions of a service, or anything on every resource.",
        remediation="List the actions and the resources.",
        severity=Severity.HIGH,
        url=f"{IAM}/best-practices.html#grant-least-privilege",
        unknown=OnUnknown.UPDATE,
        controls=("CIS AWS 2.15", "SOC 2 CC6.3"),
        types=frozenset({kinds.ROLE_POLICY}),
        check=_no_wildcards,
    )
    yield Rule(
        id="access-own-resources-only",
        topic="access",
        sentence="A tenant's roles name resources of that tenant only.",
        remediation="Name buckets, queues, secrets and functions of the tenant; of a shared bucket its prefix.",
        severity=Severity.CRITICAL,
        url=f"{IAM}/best-practices.html#grant-least-privilege",
        unknown=OnUnknown.UPDATE,
        controls=("SOC 2 CC6.1", "SOC 2 CC6.3"),
        types=frozenset({kinds.ROLE_POLICY}),
        check=_own_only,
    )
    yield Rule(
        id="access-freeze-denies",
        topic="access",
        sentence="Where the layout closes jobs, and on a bucket that does not serve, writes are denied.",
        remediation="Deny the writes in Archive's role and in the bucket's policy, to all but the runner.",
        severity=Severity.CRITICAL,
        url=f"{IAM}/reference_policies_evaluation-logic.html",
        unknown=OnUnknown.ORIGIN,
        controls=("SOC 2 PI1.3",),
        check_program=_freeze,
    )
    yield Rule(
        id="access-seal-denies",
        topic="access",
        sentence="Where the layout closes access, reads and writes are denied to every role but the runner's.",
        remediation="Deny everything in the roles of Archive and the pipeline, and objects in the bucket's policy.",
        severity=Severity.CRITICAL,
        url=f"{IAM}/reference_policies_evaluation-logic.html",
        unknown=OnUnknown.ORIGIN,
        controls=("NIST 800-57 8.3.5", "SOC 2 CC7.4"),
        check_program=_seal,
    )
    yield Rule(
        id="access-no-forbidden-kind",
        topic="access",
        sentence="No users, access keys, grants, public endpoints or managed policies.",
        remediation="Take the resource out; its message says what it would open.",
        severity=Severity.HIGH,
        url=f"{IAM}/best-practices.html",
        unknown=OnUnknown.NONE,
        controls=("CIS AWS 2.3", "SOC 2 CC6.1"),
        types=frozenset(FORBIDDEN),
        check=_no_forbidden_kind,
    )


RULES = tuple(_rules())
