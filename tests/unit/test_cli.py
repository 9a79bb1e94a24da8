"""The command line: help, exit codes, one error at a time. What it calls is replaced by fakes."""

from __future__ import annotations

import base64
import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kms_lab
import layouts
import pytest
import sqlalchemy as sql
import structlog
import time_machine
from botocore import exceptions as boto
from cryptography.hazmat.primitives.asymmetric import rsa
from elastic_transport import ConnectionError as SearchUnreachable
from pulumi.automation import CommandError, CommandResult
from test_show import STATUS, operation, stored
from typer.main import get_command

from migrate import aws, cli, failures, placement, records, tenants
from migrate.errors import CloudError, Conflict, KeyshiftError, RefusedInput, VerificationFailed, Waiting
from sandbox.aws.kms import KmsError
from stacks.errors import GuardError
from stacks.record import connect

REFUSED = boto.EndpointConnectionError(endpoint_url="http://127.0.0.1:9/")


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
    """The command configures logging for its process; the other tests are not to notice."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "Pulumi.yaml").touch()
    monkeypatch.setenv("KEYSHIFT_PROJECT", str(tmp_path))
    monkeypatch.delenv("KEYSHIFT_DATABASE_URL", raising=False)
    monkeypatch.delenv("KEYSHIFT_LOG", raising=False)
    return tmp_path


@pytest.fixture
def keyshift(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: (exit code, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["keyshift", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def commands(group: Any = None, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb, as its words."""
    group = group or get_command(cli.app)
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*before, name)) if hasattr(command, "commands") else [(*before, name)]
    return found


# help -----------------------------------------------------------------------------------------


def test_the_verbs_are_the_ones_that_the_product_promises() -> None:
    assert {" ".join(words) for words in commands()} >= {
        "tenant create", "tenant list", "tenant show", "key request", "key wrap", "key upload", "key list", "enable",
        "status", "operations", "resume", "search", "archive import", "verdict list", "verdict show", "stack render",
    }  # fmt: skip


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_verb_says_who_uses_it_and_takes_json(
    keyshift: Callable[..., tuple[int, str, str]], words: tuple[str, ...]
) -> None:
    code, out, _ = keyshift(*words, "--help")
    assert code == 0
    assert "(vendor)." in out or "(customer)." in out
    assert "--json" in out


def test_the_command_starts_without_a_project_a_network_or_credentials(tmp_path: Path) -> None:
    environment = {"PATH": os.defpath, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "migrate.cli", "--help"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (RefusedInput("no", hint="do this", code="some-code"), 2, "refused"),
        (Waiting("not yet", waits_for="a key", hint="do this", code="some-code"), 3, "waiting"),
        (KeyshiftError("broken", hint="do this", code="some-code"), 1, "error"),
        (CloudError("broken", hint="do this", code="some-code"), 1, "error"),
        (VerificationFailed("unequal", hint="do this", code="some-code"), 1, "error"),
        (Conflict("lost", hint="do this", code="some-code"), 1, "error"),
    ],
)
def test_an_error_is_told_once_with_its_kind_its_text_and_the_next_thing_to_do(
    keyshift: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    error: KeyshiftError,
    code: int,
    word: str,
) -> None:
    monkeypatch.setattr(tenants, "status", fails(error))
    assert keyshift("status", "acme") == (code, "", f"keyshift: {word}: {error.message}\nkeyshift: hint: do this\n")
    found, out, err = keyshift("status", "acme", "--json")
    assert (found, err) == (code, "")
    assert json.loads(out) == {"error": {"code": "some-code", "message": error.message, "hint": "do this"}}


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("enable",),
        ("tenant", "create", "acme"),
        ("search", "acme", "x", "--limit", "many"),
        ("status", "--x"),
    ],
)
def test_wrong_usage_ends_with_two_and_names_the_help(
    keyshift: Callable[..., tuple[int, str, str]], words: tuple[str, ...]
) -> None:
    code, out, err = keyshift(*words)
    assert (code, out) == (2, "")
    assert "--help' for help" in err


