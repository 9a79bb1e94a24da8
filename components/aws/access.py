"""Who may do what with a tenant's data: the archive, pipeline and runner roles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from components import naming
from components.audiences import ARCHIVE, PIPELINE, RUNNER
from components.aws import closed
from components.aws.closed import WRITES
from components.aws.key import PROBE, USE_THROUGH_S3
from components.routes import Route

# Versions too: the revisions of a record that is archived again go on counting over its deletion.
LIST_OBJECTS = ("s3:ListBucket", "s3:ListBucketVersions")
READ_OBJECTS = ("s3:GetObject", "s3:GetObjectTagging", "s3:GetObjectVersion")
WRITE_OBJECTS = (
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:DeleteObjectTagging",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
    "s3:PutObjectTagging",
)
# A copy of an object's current version onto itself, with its tags.
ANNOTATE_OBJECTS = ("s3:GetObjectVersionTagging", "s3:PutObject", "s3:PutObjectTagging")
MOVE_OBJECTS = (
    *READ_OBJECTS,
    *WRITE_OBJECTS,
    "s3:DeleteObjectVersion",
    "s3:GetObjectAttributes",
    "s3:GetObjectLegalHold",
    "s3:GetObjectRetention",
    "s3:GetObjectVersionAttributes",
    "s3:GetObjectVersionTagging",
    "s3:PutObjectVersionTagging",
    "s3:UpdateObjectEncryption",
)
INSPECT_BUCKET = (
    "s3:GetBucketLocation",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetBucketPolicy",
    "s3:GetBucketVersioning",
    "s3:GetEncryptionConfiguration",
)
CONSUME_QUEUE = (
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
)
REPLAY_FROM, REPLAY_TO = ("sqs:DeleteMessage", "sqs:ReceiveMessage"), ("sqs:SendMessage",)
WATCH_QUEUE = ("sqs:GetQueueAttributes", "sqs:GetQueueUrl")
WRITE_LOGS = ("logs:CreateLogStream", "logs:PutLogEvents")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a storage's objects lie and under which keys, as a policy names them.

    New objects come under `key_arn`; until a rotation has re-keyed them all, old ones lie under
    others of `key_arns`.
    """

    bucket: str
    prefix: str
    key_arn: str
    key_arns: Sequence[str]

    @property
    def bucket_arn(self) -> str:
        return naming.arn("s3", self.bucket)

    @property
    def objects_arn(self) -> str:
        return f"{self.bucket_arn}/{self.prefix}*"


@dataclass(frozen=True, kw_only=True)
class Tenancy:
    """What decides a tenant's role policies. Plain data: the policies are functions of it."""

    tenant: str
    account: str
    region: str
    places: Mapping[str, Place]
    routes: Sequence[Route]
    serving_storage: str | None
    serving_search: str | None
    are_jobs_open: bool
    is_access_open: bool
    watched: Sequence[str] = ()


def archive_policy(tenancy: Tenancy) -> dict[str, Any]:
    """Archive reads and writes what serves, and is refused by name what the gate closes."""
    if tenancy.serving_storage is None or tenancy.serving_search is None:
        return _document([_deny("NothingServesYet", ["*"])])
    place = tenancy.places[tenancy.serving_storage]
    statements = [
        *_objects(place, "Serving", bucket=LIST_OBJECTS, objects=(*READ_OBJECTS, *WRITE_OBJECTS)),
        _keys_through_s3(tenancy, [place], ["kms:Decrypt"], place.key_arns, sid="Decrypt"),
        # Also the key to come: the bucket's default and this policy do not change at the same instant.
        _keys_through_s3(tenancy, [place], ["kms:GenerateDataKey"], place.key_arns, sid="Encrypt"),
        _secrets(tenancy, ARCHIVE, [tenancy.serving_search]),
    ]
    if not tenancy.are_jobs_open:
        statements.append(_deny("JobsAreClosed", list(WRITES)))
    return _document([*statements, *_closed(tenancy)])


