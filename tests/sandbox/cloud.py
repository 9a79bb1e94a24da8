"""One sandbox with a project and a stamp on it, and what operators, customers and jobs do there.

Everything goes the way that people go: `keyshift` and `pulumi` as processes. Only what a test looks at
is read directly, by the cloud's own API.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
from botocore.config import Config
from elasticsearch import Elasticsearch

from migrate.copy.s3 import Side, StorageRef, prepare
from migrate.index.client import from_secret
from sandbox.demo import STAMP, make_project
from sandbox.supervisor import Sandbox

BIN = Path(sys.executable).parent
JOBS = Path(__file__).with_name("archive_jobs.py")
REGION = "eu-west-1"
COMMAND_SECONDS = 300
INDEXED_SECONDS = 120
LOG_LINES = 40

# What decides where programs go must come from the fixture alone.
FOREIGN = ("AWS_", "EC_", "PULUMI_")
KEPT = ("KEYSHIFT_CACHE", "KEYSHIFT_EMULATOR_PYTHON")

ATTACHMENTS: Mapping[str, bytes] = {
    "empty.bin": b"",
    "with some spaces.txt": b"spaces\n",
    "100%25 a+b & c=d.txt": b"signs\n",
    "Größe/日本語 契約書.txt": "契約\n".encode(),
    ".hidden": b"a leading dot\n",
    "deep/er/file.bin": bytes(range(256)) * 64,
}

Found = TypeVar("Found")


@dataclass(frozen=True)
class Done:
    """A program that has ended."""

    command: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float

    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        """Everything that it printed, for messages."""
        return f"$ {' '.join(self.command)}\nexit code {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


@dataclass(frozen=True)
class Key:
    """A customer's key: its id in the layout, its ARN, the plaintext, the wrapped file and the import token.

    `next` is the command that the upload named.
    """

    id: str
    arn: str
    next: str
    plaintext: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)
    token: bytes = field(repr=False)


def records(count: int = 24, *, revision: int = 1) -> list[dict[str, Any]]:
    """People to archive; another `revision` of each third one differs in its text."""
    return [
        {
            "id": f"p {number:03d}/ä+%&" if number % 8 == 0 else f"p{number:03d}",
            "name": f"Person {number} of {('Boeing', 'Zürich')[number % 2]}",
            "note": f"revision {revision if number % 3 == 0 else 1}",
        }
        for number in range(count)
    ]


@dataclass(frozen=True)
class Jobs:
    """What the Archive service did on a tenant while it was at work (`archive_jobs.py`), as it noted it itself."""

    file: Path

    def attempts(self, did: str) -> list[Mapping[str, Any]]:
        """Every attempt to `write` or `search`, in order; its `code` is empty if it succeeded."""
        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [one for one in found if one["did"] == did]

    def archived(self) -> dict[str, dict[str, Any]]:
        """Key below the prefix -> data of every record that a job was told is archived."""
        accepted = [one["id"] for one in self.attempts("write") if not one["code"]]
        return {f"records/jobs/{id}.json": {"number": int(id[-5:])} for id in accepted}


@dataclass
class Tenant:
    """A tenant of the cloud, as tests look at it. What the stack says is read anew at each access."""

    cloud: Cloud
    name: str
    expected: int = 0
    """How many documents a search for everything finds."""

    @property
    def stack(self) -> str:
        return f"tenant-{self.name}"

    @property
    def folder(self) -> Path:
        """Its journal, verdicts, log and key requests."""
        return self.cloud.home / "tenants" / self.name

    def keyshift(self, *words: str, check: bool = True, seconds: float = COMMAND_SECONDS) -> Done:
        """`keyshift` with this tenant's name put behind the verb: `("key", "list")`, `("search", "Boeing")`."""
        verbs = 2 if words[0] in {"tenant", "key", "archive", "verdict", "stack", "pipeline"} else 1
        return self.cloud.keyshift(*words[:verbs], self.name, *words[verbs:], check=check, seconds=seconds)

    def pulumi(self, *words: str, check: bool = True) -> Done:
        return self.cloud.pulumi(*words, "-s", self.stack, check=check)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json").out or "{}")

    def layout(self) -> dict[str, Any]:
        return self.keyshift("tenant", "show", "--json").json()["layout"]

    def step(self) -> str | None:
        """The step that the tenant's newest operation is in, None before the first."""
        with contextlib.closing(sqlite3.connect(self.cloud.home / "keyshift.db", timeout=10)) as database:
            query = "SELECT step FROM operations WHERE tenant = ? ORDER BY started_at DESC LIMIT 1"
            row = database.execute(query, (self.name,)).fetchone()
        return row[0] if row else None

    def client(self, role: str, service: str) -> Any:
        """A client that acts as one of the tenant's roles: archive, pipeline or runner."""
        arn = f"arn:aws:iam::{self.cloud.account}:role/keyshift-{self.name}-{role}"
        return self.cloud.client_of(arn, service)

    def storage(self, id: str, role: str | None = None) -> Side:
        """A storage of the stack's; as the operator, who administers the account, unless a role is named."""
        unit = self.outputs()["storages"][id]
        s3 = self.client(role, "s3") if role else self.cloud.client("s3")
        return Side(prepare(s3), StorageRef(unit["bucket"], unit["prefix"], unit["key_arn"]))

    def search(self, id: str, audience: str = "admin") -> Elasticsearch:
        """A client of a deployment with the credentials that an audience has."""
        name = self.outputs()["searches"][id]["secrets"][audience]
        return from_secret(self.cloud.client("secretsmanager"), name)

    def import_(
        self, *, records: Sequence[Mapping[str, Any]] = (), attachments: Mapping[str, bytes] | None = None
    ) -> dict:
        """`keyshift archive import` of a folder made of these."""
        folder = self.cloud.folder / "inputs" / f"{self.name}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        if records:
            lines = [json.dumps(one, ensure_ascii=False) for one in records]
            (folder / "people.ndjson").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for name, content in (attachments or {}).items():
            path = folder / "attachments" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.keyshift("archive", "import", str(folder), "--json").json()

    def wait_until_indexed(self, total: int, *, search: str | None = None) -> None:
        """Until a search for everything, as Archive, finds `total` documents in what serves."""
        unit = search or self.layout()["serves"]["search"]
        client = self.search(unit, "archive")
        seen: list[int] = []

        def all_there() -> bool:
            seen.append(client.count(index="records")["count"])
            return seen[-1] == total

        until(all_there, lambda: f"{total} documents in {self.name}'s search, {seen[-1:]} are there", INDEXED_SECONDS)

    @contextlib.contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """The Archive service at work, as a process of its own, until the block ends."""
        jobs = Jobs(self.cloud.folder / f"{self.name}-jobs-{secrets.token_hex(3)}.jsonl")
        jobs.file.touch()
        process = subprocess.Popen(
            [sys.executable, str(JOBS), self.name, str(jobs.file)],
            cwd=self.cloud.project,
            env=self.cloud.environment,
        )
        try:
            until(jobs.archived, "a job's first write", 60)
            yield jobs
        finally:
            process.terminate()
            process.wait(60)

    def shut_down(self) -> None:
        """Ends its search deployments, whose nodes each cost memory; nothing more can be done with the tenant."""
        self.cloud.shut_down_deployments(f"{self.name}-")


