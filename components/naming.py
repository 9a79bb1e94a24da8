"""Names of cloud resources: pure functions, each within its vendor's limit.

A physical name holds the tenant and the number of the unit, so that old and new stand side by side
during a migration and no name is ever used for two things.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
S3_BUCKET_NAME_LIMIT = 63
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
IAM_ROLE_NAME_LIMIT = 64
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
SQS_QUEUE_NAME_LIMIT = 80
# https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html
LAMBDA_FUNCTION_NAME_LIMIT = 64
# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutRule.html
EVENT_RULE_NAME_LIMIT = 64
# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html
SECRET_NAME_LIMIT = 512
# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules: all of the next
STORAGE_ACCOUNT_NAME_LIMIT = 24
CONTAINER_NAME_LIMIT = 63
STORAGE_QUEUE_NAME_LIMIT = 63
VAULT_NAME_LIMIT = 24
VAULT_KEY_NAME_LIMIT = 127
WEB_APP_NAME_LIMIT = 60
EVENT_SUBSCRIPTION_NAME_LIMIT = 64

TENANT_NAME_MIN = 3
TENANT_NAME_LIMIT = 32
"""What is left of a bucket name beside `keyshift-`, a storage's number and the eight digits, with some to spare."""

_ASSIGNMENTS = uuid.UUID("5a1b6d0e-3f0f-4b5a-9d3c-2d1f0a6c8e47")
_TENANT_NAME = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]")

# https://www.elastic.co/guide/en/cloud/current/ec-reference-regions.html: the oldest AWS regions carry no `aws-`
_ELASTIC_PLAIN_AWS_REGIONS = frozenset(
    {
        "ap-northeast-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "eu-west-1",
        "sa-east-1",
        "us-east-1",
        "us-west-1",
        "us-west-2",
    }
)


def tenant_name(name: str) -> str:
    """The name, if every resource of a tenant can carry it. Raises ValueError saying why not."""
    if not TENANT_NAME_MIN <= len(name) <= TENANT_NAME_LIMIT:
        raise ValueError(
            f"the tenant name {name!r} has {len(name)} characters; "
            f"it must have {TENANT_NAME_MIN} to {TENANT_NAME_LIMIT}, so that a bucket can carry it"
        )
    if not _TENANT_NAME.fullmatch(name):
        raise ValueError(
            f"the tenant name {name!r} must be lower-case letters, digits and hyphens, "
            "begin with a letter and end with a letter or digit, as a bucket's name must"
        )
    return name


def tenant_stack(tenant: str) -> str:
    return f"tenant-{tenant}"


def stamp_stack(cloud: str, region: str, number: int) -> str:
    return f"stamp-{cloud}-{region}-{number:02}"


def shared_bucket(*, stamp: str, account: str, region: str) -> str:
    return f"keyshift-{stamp}-{_digits(account, region, stamp)}"


def shared_prefix(tenant: str) -> str:
    """The tenant's entity in a shared bucket: every key of it begins so."""
    return f"t/{tenant}/"


def dedicated_bucket(*, tenant: str, storage: str, account: str, region: str) -> str:
    """The digits keep the name from being taken by a stranger: bucket names are global."""
    return f"keyshift-{tenant}-{storage}-{_digits(account, region, tenant)}"


def dedicated_bucket_pattern(*, tenant: str, account: str, region: str) -> str:
    """Matches every dedicated bucket of this tenant and, by the digits, of no other."""
    return dedicated_bucket(tenant=tenant, storage="s*", account=account, region=region)


def role(tenant: str, audience: str) -> str:
    return f"keyshift-{tenant}-{audience}"


def pipeline(tenant: str, pipeline: str) -> str:
    """The name of a pipeline's queue, rule and function."""
    return f"keyshift-{tenant}-{pipeline}"


def pipeline_ticks(tenant: str, id: str) -> str:
    """The name of the rule that makes a pipeline look for edits."""
    return f"{pipeline(tenant, id)}-ticks"


def tag_watch(tenant: str, storage: str) -> str:
    """The name of the queue and the rule that hear of tag changes in a storage."""
    return f"keyshift-{tenant}-{storage}-tags"


def dead_letter_queue(tenant: str, id: str) -> str:
    return f"{pipeline(tenant, id)}-dlq"


def deployment(tenant: str, search: str) -> str:
    return f"{tenant}-{search}"


def secret(tenant: str, search: str, audience: str) -> str:
    return f"keyshift/{tenant}/{search}/{audience}"


def vendor_key_alias(stamp: str, number: int = 1) -> str:
    """Each of a stamp's vendor keys has an alias of its own; the first one's bears no number."""
    return f"alias/keyshift-{stamp}" if number == 1 else f"alias/keyshift-{stamp}-{number}"


# Azure. Accounts, vaults and web apps have names that are global, so digits keep them from being taken by a stranger.


def resource_group(stack: str) -> str:
    return f"keyshift-{stack}"


def shared_account(*, stamp: str, subscription: str) -> str:
    """Letters and digits only, as an account's name must be."""
    return f"ksstamp{stamp.rpartition('-')[2]}{_digits(subscription, stamp)}"


def dedicated_account(*, tenant: str, storage: str, subscription: str) -> str:
    return f"ks{storage}{tenant.replace('-', '')[:8]}{_digits(subscription, tenant)}"


def container(tenant: str, storage: str) -> str:
    """The tenant's entity. With the storage's number: the name of a container that is being deleted is blocked."""
    return f"{tenant}-{storage}"


def vault(*, prefix: str, stamp: str, subscription: str) -> str:
    return f"{prefix}-{_digits(subscription, stamp)}"


def vault_key(tenant: str) -> str:
    """One key a tenant, of which each upload is a version."""
    return f"keyshift-{tenant}"


def wrapping_key(tenant: str, key: str) -> str:
    return f"keyshift-{tenant}-{key}-kek"


def vault_secret(tenant: str, search: str, audience: str) -> str:
    return f"keyshift-{tenant}-{search}-{audience}"


def web_app(*, tenant: str, pipeline: str, subscription: str) -> str:
    return f"keyshift-{tenant}-{pipeline}-{_digits(subscription, tenant)}"


def system_topic(tenant: str, storage: str) -> str:
    return f"keyshift-{tenant}-{storage}"


def resource_id(kind: str, name: str, *, subscription: str, group: str) -> str:
    """What Azure will call it: known before it is made, so that a preview can judge a right to it."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{kind}/{name}"


def assignment(*parts: str) -> str:
    """The name of a role assignment or definition, which has to be a GUID: the same for the same words."""
    return str(uuid.uuid5(_ASSIGNMENTS, "/".join(parts)))


def elastic_region(cloud: str, region: str) -> str:
    """The region as Elastic Cloud calls it."""
    return region if cloud == "aws" and region in _ELASTIC_PLAIN_AWS_REGIONS else f"{cloud}-{region}"


def tags(labels: Mapping[str, str], *, separator: str = ":") -> dict[str, str]:
    """What a resource says of whose it is, in the tags' own words."""
    return {f"keyshift{separator}{name}": value for name, value in labels.items()}


def arn(service: str, resource: str, *, region: str = "", account: str = "") -> str:
    return f"arn:aws:{service}:{region}:{account}:{resource}"


def _digits(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]
