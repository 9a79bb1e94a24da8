"""Re-key in place, and the proof that nothing is left under the old key.

S3 re-wraps the data key of one version (UpdateObjectEncryption): version id, ETag, date, tags and bytes stay, nothing
is copied, at any size. A listing names no keys, so that each version is asked for (HEAD) before and, in the drain,
after. Jobs write meanwhile: what they write comes under the bucket's new default by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stamina
from botocore import exceptions as botocore_errors
from botocore.exceptions import ClientError

from migrate.aws import code_of, explained, status_of
from migrate.copy.manifest import Manifest
from migrate.copy.merkle import MerkleRoot
from migrate.copy.s3 import Side, abort_uploads, called, list_versions
from migrate.copy.settle import probe_object
from migrate.errors import KeyshiftError, Waiting
from migrate.guard import Check, unguarded
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report
from migrate.rekey.keyed import Keyed, Version

THREADS = 16
NOTED_TOGETHER = 100
PATIENCE_SECONDS = 120.0
ROUNDS = 20
EXAMPLES = 10
BUSY = frozenset({"SlowDown", "ThrottlingException", "KMS.ThrottlingException", "OperationAborted"})
"""S3's own throttling, KMS's as S3 passes it on, and a version that somebody else is just changing."""


@dataclass(frozen=True)
class Job:
    """A storage whose `key_arn` is the key that everything is to come under, and what is known of its versions.

    `guard` is asked before each page of versions whether this runner may still act. `has_bucket_key`: its bucket has it
    on, as the shared one does: S3 then asks KMS once for many objects. Never for a customer's key.
    """

    side: Side
    manifest: Manifest
    guard: Check = unguarded
    threads: int = THREADS
    has_bucket_key: bool = False

    def is_there(self, found: tuple[str, bool]) -> bool:
        """Whether what `key_of` says of a version is as it should be."""
        key_arn, has_bucket_key = found
        return key_arn == self.key_arn and (self.has_bucket_key or not has_bucket_key)

    @property
    def key_arn(self) -> str:
        if self.side.storage.key_arn is None:
            raise KeyshiftError(f"{self.side.storage} has no key to be re-keyed to", code="no-key")
        return self.side.storage.key_arn


@dataclass(frozen=True)
class RekeyPass:
    """What one pass did. `already`: versions that were under the key; `before`: key ARN -> how many came from it."""

    listed: int
    rekeyed: int
    rekeyed_bytes: int
    already: int
    before: dict[str, int]


@dataclass(frozen=True)
class Drained:
    """Every version is under the storage's key. `rekeyed`, `uploads_aborted`: what the rounds found and ended."""

    versions: int
    delete_markers: int
    bytes: int
    rounds: int
    rekeyed: int
    uploads_aborted: int
    merkle_root: str
    manifest_sha256: str


@dataclass(frozen=True)
class _Was:
    """A version that is under the storage's key now, and the key under which it was; None: it is gone."""

    version: Version
    before: str | None


# the pass -------------------------------------------------------------------------------------


def rekey_pass(job: Job, report: Report) -> RekeyPass:
    """List the storage and bring what is not under its key there. Killed at any instant and called again it goes on.

    Raises KeyUnavailable when a key on either side cannot be used, CloudError for another refusal.
    """
    listed, keyed = _list(job, report), Keyed(job.manifest)
    meter = Meter(report, Progress(move="rekey", objects_total=keyed.count_not_under(job.key_arn)))
    before, size = _brought_over(job, keyed.not_under(job.key_arn), keyed, meter)
    meter.tell()
    already = before.pop(job.key_arn, 0)
    return RekeyPass(listed, sum(before.values()), size, already, dict(before))


def _list(job: Job, report: Report) -> int:
    meter = Meter(report, Progress(move="list"))
    job.manifest.take(list_versions(job.side), meter.add)
    meter.tell()
    return meter.now.objects


