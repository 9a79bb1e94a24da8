# ruff: noqa: N803  # the storage's parameters are named as AWS names them
"""Is the runner's memory flat? Copy, verification and purge of a small and a large archive, each in a process of its own.

`python benchmarks/memory.py` prints a table; `--json FILE` also writes what it measured. The storage is
another process that answers over a socket with what boto3 would return, so that nothing of it counts.
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

SIZES = (10_000, 200_000)
PEAK_MB, RATIO = 300, 1.2
PAGE = 1000
BYTES = 1000
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE, TARGET = "shared", "dedicated"
PREFIX = "t/acme/"
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/new"
REPOSITORY = Path(__file__).resolve().parents[1]


# the storage's process ------------------------------------------------------------------------


class Store:
    """Two versioned buckets in memory: as much of S3 as a move asks for, and nothing that a move does not."""

    def __init__(self, versions: int) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._versions: dict[str, dict[str, list[tuple[str, bool]]]] = {SOURCE: {}, TARGET: {}}
        self._sorted: dict[str, list[str]] = {}
        while self._next < versions:
            number = len(self._versions[SOURCE])
            history = self._versions[SOURCE].setdefault(f"{PREFIX}records/case/{number:08}.json", [])
            for _ in range(min(5 if number % 20 == 0 else 1, versions - self._next)):
                history.append((self._id(), False))
            if number % 50 == 0 and self._next < versions:
                history.append((self._id(), True))

    def _id(self) -> str:
        self._next += 1
        return f"version-{self._next:024}"

    def get_bucket_versioning(self, **_: Any) -> dict[str, Any]:
        return {"Status": "Enabled"}

    def list_multipart_uploads(self, **_: Any) -> dict[str, Any]:
        return {}

    def list_object_versions(
        self,
        Bucket: str,
        Prefix: str,
        KeyMarker: str = "",
        VersionIdMarker: str = "",
    ) -> dict[str, Any]:
        keys, rows = self._keys(Bucket), []
        answer: dict[str, Any] = {"Versions": [], "DeleteMarkers": [], "KeyshiftOrder": []}
        for place in range(bisect.bisect_left(keys, KeyMarker or Prefix), len(keys)):
            newest_first = self._versions[Bucket][keys[place]][::-1]
            ids = [id for id, _ in newest_first]
            start = ids.index(VersionIdMarker) + 1 if keys[place] == KeyMarker else 0
            rows += [(keys[place], id, marker, id == ids[0]) for id, marker in newest_first[start:]]
            if len(rows) > PAGE:
                answer |= {"IsTruncated": True, "NextKeyMarker": rows[PAGE - 1][0]}
                answer |= {"NextVersionIdMarker": rows[PAGE - 1][1]}
                break
        for key, id, marker, latest in rows[:PAGE]:
            kind = "DeleteMarker" if marker else "Version"
            found = {"Key": key, "VersionId": id, "IsLatest": latest, "LastModified": NOW}
            found |= {} if marker else {"ETag": f'"{id}"', "Size": BYTES, "StorageClass": "STANDARD"}
            answer[f"{kind}s"].append(found)
            answer["KeyshiftOrder"].append(kind)
        return answer

    def _keys(self, bucket: str) -> list[str]:
        with self._lock:
            if bucket not in self._sorted:
                self._sorted[bucket] = sorted(key for key, history in self._versions[bucket].items() if history)
            return self._sorted[bucket]

    def head_object(self, **_: Any) -> dict[str, Any]:
        return {
            "ContentLength": BYTES,
            "ETag": '"x"',
            "Metadata": {"revision": "1", "archived-at": "2026-01-01T00:00:00.000Z", "type": "case", "id": "1"},
            "ContentType": "application/json",
            "ChecksumSHA256": "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
            "ChecksumType": "FULL_OBJECT",
            "SSEKMSKeyId": KEY_ARN,
        }

    def get_object_tagging(self, **_: Any) -> dict[str, Any]:
        return {"TagSet": []}

    def copy_object(self, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        id = self._add(Bucket, Key, is_marker=False)
        return {"CopyObjectResult": {"ETag": f'"{id}"'}, "VersionId": id}

    def delete_object(self, Bucket: str, Key: str, **_: Any) -> dict[str, Any]:
        return {"VersionId": self._add(Bucket, Key, is_marker=True), "ResponseMetadata": {}}

    def _add(self, bucket: str, key: str, *, is_marker: bool) -> str:
        with self._lock:
            id = self._id()
            self._versions[bucket].setdefault(key, []).append((id, is_marker))
            self._sorted.pop(bucket, None)
            return id

    def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            for entry in Delete["Objects"]:
                history = self._versions[Bucket][entry["Key"]]
                history[:] = [version for version in history if version[0] != entry["VersionId"]]
            self._sorted.pop(Bucket, None)
        return {}


def serve(socket: str, versions: int) -> None:
    store = Store(versions)
    with Listener(socket, "AF_UNIX", backlog=64) as listener:
        while True:
            threading.Thread(target=_answer, args=(store, listener.accept()), daemon=True).start()


def _answer(store: Store, link: Connection) -> None:
    while True:
        try:
            name, parameters = pickle.loads(link.recv_bytes())
        except EOFError:
            return
        link.send_bytes(pickle.dumps(getattr(store, name)(**parameters)))


# the runner's process -------------------------------------------------------------------------


class Remote:
    """Stands where boto3's client does; a connection a thread."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._links = threading.local()

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        def call(**parameters: Any) -> dict[str, Any]:
            if not hasattr(self._links, "link"):
                self._links.link = Client(self._socket, "AF_UNIX")
            self._links.link.send_bytes(pickle.dumps((name, parameters)))
            return pickle.loads(self._links.link.recv_bytes())

        return call


