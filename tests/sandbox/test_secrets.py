"""Secrets are where they belong and nowhere else: a whole move is watched, then everything is searched.

The customer's key, its wrapped form and the import token, the search's passwords and API keys, Elastic
Cloud's key, the passphrase, the operator's AWS secret. Searched: state, plans, stack files, journal,
records, log, verdicts, the sandbox's logs, the engine's home, the process list, everything printed.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from cloud import Cloud, Key, Tenant

LOOK_SECONDS = 0.03
SEES_PROCESSES = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are seen in /proc")
WINDOW = 24
"""Bytes of a long secret that are enough to know it by: SQLite may tear a longer one over two pages."""


@dataclass(frozen=True)
class Needles:
    """Secrets by name, each in every form in which it could lie around."""

    forms: Mapping[str, frozenset[bytes]]

    def in_(self, content: bytes) -> set[str]:
        """The names of the secrets that `content` holds."""
        return {name for name, forms in self.forms.items() if any(form in content for form in forms)}

    def without(self, *names: str) -> Needles:
        return Needles({name: forms for name, forms in self.forms.items() if name not in names})


def forms_of(secret: bytes) -> frozenset[bytes]:
    """Raw, hex, URL-quoted, in JSON, and base64 however it is aligned; a long secret by parts of it."""
    parts = [secret[at : at + WINDOW] for at in range(0, max(1, len(secret) - WINDOW + 1), WINDOW)]
    found: set[bytes] = set()
    for part in parts:
        found |= {part, binascii.hexlify(part), binascii.hexlify(part).upper()}
        found |= {quote(part).encode(), quote(part, safe="").encode()}
        with suppress(UnicodeDecodeError):
            found.add(json.dumps(part.decode())[1:-1].encode())
        for before in range(3):
            # What stands before a secret shifts its base64; characters that mix it with neighbours are left out.
            skipped = (-before) % 3
            whole = part[skipped : skipped + (len(part) - skipped) // 3 * 3]
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                found.add(encode(whole))
    return frozenset(form for form in found if len(form) >= 12)


@dataclass
class Watch:
    """What the processes of a project show of themselves while it runs: arguments, variables, temporary files."""

    project: Path
    temporary: Path
    arguments: set[bytes] = field(default_factory=set)
    environments: set[bytes] = field(default_factory=set)
    files: dict[str, set[bytes]] = field(default_factory=dict)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._look_until, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look_until(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Everybody's arguments (anyone on the host reads them) and our processes' variables."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended between the two looks
                environment = (process / "environ").read_bytes()
                if os.fsencode(self.project) in environment:
                    self.arguments.add((process / "cmdline").read_bytes())
                    self.environments.add(environment)
        for path in self.temporary.rglob("*"):
            with suppress(OSError):
                if path.is_file():
                    self.files.setdefault(path.name, set()).add(path.read_bytes())


@dataclass
class Haystack:
    """Everything that a move left or showed."""

    cloud: Cloud
    watch: Watch

    def holds(self, needles: Needles) -> dict[str, set[str]]:
        """Place -> the secrets that are in it."""
        found = {str(path): needles.in_(path.read_bytes()) for path in self.files()}
        found["what was printed"] = needles.in_("\n".join(done.text for done in self.cloud.history).encode())
        found["arguments of processes"] = needles.in_(b"\n".join(self.watch.arguments))
        # Elastic's provider and AWS's take their own credentials from the environment: that is their interface.
        mine = needles.without("Elastic Cloud's API key")
        found["environment of processes"] = mine.in_(b"\n".join(self.watch.environments))
        found |= {f"temporary file {name}": needles.in_(b"\n".join(seen)) for name, seen in self.watch.files.items()}
        return {place: names for place, names in found.items() if names}

    def files(self) -> Iterator[Path]:
        """State, backups, history, stack files, journal, record, log, verdicts; logs; the engine's home."""
        passphrase = Path(self.cloud.environment["PULUMI_CONFIG_PASSPHRASE_FILE"])
        places = (self.cloud.project, self.cloud.sandbox.folder / "logs", self.cloud.pulumi_home)
        for path in (path for place in places for path in place.rglob("*")):
            # The operator's own file, and named as such; a real one keeps it elsewhere.
            if path.is_file() and path != passphrase:
                yield path


