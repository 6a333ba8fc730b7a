"""Which version of the workflow computed something."""

from __future__ import annotations

import subprocess
from pathlib import Path


def workflow_commit(folder: str | Path) -> str | None:
    """Return the commit of the workflow's clone, with ``-dirty`` for uncommitted changes; None outside a clone."""
    try:
        top = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if not (Path(top.stdout.strip() or "/") / "Snakefile").is_file():
            # Unpacked inside another repository, whose commit would say nothing of the workflow.
            return None
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
