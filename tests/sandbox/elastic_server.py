"""The sandbox's Elastic Cloud as a process of its own, for tests."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from elasticsearch import Elasticsearch

from sandbox.elastic import housing

REPOSITORY = Path(__file__).resolve().parents[2]
VERSION = "8.19.0"
START_LIMIT = 120.0  # seconds: a node on two busy cores

Found = TypeVar("Found")


def until(look: Callable[[], Found | None], what: str, limit: float = START_LIMIT) -> Found:
    """The first true value of `look`, or a failure that says what was waited for."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {limit:.0f} s: {what}")


@dataclass(frozen=True)
class Created:
    """A new deployment; the password is shown only here."""

    id: str
    url: str
    password: str

    def client(self, **options: Any) -> Elasticsearch:
        """As `elastic`, unless `api_key` is given."""
        identity = {} if "api_key" in options else {"basic_auth": ("elastic", self.password)}
        return Elasticsearch(self.url, max_retries=0, request_timeout=60, **identity, **options)


@dataclass(frozen=True)
class ElasticServer:
    port: int
    api_key: str
    process: subprocess.Popen[str]
    log: Path

    def call(self, method: str, path: str, body: Any = None, *, api_key: str | None = None) -> httpx.Response:
        """`path` below /api/v1, or an absolute one below /_sandbox."""
        url = f"http://127.0.0.1:{self.port}" + (path if path.startswith("/_sandbox") else f"/api/v1{path}")
        headers = {"Authorization": f"ApiKey {api_key or self.api_key}"}
        return httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False)

    def create(self, name: str, key: str | None = None, *, region: str = "eu-west-1") -> Created:
        """A deployment that is starting. Raises httpx.HTTPStatusError if it is refused."""
        answer = self.call("POST", "/deployments?template_id=aws-general-purpose", deployment_body(name, key, region))
        answer.raise_for_status()
        made = answer.json()
        url = self.show(made["id"])["resources"]["elasticsearch"][0]["info"]["metadata"]["service_url"]
        return Created(made["id"], url, made["resources"][0]["credentials"]["password"])

    def show(self, id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/deployments/{id}")
        answer.raise_for_status()
        return answer.json()

    def wait_for(self, id: str, phase: str) -> dict[str, Any]:
        """The deployment once it is `started`, `locked`, …"""

        def look() -> dict[str, Any] | None:
            shown = self.show(id)
            return shown if shown["_sandbox"]["phase"] == phase else None

        return until(look, f"deployment {id} is {phase}")

    def delete(self, id: str) -> None:
        self.call("POST", f"/deployments/{id}/_shutdown").raise_for_status()
        self.call("DELETE", f"/deployments/{id}").raise_for_status()


def deployment_body(name: str, key: str | None = None, region: str = "eu-west-1") -> dict[str, Any]:
    """A create request as the public client sends it."""
    plan = {"elasticsearch": {"version": VERSION}, "cluster_topology": [{"id": "hot_content", "zone_count": 1}]}
    settings = {} if key is None else {"byok": {"key_resource_path": key}}
    resource = {"region": region, "ref_id": "main-elasticsearch", "plan": plan}
    return {"name": name, "resources": {"elasticsearch": [resource]}, "settings": settings}


@contextlib.contextmanager
def running_elastic(
    dir: Path, aws_env: Mapping[str, str] | None = None, *, key_check_seconds: float = 0.2, keep_data: bool = False
) -> Iterator[ElasticServer]:
    """Serve from `dir` (a `.sandbox` folder) until the block ends.

    `aws_env` holds AWS_ENDPOINT_URL and AWS_SHARED_CREDENTIALS_FILE (with the profile `elastic`). Without
    `keep_data` the nodes' data is removed at the end.
    """
    dir.mkdir(parents=True, exist_ok=True)
    log = dir / "elastic.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, "-m", "sandbox.elastic", "--dir", str(dir), "--port", "0"]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*command, "--key-check-seconds", str(key_check_seconds)],
            cwd=REPOSITORY,
            env={**inherited, **(aws_env or {})},
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    try:
        port = re.search(r":(\d+)$", process.stdout.readline().strip())
        assert port, f"the server did not start: {log.read_text()[-2000:]}"
        yield ElasticServer(int(port[1]), (dir / "elastic" / "api-key").read_text(), process, log)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
        if not keep_data:
            housing.clear(dir / "elastic")
