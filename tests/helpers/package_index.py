"""An index of packages of the tests' own, in place of any that the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def use_only(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let pip find the packages of a folder and no others, whatever it is set to on this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        patch.delenv(name)
    patch.setenv("PIP_CONFIG_FILE", os.devnull)
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(folder))
