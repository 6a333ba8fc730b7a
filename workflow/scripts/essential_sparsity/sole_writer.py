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

import errno
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from essential_sparsity.errors import UserError

RESULTS, LOCKS = "results", ".locks"
# Seconds between two looks at a lock that another process has.
_PATIENCE = 0.5
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def lock_file(output: Path) -> Path:
    """Return the file whose lock stands for an output: the same by whatever path the results are reached.

    It is never removed: a lock on a removed file is no lock for the next who makes it.
    """
    results = next((folder for folder in reversed(output.parents) if folder.name == RESULTS), output.parent)
    return results / LOCKS / hashlib.sha256(output.relative_to(results).as_posix().encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Turn:
    """A process's turn at writing.

    Attributes:
        to_do: Whether there is something to do: False if the process that was waited for has done the very same.
        note: What is to be said of the wait; empty without one.
    """

    to_do: bool = True
    note: str = ""


@contextmanager
def sole_writer(outputs: Iterable[str], inputs: Iterable[str], job: str, tell: Callable[[str], None]) -> Iterator[Turn]:
    """Hold the lock on a job's outputs; wait for it where another process has it.

    Args:
        outputs: The paths that the job writes, one at least. Jobs that share any share the first: it stands for all,
            and for what lies beside them and is no output, such as the states of a training.
        inputs: The paths that it reads.
        job: What it does: two jobs with one text that read the same bytes write the same.
        tell: Says something to whoever watches the job, before its turn.

    Raises:
        UserError: The lock's file cannot be made.
    """
    paths = [Path(output) for output in outputs]
    file = lock_file(paths[0])
    lock = FileLock(file, fallback_to_soft=False)
    try:
        waited, note = _acquire(lock, file, tell)
        if waited and all(path.exists() for path in paths) and _did(_note(file), job, inputs):
            yield Turn(to_do=False, note=f"{_writer(file)} has done this very job meanwhile: nothing is left to do")
            return
        _write_note(file, {})
        began = _modified(file)
        yield Turn(note=note)
        _write_note(file, {"did": job, "began": began})
    finally:
        lock.release()


def _acquire(lock: FileLock, file: Path, tell: Callable[[str], None]) -> tuple[bool, str]:
    """Take the lock; return whether that took some waiting, and what is to be said of it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        return False, ""
    except Timeout:
        began, writer = time.monotonic(), _writer(file)
        tell(f"{writer} is writing the outputs of this job: waiting until it ends")
        lock.acquire(poll_interval=_PATIENCE)
        return True, f"waited {time.monotonic() - began:.0f} s until {writer}, which wrote the same outputs, had ended"
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise _unwritable(file, error) from error
        return False, f"{file.parent} is on a file system without locks: two runs at once could write the same files"


def _did(note: Mapping[str, Any], job: str, inputs: Iterable[str]) -> bool:
    """Say whether the last writer did this job, and no input was made after it had begun."""
    return note.get("did") == job and all(_modified(Path(name)) <= note["began"] for name in inputs)


def _modified(file: Path) -> int:
    """Return when a file was last written, in ns: the file system's time, which is one for all hosts."""
    return file.stat().st_mtime_ns


def _note(file: Path) -> dict[str, Any]:
    """Return what the last who had a lock wrote of itself; nothing if that cannot be read."""
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(file: Path, more: Mapping[str, Any]) -> None:
    # Where there is no room for it, the lock holds all the same.
    with suppress(OSError):
        file.write_text(json.dumps({"process": os.getpid(), "host": platform.node(), **more}), encoding="utf-8")


def _writer(file: Path) -> str:
    note = _note(file)
    return f"process {note['process']} on {note['host']}" if {"process", "host"} <= note.keys() else "another process"


def _unwritable(file: Path, error: OSError) -> UserError:
    return UserError(
        where=str(file),
        found=f"no way to write it ({error.strerror})",
        expected="a folder of results that can be written, on a file system with room",
        mend="free space, or correct the permissions or the mount of the folder; then run again",
    )
