"""Key policies: read, checked as PutKeyPolicy checks them, and evaluated.

Sources: IAM User Guide, reference_policies_grammar, reference_policies_elements_principal and
reference_policies_evaluation-logic; KMS Guide, key-policies and policy-evaluation.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sandbox.aws.caller import Caller
from sandbox.aws.kms.conditions import ContextValue, holds, is_operator, pattern

_VERSIONS = ("2012-10-17", "2008-10-17")
_POLICY_MEMBERS = {"Version", "Id", "Statement"}
_STATEMENT_MEMBERS = {
    *("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"),
}
_PRINCIPAL_KINDS = {"AWS", "Service", "Federated", "CanonicalUser"}
_ACTION = re.compile(r"\*|[a-zA-Z0-9-]+:[a-zA-Z0-9*?]+")
_ACCOUNT = re.compile(r"\d{12}")
_ROOT = re.compile(r"arn:aws:iam::(\d{12}):root")
_PRINCIPAL = re.compile(
    r"arn:aws:iam::\d{12}:(user|role)/[^*?]+|arn:aws:sts::\d{12}:(assumed-role/[^*?/]+/[^*?/]+|federated-user/[^*?/]+)"
)
_SERVICE = re.compile(r"[a-z0-9.-]+\.amazonaws\.com")


class PolicyError(ValueError):
    """The document is not a policy; the text says where."""


class PrincipalError(PolicyError):
    """A principal is not written as AWS takes it."""


class Verdict(Enum):
    """What a key policy says to a caller. DELEGATED: it leaves the decision to the caller's IAM policies."""

    DENIED = "denied"
    ALLOWED = "allowed"
    DELEGATED = "delegated"
    SILENT = "silent"


class _Match(Enum):
    NO = 0
    ACCOUNT = 1  # named by the account, which enables its IAM policies
    DIRECT = 2


@dataclass(frozen=True)
class Statement:
    """One statement. `principals` are the AWS ones: services and federated users are never callers here."""

    effect: str
    principals: tuple[str, ...]
    excludes_principals: bool
    actions: tuple[re.Pattern[str], ...]
    excludes_actions: bool
    resources: tuple[re.Pattern[str], ...]
    excludes_resources: bool
    conditions: Mapping[str, Mapping[str, list[str]]]

    def _principal_match(self, caller: Caller) -> _Match:
        """NotPrincipal spares a caller only if its account is named too (IAM User Guide, NotPrincipal)."""
        matches = {_match(principal, caller) for principal in self.principals}
        if self.excludes_principals:
            return _Match.NO if {_Match.ACCOUNT, _Match.DIRECT} <= matches else _Match.DIRECT
        return max(matches, key=lambda match: match.value, default=_Match.NO)

    def match(self, caller: Caller, action: str, resource: str, context: Mapping[str, ContextValue]) -> _Match:
        if any(p.fullmatch(action) for p in self.actions) is self.excludes_actions:
            return _Match.NO
        if any(p.fullmatch(resource) for p in self.resources) is self.excludes_resources:
            return _Match.NO
        found = self._principal_match(caller)
        if found is _Match.NO or not self.conditions:
            return found
        answer = holds(self.conditions, context)
        if answer is None:
            answer = self.effect == "Deny"
        return found if answer else _Match.NO


def _match(principal: str, caller: Caller) -> _Match:
    if principal == "*":
        return _Match.DIRECT
    if principal in (caller.account, f"arn:aws:iam::{caller.account}:root"):
        return _Match.DIRECT if caller.is_root else _Match.ACCOUNT
    return _Match.DIRECT if principal in (caller.arn, caller.principal_arn) else _Match.NO


