"""The processes that web apps run in: the worker's own code, with an identity endpoint as App Service gives it."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from engine import paths
from sandbox.azure.authority import Authority
from sandbox.azure.directory import Directory
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.world import World
from sandbox.elastic.web import Request, Response, json_response

log = logging.getLogger(__name__)

_STOP_SECONDS = 10
_RESTART_SECONDS = 1.0
_PASSED_ON = ("HOME", "LANG", "PATH", "TMPDIR")


@dataclass
class _App:
    site: Document
    secret: str
    process: subprocess.Popen[bytes] | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


@dataclass
class Apps:
    """What runs. A process that ends is started again, as App Service does."""

    world: World
    directory: Directory
    authority: Authority
    _running: dict[str, _App] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start_all(self) -> None:
        for _, site in self.world.store.all("site"):
            if site["properties"]["enabled"]:
                self.start(site)

    def start(self, site: Document) -> None:
        app = _App(site, secrets.token_urlsafe(24))
        with self._lock:
            self._running[site["id"].lower()] = app
        app.thread = threading.Thread(target=self._keep_running, args=(app,), name=f"app-{site['id']}", daemon=True)
        app.thread.start()

    def stop(self, site_id: str) -> None:
        with self._lock:
            app = self._running.pop(site_id.lower(), None)
        if app is None or app.thread is None:
            return
        app.stopping.set()
        if app.process is not None and app.process.poll() is None:
            app.process.terminate()
            try:
                app.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                app.process.kill()
        app.thread.join(_STOP_SECONDS)

    def stop_all(self) -> None:
        for site_id in list(self._running):
            self.stop(site_id)

    def _keep_running(self, app: _App) -> None:
        while not app.stopping.is_set():
            with self._log(app.site).open("ab") as output:
                app.process = subprocess.Popen(
                    self._command(app.site),
                    env=self._environment(app),
                    cwd=self._root(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                if app.stopping.is_set():
                    app.process.terminate()
                code = app.process.wait()
            log.info("app %s ended with %s", app.site["id"], code)
            app.stopping.wait(_RESTART_SECONDS)

    def _command(self, site: Document) -> list[str]:
        """`python -m module …` as the site's start command says, by this environment's Python: no image is pulled."""
        words = (site["properties"]["siteConfig"].get("appCommandLine") or "").split()
        if words[:2] != ["python", "-m"]:
            raise ValueError(f"the sandbox runs `python -m …` only, not {words}")
        return [sys.executable, "-m", "engine.lifeline", *words[2:]]

    def _environment(self, app: _App) -> dict[str, str]:
        settings = app.site["properties"]["siteConfig"].get("appSettings") or []
        bundle = str(self.authority.bundle)
        return {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            "IDENTITY_ENDPOINT": f"{self.world.url}/_identity/token",
            "IDENTITY_HEADER": app.secret,
            "PYTHONPATH": os.pathsep.join((str(self._root()), str(paths.TREE))),
            "PYTHONUNBUFFERED": "1",
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            "WEBSITE_SITE_NAME": app.site["id"].rsplit("/", 1)[1],
            **{each["name"]: str(each.get("value") or "") for each in settings},
        }

    def _root(self) -> Path:
        """What the worker's image holds, and no more: `components` beside it has a folder named as Azure's SDK."""
        root = self.world.folder / "image"
        root.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (root / "worker").symlink_to(paths.TREE / "components" / "worker")
        return root

    def _log(self, site: Document) -> Path:
        folder = self.world.folder.parent / "logs"
        folder.mkdir(exist_ok=True)
        return folder / f"app-{site['id'].rsplit('/', 1)[1]}.log"

    def identity(self, request: Request) -> Response:
        """The identity endpoint (Docs: App Service, managed identities, REST): only for an identity of the app."""
        given = request.headers.get("X-IDENTITY-HEADER", "")
        with self._lock:
            apps = [app for app in self._running.values() if hmac.compare_digest(app.secret.encode(), given.encode())]
        if not apps:
            return json_response(401, {"statusCode": 401, "message": "X-IDENTITY-HEADER is not this app's"})
        client = request.query.get("client_id", "")
        attached = [self.world.store.get("uami", each) or {} for each in apps[0].site["identities"]]
        if client not in {each.get("clientId") for each in attached}:
            return json_response(
                400, {"statusCode": 400, "message": "No User Assigned or Delegated Managed Identity found"}
            )
        try:
            return json_response(200, self.directory.managed_identity_token(client, request.query.get("resource", "")))
        except AzureError as error:
            return json_response(error.status, {"statusCode": error.status, "message": error.message})
