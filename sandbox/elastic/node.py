"""One Elasticsearch process.

The node watches its standard input and ends when that pipe closes, so it cannot outlive the sandbox:
a SIGKILL of the sandbox closes the pipe, on Linux and on macOS. What remains to guard is the moment
until it has ended. The node therefore holds a lock on the file `running` through a descriptor that it
inherits; the next start takes that lock first. Whoever holds the lock is alive, so the process id
written in the file cannot have been reused.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from sandbox.elastic import launch
from sandbox.elastic.housing import Housing

log = logging.getLogger(__name__)

_START_LIMIT = 180.0  # seconds; a cold start on a busy machine has been seen to need 16
_STOP_LIMIT = 30.0
_PATIENCE_WITH_A_LEFTOVER = 10.0  # it ends by itself within a second once its input is closed


class NodeError(Exception):
    """The node did not start; the message ends with what it logged last."""


class Node:
    """A started process. `ended` is set when it is gone, whatever the reason."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.port = port
        self.ended = threading.Event()
        self._process = process
        self._ready = threading.Event()
        self._folder = folder
        threading.Thread(target=self._follow, name=f"node-{process.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_ready(self, cancelled: threading.Event) -> None:
        """Return when it serves or `cancelled` is set. Raises NodeError if it ends or takes too long."""
        limit = time.monotonic() + _START_LIMIT
        while not self._ready.wait(0.05):
            if cancelled.is_set():
                return
            if self.ended.is_set():
                raise NodeError(f"Elasticsearch ended with code {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > limit:
                raise NodeError(f"Elasticsearch was not ready after {_START_LIMIT:.0f} s: {self._last_words()}")

    def stop(self) -> None:
        """End it cleanly; kill it if it does not follow, or has not begun to serve and so holds nothing new."""
        if not self._ready.is_set():
            self._process.kill()
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended already
            self._process.stdin.write(launch.STOP)  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        if not self.ended.wait(_STOP_LIMIT):
            log.warning("node %d did not stop within %.0f s and is killed", self.pid, _STOP_LIMIT)
            self._process.kill()
            self.ended.wait(_STOP_LIMIT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def kill(self) -> None:
        """SIGKILL, as a crash would look. For faults."""
        self._process.kill()

    def _follow(self) -> None:
        """Standard error carries the ready mark and, after a failed start, the reason."""
        with (self._folder / "logs" / "node.log").open("ab") as sink:
            while chunk := os.read(self._process.stderr.fileno(), 65536):  # type: ignore[union-attr]
                if launch.READY in chunk:
                    self._ready.set()
                sink.write(chunk.replace(launch.READY, b""))
                sink.flush()
        self._process.wait()
        self._process.stderr.close()  # type: ignore[union-attr]
        self.ended.set()

    def _last_words(self) -> str:
        lines = (self._folder / "logs" / "node.log").read_text(errors="replace").splitlines()
        errors = [line for line in lines[-200:] if "ERROR" in line or "Exception" in line]
        return " | ".join((errors or lines)[-3:]) or "it logged nothing"


def start(housing: Housing, name: str, cancelled: threading.Event) -> Node:
    """Start the node `name` on a free port. Its folder, with the data, is kept between starts."""
    folder = housing.nodes / name
    _prepare(housing, folder)
    lock = _take_lock(folder / "running", cancelled)
    try:
        port = _free_port()
        process = _spawn(housing, folder, lock)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(process.pid).encode(), 0)
    finally:
        os.close(lock)  # the node's own copy keeps the lock
    node = Node(process, port, folder)
    settings = launch.settings(housing.home, folder, cluster=name, port=port)
    with contextlib.suppress(BrokenPipeError):  # it ended at once: wait_until_ready says why
        process.stdin.write(launch.first_message(settings, folder))  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    return node


def remove(housing: Housing, name: str) -> None:
    """Delete the node's folder with all data. The node must have ended."""
    folder = housing.nodes / name
    if folder.exists():
        shutil.rmtree(folder)


def _prepare(housing: Housing, folder: Path) -> None:
    # Only data outlives a start: config and temporary files are written anew.
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    parts = [folder, *(folder / part for part in ("config", "data", "logs", "tmp"))]
    for part in parts:
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
    logging_config = folder / "config" / "log4j2.properties"
    logging_config.write_text(launch.logging_config())
    housing.give(*parts, logging_config)


def _spawn(housing: Housing, folder: Path, lock: int) -> subprocess.Popen[bytes]:
    account = housing.account
    identity = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
    log_file = folder / "logs" / "node.log"
    log_file.unlink(missing_ok=True)
    with log_file.open("ab") as sink:
        return subprocess.Popen(
            launch.command(housing.home, folder),
            cwd=housing.home,
            env=launch.environment(folder),
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.PIPE,
            pass_fds=(lock,),
            start_new_session=True,  # an interrupt at the terminal reaches the sandbox, which stops it cleanly
            **identity,
        )


def _take_lock(path: Path, cancelled: threading.Event) -> int:
    """An open, locked descriptor. Waits for a node of an earlier run to end, then kills it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    began = time.monotonic()
    was_killed = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited > _PATIENCE_WITH_A_LEFTOVER + _STOP_LIMIT or cancelled.is_set():
                os.close(descriptor)
                raise NodeError(f"another process holds {path}") from None
            if waited > _PATIENCE_WITH_A_LEFTOVER and not was_killed:
                _kill_holder(descriptor)
                was_killed = True
            cancelled.wait(0.1)
        else:
            return descriptor


def _kill_holder(descriptor: int) -> None:
    written = os.pread(descriptor, 32, 0).decode()
    if written.isdigit():
        log.warning("node %s of an earlier run does not end and is killed", written)
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(written), signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
