"""Azurite: where the bytes of blobs and the messages of queues lie. Only this process speaks to it.

It has one account. Each container of each account here is a container there, under a name made of the account's
generation: an account that was deleted and made again starts empty. So every copy is one within an account, which
Azurite does without calling anybody back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from engine import paths
from sandbox.azure import ports
from sandbox.azure.store import Document

ACCOUNT = "keyshift"
HOST = "127.0.0.1"
VERSION = "2025-11-05"
START_SECONDS = 60
STOP_SECONDS = 20
_IDLE_SECONDS = 3.0
_PARENT = Path(__file__).with_name("parent.js")
_SIGNATURE_SECONDS = 300
_SIGNATURE_VERSION = "2020-12-06"
_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


class AzuriteError(Exception):
    """Azurite cannot be started, or does not do what it must; the message says what to do."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Azurite:
    """The process, and signed requests to it."""

    folder: Path
    blob_port: int
    queue_port: int
    table_port: int
    _process: subprocess.Popen[bytes] | None = None
    _local: threading.local = field(default_factory=threading.local)

    # The process

    def start(self) -> None:
        """Start it and wait until it answers. Raises AzuriteError."""
        node, program = (
            shutil.which("node"),
            paths.azurite_home() / "node_modules" / "azurite" / "dist" / "src" / "azurite.js",
        )
        if node is None:
            raise AzuriteError("node is missing: install it with `sudo apt-get install nodejs npm`, then `make setup`")
        if not program.exists():
            raise AzuriteError("Azurite is not installed: run `make setup`")
        self._await_ports()
        place = self.folder / "azurite"
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        doors = [f"--{name}Port={port}" for name, port in self._ports()]
        options = [
            "--silent",
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--disableProductStyleUrl",
            f"--location={place}",
        ]
        hosts = [f"--{name}Host={HOST}" for name, _ in self._ports()]
        self._process = subprocess.Popen(
            [node, "--max-old-space-size=512", "--require", _PARENT, program, *doors, *hosts, *options],
            env={"PATH": os.environ.get("PATH", os.defpath), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key()}"},
            stdin=subprocess.DEVNULL,
            cwd=place,
        )
        self._wait()

    def _await_ports(self) -> None:
        """Wait for the Azurite of a process that was killed: it ends by itself. Raises AzuriteError."""
        deadline, pause = time.monotonic() + STOP_SECONDS, threading.Event()
        for name, port in self._ports():
            while not ports.is_free(port):
                if time.monotonic() > deadline:
                    raise AzuriteError(f"port {port} of Azurite's {name} service is taken by another program: end it")
                pause.wait(0.05)

    def _ports(self) -> tuple[tuple[str, int], ...]:
        return (("blob", self.blob_port), ("queue", self.queue_port), ("table", self.table_port))

    def _key(self) -> str:
        """The account's key, made once. Nobody else can reach what lies behind the gates."""
        file = self.folder / "azurite.key"
        if not file.exists():
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as text:
                text.write(base64.b64encode(secrets.token_bytes(64)).decode())
        return file.read_text(encoding="ascii").strip()

    def _wait(self) -> None:
        deadline, pause = time.monotonic() + START_SECONDS, threading.Event()
        while True:
            if self._process is None or self._process.poll() is not None:
                raise AzuriteError("Azurite ended at its start; the log says why")
            try:
                self.request("blob", "GET", "/", "comp=list&maxresults=1")
                self.request("queue", "GET", "/", "comp=list&maxresults=1")
            except OSError:
                if time.monotonic() > deadline:
                    raise AzuriteError(f"Azurite did not answer within {START_SECONDS} s") from None
                pause.wait(0.05)
            else:
                return

    def stop(self) -> None:
        """With SIGTERM: killed, it loses its last writes."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # Requests

    def request(
        self,
        service: str,
        method: str,
        path: str,
        query: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        """One signed request; `path` begins with `/` and stands below the account, percent-encoded."""
        target = f"/{ACCOUNT}{'' if path == '/' else path}"
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        sent |= {"x-ms-date": formatdate(usegmt=True), "content-length": str(len(body))}
        sent.setdefault("x-ms-version", VERSION)
        sent["authorization"] = f"SharedKey {ACCOUNT}:{self._signature(method, target, query, sent)}"
        return self._send(service, method, f"{target}?{query}" if query else target, sent, body)

    def _send(self, service: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
        # Azurite closes a connection that was idle for 5 s; on one that may be closing nothing is sent.
        connection, used = getattr(self._local, service, (None, 0.0))
        if connection is None or time.monotonic() > used + _IDLE_SECONDS:
            connection = http.client.HTTPConnection(HOST, dict(self._ports())[service], timeout=300)
        setattr(self._local, service, (None, 0.0))
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        reply = Reply(response.status, response.getheaders(), response.read())
        setattr(self._local, service, (connection, time.monotonic()))
        return reply

    def _signature(self, method: str, target: str, query: str, headers: Mapping[str, str]) -> str:
        """Docs: authorize with Shared Key, version 2015-02-21 and later."""
        standard = [headers.get(name, "") for name in _SIGNED]
        if headers["content-length"] == "0":
            standard[_SIGNED.index("content-length")] = ""
        own = [
            f"{name}:{' '.join(value.split())}" for name, value in sorted(headers.items()) if name.startswith("x-ms-")
        ]
        parameters: dict[str, list[str]] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            parameters.setdefault(name.lower(), []).append(value)
        resource = f"/{ACCOUNT}{target}" + "".join(
            f"\n{name}:{','.join(sorted(values))}" for name, values in sorted(parameters.items())
        )
        text = "\n".join([method, *standard, *own, resource])
        digest = hmac.new(base64.b64decode(self._key()), text.encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()

    # Names: an account's container or queue here, and what it is called there

    def url_of_blob(self, account: Document, container: str, blob: str) -> str:
        """The address by which Azurite itself knows a blob: of a copy's source."""
        place = f"{backend_name(account, container)}/{quote(blob, safe='/')}"
        return f"http://{HOST}:{self.blob_port}/{ACCOUNT}/{place}"

    def read_signature(self, account: Document, container: str, blob: str) -> str:
        """A query that lets Azurite read a block's source from itself, for minutes (Docs: service SAS, 2020-12-06)."""
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + _SIGNATURE_SECONDS))
        resource = f"/blob/{ACCOUNT}/{backend_name(account, container)}/{blob}"
        fields = ["r", "", until, resource, "", "", "", _SIGNATURE_VERSION, "b", "", "", "", "", "", "", ""]
        digest = hmac.new(base64.b64decode(self._key()), "\n".join(fields).encode(), hashlib.sha256).digest()
        signature = base64.b64encode(digest).decode()
        return urlencode({"sp": "r", "se": until, "sv": _SIGNATURE_VERSION, "sr": "b", "sig": signature})

    def create_container(self, account: Document, name: str) -> None:
        self._must("blob", "PUT", f"/{backend_name(account, name)}", "restype=container", (201, 409))

    def delete_container(self, account: Document, name: str) -> None:
        self._must("blob", "DELETE", f"/{backend_name(account, name)}", "restype=container", (202, 404))

    def create_queue(self, account: Document, name: str) -> None:
        self._must("queue", "PUT", f"/{backend_name(account, name)}", "", (201, 204))

    def delete_queue(self, account: Document, name: str) -> None:
        self._must("queue", "DELETE", f"/{backend_name(account, name)}", "", (204, 404))

    def _must(self, service: str, method: str, path: str, query: str, statuses: tuple[int, ...]) -> None:
        reply = self.request(service, method, path, query)
        if reply.status not in statuses:
            raise AzuriteError(f"{method} {path}: {reply.status} {reply.body[:300]!r}")


def backend_name(account: Document, name: str) -> str:
    return "c" + hashlib.sha256(f"{account['generation']}/{name}".encode()).hexdigest()[:40]
