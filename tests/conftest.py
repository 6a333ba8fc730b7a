"""What every test may need: the repository's folder, and where real data lie if they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all tests of the finished tiny study to one process, so that it is run once; others go by their file."""
    for item in items:
        shared = "finished" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("finished" if shared else str(item.path)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder with the Snakefile."""
    return tiny.ROOT
