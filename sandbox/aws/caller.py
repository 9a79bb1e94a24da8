"""Who makes a call, as the sandbox's AWS services see it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Caller:
    """An authenticated principal.

    `arn` is the user's or the role session's ARN; `principal_arn` is what `aws:PrincipalArn`
    carries: the same for a user, the role's ARN for a session. `identity_allows(action, resource,
    context)` judges the caller's own IAM policies: "allow", "deny" (explicit) or "none".
    """

    account: str
    arn: str
    principal_arn: str
    org_paths: tuple[str, ...]
    is_root: bool
    identity_allows: Callable[[str, str, Mapping[str, Any]], str]
