"""Times of files that lie in the future: a clock was ahead when they were written, or has been set back since.

Snakemake tells by times what is to be made again, and refuses an output that is older than an input. A result from the
future would thus stop everything that is made of it until that moment has come.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from essential_sparsity.errors import UserError
from essential_sparsity.integrity import modified
from essential_sparsity.tickets import NO_LOCKS, TICKETS, read_note, ticket_of, write_note

_SECOND = 10**9
# Times are compared as floats of seconds, whose steps are 0.24 microseconds today.
_STEP = 1000
# A file is dated by the kernel's last tick.
_TICK = _SECOND // 100
# What is waited for: hosts whose clocks are kept differ by less, and one that is wrong by more has to be mended.
_PATIENCE = 60 * _SECOND
# Of files that live for a moment, to be asked what time it is.
PROBE = ".now-"
TOUCH = "give it today's time, `touch '{}'`, and run again"


@dataclass(frozen=True)
class SetBack:
    """What became of results from the future.

    Attributes:
        mended: Paths whose times were set back.
        left: Paths that another process is writing, or that are another user's.
    """

    mended: list[Path]
    left: list[Path]


def set_back(results: Path) -> SetBack:
    """Give every result from the future a time that is past; what was made of which stays to be seen from the times.

    A file that was finished at a time that is past is given that time. Others are given times up to now, after those of
    all other results, in the order that they have: what was newer is newer still.

    Raises:
        UserError: The file system knows no times between which others would lie.
    """
    times = dict(_times(results))
    try:
        now = file_system_time(results)
    except OSError:
        # No results yet, or none that can be written to: nothing is made of them either.
        return SetBack([], [])
    ahead = {path: modified for path, modified in times.items() if modified > now}
    if not ahead:
        return SetBack([], [])
    finished = {path: read_note(ticket_of(path)).get("modified", now + 1) for path in ahead}
    past = {path: modified for path, modified in finished.items() if modified <= now}
    order = {modified: place for place, modified in enumerate(sorted(set(ahead.values())), start=1)}
    # Up to now, so that they are newer than what else they were made of, too.
    room = _STEP * len(order)
    latest = max((modified for modified in times.values() if modified <= now), default=0)
    before = max(latest, now - room)
    if past.keys() != ahead.keys() and _knows_seconds_alone(results):
        first = min(ahead.keys() - past.keys())
        raise from_the_future(first, now, "wait until that time, or delete the file: it is made again")
    if before + room > now:
        time.sleep((room + _TICK) / _SECOND)
    wanted = {path: past.get(path, before + _STEP * order[modified]) for path, modified in ahead.items()}
    mended = [path for path, modified in wanted.items() if _set(path, modified)]
    return SetBack(mended, sorted(wanted.keys() - set(mended)))


def _knows_seconds_alone(folder: Path) -> bool:
    """Say whether a file system cuts times to whole seconds, as some of clusters do."""
    with tempfile.TemporaryFile(dir=folder, prefix=PROBE) as file:
        os.utime(file.fileno(), ns=(_STEP, _SECOND + _STEP))
        return os.fstat(file.fileno()).st_mtime_ns != _SECOND + _STEP


def file_system_time(folder: Path) -> int:
    """Return what a file that is written now is dated, in ns: on a network's file system by the server's clock."""
    with tempfile.TemporaryFile(dir=folder, prefix=PROBE) as file:
        return os.fstat(file.fileno()).st_mtime_ns


def await_inputs(inputs: Iterable[Path], now: int) -> None:
    """Wait until no input is newer than what is written now; outputs that are older than an input are refused.

    Args:
        inputs: What a job reads.
        now: What a file that is written now is dated, in ns.

    Raises:
        UserError: An input's time lies more than a minute ahead.
    """
    times = {path: modified(path) for path in inputs if path.exists()}
    newest = max(times, key=lambda path: times[path], default=None)
    if newest is None or times[newest] <= now:
        return
    if times[newest] > now + _PATIENCE:
        result = ticket_of(newest).exists()
        mend = "run again: times of your results are then set back" if result else TOUCH.format(newest)
        raise from_the_future(newest, now, mend)
    time.sleep((times[newest] - now + _TICK) / _SECOND)


def check_times(inputs: Iterable[Path], now: int) -> None:
    """Check that no file that is not a result lies in the future; times of files that are not ours stay as they are.

    Args:
        inputs: The files.
        now: What a file that is written now is dated, in ns.

    Raises:
        UserError: One is dated more than a minute later.
    """
    for path in sorted(set(inputs)):
        if path.is_file() and modified(path) > now + _PATIENCE:
            raise from_the_future(path, now, TOUCH.format(path))


def from_the_future(path: Path, now: int, mend: str) -> UserError:
    """Return the message about a file that seems to be written later than now."""
    return UserError(
        where=str(path),
        found=f"the time {_shown(modified(path))}, in the future: a file that is written now is dated {_shown(now)}",
        expected="a time that is past: what is made of a file would be older than the file, and be made again for ever",
        mend=f"correct the clock if it is wrong, here or on the machine that wrote the file; then {mend}",
    )


def _shown(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // _SECOND).astimezone().isoformat(sep=" ")


def _times(results: Path) -> Iterator[tuple[Path, int]]:
    """Yield the regular files below a folder of results and their times in ns, without the tickets.

    Parts of it may lie elsewhere. What goes meanwhile, or may not be looked at, is no result of ours.
    """
    folders, linked = [str(results)], set()
    while folders:
        with suppress(FileNotFoundError, PermissionError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        yield Path(entry.path), entry.stat(follow_symlinks=False).st_mtime_ns
                elif entry.is_dir() and entry.name != TICKETS:
                    # A link to a folder that holds it is followed once.
                    target = os.path.realpath(entry.path) if entry.is_symlink() else None
                    if target not in linked:
                        folders.append(entry.path)
                    linked |= {target} - {None}


def _set(path: Path, modified: int) -> bool:
    """Give a file another time, also on its ticket; say whether that could be done."""
    ticket = ticket_of(path)
    with ExitStack() as stack:
        try:
            if ticket.exists():
                lock = FileLock(ticket, fallback_to_soft=False)
                stack.callback(lock.release)
                lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            # Without locks nobody knows who writes: so it is everywhere else, too.
            if error.errno not in NO_LOCKS:
                return False
        try:
            os.utime(path, ns=(modified, modified))
        except OSError:
            return False
        note = read_note(ticket)
        if "modified" in note:
            write_note(ticket, {**note, "modified": modified})
        return True
