"""What README and docs tell people to type exists, shows what they say, and links lead somewhere.

`KEYSHIFT_README=write pytest tests/unit/test_readme.py` writes the help blocks anew.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from migrate.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELP = re.compile(r"<!-- help: (?P<command>keyshift[^>]*?) -->\n(?:```text\n.*?```\n)?", re.DOTALL)
PROMISED = {
    "keyshift --help",
    "keyshift tenant create --help",
    "keyshift archive import --help",
    "keyshift key request --help",
    "keyshift key wrap --help",
    "keyshift key upload --help",
    "keyshift key policy --help",
    "keyshift key onboard --help",
    "keyshift key check --help",
    "keyshift key follow --help",
    "keyshift confirm --help",
    "keyshift enable --help",
    "keyshift rotate --help",
    "keyshift status --help",
    "keyshift resume --help",
    "keyshift abort --help",
    "keyshift seal --help",
    "keyshift restore --help",
    "keyshift revoke --help",
    "keyshift watch --help",
    "keyshift key destroy --help",
    "keyshift key declare-lost --help",
    "keyshift search --help",
    "keyshift archive edit --help",
    "keyshift pipeline status --help",
    "keyshift pipeline replay --help",
    "keyshift verify --help",
    "keyshift repair --help",
    "keyshift gate --help",
    "keyshift fleet up --help",
    "keyshift backup restore --help",
    "keyshift verdict list --help",
    "keyshift verdict check --help",
}
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What a command prints in a terminal of a fixed width, without colours."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(command: str) -> str:
        with pytest.raises(SystemExit) as end:
            app(command.split()[1:], prog_name="keyshift")
        assert end.value.code == 0
        return "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())

    return run


def test_the_help_blocks_are_what_the_command_prints(help_of: Callable[[str], str]) -> None:
    text = README.read_text(encoding="utf-8")

    def block(found: re.Match[str]) -> str:
        return f"<!-- help: {found['command']} -->\n```text\n{help_of(found['command'])}\n```\n"

    right = HELP.sub(block, text)
    if os.environ.get("KEYSHIFT_README") == "write":
        README.write_text(right, encoding="utf-8")
    assert README.read_text(encoding="utf-8") == right, (
        "KEYSHIFT_README=write pytest tests/unit/test_readme.py mends it"
    )
    assert {found["command"] for found in HELP.finditer(right)} == PROMISED


# commands -------------------------------------------------------------------------------------


def code(page: Path) -> Iterator[str]:
    """Every command line of a page: of its sh blocks, and what stands in backticks."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (line.split("  #")[0].strip() for line in block.splitlines() if line.strip())
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose))


def commands(program: str) -> list[tuple[str, str]]:
    """(page, words behind the program) of each use of a program; alternatives like `up|down` one by one."""
    found = []
    for page in PAGES:
        for line in code(page):
            for words in re.findall(rf"(?:^|[\s;(]|&&){program}((?: [^;)]*)?)", f" {line}"):
                found += [(f"{page.name}: {line}", one) for one in alternatives(words.strip())]
    return found


def alternatives(words: str) -> list[str]:
    first = re.search(r"\S*\|\S*", words)
    if first is None:
        return [words]
    return [words.replace(first[0], one, 1) for one in first[0].split("|")]


def test_every_keyshift_command_that_the_pages_name_exists_with_its_options() -> None:
    named = commands("keyshift")
    assert len(named) > 20, "the pages name many; finding few means that they are not seen"
    problems = [f"{where}: {problem}" for where, words in named if (problem := unknown_to(get_command(app), words))]
    assert problems == []


def unknown_to(command: Any, words: str) -> str | None:
    """What the command line would refuse: a verb or an option that does not exist."""
    for word in words.split():
        if hasattr(command, "commands") and not word.startswith("-"):
            if word not in command.commands:
                return f"there is no `{word}`"
            command = command.commands[word]
        elif word.startswith("--"):
            options = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
            if word.split("=")[0] not in (*options, "--help"):
                return f"there is no option {word}"
    return None


def test_a_wrong_command_would_be_noticed() -> None:
    command = get_command(app)
    assert unknown_to(command, "enabel acme") == "there is no `enabel`"
    assert unknown_to(command, "enable acme --dryrun") == "there is no option --dryrun"
    assert unknown_to(command, "tenant create acme --no-up --customer x") is None


def test_every_make_target_and_variable_that_the_pages_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {words.split()[0] for _, words in commands("make") if words}
    assert named >= {"demo", "test"}
    assert named <= targets
    variables = {name for page in PAGES for line in code(page) for name in re.findall(r"([A-Z_]+)=\S+ make", line)}
    assert variables >= {"RECORDS", "INPUT"}
    assert all(f"{name} ?=" in makefile for name in variables)


def test_every_sandbox_command_that_the_pages_name_exists() -> None:
    usage = subprocess.run(
        [sys.executable, "-m", "sandbox", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    known = set(re.findall(r"^    (\w+) ", usage, re.MULTILINE))
    named = {words.split()[0] for _, words in commands(r"\S*python -m sandbox") if words}
    assert named >= {"up", "down", "reset", "status", "env"}
    assert named <= known
    modules = {name for page in PAGES for line in code(page) for name in re.findall(r"python -m (sandbox\.\w+)", line)}
    assert all(importlib.util.find_spec(name) for name in modules)


# links ----------------------------------------------------------------------------------------


@PAGE
def test_every_link_leads_to_something_that_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not link.startswith(("http://", "https://", "#"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_folder_of_the_readmes_table_is_there() -> None:
    rows = re.findall(r"^\| `([a-z]+)/` \|(.*)\|$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 5
    for name, holds in rows:
        assert (ROOT / name).is_dir(), name
        inside = re.findall(r"`([a-z]+)/?`", holds)
        assert [one for one in inside if not (ROOT / name / one).is_dir() and one != "keyshift"] == []


@PAGE
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    assert re.findall(r"/(?:home|root|work|Users)/\S+", page.read_text(encoding="utf-8")) == []
