"""The shapes of the API: what it takes and what it answers. The OpenAPI document is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from console.callers import Role
from console.orders import Kind

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
ModeName = Literal["standard", "byok", "byokms", "byokv"]
Closable = Literal["open", "closed"]


class _Taken(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True)


class Problem(_Given):
    """RFC 9457. `code` is the command line's; `hint` what it would say to do next."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str | None = None
    waits_for: str | None = None
    errors: list[dict[str, Any]] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "https://keyshift.invalid/problems/operation-unfinished",
                "title": "Operation unfinished",
                "status": 409,
                "code": "operation-unfinished",
                "detail": "tenant acme is in the middle of acme-enable-1 (waiting); nothing was begun",
                "hint": "go on with it first",
            }
        }
    )


class Me(_Given):
    name: str
    role: Role
    customer: str | None
    signed_in_at: float


class TenantRow(_Given):
    tenant: str
    customer: str
    cloud: str
    region: str
    mode: ModeName
    state: Literal["in-service", "moving", "paused", "closed", "setting-up"]
    warnings: list[str]
    operation: str | None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "tenant": "acme",
                "customer": "acme-corp",
                "cloud": "aws",
                "region": "eu-west-1",
                "mode": "byok",
                "state": "in-service",
                "warnings": [],
                "operation": None,
            }
        }
    )


class Allowed(_Given):
    allowed: bool
    reason: str | None


class Searches(Allowed):
    """Only what was archived before `cutoff` is found."""

    cutoff: str | None


class Gate(_Given):
    """What Archive may do now, and what it shows its users for as long as it stands."""

    access: Allowed
    jobs: Allowed
    searches: Searches
    warnings: list[str]
    read_at: str


class Key(_Given):
    id: str
    state: Literal["pending", "active", "archived", "revoked"]
    kind: Literal["uploaded", "customer-account"]
    alias: str | None
    arn: str | None
    fingerprint: str | None
    used_by: str


class LiveKey(Key):
    """A key as its cloud sees it. `ends_at`: when it is deleted or runs out; null where that is never."""

    kms_state: str
    made_at: str | None
    ends_at: str | None


class ToConfirm(_Given):
    """A rotation of the customer's own key that Archive is paused for. `token` is null while the key is not fit."""

    operation: str
    alias: str | None
    key: str | None
    material: str | None
    fit: bool
    reason: str | None
    token: str | None


class Operation(_Given):
    """What was asked for, and what came of it.

    `state`: to-approve, queued, running, then done, waiting (somebody has to act, then `resume`), failed, refused or
    withdrawn. `operation`: the tenant's own operation that it began or went on with.
    """

    id: str
    tenant: str
    kind: Kind
    lane: Literal["work", "lock", "look"]
    wanted: dict[str, Any]
    asked_by: dict[str, Any]
    approved_by: dict[str, Any] | None
    asked_at: str
    state: Literal["to-approve", "queued", "running", "done", "waiting", "failed", "refused", "withdrawn"]
    operation: str | None
    started_at: str | None
    ended_at: str | None
    said: dict[str, Any] | None
    result: dict[str, Any] | None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "op-5f0c9d3a7be24c6d1e2f",
                "tenant": "acme",
                "kind": "enable",
                "lane": "work",
                "wanted": {"mode": "byok"},
                "asked_by": {"id": "acme-corp/ada", "name": "Ada", "role": "customer-admin"},
                "approved_by": None,
                "asked_at": "2026-11-24T09:12:03.250+00:00",
                "state": "running",
                "operation": "acme-enable-1",
                "started_at": "2026-11-24T09:12:03.750+00:00",
                "ended_at": None,
                "said": None,
                "result": None,
            }
        }
    )


class Operations(_Given):
    orders: list[Operation]
    history: list[dict[str, Any]]


class Tenant(TenantRow):
    generation: int
    sealed: dict[str, Any] | None
    gate: Gate
    keys: list[Key]
    serves: dict[str, str] | None
    offered: list[str]
    operation: dict[str, Any] | None  # type: ignore[assignment] # here the whole of it
    unfinished: str | None
    pending_rotation: dict[str, Any] | None
    confirm: ToConfirm | None
    open_orders: list[Operation]
    may: list[Kind]
    etag: str


class WrappingKey(_Given):
    """What to wrap the key with, on the customer's own machine. The import token stays with us: only KMS needs it."""

    tenant: str
    key: str
    file: str
    public_key: str = Field(description="DER, in base64")
    sha256: str
    valid_until: str
    openssl: list[str]
    keyshift: str


class WrappedKey(_Taken):
    wrapped: Annotated[str, Field(max_length=4096, description="The wrapped key (512 bytes) in base64.")]
    sha256: Annotated[Sha256, Field(description="What `keyshift key wrap` or openssl printed of the wrapped file.")]


class Uploaded(_Given):
    tenant: str
    key: str
    state: str
    fingerprint: str
    sha256: str


class AliasToCheck(_Taken):
    alias: Annotated[Text | None, Field(description="The ARN of a KMS alias; the bound one if left out.")] = None


class Checked(_Given):
    tenant: str
    bound: bool
    alias: str
    key: str | None
    material: str | None
    fit: bool
    findings: list[dict[str, Any]]
    missing_statements: list[str]


class KeyPolicy(_Given):
    """The policy to attach to the customer's key, and why each statement is in it."""

    tenant: str
    policy: dict[str, Any]
    why: dict[str, str]
    commands: list[str]
    alias: str


class Plan(_Taken):
    """`of`: the operation that would be begun. `previews`: also what each of its steps changes in the cloud; slower."""

    of: Literal["enable", "change", "rotate", "remove"]
    mode: ModeName | None = None
    previews: bool = False

    model_config = ConfigDict(json_schema_extra={"example": {"of": "enable", "mode": "byok"}})


class _Asked(_Taken):
    def values_(self) -> dict[str, Any]:
        """What belongs to the operation itself."""
        return self.model_dump(exclude={"kind", "phrase"}, exclude_none=True)


class AskMove(_Asked):
    kind: Literal["enable", "change"]
    mode: ModeName


class AskSimple(_Asked):
    """`request` makes an empty key to wrap for, `follow` looks where the alias leads, `resume` goes on."""

    kind: Literal["request", "rotate", "resume", "abort", "follow"]


class AskOnboard(_Asked):
    kind: Literal["onboard"]
    alias: Text
    pause_on: Literal["any", "alias"] | None = None
    rebuild_search: bool | None = None


class AskConfirm(_Asked):
    kind: Literal["confirm"]
    token: Text


class AskRemove(_Asked):
    kind: Literal["remove"]
    phrase: Text


class AskRevoke(_Asked):
    kind: Literal["revoke"]
    reason: Text
    phrase: Text


class AskRestore(_Asked):
    kind: Literal["restore"]
    reason: Text
    phrase: Text
    read_all: bool = False


class AskCheck(_Asked):
    """Recomputes the proofs of one verdict, or of all, from what lives now."""

    kind: Literal["check"]
    verdict: Text | None = None


Ask = Annotated[
    AskMove | AskSimple | AskOnboard | AskConfirm | AskRemove | AskRevoke | AskRestore | AskCheck,
    Field(discriminator="kind"),
]


class LogLine(_Given):
    """One line of the signed log, as it stands there."""

    number: int
    at: str
    event: dict[str, Any]
    before: str
    hash: str
    signature: str
    signed_by: str


class Found(_Given):
    """What the sample Archive search shows: the gate's warnings stand above it, the cut-off limits it."""

    tenant: str
    total: int
    cutoff: str | None
    hits: list[dict[str, Any]]
    warnings: list[str]
