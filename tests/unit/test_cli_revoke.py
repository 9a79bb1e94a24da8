"""What the verbs that close and open ask for, print and end with."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import pytest
import structlog
from rich.console import Console
from test_watch import TABLE

from migrate import cli, cli_revoke, destroy, revoke, show_revoke, show_watch
from migrate.records import Records
from migrate.watching import round as rounds
from migrate.watching.round import Round, _of_finding
from stacks.record import connect

Run = Callable[..., tuple[int, str, str]]

PATHS = [
    {
        "name": "GET",
        "role": "archive",
        "unit": "s2",
        "after": 1.7,
        "said": "AccessDenied",
        "bound": "seconds, sometimes",
    },
    {"name": "presigned URL", "role": "archive", "unit": "s2", "after": 1.9, "said": "403", "bound": "seconds"},
]
REVOKED: dict[str, Any] = {
    "tenant": "acme", "reason": "contract ended", "by": "me@here", "at": "2026-03-04T05:06:07+00:00",
    "denials": [], "engines": [], "paths": PATHS, "still_open": [], "uncounted": [], "up": {"update": 4},
    "counted": [{"storage": "s2", "versions": 12, "bytes": 345}], "operation": "acme-revoke-1",
}  # fmt: skip


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
    for name in ("KEYSHIFT_DATABASE_URL", "KEYSHIFT_LOG"):
        monkeypatch.delenv(name, raising=False)
    Records(connect(tmp_path / ".keyshift")).create(layouts.byok_active())
    return tmp_path


@pytest.fixture
def keyshift(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, at no terminal: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))

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


def text(shown: Any) -> str:
    console = Console(width=240, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


# confirmations --------------------------------------------------------------------------------


def test_a_revocation_is_confirmed_or_changes_nothing(keyshift: Run, project: Path) -> None:
    code, out, _ = keyshift("revoke", "acme", "--reason", "contract ended", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "not-confirmed")
    assert json.loads(out)["error"]["hint"] == "--yes"
    records = Records(connect(project / ".keyshift"))
    assert (records.tenant("acme").sealed, records.operations("acme")) == (False, [])


def test_the_name_may_be_typed_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    typed = ["acme", "acne"]
    monkeypatch.setattr(cli_revoke.typer, "prompt", lambda *_, **__: typed.pop(0))
    cli_revoke._confirm("acme", given=None, what="revoking closes acme", flag="--yes")
    with pytest.raises(cli_revoke.RefusedInput):
        cli_revoke._confirm("acme", given=None, what="revoking closes acme", flag="--yes")


def test_an_order_that_cannot_be_carried_out_is_refused_before_anybody_is_asked(keyshift: Run) -> None:
    code, out, _ = keyshift("key", "destroy", "acme", "k1", "--reason", "r", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "key-in-use")


def test_a_wrong_phrase_destroys_nothing(keyshift: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destroy.Destroyer, "refuse", lambda *_: None)
    monkeypatch.setattr(destroy.Destroyer, "destroy", lambda *_, **__: pytest.fail("it was destroyed"))
    code, out, _ = keyshift(
        "key", "destroy", "acme", "k1", "--reason", "r", "--confirm", "destroy k2 of acme", "--json"
    )
    assert (code, json.loads(out)["error"]["code"]) == (2, "not-confirmed")
    assert "destroy k1 of acme" in json.loads(out)["error"]["hint"]


# results --------------------------------------------------------------------------------------


def test_what_is_still_open_is_shown_and_ends_with_1(keyshift: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {**REVOKED, "still_open": ["GET of s2 as archive: answered 200"]}

    def still_open(*_: Any, **__: Any) -> None:
        raise revoke.StillOpen(found)

    monkeypatch.setattr(revoke.Revoker, "revoke", still_open)
    code, out, _ = keyshift("revoke", "acme", "--reason", "contract ended", "--yes")
    assert code == 1
    assert "STILL OPEN" in out
    assert "answered 200" in out


def test_a_revocation_shows_each_path_its_time_and_bound_and_that_a_time_is_no_bound(
    keyshift: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoke.Revoker, "revoke", lambda *_, **__: REVOKED)
    code, out, _ = keyshift("revoke", "acme", "--reason", "contract ended", "--yes")
    assert code == 0
    for words in ("presigned URL", "1.9 s", "seconds, sometimes", "shows that the procedure works", "s2: 12 versions"):
        assert words in out
    assert "pulumi up shows no change" in out
    moving = text(show_revoke.revoked({**REVOKED, "up": None}))
    assert "an operation is unfinished" in moving


def test_a_restore_shows_what_was_compared_and_read() -> None:
    checked = {"storage": "s2", "versions": 12, "versions_then": 12, "same": True, "objects_read": 10, "read_all": True}
    found = {
        "tenant": "acme",
        "was_sealed_for": "r",
        "checked": [checked],
        "paths": [],
        "found_again": ["k1"],
        "next": None,
    }
    shown = text(show_revoke.restored(found))
    assert "10 objects read whole; 12 versions, exactly those that were closed" in shown
    assert "found again" in shown
    other = {**checked, "same": False, "versions_then": 11, "read_all": False}
    assert "(a sample); 12 versions, 11 were closed: accepted" in text(
        show_revoke.restored({**found, "checked": [other]})
    )


# the watch ------------------------------------------------------------------------------------


CLEAN = Round(looked_at=1, lost=(), closed=(), reopened=(), waiting=(), failed=(), breaker=None)


@pytest.mark.parametrize(
    ("done", "code"),
    [
        (CLEAN, 0),
        (Round(**{**vars(CLEAN), "lost": ("acme",)}), 3),
        (Round(**{**vars(CLEAN), "waiting": ("acme",)}), 3),
        (Round(**{**vars(CLEAN), "lost": ("acme",), "failed": ("acme",)}), 1),
        (Round(**{**vars(CLEAN), "lost": ("acme",), "breaker": object()}), 1),
    ],
)
def test_the_exit_code_of_one_look(keyshift: Run, monkeypatch: pytest.MonkeyPatch, done: Round, code: int) -> None:
    monkeypatch.setattr(rounds.Watch, "round", lambda _: done)
    assert keyshift("watch", "--once")[0] == code


def test_events_are_one_line_each_for_machines_and_for_people(keyshift: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.Watch, "_look", lambda *_: [TABLE["disabled"][0]])
    code, out, _ = keyshift("watch", "--once", "--json")
    assert (code, [json.loads(line)["event"] for line in out.splitlines()]) == (3, ["key", "round"])
    code, out, _ = keyshift("watch", "--once", "--tenant", "acme", "--looks", "9")
    assert code == 3
    assert len(out.splitlines()) == 1
    assert "1 tenants looked at; lost: acme" in out


def test_a_tenant_that_does_not_exist_and_a_frantic_interval_are_refused(keyshift: Run) -> None:
    assert keyshift("watch", "--once", "--tenant", "nobody")[0] == 2
    assert keyshift("watch", "--interval", "0.1")[0] == 2


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            _of_finding("key", TABLE["disabled"][0]),
            "disabled: the key is disabled (KMS.DisabledException); data canary",
        ),
        (
            _of_finding("closed", TABLE["disabled"][0], slowest=1.5, still_open=[]),
            "every path refused after 1.5 s here",
        ),
        (_of_finding("closed", TABLE["disabled"][0], slowest=None, still_open=["GET of s1"]), "STILL OPEN: GET of s1"),
        (_of_finding("rotated", TABLE["alias moved"][0], handled=False), "nothing in this installation acts on it"),
        (_of_finding("rotated", TABLE["rotated in place"][0], handled=True), "new key material"),
        (_of_finding("reopen-failed", TABLE["whole"][0], error={"message": "no", "hint": "mend it"}), "no; mend it"),
        ({"event": "breaker", "at": "2026-03-04T05:06:07", "because": "3 of 3"}, "ALARM: 3 of 3"),
    ],
)
def test_each_event_is_a_sentence(event: dict[str, Any], words: str) -> None:
    assert words in text(show_watch.event(event))
