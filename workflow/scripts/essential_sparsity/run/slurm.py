"""Jobs in Slurm's queue that another run in the same folder has left there, and that a new run would submit again.

Snakemake cancels its jobs when it is interrupted. When it is killed, they go on, nobody knows of them, and the same
jobs of a second run would write the same files beside them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from essential_sparsity.errors import UserError

_SECONDS = 60.0


def refuse_to_submit_twice(folder: Path, prefix: str) -> None:
    """Stop a run in a folder of which Snakemake's jobs wait, run or end just now in Slurm's queue.

    Args:
        folder: The working directory of this run.
        prefix: What names of Snakemake's jobs begin with (``slurm-jobname-prefix``).

    Raises:
        UserError: There are such jobs, or Slurm does not answer.
    """
    here = folder.resolve()
    rows = (line.split("\t", 2) for line in _queue().splitlines())
    left = [number for number, place, name in rows if Path(place).resolve() == here and name.startswith(prefix)]
    if left:
        raise UserError(
            where=str(folder),
            found=f"jobs of another run in Slurm's queue ({len(left)})",
            expected="none there, as this run may submit the same again, to write the same files beside them",
            mend=f"wait until they have ended, or cancel them (scancel {' '.join(left)}); then run the workflow again",
        )


def _queue() -> str:
    """Return a line for each of the user's jobs: number, working directory and name, with tabs between them."""
    command = ["squeue", "--me", "--noheader", "--format=%i\t%Z\t%j"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise UserError(
            where=" ".join(command[:2]),
            found=reason,
            expected="the jobs that are in Slurm's queue",
            mend="run the workflow on a machine that submits jobs, once Slurm answers there",
        ) from None