def pipeline_policy(tenancy: Tenancy) -> dict[str, Any]:
    """The worker reads the storages whose events reach it, takes them from its queues, and writes where it serves."""
    attached = [route for route in tenancy.routes if route.is_attached]
    statements = []
    for storage in sorted({route.storage for route in attached}):
        place, sid = tenancy.places[storage], storage.capitalize()
        statements += _objects(place, sid, bucket=LIST_OBJECTS, objects=READ_OBJECTS)
        statements.append(_keys_through_s3(tenancy, [place], ["kms:Decrypt"], place.key_arns, sid=f"Decrypt{sid}"))
    for storage in sorted({route.storage for route in attached if route.takes_edits}):
        place, sid = tenancy.places[storage], storage.capitalize()
        statements.append(_allow(f"Annotate{sid}", ANNOTATE_OBJECTS, [place.objects_arn]))
        encrypt = _keys_through_s3(tenancy, [place], ["kms:GenerateDataKey"], [place.key_arn], sid=f"Encrypt{sid}")
        statements.append(encrypt)
    if not tenancy.are_jobs_open:
        statements.append(_deny("JobsAreClosed", list(WRITES)))
    if attached:
        statements.append(_secrets(tenancy, PIPELINE, sorted({route.search for route in attached})))
    if tenancy.routes:
        # Of all pipelines: Lambda refuses an event source mapping, even a disabled one, whose role cannot read the queue.
        statements.append(_allow("Queues", CONSUME_QUEUE, [_queue_arn(tenancy, route.id) for route in tenancy.routes]))
        statements.append(
            _allow("LogGroups", ["logs:CreateLogGroup"], [_log_arn(tenancy, r.id) for r in tenancy.routes])
        )
        statements.append(_allow("Logs", WRITE_LOGS, [_log_arn(tenancy, r.id, ":*") for r in tenancy.routes]))
    if not statements:
        return _document([_deny("NothingServesYet", ["*"])])
    return _document([*statements, *_closed(tenancy)])


def runner_policy(tenancy: Tenancy, probed_keys: Sequence[str]) -> dict[str, Any]:
    """The runner copies, proves and purges every storage; closing the gate does not stop it.

    `probed_keys` may be patterns: the key behind a customer's alias is not known in advance.
    """
    places = [tenancy.places[storage] for storage in sorted(tenancy.places)]
    statements = []
    for storage, place in sorted(tenancy.places.items()):
        statements += _objects(place, storage.capitalize(), bucket=LIST_OBJECTS, objects=MOVE_OBJECTS)
    if places:
        buckets = sorted({place.bucket_arn for place in places})
        # Knows no condition on a prefix (service authorization reference), so that a statement with one never allows it.
        statements.append(_allow("ListUploads", ["s3:ListBucketMultipartUploads"], buckets))
        statements.append(_allow("Buckets", INSPECT_BUCKET, buckets))
        key_arns = [key_arn for place in places for key_arn in place.key_arns]
        statements.append(_keys_through_s3(tenancy, places, USE_THROUGH_S3, key_arns, sid="KeysThroughS3"))
    if probed_keys:
        statements.append(_allow("ProbeKeys", (*PROBE, "kms:GetKeyRotationStatus"), sorted(set(probed_keys))))
    if tenancy.routes:
        queues = [_queue_arn(tenancy, route.id, suffix) for route in tenancy.routes for suffix in ("", "-dlq")]
        statements.append(_allow("Queues", WATCH_QUEUE, queues))
        statements.append(_allow("DeadLetters", REPLAY_FROM, [q for q in queues if q.endswith("-dlq")]))
        statements.append(_allow("Replay", REPLAY_TO, [q for q in queues if not q.endswith("-dlq")]))
    if tenancy.watched:
        statements.append(
            _allow("TagChanges", CONSUME_QUEUE, [_tag_queue_arn(tenancy, storage) for storage in tenancy.watched])
        )
    statements.append(
        _allow("Secrets", ["secretsmanager:GetSecretValue"], [_secret_arn(tenancy, f"keyshift/{tenancy.tenant}/*")])
    )
    return _document(statements)


@dataclass(frozen=True, kw_only=True)
class TenantRolesArgs:
    """`probed_keys` apart: the ARN of a key that is being made must not hide the other roles' policies from a preview."""

    tenant: str
    account: str
    tenancy: pulumi.Input[Tenancy]
    probed_keys: pulumi.Input[Sequence[str]]


