"""Jobs in Slurm's queue that a run whose main process was killed has left, and that a new run would submit again.

Snakemake cancels its jobs when it is interrupted. When it is killed, they go on, nobody knows of them, and the same
jobs of a second run would write the same files beside them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from essential_sparsity.errors import UserError

_SECONDS = 60.0
_SHOWN = 10


@dataclass(frozen=True)
class QueuedJob:
    """A job in Slurm's queue.

    Attributes:
        number: Its number.
        state: Its state, such as ``PENDING`` or ``RUNNING``.
        folder: The working directory that it was submitted in.
        comment: What the executor says of it: rule and wildcards.
    """

    number: str
    state: str
    folder: Path
    comment: str


def comment_of(rule: str, wildcards: Iterable[str]) -> str:
    """Return the comment that ``snakemake-executor-plugin-slurm`` gives a job: its name in Slurm is that of the run."""
    values = "_".join(wildcards).replace("/", "_")
    return f"rule_{rule}_wildcards_{values}" if values else f"rule_{rule}"


def queued_jobs() -> list[QueuedJob]:
    """Return the user's jobs that wait, run or end just now.

    Raises:
        UserError: Slurm does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--format=%i\t%T\t%Z\t%k"]
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
    """Read lines of number, state, folder and comment with tabs between them."""
    rows = (line.split("\t", 3) for line in text.splitlines() if line.strip())
    return [QueuedJob(number, state, Path(folder), comment) for number, state, folder, comment in rows]


def refuse_to_submit_twice(queue: Iterable[QueuedJob], folder: Path, planned: Collection[str] | None) -> None:
    """Stop a run some of whose jobs are in Slurm's queue already.

    Args:
        queue: What is in the queue.
        folder: The working directory of this run.
        planned: The comments of the jobs that it will submit; None if they are not all known yet.

    Raises:
        UserError: There are such jobs.
    """
    here = folder.resolve()
    left = [j for j in queue if j.folder.resolve() == here and (planned is None or j.comment in planned)]
    if not left:
        return
    shown = [f"{job.number} ({job.comment}, {job.state.lower()})" for job in left[:_SHOWN]]
    shown += [f"{len(left) - _SHOWN} more"] * (len(left) > _SHOWN)
    raise UserError(
        where=str(folder),
        found=f"jobs of an earlier run still in Slurm's queue: {', '.join(shown)}",
        expected="no jobs there that this run would submit again, to write the same files beside them",
        mend=f"wait until they have ended, or cancel them (scancel {' '.join(job.number for job in left)}); "
        "then run the workflow again",
    )
