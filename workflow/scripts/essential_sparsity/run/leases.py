"""GPUs for jobs on one machine: Snakemake counts them, but gives none to a job (snakemake issue 281).

A device is a file that all users of the machine may open, with a byte for each percent of it: a job locks as many of
them as it was given of the device. The locks are the kernel's (fcntl(2)) and belong to the process: they end with it,
whatever ends it, and what it forks has none of them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from essential_sparsity.errors import UserError

# The same for everybody, in an Apptainer container too; TMPDIR is each user's own on many machines.
FOLDER = Path("/tmp")  # noqa: S108
PAUSE_S = 0.5
_WHOLE = 100
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_MEND = "correct set-resources of the rule in the profile (or --set-resources)"


@dataclass(frozen=True)
class Wanted:
    """What a job was given by its profile: how many devices, and how much of each (less than 100 of a single one)."""

    gpus: int
    percent: int


def wanted_gpus(resources: Mapping[str, Any], rule: str) -> Wanted:
    """Return what a job of a rule is to lease by its ``gpu`` and ``gpu_percent``: of all together, 200 are two whole.

    Raises:
        UserError: They are no such numbers.
    """
    gpus, percent = resources.get("gpu") or 0, resources.get("gpu_percent")
    if not isinstance(gpus, int) or gpus < 0:
        raise UserError(f"resources.gpu of rule {rule}", repr(gpus), "a number of GPUs, 0 or more", _MEND)
    if percent is None:
        return Wanted(gpus, _WHOLE)
    least = 1 if gpus == 1 else _WHOLE * gpus
    if not isinstance(percent, int) or not least <= percent <= _WHOLE * gpus:
        allowed = "1 to 100" if gpus == 1 else f"{_WHOLE * gpus}, since only a job with one GPU can share it"
        raise UserError(f"resources.gpu_percent of rule {rule}", f"{percent!r} with gpu: {gpus}", allowed, _MEND)
    return Wanted(gpus, percent // max(1, gpus))


def usable_gpus() -> list[str]:
    """Return the devices that this process may use, each once.

    These are the ones that ``CUDA_VISIBLE_DEVICES`` names (a user's, or Slurm's), or all that the machine has: as UUIDs
    where the driver's ``nvidia-smi`` is there to ask, whose numbers a user's are, so that each has one name.

    Raises:
        UserError: The driver does not answer.
    """
    cards = _cards()
    if _VISIBLE not in os.environ:
        return [device for card, *parts in cards for device in parts or [card]]
    names = (name.strip() for name in os.environ[_VISIBLE].split(","))
    # As for CUDA, what is no device ends the list, the beginning of a UUID will do, and the names of a GPU that MIG
    # divides mean its first part.
    devices = takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names)
    if cards:
        known: dict[str, str] = {}
        for number, (card, *parts) in enumerate(cards):
            first, *_ = *parts, card
            known |= {str(number): first, card: first, **{part: part for part in parts}}
        devices = takewhile(bool, (next((known[key] for key in known if key.startswith(n)), "") for n in devices))
    return list(dict.fromkeys(devices))


def _cards() -> list[list[str]]:
    """Return the UUID of each GPU and of the parts that MIG divides it into; nothing without ``nvidia-smi``."""
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        return []
    if asked.returncode:
        raise UserError(
            where="nvidia-smi -L, which lists the machine's GPUs",
            found=f"status {asked.returncode} ({asked.stdout.strip()[:200]})",
            expected="a line for each GPU",
            mend="mend the NVIDIA driver (reboot after an update), or set gpu: 0 for the rule",
        )
    cards: list[list[str]] = []
    for uuid in re.findall(r"UUID: ([^)]+)", asked.stdout):
        if uuid.startswith("MIG-"):
            cards[-1].append(uuid)
        else:
            cards.append([uuid])
    return cards


def check_enough(wanted: Wanted, usable: int, rule: str) -> None:
    """Raise a UserError if a job wants more devices than it may use."""
    if usable < wanted.gpus:
        shown = os.environ.get(_VISIBLE)
        raise UserError(
            where=f"resources.gpu of rule {rule} (set-resources in the profile, or --set-resources)",
            found=f"gpu={wanted.gpus}, but {usable or 'no'} GPUs to use" + (f" ({_VISIBLE}={shown})" if shown else ""),
            expected=f"no more GPUs than nvidia-smi lists (it comes with the NVIDIA driver) and {_VISIBLE} leaves",
            mend=f"install the driver, correct {_VISIBLE}, or set gpu: {usable} for the rule",
        )


def lease_gpus(resources: Mapping[str, Any], rule: str) -> None:
    """Wait until a job's GPUs are its own, for as long as this process lives, and let CUDA see these alone.

    Called before CUDA is: it reads ``CUDA_VISIBLE_DEVICES`` once. A job without a GPU is left as it is. Only when the
    process ends does the driver give back what it holds of a device's memory.

    Raises:
        UserError: The job asks for what no job can have, or for more GPUs than it may use.
    """
    wanted = wanted_gpus(resources, rule)
    if not wanted.gpus:
        return
    devices = usable_gpus()
    check_enough(wanted, len(devices), rule)
    began = time.monotonic()
    held = _take(devices, wanted)
    if not held:
        logging.info("Waiting for %d of these GPUs, %d %% of each: %s", wanted.gpus, wanted.percent, ", ".join(devices))
    while not held:
        time.sleep(PAUSE_S)
        held = _take(devices, wanted)
    os.environ[_VISIBLE] = ",".join(held)
    waited = time.monotonic() - began
    logging.info("GPUs: %s (%d %% of each), after %.1f s", os.environ[_VISIBLE], wanted.percent, waited)


def _take(devices: Sequence[str], wanted: Wanted) -> list[str]:
    """Lock the first devices that are free; all that are wanted or none, so that nobody keeps what another lacks."""
    held: dict[str, int] = {}
    for device in devices:
        file = _opened(device)
        if _locked(file, wanted.percent):
            held[device] = file
            if len(held) == wanted.gpus:
                return list(held)
        else:
            os.close(file)
    for file in held.values():
        os.close(file)
    return []


def _locked(file: int, percent: int) -> bool:
    """Lock a part of a device, wherever it has room for it; say whether it has."""
    for start in range(_WHOLE - percent + 1):
        with suppress(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, percent, start)
            # Programs that clean the folder take a file that is not written to for forgotten.
            os.utime(file)
            return True
    return False


def _opened(device: str) -> int:
    """Open a device's file, whoever made it."""
    if device.isdecimal():
        # Slurm may count from its job's first device, and each of its jobs from its own.
        device = f"{os.environ.get('SLURM_JOB_ID', 'number')}-{device}"
    path = FOLDER / f"essential-sparsity-{device.replace('/', '_')}.lock"
    umask = os.umask(0)
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
    finally:
        os.umask(umask)
    # Not O_CREAT: Linux refuses that for other users' files in a folder like /tmp.
    return os.open(path, os.O_RDWR)
