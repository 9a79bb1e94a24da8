"""The main job, end to end, on the sandbox: `make demo`.

A tenant with real records lives in the vendor's shared bucket; it is moved, while jobs write and
searches run, to a bucket and a search deployment under a key that the customer made and wrapped.
Every command is one that an operator or a customer would type, and is printed before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from migrate import tenants
from migrate.archive import write_record
from migrate.errors import CloudError, KeyshiftError
from migrate.gate import ArchiveClient
from migrate.keys import ops as key_ops
from migrate.live import Live
from migrate.show import bytes_text, seconds_text
from migrate.stack import Project
from sandbox import demo_data, supervisor
from sandbox.demo_clouds import CLOUDS, DemoCloud

REPOSITORY = Path(__file__).resolve().parent.parent
STAMP = CLOUDS["aws"].stamp
TENANT = "acme"
INDEXED_WITHIN_SECONDS = 300
SANDBOX = {"aws": "AWS (vendor's and customer's account)", "azure": "Azure (vendor's and customer's Entra tenant)"}

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Runs the demo; exit code 0 only if nothing is lost, doubled or left behind."""
    arguments = _arguments()
    if arguments.json:
        console.file = sys.stderr
    folder = arguments.folder.resolve()
    started = time.monotonic()
    cloud = CLOUDS[arguments.cloud]
    sandbox = supervisor.Sandbox(folder / "sandbox", azure=cloud.name == "azure")
    sandbox.reset()
    shutil.rmtree(folder / "project", ignore_errors=True)
    _say(f"starting the sandbox: {SANDBOX[cloud.name]} and Elastic Cloud")
    sandbox.up()
    try:
        os.environ.update(sandbox.environment())
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        project = make_project(folder / "project")
        os.environ["KEYSHIFT_PROJECT"] = str(project)
        result = Demo(project, folder, arguments.records, arguments.input, cloud).run()
    finally:
        if not arguments.keep_running:
            sandbox.down()
    result["minutes"] = round((time.monotonic() - started) / 60, 2)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        console.print("\n" + _table(result), markup=False)
    return 0 if result["ok"] else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".sandbox" / "demo", help="where it all happens")
    parser.add_argument("--cloud", choices=sorted(CLOUDS), default="aws", help="where the tenant lies")
    parser.add_argument("--records", type=int, default=2000, help="flights to load")
    parser.add_argument("--input", type=Path, help="your own folder of NDJSON, CSV and attachments instead")
    parser.add_argument("--keep-running", action="store_true", help="leave the sandbox up at the end")
    parser.add_argument("--json", action="store_true", help="print the closing table as JSON")
    return parser.parse_args()


def make_project(folder: Path) -> Path:
    """A project folder of its own: the repository's program, with its own stack files and state."""
    (folder / ".keyshift" / "pulumi").mkdir(parents=True)
    shutil.copy(REPOSITORY / "Pulumi.yaml", folder)
    for name in ("stacks", "components", "migrate", "policies"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def _say(text: str) -> None:
    console.print(f"\n== {text}", style="bold", markup=False)


@dataclass
class Jobs:
    """The Archive service at work: a job that writes, a person who searches, all through the move."""

    project: Project
    cloud: DemoCloud
    accepted: list[str] = field(default_factory=list)
    refused: list[datetime] = field(default_factory=list)
    searches: int = 0
    failed_searches: list[str] = field(default_factory=list)
    smallest_total: int | None = None

    def __post_init__(self) -> None:
        self._client = ArchiveClient(self.project, TENANT, fresh_seconds=0)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=job, daemon=True) for job in (self._write, self._search)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        number = 0
        while not self._stop.wait(0.5):
            number += 1
            id = f"job-{number}"
            began = datetime.now(UTC)
            try:
                # Without asking the gate: that the cloud refuses is what is shown.
                write_record(self._client.side(), "jobs", id, {"number": number})
            except KeyshiftError as error:
                self.refused.append(began)
                _job_refused(error, self.cloud)
                continue
            self.accepted.append(id)

    def _search(self) -> None:
        while not self._stop.wait(1.0):
            try:
                found = self._client.search("*", 1)
            except KeyshiftError as error:
                self.failed_searches.append(error.message)
                console.print(f"   search: {error.message}", markup=False)
                continue
            self.searches += 1
            self.smallest_total = min(found["total"], self.smallest_total or found["total"])


def _job_refused(error: Exception, cloud: DemoCloud) -> None:
    """A refused write is part of a freeze; anything else than a denial is a defect of the demo."""
    if not any(word in str(error) for word in cloud.denials):
        console.print(f"   job: {error}", markup=False)


