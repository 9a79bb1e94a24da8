"""Runs whose processes are killed. They share the cloud of the tests against real servers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "sandbox"))

from cloud import Cloud, running_cloud  # noqa: E402 - found by the line above


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A sandbox with a project and a stamp, for the tests of this folder."""
    with running_cloud(tmp_path_factory.mktemp("cloud")) as made:
        yield made
