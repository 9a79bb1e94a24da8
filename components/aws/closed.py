"""What closes a tenant's data on AWS: one statement a bucket, one a role. Plain data, imported by all who close.

The layout with closed access renders these statements and the seal puts the very same ones in by direct
calls, so that neither undoes the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components import naming

# Everything that adds, changes or removes an object, a version or a tag. Aborting an upload is not
# among them: it removes nothing that can be read, and a freeze needs it.
WRITES = (
    "s3:BypassGovernanceRetention",
    "s3:DeleteObject*",
    "s3:PutObject*",
    "s3:ReplicateDelete",
    "s3:ReplicateObject",
    "s3:ReplicateTags",
    "s3:RestoreObject",
    "s3:UpdateObjectEncryption",
)
READS = ("s3:GetObject*", "s3:ListBucket*", "s3:ListMultipartUploadParts")
ROLE_POLICY = "keyshift"
"""The name of a role's one inline policy."""
SEALED, ACCESS_IS_CLOSED = "DenySealed", "AccessIsClosed"


def bucket_statement(bucket: str, runner_role: str | None) -> dict[str, Any]:
    """Refuses objects and listings to everybody but the runner, also to who administers the account.

    The bucket's own settings are left alone: what is denied here could not be lifted again.
    """
    arn = naming.arn("s3", bucket)
    statement: dict[str, Any] = {
        "Sid": SEALED,
        "Effect": "Deny",
        "Principal": "*",
        "Action": sorted({*READS, *WRITES}),
        "Resource": [arn, f"{arn}/*"],
    }
    return statement | ({"Condition": {"ArnNotEquals": {"aws:PrincipalArn": runner_role}}} if runner_role else {})


def role_statement() -> dict[str, Any]:
    """Refuses a role everything: a denial wins over whatever else its policies allow."""
    return {"Sid": ACCESS_IS_CLOSED, "Effect": "Deny", "Action": ["*"], "Resource": "*"}


def merged(policy: Mapping[str, Any], statement: Mapping[str, Any]) -> dict[str, Any]:
    """The policy with the statement at its end, once; all others as they are."""
    return {**policy, "Statement": [*_others(policy, statement["Sid"]), dict(statement)]}


def without(policy: Mapping[str, Any], sid: str) -> dict[str, Any]:
    """The policy without the statement of that name; all others as they are."""
    return {**policy, "Statement": _others(policy, sid)}


def _others(policy: Mapping[str, Any], sid: str) -> list[dict[str, Any]]:
    held = policy.get("Statement", [])
    # AWS takes a single statement without a list around it, and gives it back so.
    statements = [held] if isinstance(held, Mapping) else held
    return [dict(statement) for statement in statements if statement.get("Sid") != sid]
