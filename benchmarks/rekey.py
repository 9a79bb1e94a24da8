"""Re-keying in place against copying, on the sandbox, in one run: `python -m benchmarks.rekey`.

The same objects, first copied under a second key into another bucket (list, copy), then re-keyed to it where they
lie (list, ask, re-key) and proven (list, ask). Objects a second of each, and the ratio; seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3

from migrate import aws
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, StorageRef, prepare
from migrate.progress import unwatched
from migrate.rekey.engine import Job, drain, rekey_pass
from migrate.rekey.moves import in_place_manifest
from sandbox.supervisor import Sandbox

THREADS = 16
SIZES = {"1 KB": (1_000, 600), "1 MB": (1_000_000, 60)}
"""Name -> (bytes an object, objects)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write what was measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(Path(folder) / "sandbox")
        sandbox.up()
        try:
            os.environ.update(sandbox.environment())
            found = {name: _measured(Path(folder) / name.replace(" ", ""), *size) for name, size in SIZES.items()}
        finally:
            sandbox.reset()
    print(f"{'object':8}{'objects':>9}{'copy/s':>10}{'re-key/s':>10}{'prove/s':>10}{'re-key : copy':>16}")
    for name, one in found.items():
        rates = f"{one['copy']:>10.0f}{one['rekey']:>10.0f}{one['drain']:>10.0f}{one['rekey'] / one['copy']:>16.2f}"
        print(f"{name:8}{one['objects']:>9}{rates}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def _measured(folder: Path, size: int, count: int) -> dict[str, float]:
    session = boto3.Session()
    s3, kms = prepare(aws.client(session, "s3", pool=2 * THREADS)), aws.client(session, "kms")
    old, new = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    name = folder.name.lower()
    source, target = (_bucket(s3, f"bench-{name}-{of}", key) for of, key in (("one", old), ("two", new)))
    with ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(lambda n: s3.put_object(Bucket=source, Key=f"records/{n:06}", Body=os.urandom(size)), range(count))
        )
    here, there = Side(s3, StorageRef(source, "", old)), Side(s3, StorageRef(target, "", new))
    with Manifest.open(folder / "copy.sqlite", here.storage, there.storage) as manifest:
        copied, copy = _timed(lambda: copy_pass(Transfer(here, there, manifest, threads=THREADS), unwatched))
    side = Side(s3, StorageRef(source, "", new))
    with in_place_manifest(folder / "rekey.sqlite", side) as manifest:
        job = Job(side, manifest, threads=THREADS)
        rekeyed, rekey = _timed(lambda: rekey_pass(job, unwatched))
        drained, proof = _timed(lambda: drain(job, "bench", datetime.now(UTC), unwatched))
    if not copied.copied == rekeyed.rekeyed == drained.versions == count:
        raise SystemExit(f"not all was done: {copied}, {rekeyed}, {drained}")
    return {"objects": count, "bytes": size, "copy": count / copy, "rekey": count / rekey, "drain": count / proof}


def _bucket(s3: Any, name: str, key_arn: str) -> str:
    region = s3.meta.region_name
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key_arn}
    rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": default}]}
    s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration=rules)
    return name


def _timed(do: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = do()
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
