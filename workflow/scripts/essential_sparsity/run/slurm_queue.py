"""Jobs in Slurm's queue that another run in the same folder has left there, and that a new run would submit again.

Snakemake cancels its jobs when it is interrupted. When it is killed, they go on, nobody knows of them, and the same
jobs of a second run would write the same files beside them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from essential_sparsity.errors import UserError

_SECONDS = 60.0


@dataclass(frozen=True)
class QueuedJob:
    """A job in Slurm's queue: its number, the working directory that it was submitted in, and its name."""

    number: str
    folder: Path
    name: str


def queued_jobs() -> list[QueuedJob]:
    """Return the user's jobs that wait, run or end just now.

    Raises:
        UserError: Slurm does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--format=%i\t%Z\t%j"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise UserError(
            where=" ".join(command[:2]),
            found=reason,
            expected="the jobs that are in Slurm's queue",
            mend="run the workflow on a machine that submits jobs, once Slurm answers there",
        ) from None
    return parse_queue(found.stdout)


def parse_queue(text: str) -> list[QueuedJob]:
    """Read lines of number, folder and name with tabs between them."""
    rows = (line.split("\t", 2) for line in text.splitlines() if line.strip())
    return [QueuedJob(number, Path(folder), name) for number, folder, name in rows]


def refuse_to_submit_twice(queue: Iterable[QueuedJob], folder: Path, prefix: str) -> None:
    """Stop a run in a folder of which Snakemake's jobs are in Slurm's queue already.

    Args:
        queue: What is in the queue.
        folder: The working directory of this run.
        prefix: What names of Snakemake's jobs begin with (`slurm-jobname-prefix`).

    Raises:
        UserError: There are such jobs.
    """
    here = folder.resolve()
    left = [job.number for job in queue if job.folder.resolve() == here and job.name.startswith(prefix)]
    if left:
        raise UserError(
            where=str(folder),
            found=f"jobs of another run in Slurm's queue ({len(left)})",
            expected="none there, as this run may submit the same again, to write the same files beside them",
            mend=f"wait until they have ended, or cancel them (scancel {' '.join(left)}); then run the workflow again",
        )