@dataclass
class Cloud:
    """A sandbox that is up, a project folder on it, the stamp made by a plain `pulumi up`."""

    folder: Path
    sandbox: Sandbox
    project: Path
    environment: dict[str, str]
    account: str = "111122223333"
    history: list[Done] = field(default_factory=list, repr=False)
    """Every program that was run to its end, in order."""

    @property
    def home(self) -> Path:
        return self.project / ".keyshift"

    @property
    def pulumi_home(self) -> Path:
        return Path(self.environment["PULUMI_HOME"])

    @property
    def passphrase(self) -> str:
        return Path(self.environment["PULUMI_CONFIG_PASSPHRASE_FILE"]).read_text()

    def with_environment(self, **variables: str) -> Cloud:
        """The same cloud with a history of its own, its programs started with these variables too."""
        return replace(self, environment={**self.environment, **variables}, history=[])

    # programs ---------------------------------------------------------------------------------

    def keyshift(self, *words: str, check: bool = True, seconds: float = COMMAND_SECONDS) -> Done:
        """The real CLI as a process. With `check` any exit code but 0 fails the test and shows what it printed."""
        return self.run("keyshift", *words, check=check, seconds=seconds)

    def pulumi(self, *words: str, check: bool = True, seconds: float = COMMAND_SECONDS) -> Done:
        """The real engine as a process, with no questions and no colours."""
        return self.run("pulumi", *words, "--non-interactive", "--color", "never", check=check, seconds=seconds)

    def up(self, stack: str, *, check: bool = True) -> Done:
        return self.pulumi("up", "-s", stack, "--yes", "--skip-preview", check=check)

    def run(self, program: str, *words: str, check: bool, seconds: float) -> Done:
        began = time.monotonic()
        process = self.start(program, *words)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{program} {' '.join(words)} took over {seconds:.0f} s\n{out}\n{err}") from None
        done = Done((program, *words), process.returncode, out, err, time.monotonic() - began)
        self.history.append(done)
        assert not check or done.code == 0, done.text
        return done

    def start(self, program: str, *words: str, session: bool = False) -> subprocess.Popen[str]:
        """The program, running; the caller waits for it. `session`: as the leader of a process group of its own."""
        return subprocess.Popen(
            [str(BIN / program), *words],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=session,
        )

    # the cloud's own API ----------------------------------------------------------------------

    @cached_property
    def _clients(self) -> dict[tuple[str, str], Any]:
        return {}

    def client(self, service: str, profile: str = "operator") -> Any:
        """A client as one of the sandbox's people; the test's own environment does not matter."""
        if (service, profile) not in self._clients:
            credentials = configparser.ConfigParser(interpolation=None)
            credentials.read(self.environment["AWS_SHARED_CREDENTIALS_FILE"])
            keys = credentials[profile]
            made = self._client(service, keys["aws_access_key_id"], keys["aws_secret_access_key"])
            self._clients[service, profile] = prepare(made) if service == "s3" else made
        return self._clients[service, profile]

    def client_of(self, role_arn: str, service: str) -> Any:
        """A client with credentials from AssumeRole; good for an hour."""
        keys = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="test")["Credentials"]
        return self._client(service, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])

    def _client(self, service: str, key_id: str, secret: str, token: str | None = None) -> Any:
        # A session of its own: boto3's default one remembers the profile of whoever used it first.
        session = boto3.Session(key_id, secret, token, region_name=REGION)
        return session.client(
            service,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            config=Config(
                signature_version="s3v4" if service == "s3" else None,
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
            ),
        )

    def elastic(self, method: str, path: str) -> Any:
        """A call to Elastic Cloud's API, `path` below /api/v1."""
        answer = httpx.request(
            method,
            f"{self.environment['EC_ENDPOINT']}/api/v1{path}",
            headers={"Authorization": f"ApiKey {self.environment['EC_API_KEY']}"},
            timeout=60,
            trust_env=False,
        )
        answer.raise_for_status()
        return answer.json()

    def deployments(self, prefix: str = "") -> dict[str, str]:
        """Deployments that exist, name -> id."""
        found = self.elastic("GET", "/deployments")["deployments"]
        return {one["name"]: one["id"] for one in found if one["name"].startswith(prefix)}

    def shut_down_deployments(self, prefix: str) -> None:
        for id in self.deployments(prefix).values():
            self.elastic("POST", f"/deployments/{id}/_shutdown")
            self.elastic("DELETE", f"/deployments/{id}")

    # tenants ----------------------------------------------------------------------------------

    def new_name(self, base: str) -> str:
        """A tenant's name that no test has used: names are never used twice."""
        return f"{base}-{secrets.token_hex(3)}"

    def tenant(
        self,
        base: str = "acme",
        records: Sequence[Mapping[str, Any]] | None = None,
        attachments: Mapping[str, bytes] | None = None,
    ) -> Tenant:
        """A fresh standard tenant, its records and attachments imported and found by its search."""
        tenant = Tenant(self, self.new_name(base))
        self.keyshift("tenant", "create", tenant.name, "--customer", f"{base}-corp", "--json")
        found = tenant.import_(
            records=globals()["records"]() if records is None else records,
            attachments=ATTACHMENTS if attachments is None else attachments,
        )
        tenant.expected = found["records"] + found["attachments"]
        tenant.wait_until_indexed(tenant.expected)
        return tenant

    def give_key(self, name: str) -> Key:
        """The customer's key: requested by the vendor, made and wrapped by the customer, uploaded by the vendor."""
        asked = self.request_key(name)
        return self.upload_key(name, self.wrap_key(name, asked))

    def request_key(self, name: str) -> dict[str, Any]:
        return self.keyshift("key", "request", name, "--out", str(self._customer(name)), "--json").json()

    def wrap_key(self, name: str, asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what was asked, what the customer's command answered)."""
        customer, key = self._customer(name), asked["key"]
        wrapped = self.keyshift(
            "key", "wrap", asked["public_key"],
            "--out", str(customer / f"{key}-wrapped.bin"), "--keep", str(customer / f"{key}.bin"), "--json",
        )  # fmt: skip
        return dict(asked), wrapped.json()

    def upload_key(self, name: str, given: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Key:
        asked, wrapped = given
        requests = self.home / "tenants" / name / "key-requests"
        tokens = [path.read_bytes() for path in requests.rglob("ImportToken*")]
        done = self.keyshift("key", "upload", name, wrapped["file"], "--sha256", wrapped["sha256"], "--json")
        listed = self.keyshift("key", "list", name, "--json").json()
        arn = next(row["arn"] for row in listed if row["id"] == asked["key"])
        plaintext, file = Path(wrapped["kept"]).read_bytes(), Path(wrapped["file"]).read_bytes()
        return Key(asked["key"], arn, done.json()["next"], plaintext, file, tokens[-1])

    def _customer(self, name: str) -> Path:
        """Where the customer keeps things; no part of the vendor's side."""
        folder = self.folder / "customers" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # the end ----------------------------------------------------------------------------------

    def logs(self) -> str:
        """The ends of the sandbox's logs, for the report of a failed test."""
        parts = []
        for path in sorted((self.sandbox.folder / "logs").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
            parts.append("\n".join([f"-- {path.name}", *lines]))
        return "\n".join(parts)


@contextlib.contextmanager
def running_cloud(folder: Path) -> Iterator[Cloud]:
    """A cloud of its own in `folder`; at the end nothing of it runs and its state is deleted."""
    sandbox = Sandbox(folder / "sandbox")
    sandbox.up()
    try:
        cloud = _made(folder, sandbox)
        cloud.pulumi("stack", "init", STAMP)
        cloud.up(STAMP)
        yield cloud
    finally:
        _end_what_is_left(folder / "project")
        sandbox.reset()


def _end_what_is_left(project: Path) -> None:
    """A test that failed may leave an engine, which lives in a session of its own."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended, or it is not ours to look at
            if os.fsencode(f"KEYSHIFT_PROJECT={project}\0") in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)


def _made(folder: Path, sandbox: Sandbox) -> Cloud:
    project = make_project(folder / "project")
    passphrase = project / ".keyshift" / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text(secrets.token_urlsafe(32))
    given = sandbox.environment()
    plugins = given["PATH"].partition(os.pathsep)[0]
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or not name.startswith((*FOREIGN, "KEYSHIFT_"))
    }
    environment = {
        **inherited,
        **given,
        "PATH": os.pathsep.join([str(BIN), plugins, os.environ.get("PATH", os.defpath)]),
        "KEYSHIFT_PROJECT": str(project),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        "PULUMI_HOME": str(folder / "pulumi-home"),
    }
    return Cloud(folder, sandbox, project, environment)


def until(
    look: Callable[[], Found | None], what: str | Callable[[], str], limit: float, *, every: float = 0.1
) -> Found:
    """The first true value of `look`, or a failure that says what was waited for."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {limit:.0f} s: {what if isinstance(what, str) else what()}")