def _brought_over(job: Job, versions: Iterable[Version], keyed: Keyed, meter: Meter) -> tuple[Counter[str], int]:
    """(how many were under which key, bytes that were re-keyed). What is done is noted as it ends, errors or not."""
    before, size = Counter[str](), 0
    done: list[Version] = []
    try:
        for was in in_threads(_guarded(job, versions), lambda v: _rekey(job, v), threads=job.threads, name="rekey"):
            meter.add(1, was.version.size)
            if was.before is None:
                continue
            before[was.before] += 1
            size += was.version.size if was.before != job.key_arn else 0
            done.append(was.version)
            if len(done) >= NOTED_TOGETHER:
                keyed.note(done, job.key_arn)
                done = []
    finally:
        keyed.note(done, job.key_arn)
    return before, size


def _guarded(job: Job, versions: Iterable[Version]) -> Iterator[Version]:
    for number, version in enumerate(versions):
        if number % NOTED_TOGETHER == 0:
            job.guard()
        yield version


def _rekey(job: Job, version: Version) -> _Was:
    """One version, unless it is there: a call for what is under the key already would be an answer nobody documents."""
    found = key_of(job.side, version)
    if found is None:
        return _Was(version, None)
    key_arn, _ = found
    if job.is_there(found):
        return _Was(version, key_arn)
    encryption = {"SSEKMS": {"KMSKeyArn": job.key_arn, "BucketKeyEnabled": job.has_bucket_key}}
    try:
        _patiently(job.side.s3.update_object_encryption, **_place(job.side, version), ObjectEncryption=encryption)
    except ClientError as error:
        if _is_gone(error):
            return _Was(version, None)
        raise explained(error, f"re-keying {job.side.storage}{version.key} (version {version.version_id})") from error
    return _Was(version, key_arn)


def key_of(side: Side, version: Version) -> tuple[str, bool] | None:
    """(ARN of the key that a version is under, "" for none; whether through a bucket key), None if it is gone.

    A HEAD without the checksum: that would need the key, and this has to see what lies under a lost one too.
    """
    try:
        head = _patiently(side.s3.head_object, **_place(side, version))
    except ClientError as error:
        if _is_gone(error):
            return None
        raise explained(error, f"asking for the key of {side.storage}{version.key}") from error
    return str(head.get("SSEKMSKeyId") or ""), bool(head.get("BucketKeyEnabled"))


def _place(side: Side, version: Version) -> dict[str, str]:
    return {
        "Bucket": side.storage.bucket,
        "Key": side.storage.prefix + version.key,
        "VersionId": version.version_id,
    }


def _is_gone(error: ClientError) -> bool:
    return status_of(error) == 404 or code_of(error) in {"NoSuchVersion", "NoSuchKey"}


def _patiently(call: Any, **parameters: Any) -> dict[str, Any]:
    for attempt in stamina.retry_context(on=_asks_for_patience, attempts=None, timeout=PATIENCE_SECONDS):
        with attempt:
            return call(**parameters)
    raise AssertionError("a retry context either returns or raises")


def _asks_for_patience(error: Exception) -> bool:
    if isinstance(error, botocore_errors.ConnectionError | botocore_errors.HTTPClientError):
        return True
    return code_of(error) in BUSY or status_of(error) in {500, 502, 503, 504}


def census(job: Job, report: Report) -> Counter[str]:
    """Key ARN -> how many versions of the last listing are under it, really asked for; for who has to bring a key back."""
    keyed = Keyed(job.manifest)
    meter = Meter(report, Progress(move="census", objects_total=keyed.count_not_under(job.key_arn)))
    found = keyed.by_key()
    found = Counter({job.key_arn: found[job.key_arn]})
    asked = in_threads(
        keyed.not_under(job.key_arn), lambda version: key_of(job.side, version), threads=job.threads, name="census"
    )
    for key in asked:
        meter.add(1)
        if key is not None:
            found[key[0]] += 1
    return found


# the redirect ---------------------------------------------------------------------------------


def redirected(job: Job) -> datetime | None:
    """The instant, by S3's own clock, at which a write without a word about encryption came under the key.

    None while the bucket's default is not at work yet. Noted once for each key: uploads that were begun later are
    under it.
    """
    name = f"redirected-to {job.key_arn}"
    if (noted := job.manifest.noted(name)) is not None:
        return datetime.fromisoformat(noted)
    key_arn, at = landed(job.side)
    return datetime.fromisoformat(job.manifest.note_once(name, at.isoformat())) if key_arn == job.key_arn else None


