"""What a look at a customer's key means: pure functions from what AWS answered to a cause.

Two looks make a finding: DescribeKey (by the alias, where the customer gave one) and a data canary. The
description says what the key is; only the canary says whether the data can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus


class Cause(StrEnum):
    """Why a key does not work, if it does not. The first three groups are ours to act on, the last one never is."""

    OK = "ok"
    ROTATED = "rotated"

    DISABLED = "disabled"
    POLICY_WITHDRAWN = "policy-withdrawn"
    PENDING_DELETION = "pending-deletion"
    DELETED = "deleted"
    MATERIAL_EXPIRED = "material-expired"
    PENDING_IMPORT = "pending-import"

    THROTTLED = "throttled"
    NETWORK = "network"
    OUR_ACCESS = "our-access"
    UNCLEAR = "unclear"


LOST = frozenset(
    {
        Cause.DISABLED,
        Cause.POLICY_WITHDRAWN,
        Cause.PENDING_DELETION,
        Cause.DELETED,
        Cause.MATERIAL_EXPIRED,
        Cause.PENDING_IMPORT,
    }
)
"""The key's owner did something, or let something happen. Everything else is weather, or our own fault."""

WHY = {
    Cause.DISABLED: "the key is disabled",
    Cause.POLICY_WITHDRAWN: "the key's policy no longer lets us use it",
    Cause.PENDING_DELETION: "the key is scheduled for deletion",
    Cause.DELETED: "the key, or the alias that leads to it, does not exist",
    Cause.MATERIAL_EXPIRED: "the key's imported material has expired",
    Cause.PENDING_IMPORT: "the key holds no material",
    Cause.THROTTLED: "KMS or S3 is throttling us",
    Cause.NETWORK: "the cloud does not answer",
    Cause.OUR_ACCESS: "our own role or credentials do not let us look",
    Cause.UNCLEAR: "what AWS answered says nothing about the key",
    Cause.ROTATED: "the customer rotated the key",
    Cause.OK: "the key works",
}


class Canary(StrEnum):
    """What the data canary came to. Only `refused` can close a tenant, only `ok` can open one."""

    OK = "ok"
    REFUSED = "refused"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Heard:
    """What one call to AWS came to. `code` is "" where it succeeded; `network`: there was no answer at all."""

    code: str = ""
    message: str = ""
    operation: str = ""
    status: int = 0
    network: bool = False

    @property
    def is_success(self) -> bool:
        return not (self.code or self.network)


@dataclass(frozen=True)
class Described:
    """DescribeKey's answer. All but `heard` are empty where it failed."""

    heard: Heard
    arn: str = ""
    state: str = ""
    material: str = ""
    valid_to: datetime | None = None


@dataclass(frozen=True)
class Known:
    """What the key was when it was taken into use, or last seen whole: what a rotation is told by."""

    arn: str = ""
    material: str = ""
    valid_to: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Which key of which tenant. `serves`: what Archive reads lies under it, so its loss closes the tenant."""

    tenant: str
    key: str
    serves: bool


@dataclass(frozen=True, kw_only=True)
class Looks:
    """The two looks. `canary_of`: the object that was read, or `key` where none lies under it and it itself was used."""

    described: Described
    canary: Heard
    canary_of: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a look at one key of a tenant found. `was` and `now` differ after a rotation."""

    tenant: str
    key: str
    serves: bool
    cause: Cause
    canary: Canary
    canary_of: str
    said: str
    was: Known
    now: Known
    state: str = ""

    @property
    def is_lost(self) -> bool:
        """What Archive reads cannot be read, for a reason that lies with the key's owner."""
        return self.serves and self.canary is Canary.REFUSED and self.cause in LOST

    @property
    def is_back(self) -> bool:
        """The data can be read, and the key is whole: also one that was rotated meanwhile."""
        return self.canary is Canary.OK and self.cause in {Cause.OK, Cause.ROTATED}

    @property
    def why(self) -> str:
        return f"{WHY[self.cause]} ({self.said or 'no error'})"


_STATES = {
    "Enabled": Cause.OK,
    "Disabled": Cause.DISABLED,
    "PendingDeletion": Cause.PENDING_DELETION,
    "PendingReplicaDeletion": Cause.PENDING_DELETION,
    "PendingImport": Cause.PENDING_IMPORT,
}
"""KMS Developer Guide, key-state.html. `Creating`, `Updating` and `Unavailable` (a key store) say nothing final."""

