"""The key policy that a customer attaches to a key of their own account: what we need, and nothing else.

Our side is named by the account's root with `aws:PrincipalArn`: a role ARN as the principal is refused while the
role does not exist, and goes on meaning the old role once it is made again. No statement of ours administers the
key, grants it away or re-encrypts: a key of another account is never changed under objects in place
(S3 API, UpdateObjectEncryption).
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components import naming
from components.audiences import AUDIENCES, RUNNER
from components.aws.key import ELASTIC_ORG_PATH, ELASTIC_USE
from migrate.errors import RefusedInput

OWNER, DATA, DESCRIBE, PROBE, ELASTIC = (
    "OwnerAdministersTheKey",
    "KeyshiftDataThroughS3",
    "KeyshiftDescribesTheKey",
    "KeyshiftProbesTheKey",
    "ElasticKeyAccess",
)
WHY = {
    OWNER: "you go on administering your key; KMS refuses a policy that locks its owner out",
    DATA: "Archive, its pipeline and our runner read and write your objects; through S3 and in your buckets only",
    DESCRIBE: "we see which key your alias names and in what state it is; nothing can be decrypted with it",
    PROBE: "our runner asks whether the key really works, so that a key that is lost is noticed and not guessed",
    ELASTIC: "Elastic Cloud encrypts your search deployment; its accounts are known by their organization only",
}
"""What each statement is for, in the customer's words."""

_ACCOUNT = re.compile(r"\d{12}")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """For whom a policy is: the customer's account, ours, and the tenants that share the key."""

    customer_account: str
    vendor_account: str
    region: str
    tenants: Sequence[str]

    def __post_init__(self) -> None:
        for whose, account in (("the customer's", self.customer_account), ("our", self.vendor_account)):
            if not _ACCOUNT.fullmatch(account):
                raise RefusedInput(
                    f"{account!r} cannot be {whose} AWS account: an account's number has 12 digits",
                    hint="aws sts get-caller-identity --query Account, run by the customer, prints it",
                    code="account-number",
                )
        if self.customer_account == self.vendor_account:
            raise RefusedInput(
                f"the account {self.customer_account} is our own; a byokms key lies in the customer's",
                hint="a key that lies in our account is uploaded instead: keyshift key request --help",
                code="own-account",
            )


def statements(terms: Terms) -> dict[str, dict[str, Any]]:
    """Sid -> statement, in the order of the policy."""
    vendor = {"AWS": naming.arn("iam", "root", account=terms.vendor_account)}
    buckets = [
        naming.arn(
            "s3",
            naming.dedicated_bucket_pattern(tenant=tenant, account=terms.vendor_account, region=terms.region),
        )
        for tenant in sorted(terms.tenants)
    ]
    found = {
        OWNER: {
            "Principal": {"AWS": naming.arn("iam", "root", account=terms.customer_account)},
            "Action": "kms:*",
        },
        DATA: {
            "Principal": vendor,
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Condition": {
                "ArnEquals": {"aws:PrincipalArn": _roles(terms, AUDIENCES)},
                "StringEquals": {"kms:ViaService": f"s3.{terms.region}.amazonaws.com"},
                # The object's ARN; the bucket's where bucket keys are on.
                "StringLike": {
                    "kms:EncryptionContext:aws:s3:arn": [c for bucket in buckets for c in (bucket, f"{bucket}/*")]
                },
            },
        },
        DESCRIBE: {"Principal": vendor, "Action": ["kms:DescribeKey", "kms:GetKeyRotationStatus"]},
        PROBE: {
            "Principal": vendor,
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            # Not through a service: else it would stand in for the statement above, and hide that it is missing.
            "Condition": {
                "ArnEquals": {"aws:PrincipalArn": _roles(terms, (RUNNER,))},
                "Null": {"kms:ViaService": "true"},
            },
        },
        ELASTIC: {
            "Principal": {"AWS": "*"},
            "Action": list(ELASTIC_USE),
            "Condition": {"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": ELASTIC_ORG_PATH}},
        },
    }
    return {sid: {"Sid": sid, "Effect": "Allow", **parts, "Resource": "*"} for sid, parts in found.items()}


def policy(terms: Terms) -> dict[str, Any]:
    """The whole document, as `aws kms put-key-policy` takes it."""
    return {"Version": "2012-10-17", "Statement": list(statements(terms).values())}


def document(terms: Terms) -> str:
    """The policy as a file: the same terms give the same bytes."""
    return json.dumps(policy(terms), indent=2) + "\n"


def commands(terms: Terms, file: str) -> list[str]:
    """What the customer types, in a shell of their own account, for a new key: key with policy, alias."""
    alias = alias_to_send(terms).rpartition(":")[2]
    made = f"aws kms create-key --region {terms.region} --policy file://{shlex.quote(file)}"
    return [
        f"KEY=$({made} --query KeyMetadata.KeyId --output text)",
        f'aws kms create-alias --region {terms.region} --alias-name {alias} --target-key-id "$KEY"',
    ]


def commands_for_an_existing_key(terms: Terms, file: str) -> list[str]:
    """The same for a key that is there: its whole policy is replaced, so what it says of others has to be added."""
    alias = alias_to_send(terms).rpartition(":")[2]
    put = f'aws kms put-key-policy --region {terms.region} --key-id "$KEY" --policy-name default'
    return [
        f"{put} --policy file://{shlex.quote(file)}",
        f'aws kms create-alias --region {terms.region} --alias-name {alias} --target-key-id "$KEY"',
    ]


def alias_to_send(terms: Terms) -> str:
    """The alias ARN that `commands` make: all that the customer gives us."""
    name = f"alias/keyshift-{min(terms.tenants)}"
    return naming.arn("kms", name, region=terms.region, account=terms.customer_account)


def _roles(terms: Terms, audiences: Sequence[str]) -> list[str]:
    return sorted(
        naming.arn("iam", f"role/{naming.role(tenant, audience)}", account=terms.vendor_account)
        for tenant in terms.tenants
        for audience in audiences
    )
