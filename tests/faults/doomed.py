"""A move that suffers: its runner and the processes of its engine are found, stopped and killed by name.

Finds processes through /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import moved
from cloud import BIN, Cloud, Key, Tenant, records, until
from moved import Home

from migrate.operations import Plan
from migrate.runner import step_names
from migrate.stack import is_alive

STEP_SECONDS = 180
END_SECONDS = 420
LOOK_SECONDS = 0.003
"""Some steps last only some ten milliseconds."""
LEASE_SECONDS = "4"
OUTSIDE = Path(__file__).parent / "outside"
ENGINE = "/pulumi --non-interactive up "
PARTS = {
    "engine": ENGINE,
    "language host": "engine.language_host",
    "program": "run_program",
    "plugin": "sandbox.provider",
}


class Run:
    """A command at work. What it prints is read as it comes: a pipe that nobody reads would stop it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._printed: dict[str, bytes] = {"out": b"", "err": b""}
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", process.stdout), ("err", process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: IO[bytes]) -> None:
        for line in stream:
            self._printed[name] += line

    def printed(self, name: str) -> str:
        """What stands on `out` or `err`, all of it once the command has ended."""
        if self.process.poll() is not None:
            for reader in self._readers:
                reader.join(STEP_SECONDS)
        return self._printed[name].decode()

    @property
    def text(self) -> str:
        return f"exit code {self.process.poll()}\n{self.printed('out')}\n{self.printed('err')}"

    @property
    def error(self) -> Mapping[str, Any]:
        assert self.process.wait(STEP_SECONDS) != 0, self.text
        return json.loads(self.printed("out"))["error"]

    def waits(self) -> list[str]:
        """The reasons of what it waited for, in order."""
        lines = [line for line in self.printed("err").splitlines() if line.startswith("{") and line.endswith("}")]
        return [one["reason"] for one in map(json.loads, lines) if one.get("event") == "wait"]

    def goes_on(self) -> bool:
        """Whether it still runs, after a moment: a look at the record must not take the runner's core."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LOOK_SECONDS)
        return self.process.returncode is None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(STEP_SECONDS)


@dataclass
class Doomed:
    """A tenant, ready to be moved, and its move, which goes on after each blow."""

    tenant: Tenant
    key: Key
    home: Home
    steps: list[str]
    runs: list[Run] = field(default_factory=list)
    """Every runner that was started, the newest last."""
    unplanned: list[str] = field(default_factory=list)
    """What did not go as the story has it. The story goes on, so that one run shows all of it; a test judges."""
    began: float = field(default_factory=time.monotonic)

    @property
    def operation(self) -> str:
        return f"{self.tenant.name}-enable-1"

    # runners ----------------------------------------------------------------------------------

    def command(self, *words: str, **environment: str) -> Run:
        """`keyshift` with these words, running."""
        cloud = self.tenant.cloud
        process = subprocess.Popen(
            [str(BIN / "keyshift"), *words],
            cwd=cloud.project,
            env={**cloud.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        return Run(process)

    def start(self, **environment: str) -> Run:
        """A runner: `enable` the first time, `resume` from then on."""
        verb = "resume" if self.runs else "enable"
        self.runs.append(self.command(verb, self.tenant.name, "--json", **environment))
        return self.runs[-1]

    def acting(self) -> Run:
        """The runner that is at work; a new one if the last has ended."""
        code = self.runs[-1].process.poll() if self.runs else -signal.SIGKILL
        if code not in {None, -signal.SIGKILL}:
            self.unplanned.append(f"the runner ended by itself: {self.runs[-1].text}")
        if code is not None:
            self.start()
        return self.runs[-1]

    def overtake(self, **environment: str) -> Run:
        """A runner that has taken the tenant over from one that does not renew its lease."""
        deadline = time.monotonic() + STEP_SECONDS
        while time.monotonic() < deadline:
            run = self.start(**environment)
            if self._until_acting(run):
                self.note("overtook the runner that stood still")
                return run
            self.assert_refused(run)
            self.runs.remove(run)
        raise AssertionError(f"nobody could overtake the stopped runner within {STEP_SECONDS} s")

    def assert_refused(self, run: Run) -> None:
        """A second command on the tenant ends with 2 and names the operation that is at work, and its step."""
        assert run.process.wait(STEP_SECONDS) == 2, run.text
        assert run.error["code"] in {"runner-busy", "lease-held"}, run.text
        assert f"in {self.operation} (step " in run.error["message"], run.text

    def finish(self) -> Run:
        """Waits for the runner at work to walk to the end."""
        run = self.runs[-1] if self.runs[-1].process.poll() == 0 else self.acting()
        run.process.wait(END_SECONDS)
        assert run.process.returncode == 0, run.text
        assert json.loads(run.printed("out"))["state"] == "done"
        self.note("done")
        return run

    def note(self, what: str) -> None:
        """For whoever reads a failure, or asks where the time goes."""
        print(f"{time.monotonic() - self.began:6.1f} s  {self.tenant.step()}: {what}")

    # where it is ------------------------------------------------------------------------------

    def until_at(self, step: str) -> Run:
        """Waits until the runner is in `step`, or past it."""
        wanted, deadline = self.steps.index(step), time.monotonic() + END_SECONDS
        with self._record() as record:
            query = "SELECT step FROM operations WHERE id = ?"
            while time.monotonic() < deadline:
                run = self.acting()
                while run.goes_on() and time.monotonic() < deadline:
                    now = record.execute(query, (self.operation,)).fetchone()
                    if now and now[0] and self.steps.index(now[0]) >= wanted:
                        return run
        raise AssertionError(f"{step} was not reached, only {self.tenant.step()}: {self.unplanned} {run.text}")

    def until_move(self, step: str, move: str) -> Run:
        """Waits until `step` has told progress of `move`, a part of it."""
        run, deadline = self.until_at(step), time.monotonic() + STEP_SECONDS
        with self._record() as record:
            query = "SELECT progress FROM operations WHERE id = ? AND step = ?"
            while run.goes_on() and time.monotonic() < deadline:
                told = record.execute(query, (self.operation, step)).fetchone()
                assert told, f"{step} is over: {run.text}"
                if json.loads(told[0] or "{}").get("move") == move:
                    return run
        raise AssertionError(f"{step} told nothing of {move}: {run.text}")

    def _until_acting(self, run: Run) -> bool:
        """Whether it took the lease; False if it ended without."""
        with self._record() as record:
            query = "SELECT lease_owner FROM tenants WHERE name = ?"
            while run.goes_on():
                owner = record.execute(query, (self.tenant.name,)).fetchone()[0]
                if owner and owner.endswith(f":{run.process.pid}"):
                    return True
        return False

    @contextlib.contextmanager
    def _record(self) -> Iterator[sqlite3.Connection]:
        home = self.tenant.cloud.home
        with contextlib.closing(sqlite3.connect(home / "keyshift.db", timeout=30, isolation_level=None)) as record:
            yield record

    # blows ------------------------------------------------------------------------------------

    def kill_at(self, step: str) -> None:
        """SIGKILL for the runner alone, as soon as it is in `step`, or past it."""
        self.until_at(step).kill()
        self.note("killed the runner")

    def kill_part(self, what: str, step: str) -> None:
        """SIGKILL for one process of the engine's run, in the middle of the `pulumi up` of `step`; the runner lives."""
        run, deadline = self.until_at(step), time.monotonic() + STEP_SECONDS
        while time.monotonic() < deadline and run.goes_on() and self.tenant.step() == step:
            engine = next((pid for pid, command in family(run.process.pid).items() if ENGINE in command), None)
            members = family(engine) if engine else {}
            part = _part(what, members)
            if engine and part:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(part, signal.SIGKILL)
                _until_dead([engine], f"the engine whose {what} was killed")
                self.note(f"killed the {what}")
                return
        self.unplanned.append(f"no {what} was seen in {step}, it is {self.tenant.step()} now: {run.text}")

    def kill_all_in(self, step: str, seconds: float) -> None:
        """SIGKILL for the runner, its engine and the plugins, so many seconds into the `pulumi up` of `step`."""
        run, deadline = self.until_at(step), time.monotonic() + STEP_SECONDS
        while run.goes_on() and time.monotonic() < deadline and not is_updating(family(run.process.pid)):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(seconds)
        kill_all(family(run.process.pid))
        run.process.wait(STEP_SECONDS)
        self.note("killed all")

    # faults from outside ----------------------------------------------------------------------

    def aws(self, **faults: int) -> dict[str, int]:
        """Sets faults of S3 and KMS; returns all that are left."""
        self.note(f"faults {faults}")
        return _post(self.tenant.cloud.environment["AWS_ENDPOINT_URL"], faults)

    def search(self, id: str, **faults: Any) -> None:
        """Sets faults of a deployment, which must be there."""
        self.note(f"faults of {id} {faults}")
        deployment = self.tenant.cloud.deployments()[f"{self.tenant.name}-{id}"]
        _post(self.tenant.cloud.environment["EC_ENDPOINT"], {"deployment": deployment, **faults})


