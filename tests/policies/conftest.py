"""One project on paper clouds for all tests here: the real engine, the real pack, plugins with nothing behind them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BIN = Path(sys.executable).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit")]

PACK = REPOSITORY / "policies"
STAMP = "stamp-aws-eu-west-1-01"
TENANT = "tenant-acme"
LIMIT = 180.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("sandbox")


@dataclass(frozen=True)
class Seen:
    """A preview or update that has ended, and what the pack said in it."""

    code: int
    text: str
    events: tuple[Mapping[str, Any], ...]

    @property
    def violations(self) -> list[tuple[str, str]]:
        """(rule, resource), mandatory ones."""
        said = [one["policyEvent"] for one in self.events if "policyEvent" in one]
        return [
            (one["policyName"], one["resourceUrn"].rpartition("::")[2])
            for one in said
            if one["enforcementLevel"] == "mandatory"
        ]

    @property
    def advice(self) -> list[str]:
        said = [one["policyEvent"] for one in self.events if "policyEvent" in one]
        return [one["message"] for one in said if one["enforcementLevel"] != "mandatory"]

    @property
    def asked(self) -> set[str]:
        found: set[str] = set()
        for one in self.events:
            for name in ("policyAnalyzeSummaryEvent", "policyAnalyzeStackSummaryEvent"):
                found |= {*one.get(name, {}).get("passed", ()), *one.get(name, {}).get("failed", ())}
        return found

    @property
    def made(self) -> set[str]:
        """The names of the resources that this run made."""
        done = [one["resOutputsEvent"]["metadata"] for one in self.events if "resOutputsEvent" in one]
        return {one["urn"].rpartition("::")[2] for one in done if one["op"] == "create"}


@dataclass(frozen=True)
class World:
    folder: Path

    def run(
        self, verb: str, *words: str, stack: str, variables: Mapping[str, str] = {}, pack: Path | None = PACK
    ) -> Seen:
        log = Path(tempfile.mkstemp(dir=self.folder)[1])
        told = ["--event-log", str(log)] if verb != "stack" else []
        policy = ["--policy-pack", str(pack)] if pack else []
        done = subprocess.run(
            [
                *(str(BIN / "pulumi"), verb, *words, *policy, *told),
                *("--stack", stack, "--non-interactive", "--color", "never"),
            ],
            cwd=self.folder / "project",
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        events = tuple(json.loads(line) for line in log.read_text().splitlines() if line)
        return Seen(done.returncode, done.stdout + done.stderr, events)

    def preview(self, layout: str, *words: str, **variables: str) -> Seen:
        stack = "stamp-aws-eu-west-1-02" if layout == "stamp" else TENANT
        return self.run("preview", *words, stack=stack, variables={"LAYOUT": layout, **variables})

    @property
    def environment(self) -> dict[str, str]:
        """All that the CLI gets: a test must not depend on who runs it."""
        return {
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([str(BIN), str(self.folder / "bin"), os.defpath]),
            "PULUMI_CONFIG_PASSPHRASE": "a passphrase",
            "PULUMI_DEBUG_COMMANDS": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    assert (BIN / "pulumi").exists(), "no engine in this environment: run `make setup`"
    made = World(tmp_path_factory.mktemp("policies"))
    for name in ("bin", "project", "state"):
        (made.folder / name).mkdir()
    for package in ("aws", "ec", "elasticstack"):
        plugin = made.folder / "bin" / f"pulumi-resource-{package}"
        command = shlex.join([sys.executable, "-P", str(HERE / "paper_cloud.py"), package])
        plugin.write_text(f"#!/bin/sh\nexec {command}\n")
        plugin.chmod(0o755)
    (made.folder / "project" / "Pulumi.yaml").write_text(
        f"name: keyshift\nruntime: python\nmain: {HERE / 'program.py'}\n"
        f"backend:\n  url: file://{made.folder / 'state'}\n"
    )
    for stack in (STAMP, "stamp-aws-eu-west-1-02", TENANT):
        made.run("stack", "init", stack=stack, pack=None)
    up = made.run("up", "--yes", "--skip-preview", stack=STAMP, pack=None)
    assert up.code == 0, up.text
    return made