class Demo:
    def __init__(self, folder: Path, work: Path, records: int, own_input: Path | None, cloud: DemoCloud) -> None:
        self.cloud = cloud
        self.folder = folder
        self.work = work
        self.records = records
        self.own_input = own_input
        self.project = Project.find()
        self.archive = ArchiveClient(self.project, TENANT, fresh_seconds=0)

    def run(self) -> dict[str, Any]:
        cloud, stamp = self.cloud, self.cloud.stamp
        _say(f"the vendor's side: a stamp with the shared {cloud.shared} under the vendor's key")
        self._run("pulumi", "stack", "init", stamp)
        for name, value in cloud.settings().items():
            self._run("pulumi", "config", "set", f"keyshift:{name}", value, "-s", stamp)
        self._run("pulumi", "up", "-s", stamp, "--yes", "--skip-preview", "--color", "never", quiet=True)

        _say("a new tenant, mode standard, by plain `pulumi up`; a second one changes nothing")
        where = () if cloud.name == "aws" else ("--cloud", cloud.name, "--region", cloud.region)
        self._run("keyshift", "tenant", "create", TENANT, "--customer", "acme-corp", *where, "--no-up")
        self._run("pulumi", "up", "-s", f"tenant-{TENANT}", "--yes", "--skip-preview", "--color", "never", quiet=True)
        self._run("pulumi", "preview", "-s", f"tenant-{TENANT}", "--expect-no-changes", "--color", "never", quiet=True)

        _say("real records and attachments, written as the Archive service would")
        data = self.own_input or demo_data.nycflights(self.work / "data", flights=self.records)
        imported = json.loads(self._run("keyshift", "archive", "import", TENANT, str(data), "--json", quiet=True))
        written_at = time.monotonic()
        total = imported["records"] + imported["attachments"]
        console.print(f"   {total:,} objects, {bytes_text(imported['bytes'])}, in {imported['seconds']:.0f} s")

        _say("the customer's key: requested by the vendor, made and wrapped by the customer, uploaded")
        customer = self.work / "customer"
        shutil.rmtree(customer, ignore_errors=True)
        customer.mkdir()
        asked = json.loads(
            self._run("keyshift", "key", "request", TENANT, "--out", str(customer), "--json", quiet=True)
        )
        wrapped = json.loads(
            self._run(
                "keyshift", "key", "wrap", asked["public_key"], *cloud.wrap,
                "--out", str(customer / cloud.wrapped), "--keep", str(customer / "key.bin"), "--json",
                quiet=True,
            )
        )  # fmt: skip
        self._run("keyshift", "key", "upload", TENANT, wrapped["file"], "--sha256", wrapped["sha256"])

        _say("the pipeline has brought every record into the search")
        self._wait_until_indexed(total, written_at)
        self._run("keyshift", "search", TENANT, "Boeing", "--limit", "3")

        _say("the move: first the plan and its price, then the move itself, while a job writes and a person searches")
        # With a preview of each layout it takes a quarter of a minute more: leave out --no-preview to see them.
        self._run("keyshift", "enable", TENANT, "--mode", "byok", "--dry-run", "--no-preview")
        jobs = Jobs(self.project, cloud)
        jobs.start()
        try:
            self._run("keyshift", "enable", TENANT, "--mode", "byok")
        finally:
            jobs.stop()
        written_at = time.monotonic()
        report = tenants.report(self.project, tenants.last_operation(self.project, TENANT))
        self._run("pulumi", "preview", "-s", f"tenant-{TENANT}", "--expect-no-changes", "--color", "never", quiet=True)
        self._run("keyshift", "tenant", "show", TENANT)
        self._wait_until_indexed(total + len(jobs.accepted), written_at)
        self._run("keyshift", "search", TENANT, "Boeing", "--limit", "3")
        lost = [id for id in jobs.accepted if not self.archive.has("jobs", id)]

        _say("live proof: the key decides")
        proof = self._prove_the_key()
        return self._result(report, jobs, lost, proof)

    def _result(self, report: dict, jobs: Jobs, lost: list[str], proof: list[dict]) -> dict[str, Any]:
        units = tenants.encryption(self.project, TENANT)
        operation = tenants.last_operation(self.project, TENANT)
        closed, opened = operation.jobs_closed_at, operation.jobs_opened_at
        wrongly_refused = [at for at in jobs.refused if not (closed and opened and closed <= at <= opened)]
        ok = (
            report["state"] == "done"
            and report["left_behind"] == 0
            and not lost
            and report["index"]["expected"] == report["index"]["found"]
            and report["storage"]["verified"] == report["storage"]["versions"]
            and not jobs.failed_searches
            and not wrongly_refused
            and [step["outcome"] for step in proof] == ["read", self.cloud.locked, "read"]
        )
        return {
            "ok": ok,
            "tenant": TENANT,
            "objects": report["storage"]["objects"],
            "versions": report["storage"]["versions"],
            "bytes_copied": report["storage"]["bytes"],
            "verified": report["storage"]["verified"],
            "left_behind": report["left_behind"],
            "documents_expected": report["index"]["expected"],
            "documents_found": report["index"]["found"],
            "jobs": {
                "accepted": len(jobs.accepted),
                "refused": len(jobs.refused),
                "wrongly_refused": len(wrongly_refused),
                "lost": len(lost),
            },
            "searches": {"answered": jobs.searches, "failed": len(jobs.failed_searches)},
            "enable_seconds": report["seconds"],
            "jobs_disabled_seconds": report["jobs_disabled_seconds"],
            "bucket": units["bucket"],
            "bucket_key": units["bucket_key"],
            "deployment": units["deployment"],
            "deployment_key": units["deployment_key"],
            "proof": proof,
        }

    def _prove_the_key(self) -> list[dict[str, str]]:
        live = Live.find(self.project, TENANT)
        key = live.layout.storage(live.serves.storage).key
        assert key is not None
        keys = key_ops.of(live)
        proof = [self._read("the key is enabled")]
        keys.enable(key, is_enabled=False)
        try:
            proof.append(self._read("the customer's key is disabled"))
        finally:
            keys.enable(key, is_enabled=True)
        proof.append(self._read("the key is enabled again"))
        return proof

    def _read(self, when: str) -> dict[str, str]:
        try:
            key, size = self.archive.read_first()
            outcome, text = "read", f"read {key} ({bytes_text(size)})"
        except CloudError as error:
            outcome, text = error.cloud_code, f"refused: {error.message.rpartition('answered ')[2]}"
        console.print(f"   {when}: {text}", markup=False)
        return {"when": when, "outcome": outcome, "text": text}

    def _wait_until_indexed(self, total: int, written_at: float) -> None:
        """The pipeline is asynchronous: how long after the last write the last document was seen."""
        started = time.monotonic()
        while (found := self.archive.search("*", 1)["total"]) != total:
            if time.monotonic() - started > INDEXED_WITHIN_SECONDS:
                raise SystemExit(f"the pipeline indexed {found} of {total} within {INDEXED_WITHIN_SECONDS} s")
            time.sleep(0.5)
        console.print(
            f"   {total:,} documents found, at most {time.monotonic() - written_at:.1f} s after the last write"
        )

    def _run(self, *command: str, quiet: bool = False) -> str:
        console.print(f"$ {shlex.join(command)}", style="cyan", markup=False)
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=None if not quiet else subprocess.PIPE, text=True
        )
        if not quiet or done.returncode:
            console.print("\n".join(f"   {line}" for line in done.stdout.splitlines()), markup=False)
        if done.returncode:
            console.print(done.stderr or "", markup=False)
            raise SystemExit(f"`{shlex.join(command)}` ended with {done.returncode}")
        return done.stdout


