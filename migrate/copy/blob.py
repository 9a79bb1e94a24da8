"""What a move and Archive ask of a container: listings, one blob's description, conditional writes, deletion.

A version's id is the blob's ETag, and behind a tilde a digest of its tags where it has any: Set Blob Tags moves no ETag,
but a listing shows tags. Snapshots are listed too, so that nothing is overlooked; nobody here can copy or purge one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    IncompleteReadError,
    ResourceNotFoundError,
    ServiceResponseError,
)
from azure.storage.blob import BlobClient, BlobProperties, ContainerClient

from components.worker.azure.blob import NAME_LIMIT, BlobObjects, code_of, is_no_blob
from components.worker.azure.names import of_azure, on_azure
from migrate.azure.errors import DENIALS, called, explained, told
from migrate.copy.places import ContainerRef
from migrate.copy.reading import until_whole
from migrate.copy.store import Content, Description, Entry

Made = TypeVar("Made")
BROKEN_OFF = (IncompleteReadError, ServiceResponseError)
SNAPSHOT = "snapshot "
"""How the id of a snapshot begins; no ETag does."""
BLOCK_BLOB, ARCHIVE_TIER = "BlockBlob", "Archive"
SHA256 = "sha256"
"""Metadata: what Archive says of the bytes it wrote, in base64. Only Archive believes it, about its own writes."""
CHANGED = frozenset({"ConditionNotMet", "BlobAlreadyExists", "BlobNotFound"})


@dataclass(frozen=True)
class BlobSide:
    """A container, a client to reach it with, and what lets a copy elsewhere read from it: a `Store`.

    `right` gives the parameters with which Storage reads this side when it copies from it, for each request anew.
    """

    container: ContainerClient = field(repr=False)
    storage: ContainerRef
    right: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False)

    lists_tags = True

    @property
    def counts_from(self) -> int:
        """Milliseconds since 1970: the container forgets what was deleted, and a later first revision has to be higher."""
        return int(time.time() * 1000)

    def blob(self, key: str) -> BlobClient:
        return self.container.get_blob_client(key)

    def list_versions(self, below: str = "") -> Iterator[Entry]:
        return (entry_of(found) for found in self.list_blobs(below, "tags", "snapshots"))

    def list_blobs(self, below: str, *include: str) -> Iterator[BlobProperties]:
        with told(f"listing {self.storage}"):
            yield from self.container.list_blobs(name_starts_with=below or None, include=list(include))

    def list_uploads(self, below: str = "") -> Iterator[tuple[str, str]]:
        """Blobs that have blocks and no block list. They are what one of two listings has and the other has not."""
        committed = (found.name for found in self.list_blobs(below))
        latest = next(committed, None)
        for found in self.list_blobs(below, "uncommittedblobs"):
            while latest is not None and latest < found.name:
                latest = next(committed, None)
            if found.name != latest:
                yield found.name, "uncommitted"

    def abort_uploads(self, below: str = "") -> int:
        """Committing nothing, where nothing is, discards the blocks; the empty blob goes again by its ETag."""
        count = 0
        for name, _ in list(self.list_uploads(below)):
            count += 1
            try:
                made = self.blob(name).commit_block_list([], match_condition=MatchConditions.IfMissing)
            except HttpResponseError as error:
                if code_of(error) not in CHANGED:
                    raise explained(error, f"discarding the blocks of {self.storage}{name}") from error
                continue  # its writer has committed it: it is a blob now
            self.delete_version(name, etag_of(str(made["etag"])))
        return count

    def describe(self, key: str, version_id: str) -> Description:
        """No checksum: Storage keeps whatever MD5 a writer claims with a block list, and a copy takes the claim along."""
        found: BlobProperties = called(
            f"reading {self.storage}{key}", self.blob(key).get_blob_properties, **exactly(version_id)
        )
        settings = found.content_settings
        headers = {
            "ContentType": settings.content_type,
            "ContentEncoding": settings.content_encoding,
            "ContentLanguage": settings.content_language,
            "ContentDisposition": settings.content_disposition,
            "CacheControl": settings.cache_control,
        }
        return Description(
            size=found.size,
            etag=found.etag,
            checksum=None,
            metadata=of_azure(found.metadata),
            headers={name: value for name, value in headers.items() if value},
            key_arn=None,
            bucket_key=False,
            tag_count=found.tag_count or 0,
            storage_class=found.blob_tier or "",
            is_asleep=found.blob_tier == ARCHIVE_TIER,
        )

    def tags(self, key: str, version_id: str) -> dict[str, str]:  # noqa: ARG002 - they belong to the name
        return called(f"reading the tags of {self.storage}{key}", self.blob(key).get_blob_tags)

    def read_version(self, key: str, version_id: str, make: Callable[[Content], Made]) -> Made:
        def read() -> Made:
            return make(_content(self.blob(key).download_blob(**exactly(version_id))))

        try:
            return until_whole(read, BROKEN_OFF)
        except AzureError as error:
            raise explained(error, f"reading {self.storage}{key}") from error

    def read_now(self, key: str, make: Callable[[Content], Made]) -> Made | None:
        def read() -> Made | None:
            try:
                answer = self.blob(key).download_blob()
            except ResourceNotFoundError as error:
                if is_no_blob(error):
                    return None
                raise
            return make(_content(answer))

        try:
            return until_whole(read, BROKEN_OFF)
        except AzureError as error:
            raise explained(error, f"reading {self.storage}{key}") from error

    def last_revision(self, key: str) -> int | None:  # noqa: ARG002 - nobody remembers it
        return None

    def write(  # noqa: PLR0913 - the parts of one request
        self, key: str, body: bytes | IO[bytes], metadata: Mapping[str, str], *, condition: str, sha256: str, size: int
    ) -> bool:
        kept = {**on_azure(metadata), SHA256: sha256}
        where: dict[str, Any] = exactly(condition) if condition else {"match_condition": MatchConditions.IfMissing}
        try:
            # `overwrite` alone would replace whatever stands there; the condition decides.
            self.blob(key).upload_blob(body, length=size, metadata=kept, overwrite=True, **where)
        except HttpResponseError as error:
            if code_of(error) in CHANGED:
                return False
            raise explained(error, f"archiving {self.storage}{key}") from error
        except AzureError as error:
            raise explained(error, f"archiving {self.storage}{key}") from error
        return True

    def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        kept = on_azure(metadata)
        called(f"writing {self.storage}{key}", self.blob(key).upload_blob, body, metadata=kept, overwrite=True)

    def remove(self, key: str) -> None:
        with told(f"deleting {key}"):
            try:
                self.blob(key).delete_blob()
            except ResourceNotFoundError as error:
                if not is_no_blob(error):
                    raise

    def delete_version(self, key: str, version_id: str) -> None:
        """A blob with a snapshot is refused by Storage: no snapshot is deleted by the way."""
        try:
            self.blob(key).delete_blob(**exactly(version_id))
        except HttpResponseError as error:
            if code_of(error) not in CHANGED:
                raise explained(error, f"deleting {self.storage}{key}") from error
        except AzureError as error:
            raise explained(error, f"deleting {self.storage}{key}") from error

    def delete_versions(self, doomed: Iterable[tuple[str, str]], guard: Callable[[], None]) -> None:
        for key, version_id in doomed:
            guard()
            self.delete_version(key, version_id)

    def write_attempts(self, key: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        blob = self.blob(key)
        yield "PutBlob", lambda: blob.upload_blob(b"", overwrite=True)
        yield "SetBlobMetadata", lambda: blob.set_blob_metadata({"probe": "write"})
        yield "SetBlobTags", lambda: blob.set_blob_tags({"probe": "write"})
        yield "PutBlock", lambda: blob.stage_block("AAAA", b"-")
        yield "DeleteBlob", blob.delete_blob

    def denial(self, action: str, attempt: Callable[[], Any]) -> str:
        try:
            attempt()
        except AzureError as error:
            if code_of(error) in DENIALS:
                return code_of(error)
            raise explained(error, f"probing whether {self.storage} can still be written ({action})") from error
        return ""

    def worker_objects(self) -> BlobObjects:
        return BlobObjects(self.container)

    def key_problem(self, described: Description) -> str:  # noqa: ARG002 - the key is the account's, not the blob's
        return ""

    def name_problem(self, key: str) -> str:
        if not key:
            return "it has no name"
        return f"its name has {len(key)} characters, {NAME_LIMIT} are the most" if len(key) > NAME_LIMIT else ""

    def way_out(self) -> str:
        place = f"--blob-url {self.storage}NAME --auth-mode login"
        return (
            f"fetch each of them (az storage blob download {place} --file FILE), archive it anew if it is wanted,"
            f" remove it (az storage blob delete {place} --delete-snapshots include)"
        )


def entry_of(found: BlobProperties) -> Entry:
    etag = etag_of(found.etag)
    return Entry(
        key=found.name,
        version_id=f"{SNAPSHOT}{found.snapshot}" if found.snapshot else etag + _tag_digest(found.tags),
        etag=etag,
        size=found.size,
        last_modified=found.last_modified.isoformat(),
        is_latest=not found.snapshot,
        is_delete_marker=False,
        storage_class=found.blob_tier or "",
    )


def _tag_digest(tags: Mapping[str, str] | None) -> str:
    if not tags:
        return ""
    return "~" + hashlib.sha256(json.dumps(sorted(tags.items())).encode()).hexdigest()[:16]


def etag_of(given: str) -> str:
    """A listing gives ETags bare, a header gives them quoted."""
    return given.strip('"')


def with_tags_of(version_id: str, etag: str) -> str:
    """The id of a copy with this ETag of the blob with that id: the tags are the same."""
    _, tilde, digest = version_id.partition("~")
    return etag_of(etag) + tilde + digest


def exactly(version_id: str) -> dict[str, Any]:
    """The condition that only this version meets."""
    return {"etag": f'"{etag_of(version_id.partition("~")[0])}"', "match_condition": MatchConditions.IfNotModified}


def _content(answer: Any) -> Content:
    metadata = of_azure(answer.properties.metadata)
    return Content(
        metadata=metadata,
        size=answer.size,
        chunks=answer.chunks(),
        condition=etag_of(answer.properties.etag),
        sha256=metadata.get(SHA256),
    )
