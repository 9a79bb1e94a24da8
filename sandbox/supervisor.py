"""Starts and stops the local cloud: one process for AWS, one for Elastic Cloud, in a folder of their own; on
request one for Azure.

The folder holds everything: `sandbox.json` (ports, chosen once, and pids), the servers' state, `logs/`,
`bin/` with the Pulumi provider plugins and `env` with the variables that point programs here. State
survives `down` and `up`; only `reset` deletes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import paths

REGION = "eu-west-1"
PACKAGES = ("aws", "azure-native", "azuread", "ec", "elasticstack")
HOST = "127.0.0.1"

# Below what systems give to outgoing connections: one of those could take a port while the sandbox is down.
PORTS = range(20000, 30000)

START_SECONDS = 90
NODES_SECONDS = 180
STOP_SECONDS = 45
KILL_SECONDS = 10
RELEASE_SECONDS = 5
LOG_LINES = 20
WORKLOAD_SUBJECT = "system:serviceaccount:keyshift:runner"
_POLL_SECONDS = 0.05

# Variables that lead programs to a cloud, this one or another: the servers themselves must not follow them.
_CLOUDS = ("ARM_", "AWS_", "AZURE_", "EC_", "PULUMI_")

# What `reset` may delete. Anything else in the folder is somebody's own.
_OWNED = ("aws", "azure", "bin", "elastic", "env", "logs", "passphrase", "sandbox.json", "state", "tmp")


class SandboxError(Exception):
    """The sandbox cannot do what was asked; the message says what to do."""


@dataclass(frozen=True)
class Server:
    """One process: the interpreter that runs it and its module."""

    name: str
    module: str
    python: Callable[[], Path]
    speaks_tls: bool = False


def emulator_python() -> Path:
    """The interpreter with the AWS emulator: KEYSHIFT_EMULATOR_PYTHON, else the one that `make setup` made."""
    configured = os.environ.get("KEYSHIFT_EMULATOR_PYTHON")
    python = Path(configured) if configured else paths.emulator_python()
    if not python.exists():
        raise SandboxError(f"there is no emulator environment at {python}: run `make setup`")
    return python


SERVERS = (
    Server("aws", "sandbox.aws", emulator_python),
    Server("elastic", "sandbox.elastic", lambda: Path(sys.executable)),
)
# Only for who asks: its storage costs seconds and 150 MB.
AZURE = Server("azure", "sandbox.azure", lambda: Path(sys.executable), speaks_tls=True)


def wants_azure() -> bool:
    """Whether KEYSHIFT_SANDBOX_AZURE asks for the Azure half."""
    return os.environ.get("KEYSHIFT_SANDBOX_AZURE", "") not in {"", "0"}


@dataclass(frozen=True)
class Process:
    """A server as recorded. `started` is the system's own mark of the start, so that a pid used again is told apart."""

    port: int
    pid: int | None = None
    started: str | None = None

    @property
    def is_running(self) -> bool:
        return self.pid is not None and self.started is not None and _started(self.pid) == self.started


@dataclass(frozen=True)
class Status:
    """One server as `status` shows it."""

    name: str
    state: str  # up, unhealthy or down
    port: int | None
    pid: int | None
    log: Path


