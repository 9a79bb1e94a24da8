"""Keys on AWS: no material in the program, a policy that admits what it must, no way to lose one by mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from policies import kinds
from policies.facts import Facts
from policies.resource import UNKNOWN, Program, Resource
from policies.rule import Found, FoundInProgram, OnUnknown, Rule, Severity, Undecided, Violation
from policies.statements import allowed, statements

KMS = "https://docs.aws.amazon.com/kms/latest/developerguide"
KMS_LEAST_DAYS = 7
"""https://docs.aws.amazon.com/kms/latest/APIReference/API_ScheduleKeyDeletion.html"""
USES = ("kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo")
GIVES_AWAY = ("kms:CreateGrant",)
ADMINISTERS = (
    "kms:DisableKey",
    "kms:PutKeyPolicy",
    "kms:ScheduleKeyDeletion",
    "kms:DeleteImportedKeyMaterial",
    "kms:ImportKeyMaterial",
)
VENDOR_KEY = re.compile(r"vendor(-[1-9][0-9]*)?-key")
"""A stamp's keys by name: the first one and, after a rotation, the numbered ones."""
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:(?P<account>\d{12}):key/[A-Za-z0-9-]+")


def is_key_arn(value: Any) -> bool:
    """An ARN of a key, and of no alias."""
    return isinstance(value, str) and _KEY_ARN.fullmatch(value) is not None


def under_its_key(program: Program, facts: Facts, kind: str, one: Resource, path: str) -> str:
    """Why a storage or search is not under the key that the layout names for it; empty if it is.

    A key that is only being made has no ARN yet: its value must then come from that key and from nothing else.
    """
    value = one.get(path)
    if value is not UNKNOWN and not is_key_arn(value):
        return ""  # no key is named, which other rules are about
    if one.tenant is None:
        ours = [key for key in program.resources if VENDOR_KEY.fullmatch(key.name)]
        wrong = [_is_of(key, one, value, path) for key in ours] or [_is_of(None, one, value, path)]
        return "" if "" in wrong else wrong[0]
    unit = facts.unit(kind, one.unit)
    if unit is None:
        return f"the layout of the tenant holds no {one.unit}"
    if unit.get("key") is None:
        return "" if kind == "searches" else f"{one.unit} is a bucket of the tenant's own and names no key"
    key = facts.key_of(unit) or {}
    if key.get("arn"):
        return "" if value == key["arn"] else f"the layout puts {one.unit} under {key['arn']}"
    return _is_of(program.named(f"{unit['key']}-key"), one, value, path)


def _is_of(key: Resource | None, one: Resource, value: Any, path: str) -> str:
    if key is None:
        return f"the key that {one.unit} should lie under is not in the stack"
    arn = key.outputs.get("arn", UNKNOWN)
    if value is UNKNOWN:
        origins = one.comes_from(path.partition(".")[0])
        return "" if origins == {key.name} else f"its key comes from {', '.join(sorted(origins)) or 'nowhere'}"
    return "" if value == arn else f"it should lie under {key.name}, but is given {value}"


