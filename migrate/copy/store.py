"""A storage as a move needs it, whatever cloud it lies in: listed, described, read, written under a condition, emptied.

A *version* is what a purge may delete and nothing else is meant by: in S3 an object version by its id, in a blob
container the blob by its ETag and tags. Keys are relative to the storage's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Protocol, TypeVar

from components.worker.core import WorkerObjects

Made = TypeVar("Made")


class Place(Protocol):
    """Where a storage lies: a dataclass. Its text is what people and signed verdicts call it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def prefix(self) -> str: ...

    def keyless(self) -> Place:
        """The same place, whatever key it is to be under."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Entry:
    """One object version or delete marker of a listing. `key` is relative to the storage's prefix."""

    key: str
    version_id: str
    etag: str
    size: int
    last_modified: str
    is_latest: bool
    is_delete_marker: bool
    storage_class: str


@dataclass(frozen=True)
class Description:
    """What must be the same on both sides of a copy, and the key that encrypts it.

    `checksum` is one of the whole object that the cloud itself computed, as `ALGORITHM:base64`.
    """

    size: int
    etag: str
    checksum: str | None
    metadata: Mapping[str, str]
    headers: Mapping[str, str]
    key_arn: str | None
    bucket_key: bool
    tag_count: int
    algorithm: str | None = None
    storage_class: str = "STANDARD"
    is_asleep: bool = False
    """Whether the cloud refuses to read it until it is restored."""


@dataclass(frozen=True)
class Content:
    """An object as it is read. `chunks` may be read once, and only where the storage hands it out.

    `condition` is what a write that replaces exactly this takes; `sha256` its SHA-256 in base64 where the cloud has it.
    """

    metadata: Mapping[str, str]
    size: int
    chunks: Iterator[bytes]
    condition: str = ""
    sha256: str | None = None


class Store(Protocol):
    """A storage and the right to reach it as one role. Its refusals are CloudErrors; `KeyUnavailable` for a lost key."""

    @property
    def storage(self) -> Place: ...

    @property
    def lists_tags(self) -> bool:
        """Whether a changed tag shows in the listing; where not, tag changes have to be heard of."""
        ...

    @property
    def counts_from(self) -> int:
        """The revision below the first one of a key that was never there: 0 where deleted objects are remembered."""
        ...

    def list_versions(self, below: str = "") -> Iterator[Entry]:
        """Every version by key, newest first in a key, flat in memory; `below` narrows it to keys that begin so."""
        ...

    def list_uploads(self, below: str = "") -> Iterator[tuple[str, str]]:
        """(full name, id) of what was begun to be written and is no version yet."""
        ...

    def abort_uploads(self, below: str = "") -> int: ...

    def describe(self, key: str, version_id: str) -> Description: ...

    def tags(self, key: str, version_id: str) -> dict[str, str]: ...

    def read_version(self, key: str, version_id: str, make: Callable[[Content], Made]) -> Made:
        """What `make` makes of the content of one version; called anew where the bytes break off on the way."""
        ...

    def read_now(self, key: str, make: Callable[[Content], Made]) -> Made | None:
        """The same of what is there now; None where there is nothing."""
        ...

    def last_revision(self, key: str) -> int | None:
        """The revision that a key without an object had, None if nobody knows of one."""
        ...

    def write(  # noqa: PLR0913 - the parts of one request
        self, key: str, body: bytes | IO[bytes], metadata: Mapping[str, str], *, condition: str, sha256: str, size: int
    ) -> bool:
        """Replace exactly `condition` (of a `Content`), or create where it is ""; False if the key was changed meanwhile."""
        ...

    def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Write whatever stands there: probes and canaries, which nobody else writes."""
        ...

    def remove(self, key: str) -> None:
        """As Archive deletes an object; where versions are kept they stay, under a marker."""
        ...

    def delete_version(self, key: str, version_id: str) -> None:
        """Remove one version for good; one that is gone is no error, another one in its place is left alone."""
        ...

    def delete_versions(self, doomed: Iterable[tuple[str, str]], guard: Callable[[], None]) -> None:
        """The same of up to 1,000; `guard` is asked before each request."""
        ...

    def write_attempts(self, key: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        """(name, call) of one attempt of each kind that changes what a copy copies; what gets through does so on `key`."""
        ...

    def denial(self, action: str, attempt: Callable[[], Any]) -> str:
        """The code with which an attempt is denied for want of a right, "" if it gets through.

        Anything else (throttling, a lost key, no such storage) proves nothing and is raised.
        """
        ...

    def key_problem(self, described: Description) -> str:
        """What is wrong with the key that encrypts a version, "" if it is the one that this storage is to be under."""
        ...

    def worker_objects(self) -> WorkerObjects:
        """The same storage as the pipeline's worker reads and annotates it."""
        ...

    def name_problem(self, key: str) -> str:
        """Why nothing of this relative key can lie here, "" if it can."""
        ...

    def way_out(self) -> str:
        """What a person types to look at, keep and remove what nobody expected here."""
        ...