class TenantRoles(pulumi.ComponentResource):
    """Three roles with one inline policy each. They live as long as the tenant; only the policies change."""

    archive_arn: pulumi.Output[str]
    pipeline_arn: pulumi.Output[str]
    runner_arn: pulumi.Output[str]
    pipeline_policy: aws.iam.RolePolicy

    def __init__(self, name: str, args: TenantRolesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("keyshift:aws:TenantRoles", name, None, opts)
        operators = {"AWS": naming.arn("iam", "root", account=args.account)}
        tenancy = pulumi.Output.from_input(args.tenancy)
        archive, _ = self._role(ARCHIVE, args.tenant, operators, tenancy.apply(archive_policy))
        worker, self.pipeline_policy = self._role(
            PIPELINE, args.tenant, {"Service": "lambda.amazonaws.com"}, tenancy.apply(pipeline_policy)
        )
        runner, _ = self._role(
            RUNNER,
            args.tenant,
            operators,
            pulumi.Output.all(tenancy, args.probed_keys).apply(lambda found: runner_policy(found[0], found[1])),
        )
        self.archive_arn, self.pipeline_arn, self.runner_arn = archive.arn, worker.arn, runner.arn
        self.register_outputs({ARCHIVE: self.archive_arn, PIPELINE: self.pipeline_arn, RUNNER: self.runner_arn})

    def _role(
        self, audience: str, tenant: str, principal: dict[str, str], policy: pulumi.Output[dict[str, Any]]
    ) -> tuple[aws.iam.Role, aws.iam.RolePolicy]:
        trust = _document([{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}])
        role = aws.iam.Role(
            f"{audience}-role",
            name=naming.role(tenant, audience),
            assume_role_policy=json.dumps(trust, sort_keys=True),
            tags={"keyshift:tenant": tenant},
            opts=pulumi.ResourceOptions(parent=self),
        )
        inline = aws.iam.RolePolicy(
            f"{audience}-role-policy",
            name=closed.ROLE_POLICY,
            role=role.name,
            policy=pulumi.Output.json_dumps(policy, sort_keys=True),
            opts=pulumi.ResourceOptions(parent=self),
        )
        return role, inline


def _objects(place: Place, sid: str, *, bucket: Sequence[str], objects: Sequence[str]) -> list[dict[str, Any]]:
    listing = _allow(f"List{sid}", bucket, [place.bucket_arn])
    if place.prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": f"{place.prefix}*"}}
    return [listing, _allow(f"Objects{sid}", objects, [place.objects_arn])]


def _keys_through_s3(
    tenancy: Tenancy, places: Sequence[Place], actions: Sequence[str], key_arns: Sequence[str], *, sid: str
) -> dict[str, Any]:
    """The context is the object's ARN, or the bucket's where bucket keys are on."""
    contexts = sorted({context for place in places for context in (place.bucket_arn, place.objects_arn)})
    return {
        **_allow(sid, actions, sorted(set(key_arns))),
        "Condition": {
            "StringEquals": {"kms:ViaService": f"s3.{tenancy.region}.amazonaws.com"},
            "StringLike": {"kms:EncryptionContext:aws:s3:arn": contexts},
        },
    }


def _secrets(tenancy: Tenancy, audience: str, searches: Sequence[str]) -> dict[str, Any]:
    # Secrets Manager ends a secret's ARN with six characters of its own.
    names = [f"{naming.secret(tenancy.tenant, search, audience)}-??????" for search in searches]
    return _allow("Secrets", ["secretsmanager:GetSecretValue"], [_secret_arn(tenancy, name) for name in names])


def _closed(tenancy: Tenancy) -> list[dict[str, Any]]:
    return [] if tenancy.is_access_open else [closed.role_statement()]


def _secret_arn(tenancy: Tenancy, name: str) -> str:
    return naming.arn("secretsmanager", f"secret:{name}", region=tenancy.region, account=tenancy.account)


def _queue_arn(tenancy: Tenancy, pipeline: str, suffix: str = "") -> str:
    name = naming.pipeline(tenancy.tenant, pipeline)
    return naming.arn("sqs", f"{name}{suffix}", region=tenancy.region, account=tenancy.account)


def _tag_queue_arn(tenancy: Tenancy, storage: str) -> str:
    name = naming.tag_watch(tenancy.tenant, storage)
    return naming.arn("sqs", name, region=tenancy.region, account=tenancy.account)


def _log_arn(tenancy: Tenancy, pipeline: str, suffix: str = "") -> str:
    group = f"log-group:/aws/lambda/{naming.pipeline(tenancy.tenant, pipeline)}{suffix}"
    return naming.arn("logs", group, region=tenancy.region, account=tenancy.account)


def _document(statements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def _deny(sid: str, actions: Sequence[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Deny", "Action": list(actions), "Resource": "*"}
