# ruff: noqa: SLF001 - ministack offers no public functions; its version is pinned.
"""Who signed a request: SigV4 verified with ministack's own functions against its own credential store.

Root keys (an account id, `test`, the configured key) open everything in ministack and are refused
here: only the process itself acts as root, and it needs no signature for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote

from ministack.core import iam_evaluator as evaluator
from ministack.core.iam_actions import _auth_failure
from ministack.core.responses import get_account_id, get_region, set_request_account_id, set_request_region
from ministack.core.router import extract_access_key_id, extract_region
from ministack.core.sigv4 import decode_header_value
from ministack.services import iam, s3

from sandbox.aws.caller import Caller

ORGANIZATION = "o-ygducmlz12"
# Elastic Cloud's principals carry this path; customers name it in key policies
# (Elastic: "Encrypt your deployment with a customer-managed encryption key").
ORG_PATHS = {
    "777788889999": (f"{ORGANIZATION}/r-e5t3/ou-e5t3-fzpdq76p/ou-e5t3-ysfcmd95/ou-e5t3-hwt05su3/",),
}
_DECISIONS = {"Allow": "allow", "Deny": "deny", "ImplicitDeny": "none"}
_PRINCIPAL_ARN = re.compile(r"arn:aws:(iam|sts)::(?P<account>\d{12}):(?P<resource>.+)")
_XML_ERROR = re.compile(rb"<Code>(?P<code>[^<]*)</Code><Message>(?P<message>[^<]*)</Message>")


class AuthFailure(Exception):
    """The request's credentials were refused, in the words of the service that was asked."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Requester:
    """An authenticated caller together with what ministack's evaluator needs to judge it."""

    caller: Caller
    principal: evaluator.PrincipalInfo
    region: str
    is_presigned: bool

    def context(
        self, action: str, resource: str, keys: Mapping[str, Any], region: str | None = None
    ) -> evaluator.EvalContext:
        """The request context of an IAM decision. The sandbox's loopback HTTP stands for AWS's HTTPS endpoints."""
        return evaluator.EvalContext(
            principal_arn=self.principal.arn,
            principal_type=self.principal.type,
            principal_account=self.principal.account,
            action=action,
            resource_arn=resource,
            region=region or self.region,
            source_ip="127.0.0.1",
            secure_transport=True,
            # A request that names no tags has no aws:TagKeys.
            service_context={"aws:tagkeys": None, **{name.lower(): value for name, value in keys.items()}},
            principal_keys=self.principal.keys,
        )


def header_map(scope: Mapping[str, Any]) -> dict[str, str]:
    """Lower-case header names; a repeated field becomes one comma-joined value, as SigV4 signs it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), decode_header_value(raw_value)
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def query_map(scope: Mapping[str, Any]) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"), keep_blank_values=True)


def raw_path(scope: Mapping[str, Any]) -> str:
    return (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")


def is_root_key(headers: Mapping[str, str], query: Mapping[str, list[str]]) -> bool:
    """Whether a request claims one of the keys that ministack takes for an account's root."""
    key = extract_access_key_id(dict(headers), dict(query))
    return bool(key) and evaluator.is_root_access_key(key)


def resolve(scope: Mapping[str, Any], _headers: Mapping[str, str], _query: Mapping[str, Any], body: bytes) -> Caller:
    """The caller of a KMS request. Raises AuthFailure."""
    return authenticate(scope, body, "kms").caller


def authenticate(scope: Mapping[str, Any], body: bytes, service: str) -> Requester:
    """Verify a request's signature. Raises AuthFailure with the service's own code.

    Sets ministack's account and region of the current context to the caller's.
    """
    headers, query = header_map(scope), query_map(scope)
    key = extract_access_key_id(headers, query)
    if not key:
        raise _failure(service, "MissingAuthenticationToken", "Request is missing Authentication Token", headers)
    if evaluator.is_root_access_key(key):
        raise _failure(
            service, "UnrecognizedClientException", "The security token included in the request is invalid.", headers
        )
    set_request_account_id(evaluator.find_iam_access_key_account(key) or key)
    set_request_region(extract_region(headers, query))
    is_presigned = "authorization" not in headers
    if is_presigned and service == "s3":
        credential = _presigned_credential(scope, headers, query, key)
    else:
        credential = _signed_credential(scope, body, key, service)
    principal = evaluator.resolve_principal(key, get_account_id(), credential)
    if isinstance(principal, evaluator.AuthError):
        raise _failure(service, principal.code, principal.message, headers)
    return _requester(principal, is_presigned=is_presigned)


