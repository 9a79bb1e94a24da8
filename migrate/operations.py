"""What an operation is made of: its kind, its waits, its moves, its phases. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from stacks.layout import Key, Layout, OnRotation


class OperationKind(StrEnum):
    CREATE = "create"
    REQUEST = "request"
    ONBOARD = "onboard"
    ENABLE = "enable"
    CHANGE = "change"
    REMOVE = "remove"
    ROTATE = "rotate"
    CONFIRM = "confirm"
    UPGRADE = "upgrade"
    DELETE = "delete"
    ABORT = "abort"
    REVOKE = "revoke"
    RESTORE = "restore"


ABORTABLE = frozenset(
    {
        OperationKind.ENABLE,
        OperationKind.CHANGE,
        OperationKind.REMOVE,
        OperationKind.ROTATE,
        OperationKind.UPGRADE,
        OperationKind.DELETE,
    }
)
"""Operations with a way back, until the phase that serves the new side or purges the only one."""

LOCKS = frozenset({OperationKind.REVOKE, OperationKind.RESTORE})
"""Operations that no runner walks: they close and open a tenant whatever its other operation is in the middle of."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wait(Frozen):
    """Something that must be true before a phase goes on.

    `person`: only a human can end it, so the runner exits with code 3 instead of polling for ever.
    """

    kind: Literal["key-material", "key-usable", "key-fit", "confirmed"]
    subject: str
    person: bool
    reason: str


MoveKind = Literal[
    "preflight",  # nothing in the source that cannot be moved; also looked at before the operation begins
    "copy",  # object versions, source storage to target storage
    "verify-copied",  # compare what has been copied so far, so that the freeze has less to compare
    "fill",  # documents, from the target storage into the target search
    "limit-search",  # the read alias shows only what was archived before the cut-off
    "settle",  # writers refused, uploads aborted, pipelines drained, tag changes taken in, two equal listings
    "still-settled",  # nothing was written, tagged or begun since it settled
    "verify-storage",
    "verify-index",
    "rekey",  # every object version of a storage comes under the storage's key, in place
    "retire-key",  # a key that a verdict found nothing under is put out of use, where the cloud can do so for one upload
    "drain",  # no version and no unfinished upload is left under the key that the move names
    "list",  # the versions of a storage, for a fill that no copy comes before
    "verify-live-index",  # as verify-index, while jobs write and the new pipeline works
    "canary",  # one object goes bucket -> search through the new pipeline
    "open-search",  # the read alias shows everything again
    "prove-untouched",  # the source still holds all that was copied: what was copied may go
    "purge-target",  # the half-made target of an aborted operation
    "purge-storage",
    "purge-search",
    "prove-empty",
    "inventory",  # writers refused, uploads aborted, everything listed: what a deletion may delete
    "remove-stack",
]


class Move(Frozen):
    """One idempotent piece of work on the data. `verdict`: the id under which its proof is stored."""

    kind: MoveKind
    title: str
    storage: str | None = None
    target: str | None = None
    search: str | None = None
    pipeline: str | None = None
    key: str | None = None
    verdict: str | None = None


class Phase(Frozen):
    """`up(layout)`, then the waits, then the moves, then a checkpoint.

    `reversible`: until this phase has ended the operation can be aborted with nothing lost.
    """

    name: str
    title: str
    layout: Layout
    waits: tuple[Wait, ...] = ()
    moves: tuple[Move, ...] = ()
    reversible: bool = True


class Plan(Frozen):
    operation: str
    kind: OperationKind
    start: Layout
    phases: tuple[Phase, ...]

    @property
    def end(self) -> Layout:
        return self.phases[-1].layout


class EndedKey(Frozen):
    """A key that was destroyed or declared lost. `certificate`: the name of the proof, if it was destroyed."""

    id: str
    says: str
    certificate: str | None = None


class Request(Frozen):
    """What was asked for. `cutoff` is set by the runner when the freeze begins, never by a person.

    `key`: a key of the customer's own account as it was seen, for what begins with one; `is_barred`: its alias leads
    to another one now, which cannot even be tried. `materials`: the version of each key of ours that an upload has
    filled, as the operation's own wait has found it. `vendor_key`: the ARN of the stamp's new key, for a tenant that lies
    under the vendor's. `ended`: a sealed tenant is deleted that nobody can read any more.
    """

    operation: str
    kind: OperationKind
    mode: str | None = None
    cutoff: datetime | None = None
    key: Key | None = None
    is_barred: bool = False
    materials: Mapping[str, str] = {}
    on_rotation: OnRotation | None = None
    search_version: str | None = None
    vendor_key: str | None = None
    ended: tuple[EndedKey, ...] = ()
