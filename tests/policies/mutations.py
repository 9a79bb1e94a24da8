"""Each component broken in the one way that a rule forbids, in the engine's own property names.

The same table is applied to the graph of a mocked run (tests/unit) and to what the program sends to the real
engine (tests/policies).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import layouts

from stacks.layout import Layout

Props = dict[str, Any]
FOREIGN = "999988887777"
OTHER_KEY = "arn:aws:kms:eu-west-1:111122223333:key/somebody-elses"
STAMP = "stamp"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """`resource`, by its logical name, is changed, dropped, unprotected or added; `said` changes the layout's output."""

    rule: str
    layout: str
    what: str
    resource: str = ""
    change: Callable[[Props], None] | None = None
    drop: bool = False
    unprotect: bool = False
    add: tuple[str, Props] | None = None
    said: Callable[[Props], Props | None] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def reports(self) -> str:
        """The logical name of the resource that the violation is about; empty: the stack."""
        return self.resource


def frozen() -> Layout:
    return layouts.changed(layouts.byokms_active(), gate={"jobs": "closed", "reason": "the last copy"})


def sealed() -> Layout:
    return layouts.sealed(layouts.byokms_active())


def nothing_yet() -> Layout:
    """A tenant whose customer's key is not known: its roles are there, and nothing else."""
    return layouts.changed(layouts.byok_pending(), mode="byokms", keys=())


LAYOUTS: Mapping[str, Callable[[], Layout]] = {
    **layouts.ALL,
    "frozen": frozen,
    "sealed": sealed,
    "nothing_yet": nothing_yet,
}


def put(path: str, value: Any) -> Callable[[Props], None]:
    *parents, last = path.split(".")

    def change(props: Props) -> None:
        held: Any = props
        for part in parents:
            held = held[int(part)] if isinstance(held, list) else held[part]
        if value is None:
            held.pop(last, None)
        else:
            held[last] = value

    return change


def document(property_: str, edit: Callable[[dict[str, Any]], None]) -> Callable[[Props], None]:
    def change(props: Props) -> None:
        held = json.loads(props[property_])
        edit(held)
        props[property_] = json.dumps(held)

    return change


def statement(sid: str, **values: Any) -> Callable[[Props], None]:
    """Another value in one statement of `policy`; None takes the part out."""

    def edit(held: dict[str, Any]) -> None:
        found = next(one for one in held["Statement"] if one["Sid"] == sid)
        for name, value in values.items():
            found.pop(name, None) if value is None else found.update({name: value})

    return document("policy", edit)


def without(*sids: str, property_: str = "policy") -> Callable[[Props], None]:
    return document(
        property_, lambda held: held.update(Statement=[s for s in held["Statement"] if s.get("Sid") not in sids])
    )


def allowing(property_: str = "policy", **values: Any) -> Callable[[Props], None]:
    added = {"Sid": "Added", "Effect": "Allow", **values}
    return document(property_, lambda held: held["Statement"].append(added))


def say(**values: Any) -> Callable[[Props], Props]:
    return lambda layout: layout | values


def key_state(state: str) -> Callable[[Props], Props]:
    return lambda layout: layout | {"keys": [{**key, "state": state} for key in layout["keys"]]}