@dataclass
class Sandbox:
    """The sandbox in one folder. `up` and `down` of the same folder wait for each other."""

    folder: Path
    azure: bool = field(default_factory=wants_azure)
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()

    def up(self) -> bool:
        """Starts what is not running and waits until it answers. True if something had to be started."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            processes = self._with_ports(self._processes())
            stopped = [server for server in self._servers(processes) if not processes[server.name].is_running]
            for server in stopped:
                _refuse_taken(processes[server.name].port)
            self._record(processes)
            try:
                for server in stopped:
                    processes[server.name] = self._start(server, processes)
                    self._record(processes)
                self._wait(processes)
            except BaseException:  # whatever it was, Ctrl-C included: half a sandbox is none
                self._stop({server.name: processes[server.name] for server in stopped})
                raise
            if stopped:
                self._write_files()
            return bool(stopped)

    def down(self) -> bool:
        """Stops what runs, cleanly if it lets itself be stopped. True if something ran."""
        with self._alone():
            processes = self._processes()
            running = {name: process for name, process in processes.items() if process.is_running}
            self._stop(running)
            if processes:
                self._record({name: Process(process.port) for name, process in processes.items()})
            return bool(running)

    def _stop(self, processes: Mapping[str, Process]) -> None:
        running = {name: process for name, process in processes.items() if process.is_running}
        for process in running.values():
            _signal(process, signal.SIGTERM)
        for name, process in running.items():
            if not self._wait_for_end(process, STOP_SECONDS):
                _kill_group(process)
                if not self._wait_for_end(process, KILL_SECONDS):
                    raise SandboxError(f"the {name} process {process.pid} does not end")

    def reset(self) -> None:
        """Stops everything and deletes its state."""
        if not self.folder.exists():
            return
        if not (self.folder / "sandbox.json").exists():
            if any((self.folder / name).exists() for name in _OWNED):
                raise SandboxError(f"{self.folder} is no sandbox (it has no sandbox.json): nothing was deleted")
            return
        self.down()
        from sandbox.elastic import housing  # noqa: PLC0415 - only here, and it brings pydantic's cost with it

        housing.clear(self.folder / "elastic")
        for name in _OWNED:
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def status(self) -> list[Status]:
        """How each server is."""
        processes = self._processes()
        return [self._status(server, processes.get(server.name)) for server in self._servers(processes)]

    @property
    def is_up(self) -> bool:
        return all(status.state == "up" for status in self.status())

    def _servers(self, processes: Mapping[str, Process]) -> tuple[Server, ...]:
        """Azure too if it was asked for, or runs."""
        running = processes.get(AZURE.name)
        return (*SERVERS, AZURE) if self.azure or (running is not None and running.is_running) else SERVERS

    def environment(self) -> dict[str, str]:
        """The variables that point a program at this sandbox; empty values hide what the caller's shell may have."""
        processes = self._processes()
        if not processes:
            raise SandboxError(f"there is no sandbox in {self.folder}: run `python -m sandbox up`")
        key = self.folder / "elastic" / "api-key"
        if not key.exists():
            raise SandboxError(f"the sandbox in {self.folder} was never up: run `python -m sandbox up`")
        return {
            **self._aws_environment(processes["aws"].port),
            **self._azure_environment(processes),
            "EC_API_KEY": key.read_text(encoding="utf-8").strip(),
            "EC_ENDPOINT": f"http://{HOST}:{processes['elastic'].port}",
            "PATH": _with_first(str(self.folder / "bin"), os.environ.get("PATH", os.defpath)),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def exports(self) -> str:
        """`environment` as lines for a shell."""
        variables = self.environment()
        del variables["PATH"]
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append(f'export PATH={shlex.quote(str(self.folder / "bin"))}:"$PATH"')
        return "\n".join(lines) + "\n"

    def _aws_environment(self, port: int) -> dict[str, str]:
        return {
            # keys in the environment would go before the profile: a real account's, perhaps
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_SESSION_TOKEN": "",
            "AWS_CONFIG_FILE": str(self.folder / "aws" / "config"),
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_PROFILE": "operator",
            "AWS_REGION": REGION,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "aws" / "credentials"),
        }

    def _azure_environment(self, processes: Mapping[str, Process]) -> dict[str, str]:
        """Nothing where Azure was not asked for; then a shell's own Azure variables stay, and lead elsewhere."""
        folder = self.folder / "azure"
        if AZURE not in self._servers(processes) or not (folder / "operator.json").exists():
            return {}
        return azure_environment(folder, processes[AZURE.name].port)

    # The record

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self.folder.exists():
            yield
            return
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _processes(self) -> dict[str, Process]:
        file = self.folder / "sandbox.json"
        if not file.exists():
            return {}
        return {name: Process(**known) for name, known in json.loads(file.read_text(encoding="utf-8")).items()}

    def _record(self, processes: Mapping[str, Process]) -> None:
        document = {
            name: {"port": process.port, "pid": process.pid, "started": process.started}
            for name, process in processes.items()
        }
        _write(self.folder / "sandbox.json", json.dumps(document, indent=2) + "\n", mode=0o600)

    def _with_ports(self, known: Mapping[str, Process]) -> dict[str, Process]:
        """A port for each server that has none yet."""
        candidates = random.sample(PORTS, len(PORTS))
        with contextlib.ExitStack() as stack:  # all held at once, so that no port is given twice
            missing = [server.name for server in self._servers(known) if server.name not in known]
            return {**known, **{name: Process(_held_port(stack, candidates)) for name in missing}}

    # Starting

    def _start(self, server: Server, processes: Mapping[str, Process]) -> Process:
        port = processes[server.name].port
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_CLOUDS)}
        # the emulator's environment has no editable install of this repository
        environment |= self._aws_environment(processes["aws"].port) | {"PYTHONPATH": str(paths.TREE)}
        log = self._log(server.name)
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [server.python(), "-m", server.module, "--dir", self.folder, "--port", str(port)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        return Process(port, child.pid, _started(child.pid))

    def _wait(self, processes: Mapping[str, Process]) -> None:
        deadline = time.monotonic() + START_SECONDS
        for server in self._servers(processes):
            name, process = server.name, processes[server.name]
            while _health(process.port, speaks_tls=server.speaks_tls) is None:
                self._reap()
                if not process.is_running:
                    raise SandboxError(f"the {name} process ended at its start\n{self._last_lines(name)}")
                if time.monotonic() > deadline:
                    raise SandboxError(
                        f"the {name} process did not answer within {START_SECONDS} s\n{self._last_lines(name)}"
                    )
                _pause()
        self._wait_for_nodes(processes["elastic"])

    def _wait_for_nodes(self, process: Process) -> None:
        """Deployments of an earlier run come back by themselves; the sandbox is up when they are."""
        deadline = time.monotonic() + NODES_SECONDS
        while "initializing" in ((_health(process.port) or {}).get("deployments") or {}).values():
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"a deployment did not come back within {NODES_SECONDS} s\n{self._last_lines('elastic')}"
                )
            _pause()

    def _write_files(self) -> None:
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for package in PACKAGES:
            # -P: the plugin runs in the program's folder, whose modules must not stand before the standard library's
            command = f'exec {shlex.quote(sys.executable)} -P -m sandbox.provider {package} "$@"'
            _write(folder / f"pulumi-resource-{package}", f"#!/bin/sh\n{command}\n", mode=0o755)
        passphrase = self.folder / "passphrase"
        if not passphrase.exists():
            _write(passphrase, secrets.token_urlsafe(32), mode=0o600)
        _write(self.folder / "env", self.exports(), mode=0o600)

    # Watching and stopping

    def _status(self, server: Server, process: Process | None) -> Status:
        name = server.name
        if process is None or not process.is_running:
            return Status(name, "down", process.port if process else None, None, self._log(name))
        state = "up" if _health(process.port, speaks_tls=server.speaks_tls) is not None else "unhealthy"
        return Status(name, state, process.port, process.pid, self._log(name))

    def _wait_for_end(self, process: Process, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while process.is_running:
            self._reap()
            if time.monotonic() > deadline:
                return False
            _pause()
        self._reap()
        return True

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _last_lines(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"the last lines of {self._log(name)}:", *(f"  {line}" for line in lines[-LOG_LINES:])])


