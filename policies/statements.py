"""Statements of IAM, bucket, queue and key policies, read the way AWS reads them: one or many, in any case."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from policies.resource import UNKNOWN, Unknown, document

ELASTIC_CONDITION = "aws:principalorgpaths"
_ACCOUNT = re.compile(r"^(?:arn:aws[a-z-]*:(?:iam|sts)::)?(\d{12})(?::|$)")


@dataclass(frozen=True)
class Statement:
    sid: str
    is_allow: bool
    principals: tuple[str, ...]
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    condition: Mapping[str, Mapping[str, Any]]

    @property
    def condition_keys(self) -> set[str]:
        """Small letters: AWS compares the names of condition keys without regard to case."""
        return {key.lower() for tests in self.condition.values() for key in tests}

    def values(self, key: str) -> list[str]:
        """Every value that a condition compares `key` with."""
        found: list[str] = []
        for tests in self.condition.values():
            for name, value in tests.items():
                if name.lower() == key.lower():
                    found += _listed(value)
        return found

    @property
    def accounts(self) -> set[str]:
        return {found[1] for one in self.principals if (found := _ACCOUNT.match(one))}

    @property
    def is_open(self) -> bool:
        return "*" in self.principals

    @property
    def is_elastics(self) -> bool:
        """Everybody, but only inside one place of an organization: the one form of `*` that is allowed, on keys."""
        paths = self.values(ELASTIC_CONDITION)
        operators = {op.lower() for op, tests in self.condition.items() if ELASTIC_CONDITION in map(str.lower, tests)}
        is_narrow = bool(paths) and all(path.startswith("o-") and path.count("/") >= 2 for path in paths)
        return is_narrow and operators <= {"foranyvalue:stringlike", "foranyvalue:stringequals"}

    def covers(self, action: str) -> bool:
        return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in self.actions)

    def covers_resource(self, arn: str) -> bool:
        return any(fnmatchcase(arn, pattern) for pattern in self.resources)


def statements(policy: Any) -> list[Statement] | Unknown:
    """The statements of a policy, given as JSON or as a structure; UNKNOWN if it is not known yet."""
    held = document(policy)
    if held is UNKNOWN:
        return UNKNOWN
    listed = held.get("Statement", []) if isinstance(held, Mapping) else []
    return [_statement(one) for one in ([listed] if isinstance(listed, Mapping) else listed)]


def allowed(policy: Any) -> Iterator[Statement]:
    """Those that allow something; none of a policy that is not known."""
    found = statements(policy)
    return iter(()) if isinstance(found, Unknown) else (one for one in found if one.is_allow)


def denied(policy: Any) -> Iterator[Statement]:
    found = statements(policy)
    return iter(()) if isinstance(found, Unknown) else (one for one in found if not one.is_allow)


def _statement(held: Mapping[str, Any]) -> Statement:
    # What is left out or turned round allows more than it seems to: as wide as can be.
    return Statement(
        sid=str(held.get("Sid", "")),
        is_allow=held.get("Effect") != "Deny",
        principals=("*",) if "NotPrincipal" in held else tuple(_principals(held.get("Principal", {}))),
        actions=("*",) if "NotAction" in held else tuple(_listed(held.get("Action", []))),
        resources=("*",) if "NotResource" in held else tuple(_listed(held.get("Resource", []))),
        condition=held.get("Condition") or {},
    )


def _principals(held: Any) -> Iterator[str]:
    if isinstance(held, Mapping):
        for value in held.values():
            yield from _listed(value)
    else:
        yield from _listed(held)


def _listed(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