RULES_0 = "rules.0"
OTHER_TENANT = "arn:aws:s3:::keyshift-bolt-s1-0123abcd/*"
AWS = (
    # storage
    Mutation(
        rule="storage-encrypted-by-kms",
        layout="byokms_active",
        what="S3's own key instead of KMS",
        resource="s1-bucket-encryption",
        change=put(f"{RULES_0}.applyServerSideEncryptionByDefault.sseAlgorithm", "AES256"),
    ),
    Mutation(
        rule="storage-encrypted-by-kms",
        layout="byok_active",
        what="an alias instead of the key",
        resource="s1-bucket-encryption",
        change=put(f"{RULES_0}.applyServerSideEncryptionByDefault.kmsMasterKeyId", "alias/aws/s3"),
    ),
    Mutation(
        rule="storage-under-its-own-key",
        layout="byokms_active",
        what="another key than the layout's",
        resource="s1-bucket-encryption",
        change=put(f"{RULES_0}.applyServerSideEncryptionByDefault.kmsMasterKeyId", OTHER_KEY),
    ),
    Mutation(
        rule="storage-under-its-own-key",
        layout="byok_active",
        what="another key, while the right one is only being made",
        resource="s1-bucket-encryption",
        change=put(f"{RULES_0}.applyServerSideEncryptionByDefault.kmsMasterKeyId", OTHER_KEY),
    ),
    Mutation(
        rule="storage-no-customer-provided-keys",
        layout="byokms_active",
        what="SSE-C not blocked",
        resource="s1-bucket-encryption",
        change=put(f"{RULES_0}.blockedEncryptionTypes", ["NONE"]),
    ),
    Mutation(
        rule="storage-no-bucket-key",
        layout="byokms_active",
        what="a bucket key under a customer's key",
        resource="s1-bucket-encryption",
        change=put(f"{RULES_0}.bucketKeyEnabled", True),
    ),
    Mutation(
        rule="storage-private",
        layout="byokms_active",
        what="public policies not blocked",
        resource="s1-bucket-private",
        change=put("blockPublicPolicy", False),
    ),
    Mutation(
        rule="storage-owner-enforced",
        layout="byokms_active",
        what="access control lists",
        resource="s1-bucket-ownership",
        change=put("rule.objectOwnership", "ObjectWriter"),
    ),
    Mutation(
        rule="storage-versioned",
        layout="byokms_active",
        what="versioning suspended",
        resource="s1-bucket-versioning",
        change=put("versioningConfiguration.status", "Suspended"),
    ),
    Mutation(
        rule="storage-kept",
        layout="byokms_active",
        what="force_destroy",
        resource="s1-bucket",
        change=put("forceDestroy", True),
    ),
    Mutation(
        rule="storage-nothing-expires",
        layout="byokms_active",
        what="objects expire",
        resource="s1-bucket-lifecycle",
        change=put(f"{RULES_0}.expiration", {"days": 365}),
    ),
    Mutation(
        rule="storage-whole",
        layout="byokms_active",
        what="no versioning at all",
        resource="s1-bucket-versioning",
        drop=True,
    ),
    Mutation(
        rule="storage-tls-only",
        layout="byokms_active",
        what="no denial of plain HTTP",
        resource="s1-bucket-policy",
        change=without("DenyInsecureTransport"),
    ),
    Mutation(
        rule="storage-no-other-key",
        layout="byokms_active",
        what="no denial of another key",
        resource="s1-bucket-policy",
        change=without("DenyAnotherKey"),
    ),
    # keys
    Mutation(
        rule="keys-no-material",
        layout="byok_active",
        what="material in the program",
        resource="k1-key",
        change=put("keyMaterialBase64", "AAAA"),
    ),
    Mutation(
        rule="keys-deletion-window",
        layout="byok_active",
        what="seven days where the site asks for thirty",
        resource="k1-key",
        change=put("deletionWindowInDays", 7),
    ),
    Mutation(
        rule="keys-policy-narrow",
        layout="byok_active",
        what="the whole account uses the key",
        resource="k1-key",
        change=statement("RunnerProbes", Condition=None),
    ),
    Mutation(
        rule="keys-policy-narrow",
        layout="byok_active",
        what="a grant",
        resource="k1-key",
        change=statement("RunnerProbes", Action=["kms:CreateGrant"]),
    ),
    Mutation(
        rule="keys-administered-at-home",
        layout="byok_active",
        what="a foreign account administers",
        resource="k1-key",
        change=allowing(Principal={"AWS": f"arn:aws:iam::{FOREIGN}:root"}, Action="kms:PutKeyPolicy", Resource="*"),
    ),
    Mutation(
        rule="keys-vendor-key-rotates",
        layout=STAMP,
        what="no rotation",
        resource="vendor-key",
        change=put("enableKeyRotation", False),
    ),
    Mutation(
        rule="keys-used-keys-work",
        layout="byok_active",
        what="the key in use is archived",
        resource="k1-key",
        said=key_state("archived"),
    ),
    Mutation(
        rule="keys-used-keys-work",
        layout="byok_active",
        what="the key in use is disabled",
        resource="k1-key",
        change=put("enabled", False),
    ),
    Mutation(
        rule="keys-nothing-at-the-customer",
        layout="byokms_active",
        what="an alias on the customer's key",
        resource="added",
        add=("aws:kms/alias:Alias", {"name": "alias/ours", "targetKeyId": layouts.CUSTOMER_KEY}),
    ),
    # search
    Mutation(
        rule="search-names-a-key",
        layout="byokms_active",
        what="an alias instead of the key",
        resource="e1-deployment",
        change=put("encryptionKeyPath", "arn:aws:kms:eu-west-1:444455556666:alias/archive"),
    ),
    Mutation(
        rule="search-names-a-key",
        layout="standard",
        what="Elastic's own key",
        resource="e1-deployment",
        change=put("encryptionKeyPath", None),
    ),
    Mutation(
        rule="search-under-its-own-key",
        layout="byokms_active",
        what="another key than the layout's",
        resource="e1-deployment",
        change=put("encryptionKeyPath", OTHER_KEY),
    ),
    Mutation(
        rule="search-tls-only",
        layout="standard",
        what="certificate not checked",
        resource="e1-index",
        change=put("elasticsearchConnection.insecure", True),
    ),
    Mutation(
        rule="search-tls-only",
        layout="standard",
        what="plain HTTP",
        resource="e1-index",
        change=put("elasticsearchConnection.endpoints", ["http://acme-e1.example.com:9200"]),
    ),
    Mutation(
        rule="search-no-open-filter",
        layout="standard",
        what="everybody may come",
        resource="added",
        add=(
            "ec:index/deploymentTrafficFilter:DeploymentTrafficFilter",
            {"name": "open", "region": "eu-west-1", "type": "ip", "rules": [{"source": "0.0.0.0/0"}]},
        ),
    ),
    Mutation(
        rule="search-own-indices-only",
        layout="standard",
        what="every index",
        resource="e1-archive-api-key",
        change=put(
            "roleDescriptors",
            json.dumps({"archive": {"cluster": [], "indices": [{"names": ["*"], "privileges": ["read"]}]}}),
        ),
    ),
    # access
    Mutation(
        rule="access-no-open-principal",
        layout="byokms_active",
        what="a bucket open to everybody",
        resource="s1-bucket-policy",
        change=allowing(Principal="*", Action="s3:GetObject", Resource="arn:aws:s3:::keyshift-acme-s1-20e5733a/*"),
    ),
    Mutation(
        rule="access-no-open-principal",
        layout="byok_active",
        what="Elastic's statement without its place in an organization",
        resource="k1-key",
        change=statement("ElasticKeyAccess", Condition={"StringLike": {"aws:PrincipalArn": "*"}}),
    ),
    Mutation(
        rule="access-trusted-at-home",
        layout="standard",
        what="another account assumes the role",
        resource="archive-role",
        change=allowing("assumeRolePolicy", Principal={"AWS": f"arn:aws:iam::{FOREIGN}:root"}, Action="sts:AssumeRole"),
    ),
    Mutation(
        rule="access-no-wildcards",
        layout="standard",
        what="all of S3",
        resource="runner-role-policy",
        change=allowing(Action="s3:*", Resource="arn:aws:s3:::keyshift-acme-s1-20e5733a/*"),
    ),
    Mutation(
        rule="access-own-resources-only",
        layout="standard",
        what="another tenant's bucket",
        resource="archive-role-policy",
        change=allowing(Action="s3:GetObject", Resource=OTHER_TENANT),
    ),
    Mutation(
        rule="access-freeze-denies",
        layout="frozen",
        what="jobs closed, writes not denied",
        resource="archive-role-policy",
        change=without("JobsAreClosed"),
    ),
    Mutation(
        rule="access-freeze-denies",
        layout="byokms_active",
        what="said to be frozen, and the bucket takes writes",
        resource="s1-bucket-policy",
        said=say(gate={"jobs": "closed", "access": "open"}, serves=None),
    ),
    Mutation(
        rule="access-seal-denies",
        layout="sealed",
        what="sealed, and the pipeline reads on",
        resource="pipeline-role-policy",
        change=without("AccessIsClosed"),
    ),
    Mutation(
        rule="access-seal-denies",
        layout="sealed",
        what="sealed, and the bucket is read",
        resource="s1-bucket-policy",
        change=without("DenySealed"),
    ),
    Mutation(
        rule="access-no-forbidden-kind",
        layout="standard",
        what="a user",
        resource="added",
        add=("aws:iam/user:User", {"name": "somebody"}),
    ),
    # pipeline
    Mutation(
        rule="pipeline-queue-encrypted",
        layout="standard",
        what="messages in clear",
        resource="p1-queue",
        change=put("sqsManagedSseEnabled", False),
    ),
    Mutation(
        rule="pipeline-queue-keeps",
        layout="standard",
        what="an hour",
        resource="p1-queue",
        change=put("messageRetentionSeconds", 3600),
    ),
    Mutation(
        rule="pipeline-dead-letters",
        layout="standard",
        what="no dead-letter queue",
        resource="p1-queue",
        change=put("redrivePolicy", None),
    ),
    Mutation(
        rule="pipeline-one-sender",
        layout="standard",
        what="any rule sends",
        resource="p1-queue-policy",
        change=statement("EventsOfThisRuleOnly", Condition=None),
    ),
    Mutation(
        rule="pipeline-own-worker",
        layout="standard",
        what="the shared bucket beyond the prefix",
        resource="p1-worker",
        change=put("environment.variables.PREFIX", "t/"),
    ),
    Mutation(
        rule="pipeline-own-worker",
        layout="standard",
        what="another tenant's search",
        resource="p1-worker",
        change=put("environment.variables.SEARCH_SECRET", "keyshift/bolt/e1/pipeline"),
    ),
    Mutation(
        rule="pipeline-own-events",
        layout="standard",
        what="every tenant's events",
        resource="p1-rule",
        change=document("eventPattern", lambda held: held["detail"].pop("object")),
    ),
    # lifecycle
    Mutation(
        rule="lifecycle-says-its-layout",
        layout="nothing_yet",
        what="no layout is told",
        said=lambda _: None,
    ),
    Mutation(
        rule="lifecycle-protected",
        layout="standard",
        what="the deployment is not protected",
        resource="e1-deployment",
        unprotect=True,
    ),
    Mutation(
        rule="lifecycle-tagged",
        layout="byokms_active",
        what="no customer",
        resource="s1-bucket",
        change=put("tags.keyshift:customer", None),
    ),
    Mutation(
        rule="lifecycle-mode-offered",
        layout="byokms_active",
        what="Azure's mode",
        said=say(mode="byokv"),
    ),
    Mutation(
        rule="lifecycle-mode-holds",
        layout="byokms_active",
        what="said to be under our key, but the customer's serves",
        said=say(mode="byok"),
    ),
    Mutation(
        rule="lifecycle-region",
        layout="standard",
        what="a region that the site does not allow",
        settings={"lifecycle-region": {"regions": ["eu-central-1"]}},
    ),
)
