"""Keys, their materials, aliases and import tokens, as data."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sandbox.aws.kms.policy import Policy


class KeyState(StrEnum):
    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_IMPORT = "PendingImport"
    PENDING_DELETION = "PendingDeletion"


class Origin(StrEnum):
    AWS_KMS = "AWS_KMS"
    EXTERNAL = "EXTERNAL"


class MaterialState(StrEnum):
    CURRENT = "CURRENT"
    NON_CURRENT = "NON_CURRENT"
    PENDING_ROTATION = "PENDING_ROTATION"


@dataclass(frozen=True)
class Material:
    """256 bits, or where 256 bits were: `secret` is None once they are deleted or expired.

    `valid_to` and `rotated_at` are seconds since the epoch. `rotation_type` is None for the first
    material of a key and for one that waits for its rotation.
    """

    id: str
    state: MaterialState
    secret: bytes | None = field(repr=False)
    description: str = ""
    valid_to: float | None = None
    rotated_at: float | None = None
    rotation_type: str | None = None

    @property
    def is_permanent(self) -> bool:
        """True once the key depends on it: data may be encrypted under it."""
        return self.state is not MaterialState.PENDING_ROTATION

    @cached_property
    def cipher(self) -> AESGCM | None:
        return AESGCM(self.secret) if self.secret is not None else None


@dataclass(frozen=True)
class Key:
    """A KMS key. Frozen: a change makes a new one, so that a reader never sees half a change."""

    id: str
    account: str
    region: str
    origin: Origin
    policy_text: str
    created_at: float
    description: str = ""
    is_disabled: bool = False
    deletion_date: float | None = None
    tags: tuple[tuple[str, str], ...] = ()
    materials: tuple[Material, ...] = ()
    rotation_period_days: int | None = None
    next_rotation: float | None = None
    on_demand_started: float | None = None
    on_demand_count: int = 0

    @cached_property
    def arn(self) -> str:
        return f"arn:aws:kms:{self.region}:{self.account}:key/{self.id}"

    @cached_property
    def policy(self) -> Policy:
        return Policy.parse(self.policy_text)

    @cached_property
    def state(self) -> KeyState:
        """Losing any permanently associated material makes the whole key pending import (Guide, key-state.html)."""
        if self.deletion_date is not None:
            return KeyState.PENDING_DELETION
        permanent = [material for material in self.materials if material.is_permanent]
        if not permanent or any(material.secret is None for material in permanent):
            return KeyState.PENDING_IMPORT
        return KeyState.DISABLED if self.is_disabled else KeyState.ENABLED

    @cached_property
    def current(self) -> Material | None:
        return next((m for m in self.materials if m.state is MaterialState.CURRENT), None)

    @cached_property
    def pending(self) -> Material | None:
        return next((m for m in self.materials if m.state is MaterialState.PENDING_ROTATION), None)

    def material(self, material_id: str) -> Material | None:
        return next((m for m in self.materials if m.id == material_id), None)


@dataclass(frozen=True)
class Alias:
    """`name` carries the prefix "alias/"."""

    arn: str
    name: str
    account: str
    key_id: str
    created_at: float
    updated_at: float


@dataclass(frozen=True)
class ImportToken:
    """One set of GetParametersForImport. `number` orders the sets of all keys by issue."""

    token: bytes = field(repr=False)
    key_id: str
    algorithm: str
    private_key: bytes = field(repr=False)
    number: int
    valid_to: float
    is_used: bool = False
