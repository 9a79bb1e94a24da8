"""What the tests against real servers share: the marker, and one cloud a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from azure_fixtures import azure, blobs, customer_key, home  # noqa: F401 - fixtures
from cloud import Cloud, running_cloud

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("sandbox")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One sandbox with a project and a stamp, for every test that makes its own tenants on it."""
    with running_cloud(tmp_path_factory.mktemp("cloud")) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that failed on the cloud also shows what the sandbox's servers said."""
    report = yield
    made = item.funcargs.get("cloud") if hasattr(item, "funcargs") else None
    if report.failed and isinstance(made, Cloud):
        report.sections.append(("the sandbox's logs", made.logs()))
    return report