_CODES = {
    "DisabledException": Cause.DISABLED,
    "NotFoundException": Cause.DELETED,
    "AccessDeniedException": Cause.POLICY_WITHDRAWN,
    "AccessDenied": Cause.POLICY_WITHDRAWN,
    "ThrottlingException": Cause.THROTTLED,
    "Throttling": Cause.THROTTLED,
    "TooManyRequestsException": Cause.THROTTLED,
    "RequestLimitExceeded": Cause.THROTTLED,
    "LimitExceededException": Cause.THROTTLED,
    "SlowDown": Cause.THROTTLED,
    "ServiceUnavailable": Cause.THROTTLED,
    "KMSInternalException": Cause.NETWORK,
    "DependencyTimeoutException": Cause.NETWORK,
    "InternalError": Cause.NETWORK,
    "RequestTimeout": Cause.NETWORK,
}

_STATE_WORDS = (
    ("pending deletion", Cause.PENDING_DELETION),
    ("pending replica deletion", Cause.PENDING_DELETION),
    ("pending import", Cause.PENDING_IMPORT),
    ("is disabled", Cause.DISABLED),
)
"""KMSInvalidStateException has one code for several states; its text names the state."""

_OURS = ("identity-based policy", "service control policy", "permissions boundary", "session policy")
"""Who refused stands in IAM's text (IAM User Guide, troubleshoot_access-denied): these are all our own."""
_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_DENIALS = frozenset({"AccessDenied", "AccessDeniedException"})


def cause_of(heard: Heard) -> Cause:
    """What one answer says about the key; S3 passes KMS's codes on with `KMS.` before them."""
    if heard.is_success:
        return Cause.OK
    if heard.network:
        return Cause.NETWORK
    if heard.operation == "AssumeRole" or heard.code in _CREDENTIALS:
        return Cause.OUR_ACCESS
    code = heard.code.removeprefix("KMS.")
    if code in _DENIALS and (_is_ours(heard.message) or not _is_about_a_key(heard)):
        return Cause.OUR_ACCESS
    named = next((cause for words, cause in _STATE_WORDS if words in heard.message), Cause.UNCLEAR)
    by_status = Cause.NETWORK if heard.status >= HTTPStatus.INTERNAL_SERVER_ERROR else Cause.UNCLEAR
    return named if code == "KMSInvalidStateException" else _CODES.get(code, by_status)


def classify(subject: Subject, looks: Looks, known: Known, now: datetime) -> Finding:
    """One finding from both looks.

    Where the data cannot be read the key's own state is the better cause, if it has one; where it can be
    read, whatever the description says is a warning and never `is_lost`.
    """
    described, canary = looks.described, looks.canary
    seen = Known(described.arn, described.material, described.valid_to)
    by_state, by_canary = _described(described, known, now), _dated(cause_of(canary), known, now)
    if canary.is_success:
        result, cause, said = Canary.OK, by_state, described.heard.code or described.state
    elif by_canary in LOST:
        result, said = Canary.REFUSED, canary.code
        cause = by_state if by_state in LOST else by_canary
    else:
        result, cause, said = Canary.UNCLEAR, by_canary, canary.code or "no answer"
    if cause is Cause.OK and _is_rotated(known, seen):
        cause = Cause.ROTATED
    return Finding(
        **vars(subject),
        cause=cause,
        canary=result,
        canary_of=looks.canary_of,
        said=said,
        was=known,
        now=seen,
        state=described.state,
    )


def _described(described: Described, known: Known, now: datetime) -> Cause:
    heard = cause_of(described.heard)
    if heard is not Cause.OK:
        return heard
    return _dated(_STATES.get(described.state, Cause.UNCLEAR), known, now)


def _dated(cause: Cause, known: Known, now: datetime) -> Cause:
    """A key without material had it deleted, or an end was set to it that has come."""
    is_over = known.valid_to is not None and known.valid_to <= now
    return Cause.MATERIAL_EXPIRED if cause is Cause.PENDING_IMPORT and is_over else cause


def _is_rotated(known: Known, seen: Known) -> bool:
    """What was not known, or is not told (the material, to a foreign account), has not changed."""
    pairs = ((known.arn, seen.arn), (known.material, seen.material))
    return any(before and after and before != after for before, after in pairs)


def _is_ours(text: str) -> bool:
    return "resource-based polic" not in text and any(words in text for words in _OURS)


def _is_about_a_key(heard: Heard) -> bool:
    """KMS speaks of nothing else; S3's denials are the bucket's or our role's unless they name a kms action."""
    if heard.code == "AccessDeniedException":
        return True
    return "kms:" in heard.message or "customer master key" in heard.message
