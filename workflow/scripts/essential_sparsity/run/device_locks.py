"""Locks of devices that all jobs on this machine share: files, which the system unlocks when their process ends.

A device has a lock for a job that takes it whole, ``<device>.lock``, and for jobs that share it one for each part,
``<device>.<percent>-<number>.lock``. The file ``turn.lock`` is held by the one job that looks for free devices, for as
long as it looks, and a job that has to wait has a ticket, ``waiting-<time>-<process>.lock``. Jobs that want the same
devices get them in the order of their tickets, all that they want or none: no job waits for another that waits for it,
and none is overtaken for ever.

Locks are ``flock``'s, by `filelock`, never files whose existence is the lock. They belong to the process that took
them: one that it forks gives its copy back (filelock 4), and a program that it starts gets none, so nobody has them who
outlives it. Files stay, since there are no more than devices and parts; a ticket goes with the wait.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from essential_sparsity.run.gpus import WHOLE

_POLL_S = 0.2
_TURN_POLL_S = 0.02
_REMINDER_S = 60.0
_PATIENCE = 10
_NOTE = 200


@dataclass(frozen=True)
class Lease:
    """Devices that belong to this process.

    Attributes:
        locks: What holds each device, by its key, in the order in which the devices were named.
    """

    locks: Mapping[str, BaseFileLock]

    def release(self) -> None:
        """Give the devices back before the process ends."""
        for lock in self.locks.values():
            lock.release()


def wait_for_devices(
    folder: Path, keys: Sequence[str], count: int, percent: int, holder: str, poll_s: float = _POLL_S
) -> Lease:
    """Wait until this process has some of these devices; the log says what for, at once and every minute.

    Args:
        folder: Where the locks are, the same for all jobs of the machine.
        keys: The devices to choose from, each once. Whole ones are the first that are free; a part is one of the
            device that is shared already by the most, so that others stay free for jobs that want whole ones.
        count: How many.
        percent: How much of each: 100, or less of a single one.
        holder: What the logs of others call this job.
        poll_s: Seconds between two looks.

    Raises:
        ValueError: There will never be so many devices, or parts of several are wanted.
    """
    if not 1 <= count <= len(keys) or not 1 <= percent <= WHOLE or (count > 1 and percent < WHOLE):
        raise ValueError(f"{count} of {len(keys)} devices, {percent} % of each")
    devices = [_Device(folder, key) for key in keys]
    ticket: BaseFileLock | None = None
    began, reminder = time.monotonic(), 0.0
    while True:
        with _turn(folder):
            ahead = _ahead(folder, ticket, devices)
            locks = {} if ahead else _take(devices, count, percent)
            if locks:
                for lock in locks.values():
                    _write(lock, holder)
                if ticket:
                    _withdraw(ticket)
                return Lease(locks)
            ticket = ticket or _draw(folder, devices, holder)
            if time.monotonic() >= reminder:
                reminder = time.monotonic() + _REMINDER_S
                holders = [words for device in devices for words in device.holders()]
                logging.info(
                    "Waiting for %d of these GPUs (%s), %d %% of each, for %.0f s so far; before us: %s; held by: %s",
                    count, ", ".join(keys), percent, time.monotonic() - began,
                    ahead.holder if ahead else "nobody", "; ".join(holders) or "nobody",
                )  # fmt: skip
        _rest(ahead, poll_s)


class _Device:
    """The locks of one device; whoever asks has the turn, so that nothing is taken meanwhile, only given back."""

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        # No dot: it ends the device's name in a file's.
        self.stem = re.sub(r"[^A-Za-z0-9-]", "_", key)
        self._folder = folder
        self._whole = folder / f"{self.stem}.lock"

    def _held_parts(self) -> list[Path]:
        return [path for path in sorted(self._folder.glob(f"{self.stem}.*-*.lock")) if _is_held(path)]

    def percent_free(self) -> int:
        """Return how much of it nobody has."""
        if _is_held(self._whole):
            return 0
        return WHOLE - sum(int(path.name.split(".")[1].split("-")[0]) for path in self._held_parts())

    def take_whole(self) -> BaseFileLock | None:
        """Lock all of it, if all of it is free."""
        return None if self._held_parts() else _acquired(self._whole)

    def take_part(self, percent: int) -> BaseFileLock | None:
        """Lock one of the parts of this size, if one is free; whether there is room for it is the caller's to know."""
        parts = (self._folder / f"{self.stem}.{percent}-{number}.lock" for number in range(WHOLE // percent))
        return next(filter(None, map(_acquired, parts)), None)

    def holders(self) -> list[str]:
        """Return who has it, in words."""
        paths = [path for path in (self._whole, *self._held_parts()) if _is_held(path)]
        return [f"{path.read_text(encoding='utf-8').rstrip()} ({path.stem})" for path in paths]


def _take(devices: Sequence[_Device], count: int, percent: int) -> dict[str, BaseFileLock]:
    """Lock as many devices, or a part of one; all or nothing."""
    if percent < WHOLE:
        free = {device: device.percent_free() for device in devices}
        for device in sorted(devices, key=free.__getitem__):
            if free[device] >= percent and (part := device.take_part(percent)):
                return {device.key: part}
        return {}
    locks: dict[str, BaseFileLock] = {}
    for device in devices:
        if len(locks) < count and (lock := device.take_whole()):
            locks[device.key] = lock
    if len(locks) == count:
        return locks
    for lock in locks.values():
        lock.release()
    return {}


@dataclass(frozen=True)
class _Waiting:
    """A job that waits: its ticket, and what others call it."""

    path: Path
    holder: str


def _ahead(folder: Path, ticket: BaseFileLock | None, devices: Sequence[_Device]) -> _Waiting | None:
    """Return the last job that has waited longer than this one for any of these devices.

    Tickets of jobs that ended while they waited are removed.
    """
    own = Path(ticket.lock_file).name if ticket else "~"
    wanted = {device.stem for device in devices}
    for path in sorted(folder.glob("waiting-*.lock"), reverse=True):
        if path.name >= own:
            continue
        if not _is_held(path):
            path.unlink(missing_ok=True)
            continue
        waiting = json.loads(path.read_text(encoding="utf-8"))
        if wanted.intersection(waiting["devices"]):
            return _Waiting(path, waiting["holder"])
    return None


def _rest(ahead: _Waiting | None, poll_s: float) -> None:
    """Wait until the next look: behind another job, until it has been served, but not for ever, as it may be killed."""
    for _ in range(_PATIENCE):
        time.sleep(poll_s)
        if not (ahead and ahead.path.exists()):
            return


def _draw(folder: Path, devices: Sequence[_Device], holder: str) -> BaseFileLock:
    """Draw a ticket; the clock that it is numbered by is the same for all processes, and never set back."""
    ticket = _lock(folder / f"waiting-{time.monotonic_ns():020d}-{os.getpid()}.lock")
    ticket.acquire()
    waiting = {"devices": [device.stem for device in devices], "holder": holder}
    Path(ticket.lock_file).write_text(json.dumps(waiting), encoding="utf-8")
    return ticket


def _withdraw(ticket: BaseFileLock) -> None:
    Path(ticket.lock_file).unlink(missing_ok=True)
    ticket.release()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Be the only job that looks for devices."""
    turn = _lock(folder / "turn.lock")
    while not turn.is_locked:
        try:
            turn.acquire(timeout=_REMINDER_S, poll_interval=_TURN_POLL_S)
        except Timeout:
            logging.warning("Waiting for our turn to look for a GPU: a job is suspended that holds %s", turn.lock_file)
    try:
        yield
    finally:
        turn.release()


def _lock(path: Path) -> BaseFileLock:
    # Other users' jobs write there, too. A lock that outlived a crash would be worse than none.
    return FileLock(path, mode=0o666, thread_local=False, fallback_to_soft=False)


def _acquired(path: Path) -> BaseFileLock | None:
    lock = _lock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _is_held(path: Path) -> bool:
    lock = _acquired(path)
    if lock:
        lock.release()
    return lock is None


def _write(lock: BaseFileLock, text: str) -> None:
    # Opened without O_CREAT: in a folder like /tmp, Linux refuses that for files of other users. Spaces cover what was
    # there before: to cut it off takes the file system ten times as long as all the rest.
    with open(lock.lock_file, "r+", encoding="utf-8") as file:
        file.write(text[:_NOTE].ljust(_NOTE))
