"""The real Pulumi CLI with the environment's Python host: programs of components only, no provider."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.sandbox

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LIMIT = 60.0
SECRET = "correct horse battery staple"

PROGRAM = """
import pulumi

class Box(pulumi.ComponentResource):
    size: pulumi.Output[int]

    def __init__(self, name: str, size: int, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("toy:index:Box", name, {"size": size}, opts)
        self.size = pulumi.Output.from_input(size)
        self.register_outputs({"size": self.size})

config = pulumi.Config()
outer = Box("outer", config.get_int("size") or 3)
inner = Box("inner", 1, pulumi.ResourceOptions(parent=outer))
pulumi.export("sizes", pulumi.Output.all(outer.size, inner.size))
pulumi.export("label", "a plain label")
pulumi.export("password", config.get_secret("password"))
pulumi.export("length", len(config.get("password") or ""))
"""

GRAPH = [
    ("pulumi:pulumi:Stack", "toy-dev", None),
    ("toy:index:Box", "outer", "toy-dev"),
    ("toy:index:Box", "inner", "outer"),
]

PACK = """
from pulumi_policy import EnforcementLevel, PolicyPack, ResourceValidationPolicy

def is_small(args, report_violation):
    if args.resource_type == "toy:index:Box" and args.props["size"] > 5:
        report_violation(f"{args.name} holds {args.props['size']:.0f}")

PolicyPack("toy", [ResourceValidationPolicy("boxes-are-small", "Boxes hold five.", is_small, EnforcementLevel.MANDATORY)])
"""


@dataclass(frozen=True)
class Project:
    """A Pulumi project in a folder of its own, with its state in it and one stack."""

    folder: Path
    stack: str = "dev"

    @property
    def environment(self) -> dict[str, str]:
        """All that the CLI gets: a test must not depend on who runs it."""
        return {
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([str(BIN), os.defpath]),
            "PULUMI_CONFIG_PASSPHRASE": "a passphrase",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }

    def command(self, *words: str) -> list[str]:
        return [str(BIN / "pulumi"), *words, "--stack", self.stack, "--non-interactive", "--color", "never"]

    def try_pulumi(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def pulumi(self, *words: str, text: str = "") -> str:
        done = self.try_pulumi(*words, text=text)
        assert done.returncode == 0, f"pulumi {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *words: str) -> str:
        return self.pulumi("up", "--yes", "--skip-preview", *words)

    def program(self, text: str) -> None:
        (self.folder / "__main__.py").write_text(textwrap.dedent(text))

    def graph(self) -> list[tuple[str, str, str | None]]:
        """Type, name and parent's name of all resources in the state."""
        resources = json.loads(self.pulumi("stack", "export"))["deployment"].get("resources", [])
        return [
            (found["type"], name(found["urn"]), name(found["parent"]) if "parent" in found else None)
            for found in resources
        ]

    def state(self) -> str:
        """Every file of the backend: state, history and backups."""
        files = [file for file in (self.folder / "state").rglob("*") if file.is_file()]
        assert files
        return "\n".join(file.read_text() for file in files)


def name(urn: str) -> str:
    return urn.rpartition("::")[2]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    assert (BIN / "pulumi").exists(), "no engine in this environment: run `make setup`"
    (tmp_path / "state").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: toy\nruntime: python\nbackend:\n  url: file://./state\n")
    toy = Project(tmp_path)
    toy.program(PROGRAM)
    toy.pulumi("stack", "init")
    return toy


@pytest.fixture
def pack(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pack")
    (folder / "PulumiPolicy.yaml").write_text(f"runtime:\n  name: python\n  options:\n    virtualenv: {sys.prefix}\n")
    (folder / "__main__.py").write_text(PACK)
    return str(folder)


def test_an_up_makes_the_components_and_a_second_one_changes_nothing(project):
    project.up()
    assert project.graph() == GRAPH

    project.up("--expect-no-changes")
    assert project.graph() == GRAPH


def test_a_preview_counts_what_an_up_would_make_and_makes_none_of_it(project):
    preview = json.loads(project.pulumi("preview", "--json"))

    assert preview["changeSummary"] == {"create": len(GRAPH)}
    assert project.graph() == [], "a preview must not touch the state"


def test_the_engine_says_nothing_of_where_its_host_comes_from(project):
    done = project.try_pulumi("preview")

    assert done.returncode == 0
    assert "warning" not in done.stdout + done.stderr, "a warning at every command hides the one that matters"


def test_outputs_are_those_that_the_program_computed(project):
    project.pulumi("config", "set", "size", "4")
    project.up()

    outputs = json.loads(project.pulumi("stack", "output", "--json"))
    assert outputs["sizes"] == [4, 1]


def test_a_secret_reaches_the_program_and_is_encrypted_wherever_state_lies(project):
    # From standard input: on the command line every user of the machine could read it.
    project.pulumi("config", "set", "--secret", "password", text=SECRET)
    shown = project.up()

    outputs = json.loads(project.pulumi("stack", "output", "--json", "--show-secrets"))
    assert outputs["password"] == SECRET
    assert outputs["length"] == len(SECRET), "the program gets the value itself"
    state = project.state()
    assert "a plain label" in state, "else the next line would prove nothing"
    assert SECRET not in state
    assert SECRET not in shown
    assert SECRET not in (project.folder / "Pulumi.dev.yaml").read_text()


def test_a_refresh_keeps_the_graph_and_a_destroy_empties_it(project):
    project.up()
    project.pulumi("refresh", "--yes", "--skip-preview")
    assert project.graph() == GRAPH

    project.pulumi("destroy", "--yes", "--skip-preview")
    assert project.graph() == []


def test_a_failing_program_shows_its_error_and_deletes_nothing(project):
    project.up()
    project.program("import pulumi\n\ndef fail():\n    raise LookupError('no such stamp')\n\nfail()\n")
    failed = project.try_pulumi("up", "--yes", "--skip-preview")

    assert failed.returncode != 0
    assert "LookupError: no such stamp" in failed.stdout
    assert "__main__.py" in failed.stdout, "the reader needs the line"
    assert "run_program.py" not in failed.stdout, "the host's own frames tell the reader nothing"
    assert project.graph() == GRAPH, "a program that fails must not count as one that wants nothing"


def test_a_policy_pack_lets_a_program_pass_that_keeps_its_rules(project, pack):
    shown = project.pulumi("preview", "--policy-pack", pack)

    assert "toy@" in shown, "the pack was loaded"


def test_a_policy_pack_stops_a_program_that_breaks_them(project, pack):
    project.pulumi("config", "set", "size", "6")
    failed = project.try_pulumi("preview", "--policy-pack", pack)

    assert failed.returncode != 0
    assert "boxes-are-small" in failed.stdout
    assert "outer holds 6" in failed.stdout
    assert "inner holds" not in failed.stdout, "only the box that breaks the rule"


def test_a_program_does_not_outlive_a_killed_engine(project):
    lock = project.folder / "alive"
    project.program(
        """
        import fcntl, threading
        held = open("alive", "w")
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("started")
        held.flush()
        threading.Event().wait()
        """
    )
    with subprocess.Popen(
        project.command("up", "--yes", "--skip-preview"),
        cwd=project.folder,
        env=project.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as engine:
        try:
            assert within_limit(lambda: lock.exists() and lock.read_text() == "started"), "the program did not start"
            assert not is_free(lock)
        finally:
            engine.kill()

    assert within_limit(lambda: is_free(lock)), "it would go on making what no state records"


def is_free(lock: Path) -> bool:
    """Whether no process holds `lock`; a process that has ended, however it did, holds none."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def within_limit(condition) -> bool:
    pause = threading.Event()
    for _ in range(int(LIMIT / 0.05)):
        if condition():
            return True
        pause.wait(0.05)
    return condition()


def test_the_projects_own_settings_give_a_shell_its_state_and_a_program_its_defaults(tmp_path):
    shutil.copy(REPOSITORY / "Pulumi.yaml", tmp_path)
    (tmp_path / ".keyshift" / "pulumi").mkdir(parents=True)
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "__main__.py").write_text(
        "import pulumi\n"
        "config = pulumi.Config()\n"
        "for key in ('cloud', 'region', 'stamp', 'customer', 'keyMode'):\n"
        "    pulumi.export(key, config.get(key))\n"
    )
    keyshift = Project(tmp_path, stack="tenant-acme")
    keyshift.pulumi("stack", "init")
    keyshift.up()

    assert json.loads(keyshift.pulumi("stack", "output", "--json")) == {
        "cloud": "aws",
        "region": "eu-west-1",
        "stamp": "",
        "customer": "",
        "keyMode": "standard",
    }
    assert list((tmp_path / ".keyshift" / "pulumi").rglob("tenant-acme.json")), "state lies in the project's folder"
