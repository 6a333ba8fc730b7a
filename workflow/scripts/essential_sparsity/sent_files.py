"""Files of the user's that jobs on other machines read: without a shared file system Snakemake sends them there.

It sends what git tracks below the working directory, and leaves out files that are larger than 10 MB.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from essential_sparsity.errors import UserError

# Of Snakemake's `write_source_archive`.
LARGEST_BYTES = 10_000_000
_SECONDS = 60


def check_sent(path: Path) -> None:
    """Check that a file is among those that Snakemake sends.

    Args:
        path: An existing file, as seen from the working directory.

    Raises:
        UserError: It is larger, lies elsewhere, or is not tracked by git.
    """
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise _unsent(path, f"{size / 1e6:.1f} MB", "take it from the hub or from a package")
    if not path.resolve().is_relative_to(Path.cwd().resolve()):
        raise _unsent(path, f"a file outside {Path.cwd()}", "copy it there and `git add` it")
    known = subprocess.run(
        ["git", "ls-files", "--error-unmatch", "--", str(path)], capture_output=True, timeout=_SECONDS, check=False
    )
    if known.returncode != 0:
        raise _unsent(path, "a file that git does not track", f"run `git add '{path}'`")


def _unsent(path: Path, found: str, mend: str) -> UserError:
    return UserError(
        where=str(path),
        found=found,
        expected=f"at most {LARGEST_BYTES // 10**6} MB, tracked by git below the working directory: jobs on machines "
        "without a shared file system are sent no other files",
        mend=mend,
    )
