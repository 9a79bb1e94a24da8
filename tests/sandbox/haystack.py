"""Where a secret could lie around, and in which forms: what a test searches after something was watched.

Searched: state, plans, stack files, journal, records, log, verdicts, the sandbox's logs, the engine's home,
the process list, everything printed.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from cloud import Cloud, Key, Tenant

LOOK_SECONDS = 0.05
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


def files_with(haystack: Haystack, needles: Needles) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in haystack.files() if needles.in_(path.read_bytes())}


def secrets_of(tenant: Tenant, key: Key, search: Mapping[str, bytes]) -> dict[str, bytes]:
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


def search_secrets(tenant: Tenant, search: str) -> dict[str, bytes]:
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