def _no_material(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("keyMaterialBase64") is not None:
        yield "key material is an input: it would stand in clear text in the program, the state and every plan"


def _window(one: Resource, settings: Mapping[str, Any]) -> Found:
    # A site can ask for more than KMS's least, never for less.
    least = max(KMS_LEAST_DAYS, settings["deletion_window_days"])
    days = one.get("deletionWindowInDays", default=30)
    if days is UNKNOWN or days < least:
        yield f"a deletion could be cancelled for {days} days only; the least is {least:.0f}"


def _narrow(one: Resource, _: Mapping[str, Any]) -> Found:
    if statements(one.get("policy")) is UNKNOWN:
        yield Undecided("its policy")
    for statement in allowed(one.get("policy")):
        what = [action for action in (*USES, *GIVES_AWAY) if statement.covers(action)]
        if given_away := [action for action in what if action in GIVES_AWAY]:
            yield f"{statement.sid or 'a statement'} lets the key be given away: {', '.join(given_away)}"
        elif what and not statement.is_elastics and "aws:principalarn" not in statement.condition_keys:
            yield f"{statement.sid or 'a statement'} lets a whole account use the key: {', '.join(what)}"


def _administered_at_home(one: Resource, _: Mapping[str, Any]) -> Found:
    if statements(one.get("policy")) is UNKNOWN:
        yield Undecided("its policy")
        return
    home: set[str] = set()
    for statement in allowed(one.get("policy")):
        if not any(statement.covers(action) for action in ADMINISTERS):
            continue
        home |= statement.accounts
        if statement.is_open and not statement.accounts:
            yield f"{statement.sid or 'a statement'} lets accounts that it does not name administer the key"
    if len(home) > 1:
        yield f"the accounts {', '.join(sorted(home))} administer the key; one may"


def _rotates(one: Resource, _: Mapping[str, Any]) -> Found:
    if one.get("enableKeyRotation") is not True:
        yield "the vendor's own key keeps the same material for ever"


def _usable(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for kind in ("storages", "searches"):
        for unit in facts.units(kind):
            key = facts.key_of(unit)
            if key is None:
                continue
            made = program.named(f"{key['id']}-key")
            where = made.urn if made else ""
            if key.get("state") not in {"active", "revoked"}:
                yield Violation(f"{unit['id']} lies under {key['id']}, which is {key.get('state')}", where)
            elif (
                made is not None and made.get("enabled") is False and facts.is_access_open and key["state"] == "active"
            ):
                yield Violation(f"{unit['id']} lies under {key['id']}, which would be disabled", where)


def _nothing_at_the_customer(program: Program, facts: Facts, _: Mapping[str, Any]) -> FoundInProgram:
    for one in program.of(kinds.AWS_PROVIDER):
        if one.get("assumeRoles") or one.get("assumeRoleWithWebIdentity") or one.get("profile"):
            yield Violation("this provider acts as somebody else: what it makes lies in another account", one.urn)
    theirs = {str(key["arn"]) for key in facts.units("keys") if key.get("arn")}
    for one in program.resources:
        if one.type.startswith("aws:kms/") and {v for v in one.props.values() if isinstance(v, str)} & theirs:
            yield Violation("it would be made on a key in the customer's account", one.urn)
    for key in facts.units("keys"):
        if key.get("arn") and program.named(f"{key['id']}-key") is not None:
            yield Violation(f"{key['id']} is the customer's own key, and the stack makes one of that name")


def _rules() -> Iterator[Rule]:
    yield Rule(
        id="keys-no-material",
        topic="keys",
        sentence="No key material is an input of the program.",
        remediation="Leave key_material_base64 out; the runner imports what the customer wraps.",
        severity=Severity.CRITICAL,
        url=f"{KMS}/importing-keys.html",
        unknown=OnUnknown.DENIED,
        controls=("NIST 800-57 8.1.5.2", "SOC 2 CC6.1"),
        modes=("byok",),
        types=frozenset({kinds.IMPORTED_KEY, "aws:kms/replicaExternalKey:ReplicaExternalKey"}),
        check=_no_material,
    )
    yield Rule(
        id="keys-deletion-window",
        topic="keys",
        sentence="The deletion of a key can be cancelled for as long as the site asks, never for less than 7 days.",
        remediation="Raise deletion_window_in_days.",
        severity=Severity.HIGH,
        url=f"{KMS}/deleting-keys.html",
        unknown=OnUnknown.DENIED,
        controls=("NIST 800-57 8.3.4", "SOC 2 A1.2"),
        modes=("standard", "byok"),
        types=frozenset({kinds.KEY, kinds.IMPORTED_KEY}),
        check=_window,
        settings={
            "deletion_window_days": {
                "type": "integer",
                "minimum": KMS_LEAST_DAYS,
                "maximum": 30,
                "default": 30,
                "description": "For how many days the deletion of a key can be cancelled",
            }
        },
    )
    yield Rule(
        id="keys-policy-narrow",
        topic="keys",
        sentence="A customer's key is used by named principals and by Elastic, and cannot be given away.",
        remediation="Limit every use by aws:PrincipalArn, Elastic's by aws:PrincipalOrgPaths; allow no kms:CreateGrant.",
        severity=Severity.CRITICAL,
        url=f"{KMS}/key-policies.html",
        unknown=OnUnknown.UPDATE,
        controls=("NIST 800-57 5.3.5", "SOC 2 CC6.3"),
        modes=("byok",),
        types=frozenset({kinds.IMPORTED_KEY}),
        check=_narrow,
    )
    yield Rule(
        id="keys-administered-at-home",
        topic="keys",
        sentence="No foreign account administers a key.",
        remediation="Take the administration actions from every principal but our own account's root.",
        severity=Severity.CRITICAL,
        url=f"{KMS}/key-policy-modifying-external-accounts.html",
        unknown=OnUnknown.UPDATE,
        controls=("NIST 800-57 5.3.5", "SOC 2 CC6.3"),
        modes=("standard", "byok"),
        types=frozenset({kinds.KEY, kinds.IMPORTED_KEY}),
        check=_administered_at_home,
    )
    yield Rule(
        id="keys-vendor-key-rotates",
        topic="keys",
        sentence="The vendor's own key gets new material every year.",
        remediation="Set enable_key_rotation=True.",
        severity=Severity.MEDIUM,
        url=f"{KMS}/rotate-keys.html",
        unknown=OnUnknown.DENIED,
        controls=("CIS AWS 3.6", "NIST 800-57 5.3.6"),
        modes=("standard",),
        types=frozenset({kinds.KEY}),
        check=_rotates,
    )
    yield Rule(
        id="keys-used-keys-work",
        topic="keys",
        sentence="No key is disabled, archived or still empty while a storage or a search lies under it.",
        remediation="Keep the key active until nothing names it; close access by the gate (keyshift seal).",
        severity=Severity.CRITICAL,
        url=f"{KMS}/key-state.html",
        unknown=OnUnknown.NONE,
        controls=("NIST 800-57 8.2.1", "SOC 2 A1.2"),
        modes=("byok", "byokms"),
        check_program=_usable,
    )
    yield Rule(
        id="keys-nothing-at-the-customer",
        topic="keys",
        sentence="Nothing is made in the customer's account or on the customer's key.",
        remediation="Use the account's default provider, and the customer's key by its ARN only.",
        severity=Severity.CRITICAL,
        url=f"{KMS}/key-policy-modifying-external-accounts.html",
        unknown=OnUnknown.NONE,
        controls=("SOC 2 CC6.3",),
        check_program=_nothing_at_the_customer,
    )


RULES = tuple(_rules())