def _signed_credential(scope: Mapping[str, Any], body: bytes, key: str, service: str) -> evaluator.ResolvedCredential:
    headers, query = header_map(scope), query_map(scope)
    if f"/{service}/aws4_request" not in headers.get("authorization", "") + "".join(query.get("X-Amz-Credential", [])):
        message = f"Credential should be scoped to correct service: '{service}'. "
        raise _failure(service, "SignatureDoesNotMatch", message, headers)
    evaluator.pin_signed_request(scope["method"], raw_path(scope), query, scope["headers"])
    evaluator.pin_signed_body(body)
    checked = evaluator.authenticate(key, get_account_id())
    if isinstance(checked, evaluator.AuthError):
        raise _failure(service, checked.code, checked.message, headers)
    if checked is None:
        raise _failure(service, "UnsupportedSignature", "The request signature was not understood.", headers)
    return checked


def _presigned_credential(
    scope: Mapping[str, Any], headers: dict[str, str], query: dict[str, list[str]], key: str
) -> evaluator.ResolvedCredential:
    if "X-Amz-Signature" not in query:
        # Buckets made after 24 June 2020 take no SigV2 (S3 User Guide, "Authenticating Requests (SigV2)").
        raise AuthFailure(
            "InvalidRequest",
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
            400,
        )
    refused = s3._verify_presigned_sigv4(scope["method"], scope["path"], headers, query)
    if refused is not None:
        status, _, document = refused
        found = _XML_ERROR.search(document)
        code, message = (found["code"], found["message"]) if found else (b"AccessDenied", b"Access Denied")
        raise AuthFailure(code.decode(), message.decode(), status)
    token = (query.get("X-Amz-Security-Token") or [""])[0]
    credential = evaluator.resolve_credential(key, get_account_id(), token)
    if isinstance(credential, evaluator.CredentialResolutionError):
        raise _failure("s3", credential.code, credential.message, headers)
    return credential


def _failure(service: str, code: str, message: str, headers: dict[str, str]) -> AuthFailure:
    if service == "s3" and code == "MissingAuthenticationToken":
        # No bucket here is open to the public, so an unsigned request can only be refused.
        return AuthFailure("AccessDenied", "Access Denied", 403)
    code, status, message = _auth_failure(service, code, message, headers)
    return AuthFailure(code, message, status)


def _requester(principal: evaluator.PrincipalInfo, *, is_presigned: bool) -> Requester:
    org_paths = ORG_PATHS.get(principal.account, ())
    if org_paths:
        principal.keys.update({"aws:principalorgpaths": list(org_paths), "aws:principalorgid": ORGANIZATION})

    def identity_allows(action: str, resource: str, context: Mapping[str, Any]) -> str:
        asked = requester.context(action, resource, context)
        return _DECISIONS[evaluator.evaluate(asked, principal.policies or [], *principal.limits).decision]

    caller = Caller(
        account=principal.account,
        arn=principal.arn,
        principal_arn=principal_arn(principal.arn),
        org_paths=org_paths,
        is_root=False,
        identity_allows=identity_allows,
    )
    requester = Requester(caller, principal, get_region(), is_presigned)
    return requester


def principal_arn(arn: str) -> str:
    """What aws:PrincipalArn carries: for a role's session the ARN of the role, with its path."""
    if ":assumed-role/" not in arn:
        return arn
    account = arn.split(":")[4]
    name = arn.split("/")[1]
    role = iam._roles.get_scoped(account, None, name)
    return role["Arn"] if role else f"arn:aws:iam::{account}:role/{name}"


def principal_exists(arn: str) -> bool:
    """Whether an account, user or role of this ARN exists in the sandbox."""
    found = _PRINCIPAL_ARN.fullmatch(arn)
    if found is None:
        return False
    kind, _, rest = found["resource"].partition("/")
    if kind == "root":
        return True
    if kind == "assumed-role":
        return iam._roles.contains_scoped(found["account"], None, rest.partition("/")[0])
    store = {"role": iam._roles, "user": iam._users}.get(kind)
    if store is None:
        return False
    entity = store.get_scoped(found["account"], None, rest.rpartition("/")[2])
    return entity is not None and entity["Arn"] == arn
