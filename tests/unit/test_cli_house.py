"""The verbs over the whole house (gate, fleet, stamp, backup): what people see, and exit codes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import layouts
import pytest
import structlog

from migrate import backup, cli, fleet, placement
from migrate.fleet import Came, Row
from migrate.records import Records
from stacks.record import connect

Ran = tuple[int, str, str]


@pytest.fixture(autouse=True)
def _logging_of_its_own() -> Iterator[None]:
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
    Records(connect(tmp_path / ".keyshift")).create(layouts.standard())
    return tmp_path


@pytest.fixture
def keyshift(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["keyshift", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# gate -----------------------------------------------------------------------------------------


def test_a_gate_that_nobody_knows_is_told_as_closed_and_fails(
    keyshift: Callable[..., Ran], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "broken.db").write_bytes(b"no database at all, " * 100)
    monkeypatch.setenv("KEYSHIFT_DATABASE_URL", f"sqlite:///{project / 'broken.db'}")
    code, out, _ = keyshift("gate", "acme")
    assert code == 1
    assert out.count("closed: ") == 3
    code, out, _ = keyshift("gate", "acme", "--json")
    assert code == 1
    found = json.loads(out)
    assert [found[what]["allowed"] for what in ("access", "jobs", "searches")] == [False] * 3


# fleet ----------------------------------------------------------------------------------------


def rows(*came: Came) -> list[Row]:
    return [
        Row(tenant=f"t{number}", came=one, changes={"update": 2} if one is Came.CHANGED else {}, because=f"why {one}")
        for number, one in enumerate(came)
    ]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def will(*came: Came) -> None:
        def run(self: fleet.Fleet, *_: object) -> list[Row]:
            found = rows(*came)
            for row in found:
                self._told(row)
            return found

        monkeypatch.setattr(fleet.Fleet, "run", run)

    return will


@pytest.mark.parametrize(
    ("verb", "came", "code", "said"),
    [
        ("up", (Came.CHANGED, Came.NO_CHANGE), 0, "nothing is left to do"),
        ("up", (Came.FAILED, Came.NOT_BEGUN), 1, "mend the cause, then: keyshift fleet up --where mode=standard"),
        ("up", (Came.SKIPPED,), 0, "once they may be worked on: keyshift fleet up --where mode=standard"),
        ("preview", (Came.WOULD_CHANGE,), 0, "to carry it out: keyshift fleet up --where mode=standard"),
    ],
)
def test_a_run_over_the_fleet_ends_in_one_table_and_the_next_command(  # noqa: PLR0917 - a table's columns
    keyshift: Callable[..., Ran],
    ran: Callable[..., None],
    verb: str,
    came: tuple[Came, ...],
    code: int,
    said: str,
) -> None:
    ran(*came)
    found, out, err = keyshift("fleet", verb, "--where", "mode=standard")
    assert (found, said in out) == (code, True)
    assert all(f"why {one}" in out for one in came)
    assert f"1 of 1 · t0: {came[0]}" in err, "each is told as it ends"
    found, out, err = keyshift("fleet", verb, "--where", "mode=standard", "--json")
    assert (found, json.loads(out)["failed"]) == (code, code == 1)
    assert all(json.loads(line)["tenant"].startswith("t") for line in err.splitlines())


def test_a_fleet_of_nobody_is_refused(keyshift: Callable[..., Ran]) -> None:
    code, _, err = keyshift("fleet", "up", "--where", "mode=byok")
    assert code == 2
    assert "no tenant fits" in err


# stamps ---------------------------------------------------------------------------------------


@pytest.fixture
def stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    one = placement.Stamp(
        name="stamp-aws-eu-west-1-01", cloud="aws", region="eu-west-1", number=1, account="111122223333"
    )
    monkeypatch.setattr(placement, "stamps", lambda _: [one])


@pytest.mark.usefixtures("stamps")
def test_stamps_are_listed_with_what_is_used_of_what(keyshift: Callable[..., Ran]) -> None:
    code, out, _ = keyshift("stamp", "list")
    assert code == 0
    (line,) = [line.split() for line in out.splitlines() if " rules " in line]
    assert line == ["stamp-aws-eu-west-1-01", "1", "rules", "2", "30", "300", "111122223333/eu-west-1"]


@pytest.mark.usefixtures("stamps")
def test_a_raised_quota_is_noted_and_nonsense_is_refused(keyshift: Callable[..., Ran]) -> None:
    code, out, _ = keyshift("stamp", "quota", "stamp-aws-eu-west-1-01", "rules", "21", "--json")
    (stamp,) = json.loads(out)["stamps"]
    assert (code, stamp["has_room"]) == (0, False), "20 are kept for moves, 1 is used"
    for words, said in (
        (("stamp-aws-eu-west-1-01", "wishes", "5"), "'wishes' is no quota"),
        (("stamp-aws-eu-west-1-09", "rules", "5"), "stamp-aws-eu-west-1-09 has not been brought up"),
    ):
        code, _, err = keyshift("stamp", "quota", *words)
        assert code == 2
        assert said in err


# backups --------------------------------------------------------------------------------------


def test_a_backup_is_made_checked_and_restored_by_what_people_type(
    keyshift: Callable[..., Ran], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "a passphrase")
    folder = str(tmp_path / "kept")
    code, out, _ = keyshift("backup", folder)
    assert code == 0
    assert "acme (generation 1, 0 log lines)" in out
    signed_by = backup.check_backup(Path(folder), None)["signed_by"]
    assert f"keep the fingerprint apart from the backup: {signed_by}" in out
    assert keyshift("backup", "check", folder, "--signed-by", signed_by)[0] == 0
    assert keyshift("backup", "check", folder, "--signed-by", "0" * 16)[0] == 1
    code, _, err = keyshift("backup", "restore", folder)
    assert code == 2
    assert "the record of tenant acme" in err
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "Pulumi.yaml").touch()
    monkeypatch.setenv("KEYSHIFT_PROJECT", str(fresh))
    code, out, _ = keyshift("backup", "restore", folder)
    assert code == 0
    assert "raised by 1,000,000" in out
    assert "pulumi preview -s tenant-acme --refresh" in out
    assert Records(connect(fresh / ".keyshift")).tenant("acme").layout == layouts.standard()
