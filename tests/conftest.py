"""What every test may need: the repository's folder, and where real data lie if they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder with the Snakefile."""
    return tiny.ROOT