def _post(endpoint: str, order: Mapping[str, Any]) -> Any:
    answer = httpx.post(f"{endpoint}/_sandbox/faults", json=order, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def doomed(cloud: Cloud, base: str, count: int, **environment: str) -> Doomed:
    """A tenant of `count` records with its key given, and the steps of its move."""
    tenant = cloud.tenant(base, records=records(count))
    tenant.cloud = cloud.with_environment(KEYSHIFT_LEASE_SECONDS=LEASE_SECONDS, **environment)
    key = cloud.give_key(tenant.name)
    found = tenant.keyshift("enable", "--dry-run", "--no-preview", "--json").json()
    plan = Plan.model_validate({name: found[name] for name in Plan.model_fields})
    steps = [name for phase in plan.phases for name in step_names(phase)]
    return Doomed(tenant, key, moved.home_of(tenant), steps)


# processes --------------------------------------------------------------------------------------


def family(pid: int) -> dict[int, str]:
    """A process and all that it started, whatever their sessions, with their command lines."""
    parents, members = _parents(), {pid}
    while found := {child for child, parent in parents.items() if parent in members} - members:
        members |= found
    return {member: _read(member, "cmdline") for member in members}


def _part(what: str, members: Mapping[int, str]) -> int | None:
    """The process of an engine's run that is called so. Of two language hosts the one that runs the program."""
    found = [pid for pid, command in members.items() if PARTS[what] in command]
    if what == "language host":
        parents = _parents()
        at_work = {parents.get(pid) for pid, command in members.items() if PARTS["program"] in command}
        found = [pid for pid in found if pid in at_work]
    return next(iter(found), None)


def is_updating(commands: Mapping[int, str]) -> bool:
    """Whether an engine is in the middle of `up`: its plugins are there."""
    return all(any(part in command for command in commands.values()) for part in (ENGINE, PARTS["plugin"]))


def kill_all(members: Mapping[int, str]) -> None:
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    _until_dead(members, f"{members}")


def _until_dead(pids: Iterable[int], what: str) -> None:
    until(lambda: not any(map(is_alive, pids)), f"the end of {what}", STEP_SECONDS, every=LOOK_SECONDS)


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return parents


def _read(pid: int, what: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


# afterwards -------------------------------------------------------------------------------------


def of_the_project(cloud: Cloud) -> dict[int, str]:
    """Every process that works on the cloud's project: runners, engines, plugins, programs."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    mine = f"KEYSHIFT_PROJECT={cloud.project} "
    return {pid: _read(pid, "cmdline") for pid in pids if mine in f"{_read(pid, 'environ')} " and is_alive(pid)}


def assert_nothing_is_left(tenant: Tenant, others: Callable[[str], bool] = lambda _: False) -> None:
    """No process, lock, lease, pending operation or unfinished operation of the tenant. `others`: of other tenants."""
    cloud = tenant.cloud

    def alive() -> list[str]:
        return [command for command in of_the_project(cloud).values() if not others(command)]

    until(lambda: not alive(), lambda: f"the end of what works on the project: {alive()}", STEP_SECONDS)
    with contextlib.closing(sqlite3.connect(cloud.home / "keyshift.db", timeout=10)) as record:
        query = "SELECT lease_owner, lease_until FROM tenants WHERE name = ?"
        assert record.execute(query, (tenant.name,)).fetchone() == (None, None), "a lease is left"
        states = record.execute("SELECT state FROM operations WHERE tenant = ?", (tenant.name,)).fetchall()
        assert set(states) == {("done",)}, "an operation is unfinished"
    backend = cloud.home / "pulumi" / ".pulumi"
    state = json.loads((backend / "stacks" / "keyshift" / f"tenant-{tenant.name}.json").read_text())
    assert not state["checkpoint"]["latest"].get("pending_operations"), (
        "the engine would have to be told what became of it"
    )
    locks = [path for path in (backend / "locks").rglob("*.json") if path.parent.name == f"tenant-{tenant.name}"]
    assert not locks, "a lock of a dead engine is left"
    beside = list(backend.rglob("*.attrs"))
    assert not beside, "files beside the state are not replaced atomically: a kill leaves a state that nothing reads"
