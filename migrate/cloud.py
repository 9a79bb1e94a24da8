"""What a move needs of the cloud that a tenant lies in. Chosen once, by the layout; nothing else asks which it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from migrate.copy.preflight import Preflight
from migrate.copy.store import Place, Store
from migrate.copy.tags import TagQueue
from migrate.copy.transfer import CopyPass, Transfer
from migrate.progress import Report
from migrate.queues import Pipe, Queues
from stacks.layout import Cloud as CloudName

if TYPE_CHECKING:
    from migrate.live import Live
    from migrate.moves import Moves
    from migrate.operations import Move
    from migrate.rekey.engine import Left

Role = Literal["archive", "pipeline", "runner"]
WorkerProbe = Callable[[str], Mapping[str, str]]
"""Key -> what a worker is answered when it writes to it: the code by action, "" where it gets through."""

ADAPTERS = {CloudName.AWS: ("migrate.aws_cloud", "AwsCloud"), CloudName.AZURE: ("migrate.azure.cloud", "AzureCloud")}
"""Imported when first chosen: the SDKs of the other cloud are not loaded."""


class Cloud(Protocol):
    """One tenant's side of a cloud, reached as its roles."""

    queues: Queues
    refused_within: float
    """Seconds in which a right that was taken away is gone everywhere, by the cloud's documents and some more."""

    def store(self, id: str, role: Role) -> Store:
        """A storage of the stack, as one of the tenant's roles."""
        ...

    def secret(self, name: str, role: Role) -> Mapping[str, str]:
        """The content of a secret of a search."""
        ...

    def pipe(self, id: str) -> Pipe:
        """The queues of a pipeline of the stack."""
        ...

    def tag_queue(self, storage: str) -> TagQueue | None:
        """What hears of tag changes in a storage, None where nothing does or nothing has to."""
        ...

    def writers(self, storage: str) -> dict[str, Store]:
        """The storage by each role that may write to it while the gate is open, as far as we may take the role."""
        ...

    def workers(self, pipelines: list[str]) -> dict[str, WorkerProbe]:
        """The workers of those pipelines whose role nobody else may take, by pipeline."""
        ...

    def key_id(self, key: str) -> str:
        """The full name of a key in its cloud."""
        ...

    def key_refusal(self, key: str) -> str:
        """What the cloud answers when the runner really uses a key, "" if it works.

        Raises CloudError where that says nothing about the key: throttled, down, our clock.
        """
        ...

    def survey(self, source: Store, place: str, report: Report) -> Preflight:
        """What lies in `source`, and what of it cannot be moved below the prefix `place`."""
        ...

    def copy_pass(self, transfer: Transfer[Any], report: Report) -> CopyPass: ...

    def tidy(self, transfer: Transfer[Any]) -> None: ...

    def in_place(self, moves: Moves) -> dict[str, Callable[[Move], dict[str, Any]]]:
        """What `Moves.do` does where a storage stays and its key changes."""
        ...

    def left_under(self, storage: str, old: str, report: Report) -> Left:
        """What of a storage is under a key that it should have left."""
        ...

    def as_operator(self, place: Place) -> Store:
        """A place that may be no storage of the tenant any more, as whoever runs the command."""
        ...

    def encryption(self, storage: str) -> tuple[str, str | None]:
        """(the storage's own name, the key that it says it is under), as the cloud has it."""
        ...


def of(live: Live) -> Cloud:
    """The adapter of the cloud that a tenant lies in."""
    module, name = ADAPTERS[live.layout.cloud]
    return getattr(importlib.import_module(module), name)(live)
