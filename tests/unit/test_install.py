"""The set-up's own parts, on folders and programs made for the test."""

from __future__ import annotations

import os
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from engine import install, paths


@pytest.fixture
def session(tmp_path, monkeypatch) -> install.Session:
    monkeypatch.setenv("KEYSHIFT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tree" / ".venv" / "bin").mkdir(parents=True)
    return install.Session(tree=tmp_path / "tree", verbose=False)


def script(place: Path, body: str = "exit 0") -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/sh\n{body}\n")
    place.chmod(0o755)
    return place


def links(session: install.Session) -> dict[str, Path]:
    return {found.name: found.resolve() for found in (session.venv / "bin").iterdir()}


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path):
    target = tmp_path / "thing"
    target.mkdir()
    (target / "old").touch()
    (tmp_path / ".thing-killed").mkdir()

    def fail_half_way() -> None:
        with install.building(target) as fresh:
            (fresh / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [found.name for found in tmp_path.rglob("*")] == ["thing", "old"], "nothing is left of the failed one"

    with install.building(target) as fresh:
        (fresh / "new").touch()
    assert [found.name for found in tmp_path.rglob("*")] == ["thing", "new"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755, "Elasticsearch runs as another user"


def test_a_new_enough_pulumi_of_the_users_is_linked_with_its_own_host(session, tmp_path, monkeypatch):
    official = script(tmp_path / "official" / "pulumi", "echo v3.300.1")
    script(tmp_path / "official" / install.HOST)
    monkeypatch.setenv("PATH", f"{official.parent}{os.pathsep}{os.defpath}")
    script(session.venv / "bin" / install.HOST, "exec ours")

    install.engine(session)

    assert links(session) == {"pulumi": official}, "ours would stand before the official host on PATH"


def test_a_new_enough_pulumi_without_a_python_host_gets_ours(session, tmp_path, monkeypatch):
    bare = script(tmp_path / "bare" / "pulumi", "echo v3.259.0")
    monkeypatch.setenv("PATH", f"{bare.parent}{os.pathsep}{os.defpath}")

    install.engine(session)

    assert links(session) == {"pulumi": bare, install.HOST: session.venv / "bin" / install.HOST}
    host = session.venv / "bin" / install.HOST
    script(session.venv / "bin" / "python", 'echo "$@"')
    shown = subprocess.run([host, "127.0.0.1:1"], capture_output=True, text=True, check=True).stdout
    assert shown == "-I -m engine.language_host 127.0.0.1:1\n"


@pytest.mark.parametrize("answer", ["echo v3.258.9", "echo", "exit 1"])
def test_a_pulumi_that_is_too_old_or_has_no_version_is_passed_over(session, tmp_path, monkeypatch, answer):
    old = script(tmp_path / "old" / "pulumi", answer)
    monkeypatch.setenv("PATH", f"{old.parent}{os.pathsep}{os.defpath}")
    built = script(paths.built_engine_home() / "pulumi", "echo v3.259.0")

    install.engine(session)

    assert links(session) == {"pulumi": built, install.HOST: built.with_name(install.HOST)}, (
        "host and engine lie together, or the engine warns at every command"
    )


def test_another_trees_link_is_not_taken_for_an_engine_with_a_host(session, tmp_path, monkeypatch):
    other = script(tmp_path / "other cache" / "pulumi", "echo v3.259.0")
    (other.parent / install.HOST).write_text(install.HOST_SCRIPT)
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.defpath}")

    install.engine(session)

    assert install.HOST in links(session), "our script works beside the python of its own tree only"


def test_a_missing_tool_is_named_with_the_command_that_installs_it(session, monkeypatch, capsys):
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(session.tree))
    monkeypatch.setattr(install, "setup", lambda session: install.require(session, install.GO))
    monkeypatch.setattr("sys.argv", ["engine.install"])

    assert install.main() == 2
    error = capsys.readouterr().err
    assert "go 1.21 or newer is missing" in error
    assert "golang-go" in error or "brew install go" in error


@pytest.mark.parametrize(
    ("tool", "shown", "version"),
    [
        (install.GO, "go version go1.26.8 linux/amd64", (1, 26, 8)),
        (install.JAVA, 'Picked up JAVA_TOOL_OPTIONS: -Xmx64m\nopenjdk version "17.0.15" 2025-04-15', (17, 0, 15)),
        (install.MAVEN, "\x1b[1mApache Maven 3.8.7\x1b[m", (3, 8, 7)),
    ],
)
def test_a_tools_version_is_read_among_other_numbers(tmp_path, tool, shown, version):
    program = script(tmp_path / tool.name, f"cat <<'END' >&2\n{shown}\nEND")

    assert install.version_of([program], tool.before) == version


def test_the_path_for_building_packages_holds_no_pulumi(tmp_path, monkeypatch):
    script(tmp_path / "with" / "pulumi")
    script(tmp_path / "without" / "python3")
    monkeypatch.setenv("PATH", f"{tmp_path / 'with'}{os.pathsep}{tmp_path / 'without'}")

    assert install.path_without("pulumi") == str(tmp_path / "without")


def test_a_zip_is_unpacked_without_its_top_folder_and_with_the_files_modes(tmp_path):
    archive = tmp_path / "thing.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name, mode in (("thing-1/bin/start", 0o755), ("thing-1/README", 0o644)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | mode) << 16
            made.writestr(entry, name)

    install.unpack(archive, tmp_path / "out")

    assert (tmp_path / "out" / "bin" / "start").read_text() == "thing-1/bin/start"
    assert os.access(tmp_path / "out" / "bin" / "start", os.X_OK)
    assert not os.access(tmp_path / "out" / "README", os.X_OK)


def test_places_in_the_cache_change_with_what_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("KEYSHIFT_CACHE", str(tmp_path))
    lock = tmp_path / "requirements" / "sandbox.txt"
    lock.parent.mkdir()
    monkeypatch.setattr(paths, "TREE", tmp_path)
    lock.write_text("ministack==1")
    before = paths.emulator_python()
    lock.write_text("ministack==2")

    assert paths.emulator_python() != before
    assert paths.emulator_python().is_relative_to(tmp_path)
