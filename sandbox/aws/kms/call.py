"""One call under way: which key it means, and whether its caller may."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sandbox.aws.caller import Caller
from sandbox.aws.kms import refusals
from sandbox.aws.kms.conditions import ContextValue
from sandbox.aws.kms.model import Alias, Key
from sandbox.aws.kms.policy import Policy, Verdict
from sandbox.aws.kms.refusals import Refusal

if TYPE_CHECKING:
    from sandbox.aws.kms.server import Kms

_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
_ARN = re.compile(r"arn:aws:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<kind>key|alias)/(?P<name>.+)")


class Reach(Enum):
    """How an operation may name its key ("Cross-account use" and "KeyId" of its API page)."""

    OWN_KEY = "key ID or key ARN, own account"
    FOREIGN_KEY = "key ID or key ARN; another account's by key ARN"
    ANY_KEY_OR_ALIAS = "key ID, key ARN, alias name or alias ARN; another account's by ARN"


@dataclass
class Call:
    """`operation` as called; `via_service` the service that calls in the caller's name, or None."""

    kms: "Kms"
    caller: Caller
    operation: str
    request: dict[str, Any]
    via_service: str | None
    now: float
    request_alias: str | None = field(default=None, init=False)

    @property
    def action(self) -> str:
        return f"kms:{self.operation}"

    @property
    def is_dry_run(self) -> bool:
        return self.request.get("DryRun", False)

    def finish_dry_run(self) -> None:
        """To be called when everything was checked and nothing was done."""
        if self.is_dry_run:
            raise refusals.DRY_RUN.error()

    # --- which key ---------------------------------------------------------------------------

    def find(self, ref: str, reach: Reach, action: str | None = None) -> Key:
        """The key that `ref` names. Raises NotFoundException, InvalidArnException or AccessDeniedException."""
        if ref.startswith("arn:"):
            return self._by_arn(ref, reach, action or self.action)
        if ref.startswith("alias/"):
            if reach is not Reach.ANY_KEY_OR_ALIAS:
                raise refusals.NOT_A_KEY_ID.error(ref=ref)
            return self._by_alias(ref, self.caller.account)
        if not _KEY_ID.fullmatch(ref):
            raise refusals.NOT_A_KEY_ID.error(ref=ref)
        return self._own(ref)

    def _by_arn(self, arn: str, reach: Reach, action: str) -> Key:
        parts = _ARN.fullmatch(arn)
        if parts is None:
            raise refusals.NOT_AN_ARN.error(ref=arn)
        if parts["region"] != self.kms.region:
            raise refusals.OTHER_REGION.error(region=parts["region"])
        if parts["kind"] == "alias" and reach is not Reach.ANY_KEY_OR_ALIAS:
            raise refusals.NOT_A_KEY_ARN.error(ref=arn)
        is_foreign = parts["account"] != self.caller.account
        if is_foreign and reach is Reach.OWN_KEY:
            raise refusals.NOT_ACROSS_ACCOUNTS.error(caller=self.caller.arn, action=action)
        if parts["kind"] == "alias":
            return self._by_alias(f"alias/{parts['name']}", parts["account"])
        if not is_foreign:
            return self._own(parts["name"])
        key = self.kms.keys.get(parts["name"])
        if key is None or key.account != parts["account"]:
            raise refusals.FOREIGN_KEY_HIDDEN.error(caller=self.caller.arn, action=action)
        return key

    def _own(self, key_id: str) -> Key:
        key = self.kms.keys.get(key_id)
        if key is None or key.account != self.caller.account:
            arn = f"arn:aws:kms:{self.kms.region}:{self.caller.account}:key/{key_id}"
            raise refusals.KEY_NOT_FOUND.error(arn=arn)
        return key

    def _by_alias(self, name: str, account: str) -> Key:
        self.request_alias = name
        alias = self.alias(name, account)
        key = self.kms.keys.get(alias.key_id)
        if key is None:  # deleted between the two looks
            raise refusals.ALIAS_NOT_FOUND.error(arn=alias.arn)
        return key

    def alias(self, name: str, account: str) -> Alias:
        arn = f"arn:aws:kms:{self.kms.region}:{account}:{name}"
        alias = self.kms.aliases.get(arn)
        if alias is None:
            raise refusals.ALIAS_NOT_FOUND.error(arn=arn)
        return alias

    # --- whether the caller may --------------------------------------------------------------

    @cached_property
    def _facts(self) -> dict[str, ContextValue]:
        facts: dict[str, ContextValue] = {
            "kms:CallerAccount": self.caller.account,
            "aws:PrincipalArn": self.caller.principal_arn,
            "aws:PrincipalAccount": self.caller.account,
            "aws:PrincipalIsAWSService": "false",
            "aws:RequestedRegion": self.kms.region,
        }
        if self.via_service:
            facts["kms:ViaService"] = self.via_service
        if self.caller.org_paths:
            facts["aws:PrincipalOrgPaths"] = list(self.caller.org_paths)
        return facts

    def _context(self, key: Key, encryption_context: Mapping[str, str]) -> dict[str, ContextValue]:
        context = {**self._facts, "kms:KeyOrigin": key.origin.value}
        if self.request_alias:
            context["kms:RequestAlias"] = self.request_alias
        if encryption_context:
            context["kms:EncryptionContextKeys"] = list(encryption_context)
            for name, value in encryption_context.items():
                context[f"kms:EncryptionContext:{name}"] = value
        return context

    def _identity(self, action: str, resource: str, context: Mapping[str, ContextValue]) -> str:
        """Root is bound by no identity policy."""
        return "allow" if self.caller.is_root else self.caller.identity_allows(action, resource, context)

    def authorize(
        self,
        key: Key,
        action: str | None = None,
        encryption_context: Mapping[str, str] | None = None,
        hidden: Refusal = refusals.FOREIGN_KEY_HIDDEN,
    ) -> None:
        """Raise AccessDeniedException unless the key policy, with the caller's IAM policies, allows `action`.

        In the key's account the key policy may allow alone, or leave it to IAM by naming the account;
        across accounts both sides must allow (Guide, policy-evaluation). `hidden` answers a foreign
        caller whom the key policy does not let in: nothing tells whether the key exists.
        """
        action = action or self.action
        refusal = self._judge(key.policy, key, action, self._context(key, encryption_context or {}), hidden)
        if refusal is not None:
            raise refusal.error(caller=self.caller.arn, action=action, resource=key.arn)

    def may_put_policy(self, key: Key, policy: Policy) -> bool:
        """Whether this caller could replace `policy` once `key` had it: the lock-out safety check."""
        context = self._context(key, {})
        return self._judge(policy, key, "kms:PutKeyPolicy", context, refusals.FOREIGN_KEY_HIDDEN) is None

    def _judge(
        self, policy: Policy, key: Key, action: str, context: dict[str, ContextValue], hidden: Refusal
    ) -> Refusal | None:
        is_foreign = key.account != self.caller.account
        verdict = policy.judge(self.caller, action, key.arn, {name.lower(): v for name, v in context.items()})
        if verdict is Verdict.DENIED:
            return hidden if is_foreign else refusals.DENIED_BY_KEY_POLICY
        if verdict is Verdict.SILENT and is_foreign:
            return hidden
        identity = self._identity(action, key.arn, context)
        if identity == "deny":
            return refusals.DENIED_BY_IDENTITY
        if verdict is Verdict.SILENT:
            return refusals.NOT_ALLOWED_BY_KEY_POLICY
        if identity != "allow" and (is_foreign or verdict is Verdict.DELEGATED):
            return refusals.NOT_ALLOWED_BY_IDENTITY
        return None

    def authorize_by_identity(self, resource: str, action: str | None = None) -> None:
        """For what has no key policy: creating and listing keys, and aliases themselves."""
        action = action or self.action
        identity = self._identity(action, resource, self._facts)
        if identity == "allow":
            return
        refusal = refusals.DENIED_BY_IDENTITY if identity == "deny" else refusals.NOT_ALLOWED_BY_IDENTITY
        raise refusal.error(caller=self.caller.arn, action=action, resource=resource)

    def require_state(self, key: Key) -> None:
        """Raise what the table of states says about this operation on this key."""
        refusal = refusals.REFUSED_IN_STATE.get((self.operation, key.state, key.origin))
        if refusal is not None:
            raise refusal.error(arn=key.arn, origin=key.origin.value)