def move(socket: str, folder: Path) -> None:
    """The three moves, as the runner does them, with everything loaded that the runner loads."""
    from migrate.copy.engine import Transfer, copy_pass  # noqa: PLC0415 - not in the process that measures
    from migrate.copy.manifest import Manifest, Where  # noqa: PLC0415
    from migrate.copy.purge import Purge, prove_empty, purge  # noqa: PLC0415
    from migrate.copy.s3 import Side, StorageRef  # noqa: PLC0415
    from migrate.copy.verify import verify_storage  # noqa: PLC0415
    from migrate.progress import unwatched  # noqa: PLC0415
    from migrate.runner import Runner  # noqa: PLC0415
    from migrate.verdict import Verdict  # noqa: PLC0415

    assert Runner
    s3 = Remote(socket)
    source, target = Side(s3, StorageRef(SOURCE, PREFIX)), Side(s3, StorageRef(TARGET, "", KEY_ARN))
    with Manifest.open(folder / "manifest.sqlite", source.storage, target.storage) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        found = verify_storage(transfer, "benchmark", unwatched)
        verdict = Verdict(
            id="v", kind="storage", tenant="acme", operation="o", subject="s1", passed=True, counts={},
            manifest_sha256=found.manifest_sha256, started_at=NOW, finished_at=NOW,
        )  # fmt: skip
        purged = purge(Purge(source, Where.SOURCE, manifest, verdict), unwatched)
    prove_empty(source)
    print(json.dumps({"verified": found.versions, "purged": purged.deleted}))


# measuring ------------------------------------------------------------------------------------


def measure(versions: int) -> dict[str, Any]:
    """Runs the moves over `versions` object versions in a child; its peak resident set is the kernel's own figure."""
    with tempfile.TemporaryDirectory() as name, _serving(Path(name) / "s3.sock", versions) as socket:
        began = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, __file__, "--move", socket, "--folder", name],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"the move of {versions} versions ended with {child.returncode}")
        done = json.loads(said)
        if done != {"verified": versions, "purged": versions}:
            raise SystemExit(f"the move of {versions} versions did only {done}")
        manifest = (Path(name) / "manifest.sqlite").stat().st_size
    return {
        "versions": versions,
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
        "manifest_mb": round(manifest / 1024**2, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


@contextmanager
def _serving(socket: Path, versions: int) -> Iterator[str]:
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(socket), "--versions", str(versions)])
    try:
        while not socket.exists():
            if server.poll() is not None:
                raise SystemExit("the storage's process ended")
            time.sleep(0.05)
        yield str(socket)
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=SIZES, metavar="N", help="object versions, small and large"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    for hidden in ("--serve", "--move", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--versions", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.versions)
    if given.move:
        move(given.move, Path(given.folder))
        return 0
    small, large = (measure(versions) for versions in given.sizes)
    ratio = round(large["peak_mb"] / small["peak_mb"], 3)
    is_flat = large["peak_mb"] < PEAK_MB and ratio <= RATIO
    print(f"{'versions':>10} {'peak RSS':>10} {'manifest':>10} {'took':>9}")
    for row in (small, large):
        print(f"{row['versions']:>10,} {row['peak_mb']:>7} MB {row['manifest_mb']:>7} MB {row['seconds']:>7} s")
    print(f"ratio {ratio} (at most {RATIO}), peak below {PEAK_MB} MB: {'flat' if is_flat else 'NOT FLAT'}")
    if given.json:
        found = {"small": small, "large": large, "ratio": ratio, "is_flat": is_flat}
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
