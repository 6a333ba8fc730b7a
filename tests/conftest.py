"""What every test may need: the repository's folder, and where real data lie if they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder with the Snakefile."""
    return tiny.ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with files that take minutes, whose tests are few: one that comes last has one process busy alone."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")