def landed(side: Side) -> tuple[str, datetime]:
    """(ARN of the key under which a write lands now, when that was): a probe, of which nothing stays."""
    with probe_object(side) as key:
        place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + key}
        head = called(f"asking for the key of a probe in {side.storage}", side.s3.head_object, **place)
    return str(head.get("SSEKMSKeyId") or ""), head["LastModified"].astimezone(UTC)


# the proof ------------------------------------------------------------------------------------


def drain(job: Job, run: str, since: datetime, report: Report) -> Drained:
    """Repeat until a round finds nothing: uploads begun before `since` aborted, all listed, each version asked for.

    In this order a round is a proof: an upload that was completed before it could be aborted is in the listing that
    follows. `run` names the drain: cut off and called again it asks for no version twice. Raises Waiting when
    versions under another key keep coming.
    """
    keyed, rekeyed, aborted = Keyed(job.manifest), 0, 0
    for number in range(1, ROUNDS + 1):
        job.guard()
        ended = abort_uploads(job.side, begun_before=since)
        aborted += ended
        _list(job, report)
        strays = _strays(job, run, keyed, report)
        rekeyed += sum(_brought_over(job, strays, keyed, Meter(report, Progress(move="rekey")))[0].values())
        if not strays and not ended:
            totals = job.manifest.totals()
            versions = totals.versions - totals.delete_markers
            root = _root(keyed)
            digest = job.manifest.digest()
            return Drained(versions, totals.delete_markers, totals.bytes, number, rekeyed, aborted, root, digest)
    raise Waiting(
        f"versions of {job.side.storage} under another key than {job.key_arn} keep coming: {ROUNDS} rounds, "
        f"{rekeyed} re-keyed, and still not none",
        waits_for=f"the writers of {job.side.storage} to use the bucket's own key",
        hint="find out who writes under another key (CloudTrail, PutObject with a key id), then run this again",
        code="still-under-another-key",
    )


def _strays(job: Job, run: str, keyed: Keyed, report: Report) -> list[Version]:
    """The versions that this drain has not seen under the storage's key yet, and that are not."""
    meter = Meter(report, Progress(move="drain", objects_total=keyed.count_not_seen_in(run)))
    strays: list[Version] = []
    right: list[Version] = []

    def look(version: Version) -> tuple[Version, tuple[str, bool] | None]:
        return version, key_of(job.side, version)

    try:
        for version, found in in_threads(keyed.not_seen_in(run), look, threads=job.threads, name="drain"):
            meter.add(1, version.size)
            if found is not None and job.is_there(found):
                right.append(version)
            elif found is not None:
                strays.append(version)
            if len(right) >= NOTED_TOGETHER:
                keyed.note(right, job.key_arn, seen_in=run)
                right = []
    finally:
        keyed.note(right, job.key_arn, seen_in=run)
    meter.tell()
    return strays


def _root(keyed: Keyed) -> str:
    root = MerkleRoot()
    for leaf in keyed.leaves():
        root.add(json.dumps(leaf, ensure_ascii=True).encode())
    return root.hex()


# looking again --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """How many versions of a storage are under one key, of how many."""

    versions: int
    count: int
    examples: tuple[str, ...]


def left_under(side: Side, key_arn: str, report: Report) -> Left:
    """Ask for the key of every version there is now."""
    meter, count, examples = Meter(report, Progress(move="check")), 0, list[str]()
    entries = (Version(e.key, e.version_id, e.size) for e in list_versions(side) if not e.is_delete_marker)

    def look(version: Version) -> tuple[Version, tuple[str, bool] | None]:
        return version, key_of(side, version)

    for version, found in in_threads(entries, look, threads=THREADS, name="left"):
        meter.add(1, version.size)
        if found is not None and found[0] == key_arn:
            count += 1
            if len(examples) < EXAMPLES:
                examples.append(f"{version.key} (version {version.version_id})")
    meter.tell()
    return Left(meter.now.objects, count, tuple(examples))
