"""One process at a time writes a job's outputs, whatever run started it.

Snakemake locks a working directory, not its outputs: a job whose main process was killed goes on, and after `--unlock`
a second run would start the same job beside it. So each job holds a lock on what it writes from its first line to its
last: a file below `results/.locks`, which the system unlocks when the process ends, however it ends. Whoever comes
second waits, and takes over what the first has finished meanwhile.

The lock is flock(2), by filelock. NFS turns it into a lock that the server keeps for all hosts, Lustre does so where it
is mounted with `flock`, and a server forgets the locks of a host that is lost. A file system without any is worked on
without a lock, and the log says so. Forked processes do not inherit it, and nobody should outlive a job and write
(`processes.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from essential_sparsity.errors import UserError
from essential_sparsity.integrity import last_made, modified, note_outputs
from essential_sparsity.tickets import NO_LOCKS, read_note, ticket_of, write_note, writer_of

# Seconds between two looks at a lock that another process has.
_PATIENCE = 0.5


@dataclass(frozen=True)
class Turn:
    """A process's turn at writing.

    Attributes:
        to_do: Whether there is something to do: False if the process that was waited for has done the very same.
        note: What is to be said of the lock; empty if there is nothing to say.
        waited: Whether another process had it.
    """

    to_do: bool = True
    note: str = ""
    waited: bool = False


@contextmanager
def sole_writer(outputs: Iterable[str], inputs: Iterable[str], job: str, tell: Callable[[str], None]) -> Iterator[Turn]:
    """Hold the locks on a job's outputs; wait for them where another process has them.

    They stand for what lies beside the outputs and is none, too, such as the states of a training. At the end of the
    block the outputs' checksums are noted.

    Args:
        outputs: The paths that the job writes, one at least.
        inputs: The paths that it reads.
        job: What it does: two jobs with one text that read the same bytes write the same.
        tell: Says something to whoever watches the job, before its turn.

    Raises:
        UserError: The file of a lock cannot be made.
    """
    written, read = list(map(Path, outputs)), list(map(Path, inputs))
    # In one order, so that no two processes wait for each other.
    tickets = sorted(map(ticket_of, written))
    with ExitStack() as locks:
        turns = [_acquire(locks, ticket, tell) for ticket in tickets]
        if any(turn.waited for turn in turns) and all(_did(path, job, read) for path in written):
            note = f"{writer_of(tickets[0])} has done this very job meanwhile: nothing is left to do"
            yield Turn(to_do=False, note=note)
            return
        for ticket in tickets:
            write_note(ticket, {"before": last_made(ticket)})
        began = max(map(_began, tickets))
        yield next((turn for turn in turns if turn.note), Turn())
        note_outputs(written, read, {"did": job, "began": began})


def _acquire(locks: ExitStack, ticket: Path, tell: Callable[[str], None]) -> Turn:
    """Take the lock of a ticket; return what came of it."""
    lock = FileLock(ticket, fallback_to_soft=False)
    locks.callback(lock.release)
    try:
        ticket.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        return Turn()
    except Timeout:
        began, writer = time.monotonic(), writer_of(ticket)
        tell(f"{writer} is writing the outputs of this job: waiting until it ends")
        lock.acquire(poll_interval=_PATIENCE)
        seconds = time.monotonic() - began
        return Turn(note=f"waited {seconds:.0f} s until {writer}, which wrote the same outputs, had ended", waited=True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _unwritable(ticket, error) from error
        return Turn(note=f"{ticket.parent} is on a file system without locks: two runs could write the same files")


def _did(path: Path, job: str, inputs: Iterable[Path]) -> bool:
    """Say whether an output is there that the last writer made by this job, and no input is newer than its begin."""
    note = read_note(ticket_of(path))
    return path.exists() and note.get("did") == job and all(modified(name) <= note["began"] for name in inputs)


def _began(ticket: Path) -> int:
    """Return the time of a note, by the file system's clock; none where there was no room for it."""
    return modified(ticket) if ticket.exists() else 0


def _unwritable(file: Path, error: OSError) -> UserError:
    return UserError(
        where=str(file),
        found=f"no way to write it ({error.strerror})",
        expected="a folder of results that can be written, on a file system with room",
        mend="free space, or correct the permissions or the mount of the folder; then run again",
    )