@dataclass(frozen=True)
class Policy:
    """A key policy that PutKeyPolicy would accept."""

    statements: tuple[Statement, ...]
    principals: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Raises PolicyError, or PrincipalError for a principal that AWS would not take."""
        try:
            document = json.loads(text, object_pairs_hook=_without_duplicates)
        except ValueError as error:
            raise PolicyError(f"The policy is not valid JSON: {error}") from error
        if not isinstance(document, dict) or document.keys() - _POLICY_MEMBERS:
            raise PolicyError("A policy has the members Version, Id and Statement.")
        if document.get("Version", "2008-10-17") not in _VERSIONS:
            raise PolicyError("The policy version is not valid.")
        entries = document.get("Statement")
        entries = [entries] if isinstance(entries, dict) else entries
        if not isinstance(entries, list) or not entries:
            raise PolicyError("A policy needs at least one statement.")
        sids = [entry["Sid"] for entry in entries if isinstance(entry, dict) and "Sid" in entry]
        if len(sids) != len(set(map(str, sids))):
            raise PolicyError("Statement IDs (Sid) in a policy must be unique.")
        statements = tuple(_statement(entry) for entry in entries)
        return cls(statements, tuple(p for statement in statements for p in statement.principals))

    def judge(self, caller: Caller, action: str, resource: str, context: Mapping[str, ContextValue]) -> Verdict:
        """What the policy says; an explicit Deny wins over everything."""
        allowed = _Match.NO
        for statement in self.statements:
            found = statement.match(caller, action, resource, context)
            if found is _Match.NO:
                continue
            if statement.effect == "Deny":
                return Verdict.DENIED
            allowed = max(allowed, found, key=lambda match: match.value)
        return {_Match.NO: Verdict.SILENT, _Match.ACCOUNT: Verdict.DELEGATED, _Match.DIRECT: Verdict.ALLOWED}[allowed]

    def missing_principals(self, exists: Callable[[str], bool]) -> list[str]:
        """Principals that `exists` does not know; it is asked with ARNs (an account as its root)."""
        named = (f"arn:aws:iam::{p}:root" if _ACCOUNT.fullmatch(p) else p for p in self.principals if p != "*")
        return [principal for principal in named if not exists(principal)]


def default_policy(account: str) -> str:
    """What CreateKey attaches when it is given none (KMS Guide, key-policy-default)."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]})


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a member is given twice")
    return dict(pairs)


def _statement(entry: Any) -> Statement:
    if not isinstance(entry, dict):
        raise PolicyError("A statement is a JSON object.")
    if unknown := entry.keys() - _STATEMENT_MEMBERS:
        raise PolicyError(f"Unknown statement member: {min(unknown)}.")
    effect = entry.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise PolicyError("Effect must be Allow or Deny.")
    principal, excludes_principals = _either(entry, "Principal", "NotPrincipal")
    if excludes_principals and effect == "Allow":
        raise PolicyError("NotPrincipal goes with Deny only.")
    actions, excludes_actions = _either(entry, "Action", "NotAction")
    resources, excludes_resources = _either(entry, "Resource", "NotResource")
    actions = _strings(actions, "Action")
    if bad := [action for action in actions if not _ACTION.fullmatch(action)]:
        raise PolicyError(f"{bad[0]} is not an action.")
    return Statement(
        effect=effect,
        principals=tuple(_aws_principals(principal)),
        excludes_principals=excludes_principals,
        actions=tuple(pattern(action, ignore_case=True) for action in actions),
        excludes_actions=excludes_actions,
        resources=tuple(pattern(resource) for resource in _strings(resources, "Resource")),
        excludes_resources=excludes_resources,
        conditions=_conditions(entry.get("Condition", {})),
    )


def _either(entry: dict[str, Any], name: str, negated: str) -> tuple[Any, bool]:
    if (name in entry) == (negated in entry):
        raise PolicyError(f"A key policy statement needs either {name} or {negated}.")
    return (entry[negated], True) if negated in entry else (entry[name], False)


def _strings(value: Any, name: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str) and item for item in values):
        raise PolicyError(f"{name} must be a string or a list of strings.")
    return values


def _aws_principals(principal: Any) -> Iterator[str]:
    if principal == "*":
        yield "*"
        return
    if not isinstance(principal, dict) or not principal or principal.keys() - _PRINCIPAL_KINDS:
        raise PrincipalError('A principal is "*" or an object with AWS, Service, Federated or CanonicalUser.')
    for kind, names in principal.items():
        for name in _strings(names, f"Principal {kind}"):
            if kind == "AWS":
                yield _aws_principal(name)
            elif kind == "Service" and not _SERVICE.fullmatch(name):
                raise PrincipalError(f"{name} is not a service principal.")


def _aws_principal(name: str) -> str:
    """No wildcard inside an ARN, and no unique ID: KMS would not take what it cannot resolve."""
    if name == "*" or any(form.fullmatch(name) for form in (_ACCOUNT, _ROOT, _PRINCIPAL)):
        return name
    raise PrincipalError(f"{name} is not a principal.")


def _conditions(block: Any) -> dict[str, dict[str, list[str]]]:
    if not isinstance(block, dict):
        raise PolicyError("Condition must be an object.")
    conditions: dict[str, dict[str, list[str]]] = {}
    for operator, keys in block.items():
        if not is_operator(operator):
            raise PolicyError(f"{operator} is not a condition operator.")
        if not isinstance(keys, dict) or not keys:
            raise PolicyError(f"{operator} must hold an object of condition keys.")
        conditions[operator] = {key: _condition_values(key, value) for key, value in keys.items()}
    return conditions


def _condition_values(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str | bool | int | float) for item in values):
        raise PolicyError(f"The values of {key} must be strings.")
    return [str(item).lower() if isinstance(item, bool) else str(item) for item in values]
