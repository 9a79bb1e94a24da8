# ruff: noqa: SLF001 - ministack offers no public functions; its version is pinned.
"""ministack's S3 as the gate uses it: storage without signatures, policies or encryption.

Calls go to its router in process, in the scope of the bucket's owner; nothing outside reaches it.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ministack.core.responses import get_region, request_scope
from ministack.services import s3

from sandbox.aws.s3.message import Answer, Request, S3Error
from sandbox.aws.s3.record import HEADER, Record

Stored = dict[str, Any]
# Headers that the gate answers for; ministack would check them against ciphertext or echo its own view.
_GATES_OWN = ("x-amz-checksum-", "x-amz-server-side-encryption", "x-amz-sdk-checksum-", "x-amz-copy-source")
_GATES_OWN_NAMES = frozenset({"content-md5", "x-amz-trailer", "x-amz-decoded-content-length", "range"})


class Store:
    """Reads and writes of ministack's buckets, objects, versions and uploads."""

    def __init__(self) -> None:
        self._finished: dict[tuple[str, ...], Answer] = {}

    def owner(self, bucket: str) -> str | None:
        """The account that owns the bucket, or None if there is none of that name."""
        return s3._bucket_owner_account(bucket)

    def scope(self, owner: str) -> AbstractContextManager[None]:
        return request_scope(owner, get_region())

    def call(
        self, owner: str, request: Request, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Run one operation of ministack's router and return what it answers, errors included."""
        sent = dict(request.headers if headers is None else headers)
        sent = {name: value for name, value in sent.items() if not _is_gates_own(name)}
        query = {name: [value] for name, value in request.query.items()}
        with self.scope(owner):
            status, answered, content = s3._dispatch(
                request.method, request.bucket, request.key, sent, request.body if body is None else body, query
            )
        content = content.encode() if isinstance(content, str) else content
        return Answer(status, {name.lower(): value for name, value in answered.items()}, content)

    def region_error(self, owner: str, request: Request) -> Answer | None:
        """The redirect S3 gives to a request signed for another region than the bucket's."""
        query = {name: [value] for name, value in request.query.items()}
        with self.scope(owner):
            found = s3._check_bucket_region(request.method, request.bucket, request.key, dict(request.headers), query)
        return Answer(*found) if found else None

    def policy(self, owner: str, bucket: str) -> str:
        return s3._bucket_policies.get_scoped(owner, None, bucket) or ""

    def public_policy_is_restricted(self, owner: str, bucket: str) -> bool:
        """Whether the bucket's policy is public and its public access block keeps foreigners out of it."""
        policy = self.policy(owner, bucket)
        return s3._public_access_blocked(owner, bucket, "RestrictPublicBuckets") and s3._policy_is_public(policy)

    def encryption(self, owner: str, bucket: str) -> str:
        """The stored default encryption document, or an empty string."""
        return s3._bucket_encryption.get_scoped(owner, None, bucket) or ""

    def versioning(self, owner: str, bucket: str) -> str:
        return s3._bucket_versioning.get_scoped(owner, None, bucket) or ""

    def objects(self, owner: str, bucket: str) -> dict[str, Stored]:
        """The current object of each key that has one."""
        return s3._buckets.get_scoped(owner, None, bucket)["objects"]

    def histories(self, owner: str, bucket: str) -> Iterator[tuple[str, list[Stored]]]:
        """(key, versions oldest first) for every key that has a history."""
        with self.scope(owner):
            histories = list(s3._object_versions.items())
        return ((key, versions) for (name, key), versions in histories if name == bucket and versions)

    def history(self, owner: str, bucket: str, key: str) -> list[Stored]:
        return s3._object_versions.get_scoped(owner, None, (bucket, key)) or []

    def version(self, owner: str, bucket: str, key: str, version_id: str | None) -> Stored | None:
        """One version's record (a delete marker has `is_delete_marker`), or the current object's."""
        current = self.objects(owner, bucket).get(key)
        if version_id is None:
            return current
        for version in self.history(owner, bucket, key):
            if version["version_id"] == version_id:
                return version
        is_null = version_id == "null" and current is not None and not current.get("version_id")
        return current if is_null else None

    def rewrite_record(self, owner: str, bucket: str, key: str, stored: Stored, record: Record) -> None:
        """Replace a version's record in place, in memory and on disk."""
        version_id = stored.get("version_id") or "null"
        current = self.objects(owner, bucket).get(key)
        same = [v for v in self.history(owner, bucket, key) if v["version_id"] == version_id]
        if current is not None and (current.get("version_id") or "null") == version_id:
            same.append(current)
        for copy in same:
            copy["metadata"][HEADER] = record.dump()
        self._persist(owner, bucket, key)

    def tags(self, owner: str, bucket: str, key: str, stored: Stored) -> dict[str, str]:
        return s3._object_tags.get_scoped(owner, None, (bucket, key, _tag_version(stored))) or {}

    def set_tags(self, owner: str, bucket: str, key: str, stored: Stored, tags: Mapping[str, str]) -> None:
        place = (bucket, key, _tag_version(stored))
        if tags:
            s3._object_tags.set_scoped(owner, None, place, dict(tags))
        else:
            s3._object_tags.pop_scoped(owner, None, place, None)
        self._persist(owner, bucket, key)

    def announce(self, owner: str, bucket: str, key: str, event: str, stored: Stored) -> None:
        """Send an S3 event that ministack itself would not send."""
        with self.scope(owner):
            s3._fire_s3_event_async(
                bucket, key, event, size=stored["size"], etag=stored["etag"], version_id=stored.get("version_id")
            )

    def is_locked(self, owner: str, bucket: str, key: str, stored: Stored) -> bool:
        """Whether Object Lock protects the version: a legal hold or a retention that is not over."""
        place = (bucket, key, _tag_version(stored))
        hold = s3._object_legal_hold.get_scoped(owner, None, place)
        retention = s3._object_retention.get_scoped(owner, None, place) or {}
        return hold == "ON" or retention.get("RetainUntilDate", "") > s3.now_iso()

    def meets_copy_conditions(self, headers: Mapping[str, str], stored: Stored) -> bool:
        """Whether a copy's `x-amz-copy-source-if-…` headers hold for the source."""
        return s3._check_copy_source_preconditions(dict(headers), stored) is None

    def upload(self, owner: str, request: Request) -> Stored:
        """The multipart upload that a request names. Raises NoSuchUpload."""
        found = s3._multipart_uploads.get_scoped(owner, None, request.query["uploadId"])
        if found is None or (found["bucket"], found["key"]) != (request.bucket, request.key):
            message = (
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have been "
                "aborted or completed."
            )
            raise S3Error("NoSuchUpload", message, 404, fields={"UploadId": request.query["uploadId"]})
        return found

    def finished_upload(self, owner: str, request: Request) -> Answer | None:
        """The answer that completed this upload, for a client that asks again (API_CompleteMultipartUpload)."""
        return self._finished.get((owner, request.bucket, request.key, request.query["uploadId"]))

    def finish_upload(self, owner: str, request: Request, answer: Answer) -> None:
        self._finished[owner, request.bucket, request.key, request.query["uploadId"]] = answer

    def uploads(self, owner: str, bucket: str) -> list[tuple[str, str, Stored]]:
        """(key, upload id, upload), in the order S3 lists them."""
        with self.scope(owner):
            found = list(s3._multipart_uploads.items())
        mine = [(upload["key"], upload_id, upload) for upload_id, upload in found if upload["bucket"] == bucket]
        return sorted(mine, key=lambda entry: (entry[0], entry[2]["created"], entry[1]))

    def body(self, owner: str, bucket: str, key: str, stored: Stored) -> bytes:
        """A version's bytes as they lie in the store."""
        with self.scope(owner):
            if "is_latest" not in stored:
                return s3._read_body(bucket, key, stored)
            return s3._version_body(s3._buckets[bucket], bucket, key, stored)

    def replace_body(self, owner: str, bucket: str, key: str, stored: Stored, content: bytes) -> None:
        """Write other bytes of the same length in a version's place; nothing else of it changes."""
        version_id = stored.get("version_id") or "null"
        current = self.objects(owner, bucket).get(key)
        with self.scope(owner):
            if s3._version_file_exists(bucket, key, version_id):
                s3._atomic_write(s3._version_disk_path(bucket, key, version_id), content)
            if current is not None and (current.get("version_id") or "null") == version_id:
                s3._atomic_write(s3._object_disk_path(bucket, key), content)

    def release_bytes(self, owner: str, bucket: str, key: str) -> None:
        """Let go of the bodies that ministack holds in memory beside the files on disk."""
        for version in self.history(owner, bucket, key):
            if not version.get("is_delete_marker"):
                version["data"] = None

    def save_uploads(self, path: Path) -> None:
        """Keep unfinished uploads across a restart, which ministack does not."""
        draft = path.with_suffix(".new")
        draft.write_bytes(pickle.dumps(s3._multipart_uploads._data))
        draft.replace(path)

    def load_uploads(self, path: Path) -> None:
        if path.exists():
            s3._multipart_uploads._data.update(pickle.loads(path.read_bytes()))

    def _persist(self, owner: str, bucket: str, key: str) -> None:
        with self.scope(owner):
            s3._persist_version_state(bucket, key, s3._buckets[bucket])


def _is_gates_own(name: str) -> bool:
    return name.startswith(_GATES_OWN) or name in _GATES_OWN_NAMES


def _tag_version(stored: Stored) -> str | None:
    version_id = stored.get("version_id")
    return None if version_id == "null" else version_id