@dataclass
class Moved:
    """A tenant that was moved under watch, with the log as loud as it goes."""

    tenant: Tenant
    needles: Needles
    haystack: Haystack
    tokens_before_upload: Mapping[str, int]
    """Files that held the import token while the customer's key was awaited -> their mode."""


@pytest.fixture(scope="module")
def moved(cloud: Cloud) -> Iterator[Moved]:
    temporary = cloud.folder / "temporary"
    temporary.mkdir(exist_ok=True)
    loud = cloud.with_environment(KEYSHIFT_LOG="DEBUG", TMPDIR=str(temporary))
    watch = Watch(loud.project, temporary)
    with watch():
        tenant = loud.tenant("quiet")
        asked = loud.request_key(tenant.name)
        requests = loud.home / "tenants" / tenant.name / "key-requests"
        token = next(requests.rglob("ImportToken*")).read_bytes()
        holders = _files_with(Haystack(loud, watch), Needles({"token": forms_of(token)}))
        key = loud.upload_key(tenant.name, loud.wrap_key(tenant.name, asked))
        old = _search_secrets(tenant, "e1")
        tenant.keyshift("enable")
        for words in (("status",), ("search", "Boeing"), ("verdict", "list"), ("tenant", "show"), ("key", "list")):
            for form in ((), ("--json",)):
                tenant.keyshift(*words, *form)
        tenant.pulumi("preview", "--diff")
    needles = Needles(
        {name: forms_of(secret) for name, secret in _secrets(tenant, key, old | _search_secrets(tenant, "e2")).items()}
    )
    yield Moved(tenant, needles, Haystack(loud, watch), holders)
    tenant.shut_down()


def _files_with(haystack: Haystack, needles: Needles) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in haystack.files() if needles.in_(path.read_bytes())}


def _secrets(tenant: Tenant, key: Key, search: Mapping[str, bytes]) -> dict[str, bytes]:
    environment = tenant.cloud.environment
    profiles = configparser.ConfigParser(interpolation=None)
    profiles.read(environment["AWS_SHARED_CREDENTIALS_FILE"])
    return {
        "the customer's key": key.plaintext,
        "the wrapped key": key.wrapped,
        "the import token": key.token,
        "the passphrase": tenant.cloud.passphrase.encode(),
        "Elastic Cloud's API key": environment["EC_API_KEY"].encode(),
        "the operator's AWS secret": profiles["operator"]["aws_secret_access_key"].encode(),
        **search,
    }


def _search_secrets(tenant: Tenant, search: str) -> dict[str, bytes]:
    """Password and API keys of a deployment; of an API key also the secret half by itself."""
    manager = tenant.cloud.client("secretsmanager")
    found = {}
    for audience, name in tenant.outputs()["searches"][search]["secrets"].items():
        held = json.loads(manager.get_secret_value(SecretId=name)["SecretString"])
        if "password" in held:
            found[f"the {audience} password of {search}"] = held["password"].encode()
        else:
            found[f"the {audience} API key of {search}"] = held["api_key"].encode()
            half = base64.b64decode(held["api_key"]).partition(b":")[2]
            found[f"the secret of the {audience} API key of {search}"] = half
    return found


# the search would find them -------------------------------------------------------------------


def planted(secret: bytes) -> dict[str, bytes]:
    """A secret as it could lie in a file, in the middle of other things."""
    return {
        "raw": b"\x00\x01before" + secret + b"after\xff",
        "hex": b'{"key": "' + binascii.hexlify(secret) + b'"}',
        "HEX": binascii.hexlify(secret).upper(),
        "base64": base64.b64encode(secret),
        "base64 of more, shifted by one": base64.b64encode(b"a" + secret + b"zz"),
        "base64 of more, shifted by two": base64.b64encode(b"ab" + secret + b"z"),
        "base64 for URLs": base64.urlsafe_b64encode(b"{" + secret + b"}"),
        "quoted": quote(secret).encode(),
    }


