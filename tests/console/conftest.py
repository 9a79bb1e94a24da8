"""The Console as processes: a local issuer, the API behind uvicorn, a worker; real records in a folder, no cloud."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))  # the layouts that the unit tests are made of

import layouts  # noqa: E402

from console.orders import Orders  # noqa: E402
from console.store import open_store  # noqa: E402
from migrate.records import Records  # noqa: E402
from migrate.stack import Project  # noqa: E402
from sandbox.console import ConsoleHouse  # noqa: E402
from sandbox.demo import make_project  # noqa: E402
from sandbox.issuer import API, IssuerServer  # noqa: E402
from stacks.record import connect  # noqa: E402

SHOTS = HERE.parent.parent / "build" / "console-screenshots"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("console")


@dataclass
class Running:
    """The processes and the records behind them."""

    house: ConsoleHouse
    project: Project
    given: dict[str, str]
    processes: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.house.url

    @property
    def orders(self) -> Orders:
        return Orders(open_store(self.project.home))

    @property
    def records(self) -> Records:
        return Records(connect(self.project.home))

    def token(self, subject: str, **claims: Any) -> str:
        server = IssuerServer(self.house.issuer, self.house.folder / "issuer", ())
        return server.token(server.person(subject), API, **claims)

    def client(self, subject: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.token(subject)}"}, timeout=30)

    def start(self, name: str) -> None:
        """`api`, `worker` or `issuer`, again after it was ended."""
        starters: dict[str, Callable[..., Any]] = {
            "api": self.house.start_api, "worker": self.house.start_worker, "issuer": self.house.start_issuer,
        }  # fmt: skip
        self.processes[name] = starters[name](self.given)

    def kill(self, name: str) -> None:
        self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> None:
        self._end(name, signal.SIGTERM)

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        process.wait(60)
        self.house.children.remove(process)

    def ready(self) -> None:
        self.house.wait_until_ready()


def free_ports() -> int:
    """A port whose next one is free too."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                with socket.socket() as two:
                    two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Issuer and API, with acme and acme-two of acme-corp and globex-one of globex; the worker is started by who needs it."""
    folder = tmp_path_factory.mktemp("console")
    root = make_project(folder / "project")
    project = Project(root=root, home=root / ".keyshift")
    records = Records(connect(project.home))
    for name, customer in (("acme", "acme-corp"), ("acme-two", "acme-corp"), ("globex-one", "globex")):
        records.create(layouts.changed(layouts.standard(), tenant=name, customer=customer))
    hidden = {name: "" for name in os.environ if name.startswith("AWS_")}
    given = {
        **hidden,
        "KEYSHIFT_PROJECT": str(root),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REGION": "eu-west-1",
    }
    made = Running(ConsoleHouse(folder, free_ports()), project, given)
    try:
        made.start("issuer")
        made.start("api")
        made.ready()
        yield made
    finally:
        made.house.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that failed also shows what the processes said."""
    report = yield
    made = item.funcargs.get("running") if hasattr(item, "funcargs") else None
    if report.failed and isinstance(made, Running):
        logs = "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')[-3000:]}"
            for file in sorted((made.house.folder / "logs").glob("*.log"))
        )
        report.sections.append(("the Console's logs", logs))
    return report


def chromium() -> str | None:
    """The path of a Chromium: KEYSHIFT_CHROMIUM, else the system's own."""
    named = os.environ.get("KEYSHIFT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
