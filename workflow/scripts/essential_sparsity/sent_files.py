"""Files of the user's that jobs on other machines read: without a shared file system Snakemake sends them there.

It sends what git tracks below the working directory, and leaves out files that are larger than 10 MB.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from essential_sparsity.errors import UserError

# Of Snakemake's `write_source_archive`.
LARGEST_BYTES = 10_000_000
_SECONDS = 60


def check_sent(paths: Iterable[Path]) -> None:
    """Check that files are among those that Snakemake sends.

    Args:
        paths: Existing files, as seen from the working directory.

    Raises:
        UserError: One is larger, named by an absolute path, or not tracked by git below the working directory.
    """
    paths = list(paths)
    tracked = _tracked() if paths else frozenset()
    for path in paths:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise _unsent(path, f"{size / 1e6:.1f} MB", "take it from the hub or from a package")
        if path.is_absolute():
            raise _unsent(
                path, "an absolute path", "name it relative to the working directory, below which it has to lie"
            )
        if os.path.normpath(path) not in tracked:
            raise _unsent(path, "a file that git does not track here", f"run `git add '{path}'`")


def _tracked() -> frozenset[str]:
    """Return what git tracks below the working directory; nothing where there is no git, or no clone."""
    try:
        found = subprocess.run(["git", "ls-files", "-z"], capture_output=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(map(os.fsdecode, found.stdout.split(b"\0")))


def _unsent(path: Path, found: str, mend: str) -> UserError:
    return UserError(
        where=str(path),
        found=found,
        expected=f"at most {LARGEST_BYTES // 10**6} MB, tracked by git below the working directory: jobs on machines "
        "without a shared file system are sent no other files",
        mend=mend,
    )