def test_an_unknown_tenant_is_refused_with_the_command_that_makes_one(
    keyshift: Callable[..., tuple[int, str, str]],
) -> None:
    for words in (("status", "acme"), ("enable", "acme"), ("resume", "acme"), ("tenant", "show", "acme")):
        code, _, err = keyshift(*words)
        assert code == 2, err
        assert "there is no tenant acme (known: none yet)" in err
        assert "keyshift tenant create acme --customer NAME" in err


def test_a_folder_without_a_project_is_refused(keyshift: Callable[..., tuple[int, str, str]], project: Path) -> None:
    (project / "Pulumi.yaml").unlink()
    code, _, err = keyshift("tenant", "list")
    assert code == 2
    assert f"no Pulumi.yaml in {project}" in err


# what libraries raise -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "found", "said"),
    [
        (REFUSED, 1, "unreachable", "http://127.0.0.1:9/"),
        (boto.ConnectTimeoutError(endpoint_url="http://x/"), 1, "unreachable", "http://x/"),
        (boto.ReadTimeoutError(endpoint_url="http://x/"), 1, "unreachable", "http://x/"),
        (boto.NoCredentialsError(), 1, "credentials", "AWS_PROFILE"),
        (boto.ProfileNotFound(profile="operator"), 1, "credentials", "operator"),
        (boto.NoRegionError(), 1, "credentials", "AWS_REGION"),
        (
            boto.ClientError({"Error": {"Code": "AccessDenied", "Message": "no."}}, "DescribeKey"),
            1,
            "cloud",
            "calling DescribeKey: AWS answered AccessDenied (no)",
        ),
        (SearchUnreachable("connection refused"), 1, "unreachable", "the search deployment cannot be reached"),
        (
            sql.exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError("unable to open database file")),
            1,
            "database",
            "unable to open database file",
        ),
        (sql.exc.ArgumentError("Could not parse SQLAlchemy URL"), 1, "database", "KEYSHIFT_DATABASE_URL"),
        (
            CommandError(CommandResult(stdout="", stderr="error: passphrase must be set", code=255)),
            2,
            "passphrase",
            "PULUMI_CONFIG_PASSPHRASE_FILE",
        ),
        (CommandError(CommandResult(stdout="", stderr="error: no stack", code=255)), 1, "engine", "no stack"),
        (
            CommandError(
                CommandResult(stdout="", stderr="error: deployments.byok.key_unreachable: AccessDenied", code=1)
            ),
            1,
            "key-refused-by-elastic",
            "ElasticKeyAccess",
        ),
        (FileNotFoundError(2, "No such file or directory", "pulumi"), 1, "no-engine", "make setup"),
        (GuardError("stale", hint="keyshift stack render acme"), 2, "stack-refused", "keyshift stack render acme"),
        (sqlite3.DatabaseError("file is not a database"), 1, "state-file", "file is not a database"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "system", "/x/y: Permission denied"),
        (RuntimeError("a defect"), 1, "unexpected", "KEYSHIFT_LOG=DEBUG"),
    ],
)
def test_what_a_library_raises_is_one_readable_error_and_never_a_traceback(  # noqa: PLR0917 - a table's columns
    keyshift: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    found: str,
    said: str,
) -> None:
    monkeypatch.setattr(tenants, "status", fails(error))
    exit_code, out, err = keyshift("status", "acme")
    assert (exit_code, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert err.count("keyshift: ") == 2, "one line for what happened, one for what to do"
    _, out, _ = keyshift("status", "acme", "--json")
    assert json.loads(out)["error"]["code"] == found


def test_the_traceback_is_there_for_who_asks_for_it(
    keyshift: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "status", fails(RuntimeError("a defect, password=hunter2")))
    monkeypatch.setenv("KEYSHIFT_LOG", "DEBUG")
    _, _, err = keyshift("status", "acme")
    assert "Traceback" in err
    assert "hunter2" not in err


def test_no_secret_of_a_librarys_text_reaches_the_terminal() -> None:
    url = "postgresql://keyshift:hunter2@db/records"
    for error in (RuntimeError(url), sql.exc.ArgumentError(url), boto.HTTPClientError(error=url)):
        assert "hunter2" not in failures.explained(error).message


# input that needs no cloud --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("Acme", "--customer", "acme-corp"), "the tenant name 'Acme' must be lower-case letters, digits and hyphens"),
        (("ab", "--customer", "acme-corp"), "the tenant name 'ab' has 2 characters; it must have 3 to 32"),
        (("a" * 33, "--customer", "acme-corp"), "has 33 characters"),
        (("acme.eu", "--customer", "acme-corp"), "as a bucket's name must"),
        (("acme-", "--customer", "acme-corp"), "end with a letter or digit"),
        (("acme", "--customer", "Acme & Co"), "customer: 'Acme & Co' must be 3 to 32 lower-case letters"),
        (
            ("acme", "--customer", "acme-corp", "--mode", "byokv"),
            "keyMode byokv is not offered on aws; choose one of: byok, byokms, standard",
        ),
        (("acme", "--customer", "acme-corp", "--mode", "own"), "Input should be 'standard', 'byok'"),
        (("acme", "--customer", "acme-corp", "--stamp", "mars-01"), "'mars-01' is not the name of a stamp"),
        (
            ("acme", "--customer", "acme-corp", "--region", "us-east-1", "--stamp", "stamp-aws-eu-west-1-01"),
            "the stamp stamp-aws-eu-west-1-01 is in eu-west-1",
        ),
    ],
)
def test_a_tenant_that_cannot_be_is_refused_before_anything_is_made(
    keyshift: Callable[..., tuple[int, str, str]], project: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, err = keyshift("tenant", "create", *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert sorted(path.name for path in project.iterdir()) == ["Pulumi.yaml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is no stamp in eu-west-1 on aws for tenant acme"),
        (("--stamp", "stamp-aws-eu-west-1-01"), "stamp-aws-eu-west-1-01, which has not been brought up"),
    ],
)
def test_a_tenant_without_its_stamp_is_refused_before_anything_is_made(
    keyshift: Callable[..., tuple[int, str, str]],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr(placement, "brought_up", lambda _: set())
    code, _, err = keyshift("tenant", "create", "acme", "--customer", "acme-corp", *words)
    assert code == 2
    assert said in err
    assert "pulumi up -s stamp-aws-eu-west-1-01" in err
    assert sorted(path.name for path in project.iterdir()) == ["Pulumi.yaml"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"-----BEGIN PUBLIC KEY-----", "PEM text"), (b"junk", "not a DER public key")],
)
def test_a_customer_learns_what_is_wrong_with_the_public_key(
    keyshift: Callable[..., tuple[int, str, str]], tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "public-key.der"
    if content is not None:
        file.write_bytes(content)
    code, _, err = keyshift("key", "wrap", str(file), "--out", str(tmp_path / "wrapped.bin"))
    assert code == 2
    assert said in err
    assert not (tmp_path / "wrapped.bin").exists()


def test_key_wrap_prints_the_same_as_openssl_commands(
    keyshift: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = keyshift("key", "wrap", "public.der", "--out", str(tmp_path / "w.bin"), "--openssl")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["rand", "pkeyutl", "dgst"]


# watching -------------------------------------------------------------------------------------


def test_a_watch_prints_each_step_and_ends_when_nobody_works_on_the_tenant(
    keyshift: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [
        operation(progress=stored(2)),
        operation(progress=stored(5)),
        operation(progress=stored(5)),
        operation(step="build/4-fill", step_number=5, step_title="fill e2 from s2"),
        {**operation(state="done", seconds=75.0), "worked_on_by": None},
    ]
    monkeypatch.setattr(tenants, "status", lambda *_: looks.pop(0))
    monkeypatch.setattr(cli.time, "sleep", lambda _: None)
    code, out, _ = keyshift("status", "acme", "--watch")
    assert code == 0
    assert looks == []
    assert out.count("acme-enable-1: running") == 1, "all of it once, then a line for each step"
    assert "2/7 build, 5/6: fill e2 from s2\n" in out
    assert "copy · 5 of 10 (50 %)" in out
    assert out.rstrip().splitlines()[-1].endswith("none; the last, acme-enable-1, was done in 1 min 15 s")


def test_a_status_without_watch_looks_once(
    keyshift: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "status", lambda *_: STATUS)
    assert keyshift("status", "acme")[1].count("acme-enable-1") == 1
    assert json.loads(keyshift("status", "acme", "--json")[1]) == STATUS


# a customer's key, as the real KMS of the sandbox judges it -----------------------------------


class KmsClient:
    """The sandbox's KMS with the manners of boto3's client."""

    def __init__(self, lab: kms_lab.Lab) -> None:
        self._lab = lab

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        operation = "".join(part.capitalize() for part in name.split("_"))

        def call(**request: Any) -> dict[str, Any]:
            blobs = {key: kms_lab.blob(value) for key, value in request.items() if isinstance(value, bytes)}
            try:
                answer = self._lab(operation, **{**request, **blobs})
            except KmsError as error:
                said = {"Code": error.code, "Message": error.message}
                raise boto.ClientError({"Error": said}, operation) from error
            for key in ("PublicKey", "ImportToken"):
                if key in answer:
                    answer[key] = base64.b64decode(answer[key])
            if "ParametersValidTo" in answer:
                answer["ParametersValidTo"] = datetime.fromtimestamp(answer["ParametersValidTo"], UTC)
            return answer

        return call


class WrappingPair(kms_lab.OnePair):
    def __init__(self) -> None:
        self._pair = rsa.generate_private_key(public_exponent=65537, key_size=4096)


@dataclass
class Uploading:
    """A byok tenant that waits for its key, in a KMS whose clock the test turns."""

    clock: kms_lab.Clock
    lab: kms_lab.Lab
    key: str
    folder: Path


@pytest.fixture
def uploading(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Uploading]:
    clock = kms_lab.Clock()
    clock.now = datetime.now(UTC).timestamp()
    kms = kms_lab.open_kms(project / "kms", clock=clock)
    kms.wrapping_keys = WrappingPair()
    lab = kms_lab.Lab(kms)
    key = lab.key(Origin="EXTERNAL")
    records.Records(connect(project / ".keyshift")).create(layouts.byok_pending())
    live = SimpleNamespace(operator=None, key_arn=lambda _: key, layout=layouts.byok_pending())
    monkeypatch.setattr(tenants.Live, "find", lambda *_: live)
    monkeypatch.setattr(tenants, "has_empty_key", lambda *_: True)
    monkeypatch.setattr(aws, "client", lambda *_: KmsClient(lab))
    yield Uploading(clock, lab, key, project)
    kms.close()


def wrapped_for(uploading: Uploading, keyshift: Callable[..., tuple[int, str, str]]) -> tuple[Path, str]:
    """Asked for by the vendor, wrapped by the customer: file and hash."""
    _, out, _ = keyshift("key", "request", "acme", "--out", str(uploading.folder), "--json")
    file = uploading.folder / "wrapped.bin"
    _, out, _ = keyshift("key", "wrap", json.loads(out)["public_key"], "--out", str(file), "--json")
    return file, json.loads(out)["sha256"]


def test_a_token_that_kms_calls_expired_is_refused_with_the_command_for_a_new_one(
    uploading: Uploading, keyshift: Callable[..., tuple[int, str, str]]
) -> None:
    file, digest = wrapped_for(uploading, keyshift)
    uploading.clock.now += 24 * 3600  # KMS's clock alone: ours may run late
    code, _, err = keyshift("key", "upload", "acme", str(file), "--sha256", digest)
    assert code == 2, err
    assert "the import token has expired; KMS issues it for 24 hours" in err
    assert "keyshift key request acme, then have the same key wrapped with its new public key" in err
    assert uploading.lab.state(uploading.key) == "PendingImport"


def test_a_token_that_we_know_to_be_expired_is_not_even_sent(
    uploading: Uploading, keyshift: Callable[..., tuple[int, str, str]]
) -> None:
    file, digest = wrapped_for(uploading, keyshift)
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=24), tick=False):
        code, _, err = keyshift("key", "upload", "acme", str(file), "--sha256", digest)
        assert code == 2, err
        assert "expired at" in err
        uploading.clock.now += 24 * 3600
        file, digest = wrapped_for(uploading, keyshift)
        assert keyshift("key", "upload", "acme", str(file), "--sha256", digest)[0] == 0
    assert uploading.lab.state(uploading.key) == "Enabled", "what the hint says leads to the end"