def azure_environment(folder: Path, port: int) -> dict[str, str]:
    """The variables for the Azure half whose state is in `folder`: those of Azure's SDKs and of Pulumi's providers."""
    operator: dict[str, str] = json.loads((folder / "operator.json").read_text(encoding="utf-8"))
    bundle = str(folder / "trust.pem")
    return {
        "ARM_CLIENT_ID": operator["client_id"],
        "ARM_CLIENT_SECRET": operator["client_secret"],
        "ARM_METADATA_HOSTNAME": f"{HOST}:{port}",
        "ARM_SUBSCRIPTION_ID": operator["subscription_id"],
        "ARM_TENANT_ID": operator["tenant_id"],
        "AZURE_AUTHORITY_HOST": f"https://{HOST}:{port}",
        "AZURE_CLIENT_ID": operator["client_id"],
        "AZURE_CLIENT_SECRET": operator["client_secret"],
        "AZURE_FEDERATED_TOKEN_FILE": str(folder / "workload-token"),
        "AZURE_OPERATOR_OBJECT_ID": operator["object_id"],
        "AZURE_SUBSCRIPTION_ID": operator["subscription_id"],
        "AZURE_TENANT_ID": operator["tenant_id"],
        # what a stamp's configuration says of the tokens in that file
        "KEYSHIFT_WORKLOAD_ISSUER": f"https://{HOST}:{port}/_workload",
        "KEYSHIFT_WORKLOAD_SUBJECT": WORKLOAD_SUBJECT,
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
    }


def _started(pid: int) -> str | None:
    """When a process started, in the system's own words; None if it is gone or only waits to be reaped."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in {"Z", "X"} else fields[19]
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return None if not found or found.startswith("Z") else found.partition(" ")[2].strip()


def _signal(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended between the look and the signal
        os.kill(process.pid or 0, number)


def _kill_group(process: Process) -> None:
    """Ends a server that would not stop, and what it started: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)


def _health(port: int, *, speaks_tls: bool = False) -> dict[str, Any] | None:
    """The server's answer about itself, None if it has none. Its certificate is not checked: nothing is told it."""
    connection = (
        http.client.HTTPSConnection(HOST, port, timeout=5, context=ssl._create_unverified_context())  # noqa: SLF001
        if speaks_tls
        else http.client.HTTPConnection(HOST, port, timeout=5)
    )
    try:
        connection.request("GET", "/_sandbox/health")
        response = connection.getresponse()
        body = response.read()
        return json.loads(body or b"{}") if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _held_port(stack: contextlib.ExitStack, candidates: list[int]) -> int:
    """The next free port, held until the stack is left."""
    while candidates:
        port = candidates.pop()
        if (held := _bound(port)) is not None:
            stack.enter_context(held)
            return port
    raise SandboxError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def _bound(port: int) -> socket.socket | None:
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
    except OSError:
        probe.close()
        return None
    return probe


def _refuse_taken(port: int) -> None:
    """Waits a little: a server that was killed holds its port until its last thread is gone."""
    deadline = time.monotonic() + RELEASE_SECONDS
    while (probe := _bound(port)) is None:
        if time.monotonic() > deadline:
            raise SandboxError(
                f"port {port}, which the sandbox has used since its first start, is taken by another program:"
                " end that program, or `python -m sandbox reset` and lose the state"
            )
        _pause()
    probe.close()


def _with_first(folder: str, path: str) -> str:
    rest = [part for part in path.split(os.pathsep) if part != folder]
    return os.pathsep.join([folder, *rest])


def _write(path: Path, text: str, *, mode: int) -> None:
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.chmod(mode)  # whatever the umask made of it
    unfinished.replace(path)


def _pause() -> None:
    threading.Event().wait(_POLL_SECONDS)
