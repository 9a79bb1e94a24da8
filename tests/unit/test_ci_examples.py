"""The examples in docs/ci are what the two services take: their own schemas, the shell's own parser, our own verbs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from migrate import cli

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "ci"
SCHEMAS = {"github-actions.yml": "vendor.github-workflows", "gitlab-ci.yml": "vendor.gitlab-ci"}
"""File -> the schema of SchemaStore that check-jsonschema carries with it, so that nothing is fetched."""


def checked(name: str, file: Path) -> subprocess.CompletedProcess[str]:
    words = ["--builtin-schema", SCHEMAS[name], str(file)]
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *words], capture_output=True, text=True, check=False, timeout=120
    )


def scripts(name: str) -> Iterator[str]:
    """Every piece of shell in an example; what the service fills in stands for a word."""
    held = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    for text in _shell(held):
        yield re.sub(r"\$\{\{.*?\}\}", "word", text)


def _shell(held: Any) -> Iterator[str]:
    if isinstance(held, list):
        for one in held:
            yield from _shell(one)
    elif isinstance(held, dict):
        for key, value in held.items():
            if key == "run":
                yield value
            elif key == "script":
                yield from value
            else:
                yield from _shell(value)


def test_every_example_has_a_schema_that_it_is_held_against() -> None:
    assert {file.name for file in EXAMPLES.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_example_is_what_the_service_takes(name: str) -> None:
    found = checked(name, EXAMPLES / name)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("github-actions.yml", "runs-on: ubuntu-latest", "runs-at: ubuntu-latest"),
        ("github-actions.yml", "      - run: make setup", "      - run: [make, setup]"),
        ("gitlab-ci.yml", "stages: [test, preview]", "stages: test"),
        ("gitlab-ci.yml", "    when: always", "    when: sometimes"),
    ],
)
def test_the_schema_refuses_what_the_service_would_refuse(tmp_path: Path, name: str, right: str, wrong: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / name
    broken.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    assert checked(name, broken).returncode == 1


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_shell_in_an_example_can_be_parsed(name: str) -> None:
    found = list(scripts(name))
    assert len(found) >= 3
    for script in found:
        parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False, timeout=20)
        assert parsed.returncode == 0, f"{script}\n{parsed.stderr}"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_commands_of_ours_in_an_example_exist(name: str) -> None:
    text = "\n".join(scripts(name))
    targets = set((ROOT / "Makefile").read_text(encoding="utf-8").split(".PHONY: ", 1)[1].splitlines()[0].split())
    asked = {word for words in re.findall(r"\bmake ([a-z -]+)", text) for word in words.split()}
    assert asked, "no target of the Makefile was found in it"
    assert asked <= targets
    group: Any = typer.main.get_command(cli.app)
    verbs = re.findall(r"keyshift ([a-z-]+) ([a-z-]+)", text)
    assert verbs, "no verb was found in it"
    for verb, sub in verbs:
        assert sub in group.commands[verb].commands, f"keyshift {verb} {sub}"


def test_what_is_no_python_in_our_packages_is_installed_too() -> None:
    """The runner gives the engine the folder `policies`, whose PulumiPolicy.yaml makes it a pack."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        named = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    listed = subprocess.run(
        ["git", "ls-files", "stacks", "components", "migrate", "policies", "engine", "sandbox"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    others = [Path(line) for line in listed.stdout.splitlines() if not line.endswith(".py")]
    assert Path("policies/PulumiPolicy.yaml") in others
    for file in others:
        package, inside = file.parts[0], file.relative_to(file.parts[0])
        assert any(inside.match(pattern) for pattern in named.get(package, ())), f"{file} would not be installed"
