"""`make console`: the Archive Console on the sandbox, with the demo's tenant and real records.

The first start brings up the stamp and the tenant (minutes); later ones find everything as it was left. It runs
until Ctrl-C: the issuer of sign-ins, the Console, its worker, the watch over the customers' keys.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from migrate import tenants
from migrate.stack import Project
from sandbox import demo_data, supervisor
from sandbox.demo import REPOSITORY, STAMP, make_project
from sandbox.issuer import CLIENT, PEOPLE

TENANT, CUSTOMER = "acme", "acme-corp"
READY_SECONDS = 60
STOP_SECONDS = 15


@dataclass
class ConsoleHouse:
    """The Console's processes on one sandbox. `port` is the Console's, the next one the issuer's."""

    folder: Path
    port: int
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port + 1}"

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        return {
            **given,
            "KEYSHIFT_CONSOLE_URL": self.url,
            "KEYSHIFT_CONSOLE_ISSUER": self.issuer,
            "KEYSHIFT_CONSOLE_CLIENT_ID": CLIENT,
        }

    def start_issuer(self, given: Mapping[str, str]) -> subprocess.Popen[bytes]:
        back = f"{self.url}/sign-in/back"
        command = ["-m", "sandbox.issuer", "--dir", str(self.folder / "issuer"), "--port", str(self.port + 1)]
        return self._start("issuer", [*command, "--redirect", back], given)

    def start_api(self, given: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = ["-m", "uvicorn", "--factory", "console.app:create", "--host", "127.0.0.1", "--port", str(self.port)]
        more = ["--log-level", "warning", "--timeout-graceful-shutdown", "2"]
        return self._start("api", [*command, *more], self.environment(given))

    def start_worker(self, given: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return self._start("worker", ["-m", "console.worker"], self.environment(given))

    def start_watch(self, given: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return self._start("watch", ["-c", "from migrate.cli import main; main()", "watch"], given)

    def wait_until_ready(self) -> None:
        """Raises RuntimeError when one of them has ended or does not answer in time."""
        until = time.monotonic() + READY_SECONDS
        for url in (f"{self.issuer}/_sandbox/health", self.url):
            while not _answers(url):
                if any(child.poll() is not None for child in self.children) or time.monotonic() > until:
                    raise RuntimeError(f"{url} does not answer; see the logs in {self.folder / 'logs'}")
                threading.Event().wait(0.1)

    def stop(self) -> None:
        for child in self.children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _start(self, name: str, command: list[str], given: Mapping[str, str]) -> subprocess.Popen[bytes]:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *command],
                cwd=REPOSITORY,
                env={**os.environ, **given},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for who started it all; the rest is stopped in order
            )
        self.children.append(child)
        return child


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def prepared(folder: Path, data: Path | int) -> dict[str, str]:
    """The variables of a project on a sandbox that is up, with the stamp and the tenant; what is there stays.

    `data`: how many of the demo's flights, or records of your own.
    """
    project = folder / "project"
    if not project.exists():
        make_project(project)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["KEYSHIFT_PROJECT"] = str(project)
    found = Project.find()
    if not any(one.name == TENANT for one in tenants.records(found).tenants()):
        _say("the vendor's side and the tenant, standard, with real records (minutes)")
        _run(project, "pulumi", "stack", "select", "--create", STAMP)
        _run(project, "pulumi", "up", "-s", STAMP, "--yes", "--skip-preview", "--color", "never")
        _run(project, "keyshift", "tenant", "create", TENANT, "--customer", CUSTOMER)
        path = demo_data.nycflights(folder / "data", flights=data) if isinstance(data, int) else data
        _run(project, "keyshift", "archive", "import", TENANT, str(path))
    return {"KEYSHIFT_PROJECT": str(project)}


@contextmanager
def running(folder: Path, port: int, data: Path | int) -> Iterator[ConsoleHouse]:
    """The whole house until the block ends; the sandbox's state stays."""
    sandbox = supervisor.Sandbox(folder / "sandbox")
    sandbox.up()
    house = ConsoleHouse(folder, port)
    try:
        os.environ.update(sandbox.environment())
        given = prepared(folder, data)
        house.start_issuer(given)
        house.start_worker(given)
        house.start_watch(given)
        house.start_api(given)
        house.wait_until_ready()
        yield house
    finally:
        house.stop()
        sandbox.down()


def _run(project: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` ended with {done.returncode}\n{done.stdout}")


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.console", description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".sandbox" / "console", help="where it all is")
    parser.add_argument("--records", type=int, default=500, help="flights to load at the first start")
    parser.add_argument("--port", type=int, default=8800, help="the Console's; the issuer takes the next one")
    parser.add_argument("--prepare", action="store_true", help="only bring up what is missing, and end")
    arguments = parser.parse_args()
    _say("starting the sandbox")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with running(arguments.folder.resolve(), arguments.port, arguments.records) as house:
        if arguments.prepare:
            return 0
        people = ", ".join(f"{one.name} ({one.customer or 'vendor'}, {one.role})" for one in PEOPLE)
        _say(f"the Console is at {house.url}; sign in as {people}")
        _say(f"logs: {house.folder / 'logs'}; Ctrl-C ends it, and the state stays")
        while not stopped.wait(1):
            ended = [child.args for child in house.children if child.poll() is not None]
            if ended:
                _say(f"a part has ended: {ended}; see the logs")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
