"""A tenant's objects in a container, as the worker reads and annotates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import ContainerClient, StorageErrorCode

from ..core import Found
from ..edits import Held
from .names import of_azure, on_azure

NAME_LIMIT = 1024
"""REST reference, "Naming and referencing containers, blobs, and metadata": at most 1,024 characters."""


class BlobObjects:
    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    def read(self, key: str) -> Found | None:
        try:
            answer = self._container.download_blob(key)
        except ResourceNotFoundError as error:
            if is_no_blob(error):
                return None
            raise
        return Found(of_azure(answer.properties.metadata), answer.size, answer.chunks())

    def last_revision(self, key: str) -> int | None:  # noqa: ARG002 - the container remembers no deleted blob
        return None

    def held(self, key: str) -> Held | None:
        """As `edits.Objects` wants it."""
        if len(key) > NAME_LIMIT:
            return None
        try:
            found = self._container.get_blob_client(key).get_blob_properties()
        except ResourceNotFoundError as error:
            if is_no_blob(error):
                return None
            raise
        return Held(of_azure(found.metadata), found.size, found.etag, found.etag)

    def annotate(self, key: str, held: Held, metadata: Mapping[str, str]) -> bool:
        """As `edits.Objects` wants it. Set Blob Metadata leaves bytes, headers and tags, and moves the ETag."""
        blob = self._container.get_blob_client(key)
        try:
            blob.set_blob_metadata(on_azure(metadata), etag=held.etag, match_condition=MatchConditions.IfNotModified)
        except (ResourceModifiedError, ResourceNotFoundError) as error:
            if error.status_code == 412 or is_no_blob(error):
                return False
            raise
        return True

    def refusals(self, key: str) -> dict[str, str]:
        """What this role is answered when it writes to `key`: the code by action, "" where it gets through."""
        blob = self._container.get_blob_client(key)
        attempts: dict[str, Callable[[], Any]] = {
            "PutBlob": lambda: blob.upload_blob(b"", overwrite=True),
            "SetBlobMetadata": lambda: blob.set_blob_metadata({"probe": "write"}),
        }
        return {action: _refusal(attempt) for action, attempt in attempts.items()}


def is_no_blob(error: HttpResponseError) -> bool:
    """Whether there is no such blob; a container that is gone is another matter. A HEAD brings its code in a header."""
    return code_of(error) == StorageErrorCode.BLOB_NOT_FOUND.value


def code_of(error: BaseException) -> str:
    """Azure's own word for a refusal, "" where it gave none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _refusal(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except HttpResponseError as error:
        return code_of(error) or str(error.status_code)
    return ""