def _table(result: dict[str, Any]) -> str:
    """Lines that are whole at any width: a key ARN cut in two helps nobody."""
    lines = [f"tenant {result['tenant']}: standard -> byok, {datetime.now(UTC):%Y-%m-%d}", ""]
    jobs, searches = result["jobs"], result["searches"]
    for name, value in (
        ("objects", f"{result['objects']:,}"),
        ("versions", f"{result['versions']:,}"),
        ("bytes copied", bytes_text(result["bytes_copied"])),
        ("verified", f"{result['verified']:,}"),
        ("left behind", str(result["left_behind"])),
        ("documents", f"{result['documents_expected']:,} expected, {result['documents_found']:,} found"),
        ("jobs meanwhile", f"{jobs['accepted']} accepted, {jobs['refused']} refused by the cloud, {jobs['lost']} lost"),
        ("refused with jobs open", str(jobs["wrongly_refused"])),
        ("searches meanwhile", f"{searches['answered']} answered, {searches['failed']} failed"),
        ("time", f"{result['minutes']} min in all, the move {seconds_text(result['enable_seconds'])}"),
        ("jobs disabled", seconds_text(result["jobs_disabled_seconds"])),
        ("bucket", result["bucket"]),
        ("  under", result["bucket_key"]),
        ("deployment", result["deployment"]),
        ("  under", result["deployment_key"]),
        *((step["when"], step["text"]) for step in result["proof"]),
        ("result", "ok" if result["ok"] else "NOT OK"),
    ):
        lines.append(f"  {name:<31} {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