def test_the_search_finds_each_secret_in_each_form(moved: Moved, cloud: Cloud) -> None:
    key = Path(cloud.folder / "customers" / moved.tenant.name / "k1.bin").read_bytes()
    for name, secret in {"a key": key, "a text": b"correct horse battery staple", "a blob": os.urandom(512)}.items():
        needles = Needles({name: forms_of(secret)})
        for form, content in planted(secret).items():
            assert needles.in_(content) == {name}, f"{name} as {form} would not be seen"
        assert needles.in_(b"nothing of it") == set()
    assert len(moved.needles.forms) == 16, "6 of ours, 5 of each search with both halves of the API keys"


@pytest.mark.parametrize(
    "place",
    [
        ".keyshift/pulumi/.pulumi/planted.json",
        ".keyshift/tenants/planted/journal.sqlite",
        ".keyshift/keyshift.db-wal",
        "Pulumi.planted.yaml",
        "../sandbox/logs/planted.log",
        "../pulumi-home/planted",
    ],
)
def test_the_search_looks_into_every_place(moved: Moved, tmp_path: Path, place: str) -> None:
    """On a copy of the folders: a plant in the real ones would be seen by the other tests."""
    cloud = moved.haystack.cloud
    copy = Cloud(
        tmp_path,
        type(cloud.sandbox)(tmp_path / "sandbox"),
        tmp_path / "project",
        {**cloud.environment, "PULUMI_HOME": str(tmp_path / "pulumi-home")},
    )
    path = copy.project / place
    (copy.project).mkdir()
    path = Path(os.path.normpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    secret = os.urandom(32)
    if path.suffix == ".sqlite":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE t (v TEXT)")
            database.execute("INSERT INTO t VALUES (?)", (base64.b64encode(secret).decode(),))
        database.close()
    else:
        path.write_bytes(secret)
    watch = Watch(copy.project, tmp_path / "none")
    assert set(Haystack(copy, watch).holds(Needles({"it": forms_of(secret)}))) == {str(path)}
    shutil.rmtree(tmp_path / "project")


@SEES_PROCESSES
def test_the_watch_sees_arguments_variables_and_temporary_files(tmp_path: Path) -> None:
    secret = os.urandom(32).hex()
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, secret],
        env={**os.environ, "KEYSHIFT_PROJECT": str(tmp_path), "A_SECRET": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "plan.json").write_text(secret)
    watch = Watch(tmp_path, tmp_path)
    try:
        assert process.stdout.readline() == "up\n"
        watch.look()
    finally:
        process.communicate("", timeout=60)
    needles = Needles({"it": forms_of(secret.encode())})
    assert needles.in_(b"".join(watch.arguments))
    assert needles.in_(b"".join(watch.environments))
    assert needles.in_(b"".join(watch.files["plan.json"]))


@SEES_PROCESSES
def test_the_watch_saw_the_runner_the_engine_the_program_and_the_plugins(moved: Moved) -> None:
    commands = [command.replace(b"\0", b" ").decode(errors="replace") for command in moved.haystack.watch.arguments]
    programs = [done.command[:2] for done in moved.haystack.cloud.history]
    assert ("keyshift", "enable") in programs
    assert ("keyshift", "key") in programs
    for part in ("keyshift enable", " up --yes", "engine.language_host", "engine.run_program", "sandbox.provider ec"):
        assert any(part in command for command in commands), part
    assert moved.haystack.watch.files.get("plan.json"), "the plan that constrains an up"


# and finds nothing ----------------------------------------------------------------------------


def test_no_secret_is_in_state_files_logs_processes_or_output(moved: Moved) -> None:
    assert moved.haystack.holds(moved.needles) == {}


def test_the_import_token_lies_in_one_private_file_until_the_key_is_in(moved: Moved) -> None:
    (name, mode), *others = moved.tokens_before_upload.items()
    assert not others
    assert name.startswith("ImportToken")
    assert mode == 0o600


def test_what_holds_a_secret_of_ours_is_private(moved: Moved) -> None:
    folder = moved.tenant.folder
    assert (folder / "signing-key.pem").stat().st_mode & 0o777 == 0o600
    assert (folder / "log.jsonl").stat().st_mode & 0o777 == 0o600
