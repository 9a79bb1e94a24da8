"""One tenant's whole life, on the sandbox: `make tour`.

standard → byok → rotated → byokms → the customer rotates, paused, confirmed → revoked by the customer, restored →
revoked by us, restored → removed → deleted; with real records, while jobs write and a person searches. Every command
is one that an operator or a customer would type. A line a step; at the end what was lost, doubled, altered and left
behind, which must be nothing: the exit code is 0 only then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError
from rich.console import Console

from components.worker.document import document_id, is_searchable
from migrate import tenants
from migrate.archive import write_record
from migrate.copy.s3 import list_uploads, list_versions
from migrate.errors import KeyshiftError
from migrate.gate import ArchiveClient
from migrate.live import Live
from migrate.show import seconds_text
from migrate.stack import Project
from sandbox import demo, demo_data, supervisor
from sandbox.demo import INDEXED_WITHIN_SECONDS, REPOSITORY, STAMP, TENANT, Jobs, make_project

WAITS = 3
"""The exit code of a command that waits for a person or a key."""
ALIAS = "alias/acme-archive"
CUSTOMER = "444455556666"
"""The customer's account in the sandbox (docs/sandbox.md); it runs in an environment of its own."""

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    arguments = _arguments()
    if arguments.json:
        console.file = demo.console.file = sys.stderr
    folder = arguments.folder.resolve()
    sandbox = supervisor.Sandbox(folder / "sandbox")
    sandbox.reset()
    shutil.rmtree(folder / "project", ignore_errors=True)
    sandbox.up()
    try:
        os.environ.update(sandbox.environment())
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        project = make_project(folder / "project")
        os.environ["KEYSHIFT_PROJECT"] = str(project)
        result = Tour(project, folder, arguments.records).run()
    finally:
        sandbox.down()
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        console.print(_closing(result), markup=False)
    return 0 if result["ok"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.tour", description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".sandbox" / "tour", help="where it all happens")
    parser.add_argument("--records", type=int, default=2000, help="flights to load")
    parser.add_argument("--json", action="store_true", help="print the steps and the result as JSON")
    return parser.parse_args()


@dataclass(frozen=True)
class Step:
    """What stood at the end of a step. `jobs_disabled`: seconds, None where the step never closed the gate."""

    step: str
    mode: str
    serves: str
    key: str
    objects: int | None
    documents: int | None
    seconds: float
    jobs_disabled: float | None


@dataclass
class Truth:
    """What the archive must hold: key -> SHA-256 of the object, as it was archived."""

    objects: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    left_behind: int = 0


class Tour:
    def __init__(self, folder: Path, work: Path, records: int) -> None:
        self.folder = folder
        self.work = work
        self.records = records
        self.project = Project.find()
        self.archive = ArchiveClient(self.project, TENANT, fresh_seconds=0)
        self.truth = Truth()
        self.steps: list[Step] = []
        self.homes: set[tuple[str, str]] = set()
        self.jobs = Jobs(self.project)
        self.noted = 0

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        console.print(_line("step", "mode", "serves", "key", "objects", "documents", "time", "jobs disabled"))
        self._begin()
        self.jobs.start()
        try:
            self._live()
        finally:
            self.jobs.stop()
        self._settle()
        self._end()
        truth = {
            "objects": len(self.truth.objects),
            "lost": len(self.truth.lost),
            "doubled": len(self.truth.doubled),
            "altered": len(self.truth.altered),
            "left_behind": self.truth.left_behind,
            "jobs_accepted": len(self.jobs.accepted),
            "jobs_refused": len(self.jobs.refused),
            "searches_answered": self.jobs.searches,
        }
        is_whole = not any(truth[name] for name in ("lost", "doubled", "altered", "left_behind"))
        return {
            "ok": is_whole and truth["jobs_accepted"] > 0 and truth["searches_answered"] > 0,
            "minutes": round((time.monotonic() - began) / 60, 2),
            "steps": [asdict(step) for step in self.steps],
            **truth,
        }

    # the steps --------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._step("standard"):
            self._run("pulumi", "stack", "init", STAMP)
            self._run("pulumi", "up", "-s", STAMP, "--yes", "--skip-preview", "--color", "never")
            self._run("keyshift", "tenant", "create", TENANT, "--customer", "acme-corp")
            data = demo_data.nycflights(self.work / "data", flights=self.records)
            self._run("keyshift", "archive", "import", TENANT, str(data))
            self._settle()
            self.truth.objects = self._hashes()

    def _live(self) -> None:
        with self._step("byok"):
            self._upload_key()
            self._run("keyshift", "enable", TENANT)
        with self._step("rotated"):
            self._upload_key()
            self._run("keyshift", "rotate", TENANT)
        customer = Customer()
        with self._step("byokms"):
            policy = json.loads(self._run("keyshift", "key", "policy", TENANT, "--account", CUSTOMER, "--json"))
            customer.lead_to(customer.key(policy["policy"]))
            self._run("keyshift", "key", "onboard", TENANT, "--alias", customer.alias_arn)
            self._run("keyshift", "change", TENANT, "--mode", "byokms")
        with self._step("customer rotates"):
            customer.lead_to(customer.key(policy["policy"]))
            paused = json.loads(self._run("keyshift", "key", "follow", TENANT, "--json", code=WAITS))
            self._must_be_refused("a job while the rotation is not confirmed")
            self._run("keyshift", "confirm", TENANT, "--token", paused["token"])
        with self._step("customer revokes"):
            customer.disable()
            for _ in range(2):
                self._run("keyshift", "watch", "--once", "--tenant", TENANT, "--json", code=None)
            self._must_be_refused("a job under a key that its customer took away")
            self._note_gate()
        with self._step("customer restores"):
            customer.enable()
            self._wait_until(self._is_open_again, "the tenant to be opened again")
        with self._step("revoked by us"):
            self._run("keyshift", "revoke", TENANT, "--reason", "the tour", "--yes")
            self._must_be_refused("a job in a revoked tenant")
        with self._step("restored by us"):
            self._run("keyshift", "restore", TENANT, "--reason", "the tour goes on")
        with self._step("removed"):
            self._run("keyshift", "remove", TENANT)

    def _end(self) -> None:
        self._compare()
        with self._step("deleted", is_last=True):
            self._run("keyshift", "delete", TENANT, "--confirm", TENANT)
        self.truth.left_behind += self._left_in(self.homes)

    def _upload_key(self) -> None:
        folder = self.work / "customer"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        asked = json.loads(self._run("keyshift", "key", "request", TENANT, "--out", str(folder), "--json"))
        wrapped = json.loads(
            self._run(
                "keyshift", "key", "wrap", asked["public_key"],
                "--out", str(folder / "wrapped.bin"), "--keep", str(folder / "key.bin"), "--json",
            )
        )  # fmt: skip
        self._run("keyshift", "key", "upload", TENANT, wrapped["file"], "--sha256", wrapped["sha256"])

    def _is_open_again(self) -> bool:
        self._run("keyshift", "watch", "--once", "--tenant", TENANT, "--json", code=None)
        return not tenants.describe(self.project, TENANT)["sealed"]

    # looking ----------------------------------------------------------------------------------

    @contextmanager
    def _step(self, name: str, *, is_last: bool = False) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        step = self._gone(name, seconds) if is_last else self._stands(name, seconds)
        self.steps.append(step)
        closed = "-" if step.jobs_disabled is None else seconds_text(step.jobs_disabled)
        counts = ["closed" if n is None else f"{n:,}" for n in (step.objects, step.documents)]
        console.print(
            _line(step.step, step.mode, step.serves, step.key, *counts, seconds_text(step.seconds), closed),
            markup=False,
        )

    def _stands(self, name: str, seconds: float) -> Step:
        found = tenants.describe(self.project, TENANT)
        layout = found["layout"]
        serves = layout["serves"]
        key = next(s["key"] for s in layout["storages"] if s["id"] == serves["storage"])
        live = Live.find(self.project, TENANT)
        side = live.storage(serves["storage"]).storage
        self.homes.add((side.bucket, side.prefix))
        is_open = not found["sealed"]
        operation = tenants.last_operation(self.project, TENANT)
        is_of_this = (time.time() - operation.started_at.timestamp()) < seconds + 1
        left = operation.results.get("purge/3-prove-empty", {}).get("left_behind", 0) if is_of_this else 0
        self.truth.left_behind += left
        return Step(
            step=name,
            mode=layout["mode"],
            serves=f"{serves['storage']} {serves['search']} {serves['pipeline']}",
            key=key or "vendor",
            objects=self._count_objects(live) if is_open else None,
            documents=self.archive.search("*", 1)["total"] if is_open else None,
            seconds=round(seconds, 1),
            jobs_disabled=operation.jobs_disabled_seconds if is_of_this else None,
        )

    def _gone(self, name: str, seconds: float) -> Step:
        return Step(name, "-", "-", "-", 0, 0, round(seconds, 1), None)

    def _note_gate(self) -> None:
        """What Archive is told while its customer's key is away."""
        self._run("keyshift", "gate", TENANT, "--json", code=None)

    def _count_objects(self, live: Live) -> int:
        side = live.storage(live.serves.storage)
        return sum(entry.is_latest and not entry.is_delete_marker for entry in list_versions(side))

    def _settle(self) -> None:
        """Until every object has its document."""
        live = Live.find(self.project, TENANT)
        keys = [e.key for e in list_versions(live.storage(live.serves.storage)) if e.is_latest]
        wanted = sum(is_searchable(key) for key in keys)
        self._wait_until(lambda: self.archive.search("*", 1)["total"] == wanted, f"{wanted:,} documents")

    def _hashes(self) -> dict[str, str]:
        live = Live.find(self.project, TENANT)
        side = live.storage(live.serves.storage)
        found = {}
        for entry in list_versions(side):
            if entry.is_latest and not entry.is_delete_marker:
                place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + entry.key}
                digest = hashlib.sha256()
                for chunk in side.s3.get_object(**place)["Body"].iter_chunks(1 << 20):
                    digest.update(chunk)
                found[entry.key] = digest.hexdigest()
        return found

    def _compare(self) -> None:
        """What was archived at the beginning and by jobs since, against what is there now and what is found."""
        now, truth = self._hashes(), self.truth
        archived = {f"records/jobs/{id}.json" for id in self.jobs.accepted}
        truth.lost = (set(truth.objects) | archived) - set(now)
        truth.altered = {key for key, digest in truth.objects.items() if key in now and now[key] != digest}
        truth.doubled = set(now) - set(truth.objects) - archived
        live = Live.find(self.project, TENANT)
        client, unit = live.search(live.serves.search), live.outputs["searches"][live.serves.search]
        client.indices.refresh(index=unit["index"])
        wanted = {document_id(key) for key in now if is_searchable(key)}
        count = client.count(index=unit["read_alias"])["count"]
        if count != len(wanted):
            truth.doubled |= {f"{count} documents for {len(wanted)} objects"}
        truth.objects |= {key: now[key] for key in archived & set(now)}

    def _left_in(self, homes: set[tuple[str, str]]) -> int:
        """Versions, markers and uploads where the tenant ever lived, by the account's administrator."""
        from migrate import aws  # noqa: PLC0415 - after the environment is set
        from migrate.copy.s3 import Side, StorageRef, prepare  # noqa: PLC0415 - as above

        s3 = prepare(aws.client(aws.operator(), "s3"))
        left = 0
        for bucket, prefix in homes:
            side = Side(s3, StorageRef(bucket, prefix))
            try:
                left += sum(1 for _ in list_versions(side)) + sum(1 for _ in list_uploads(side))
            except (ClientError, KeyshiftError) as error:
                if "NoSuchBucket" not in str(error):
                    raise
        return left

    def _must_be_refused(self, what: str) -> None:
        try:
            # Without asking the gate: that the cloud refuses is what is shown.
            write_record(self.archive.side(), "tour", what.replace(" ", "-"), {"what": what})
        except (ClientError, KeyshiftError):
            return
        raise SystemExit(f"{what} was let in")

    def _wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        began = time.monotonic()
        while not is_so():
            if time.monotonic() - began > INDEXED_WITHIN_SECONDS:
                raise SystemExit(f"waited {INDEXED_WITHIN_SECONDS} s for {what}")
            time.sleep(0.5)

    def _run(self, *command: str, code: int | None = 0) -> str:
        """A command that must end with `code`; None takes any of keyshift's own."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != code and not (code is None and done.returncode in {0, 1, WAITS}):
            raise SystemExit(
                f"`{shlex.join(command)}` ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            )
        return done.stdout


class Customer:
    """Who types in the customer's own account."""

    def __init__(self) -> None:
        session = boto3.Session(profile_name="customer", region_name="eu-west-1")
        self.kms = session.client("kms")
        self.alias_arn = f"arn:aws:kms:eu-west-1:{CUSTOMER}:{ALIAS}"
        self._keys: list[str] = []

    def key(self, policy: dict[str, Any]) -> str:
        made = self.kms.create_key(Policy=json.dumps(policy))["KeyMetadata"]
        return made["KeyId"]

    def lead_to(self, key: str) -> None:
        call = self.kms.update_alias if self._keys else self.kms.create_alias
        call(AliasName=ALIAS, TargetKeyId=key)
        self._keys.append(key)

    def disable(self) -> None:
        self.kms.disable_key(KeyId=self._keys[-1])

    def enable(self) -> None:
        self.kms.enable_key(KeyId=self._keys[-1])


def _line(*cells: str) -> str:
    widths = (18, 9, 10, 7, 9, 10, 9, 13)
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _closing(result: dict[str, Any]) -> str:
    names: Sequence[tuple[str, str]] = (
        ("objects", f"{result['objects']:,}"),
        ("lost", str(result["lost"])),
        ("doubled", str(result["doubled"])),
        ("altered", str(result["altered"])),
        ("left behind", str(result["left_behind"])),
        ("jobs meanwhile", f"{result['jobs_accepted']:,} accepted, {result['jobs_refused']:,} refused by the cloud"),
        ("searches meanwhile", f"{result['searches_answered']:,} answered"),
        ("time", f"{result['minutes']} min"),
        ("result", "ok" if result["ok"] else "NOT OK"),
    )
    return "\n".join(["", *(f"  {name:<20} {value}" for name, value in names)])


if __name__ == "__main__":
    sys.exit(main())
