# ruff: noqa: SLF001 - ministack offers no public functions; its version is pinned.
"""May the caller do this? IAM policies, boundary, session policies, bucket policy, public access block.

The rules are ministack's evaluator's; what is added here is what S3 knows of a request: whose the
bucket is, and the condition keys of the Service Authorization Reference for Amazon S3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ministack.core import iam_evaluator as evaluator

from sandbox.aws.identity import Requester
from sandbox.aws.s3 import tags
from sandbox.aws.s3.message import Request, S3Error
from sandbox.aws.s3.store import Store

# Header -> condition key, where the key is not "s3:" and the header's own name.
_WRITE_HEADERS = (
    *("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-acl"),
    *("x-amz-storage-class", "x-amz-copy-source", "x-amz-metadata-directive", "x-amz-content-sha256"),
    *("if-match", "if-none-match", "x-amz-object-lock-mode", "x-amz-object-lock-legal-hold"),
)
_LIST_PARAMETERS = ("prefix", "delimiter", "max-keys")


class Access:
    def __init__(self, store: Store) -> None:
        self._store = store

    def require(self, requester: Requester, action: str, request: Request) -> None:
        """Raise AccessDenied unless the caller may take `action` on the bucket or key of the request."""
        refusal = self._refusal(requester, action, request)
        if refusal is not None:
            raise refusal

    def allows(self, requester: Requester, action: str, request: Request) -> bool:
        return self._refusal(requester, action, request) is None

    def _refusal(self, requester: Requester, action: str, request: Request) -> S3Error | None:
        # A bucket that is yet to be made has no policy to ask, whoever else has one of that name.
        owner = self._store.owner(request.bucket) if request.bucket and action != "s3:CreateBucket" else None
        resource = arn_of(request)
        context = requester.context(action, resource, self._condition_keys(requester, action, request, owner))
        principal = requester.principal
        identity = evaluator.evaluate(context, principal.policies or [], *principal.limits)
        result = identity
        if owner is not None:
            policy = self._policy(owner, request.bucket, principal.account)
            result = evaluator.combine_resource_policy(identity, context, policy, owner, limits=principal.limits)
        if result.decision == "Allow":
            return None
        if owner not in (None, principal.account):
            # S3 explains a refusal only within the bucket owner's account.
            return S3Error("AccessDenied", "Access Denied", 403)
        return S3Error("AccessDenied", _explain(result, principal.arn, action, resource), 403)

    def _policy(self, owner: str, bucket: str, account: str) -> str:
        if account != owner and self._store.public_policy_is_restricted(owner, bucket):
            return ""
        return self._store.policy(owner, bucket)

    def _condition_keys(
        self, requester: Requester, action: str, request: Request, owner: str | None
    ) -> Mapping[str, Any]:
        keys: dict[str, Any] = {
            "s3:authType": "REST-QUERY-STRING" if requester.is_presigned else "REST-HEADER",
            "s3:signatureversion": "AWS4-HMAC-SHA256",
            "s3:TlsVersion": "1.3",
        }
        if owner is not None:
            keys |= {"aws:ResourceAccount": owner, "s3:ResourceAccount": owner}
        if request.version_id:
            keys["s3:VersionId"] = request.version_id
        if action in ("s3:ListBucket", "s3:ListBucketVersions"):
            keys |= {f"s3:{name}": request.query[name] for name in _LIST_PARAMETERS if name in request.query}
        elif action in ("s3:PutObject", "s3:PutObjectTagging"):
            keys |= {f"s3:{name}": request.headers[name] for name in _WRITE_HEADERS if name in request.headers}
            keys |= _requested_tags(request)
        elif owner is not None and request.key:
            keys |= self._existing_tags(owner, request)
        return keys

    def _existing_tags(self, owner: str, request: Request) -> Mapping[str, str]:
        stored = self._store.version(owner, request.bucket, request.key, request.version_id)
        if stored is None:
            return {}
        found = self._store.tags(owner, request.bucket, request.key, stored)
        return {f"s3:ExistingObjectTag/{name}": value for name, value in found.items()}


def arn_of(request: Request) -> str:
    if not request.bucket:
        return "*"
    return f"arn:aws:s3:::{request.bucket}/{request.key}" if request.key else f"arn:aws:s3:::{request.bucket}"


def _requested_tags(request: Request) -> Mapping[str, Any]:
    header = request.headers.get("x-amz-tagging")
    if not header:
        return {}
    asked = tags.of_header(header)
    return {
        **{f"s3:RequestObjectTag/{name}": value for name, value in asked.items()},
        "s3:RequestObjectTagKeys": list(asked),
    }


def _explain(result: evaluator.EvalResult, principal: str, action: str, resource: str) -> str:
    """The reason, as S3 words it (IAM User Guide, "Troubleshoot access denied error messages")."""
    if result.decision == "Deny":
        kind = "a resource-based policy" if result.resource_policy_arn else "an identity-based policy"
        reason = f"with an explicit deny in {kind}"
    else:
        reason = f"because no identity-based policy allows the {action} action"
    return f'User: {principal} is not authorized to perform: {action} on resource: "{resource}" {reason}'


def is_condition_operator(operator: str) -> bool:
    """Whether the evaluator knows a policy's condition operator; one that it does not would never match."""
    name = operator.lower().removesuffix("ifexists")
    name = name.removeprefix("forallvalues:").removeprefix("foranyvalue:")
    return name == "null" or name in evaluator._CONDITION_OPS
