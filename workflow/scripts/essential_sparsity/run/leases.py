"""GPUs for jobs on one machine: Snakemake counts them, but gives none to a job (snakemake issue 281).

A job that is given GPUs by its profile takes as many of those that it may use, waits where others have them, and lets
CUDA see its own alone.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from essential_sparsity.errors import UserError, first_line
from essential_sparsity.run.gpus import VISIBLE, WHOLE, visible_gpus

if TYPE_CHECKING:
    from essential_sparsity.run.device_locks import Lease

_MEND = "correct set-resources of the rule in the profile (or --set-resources)"
# As long as the process: only then does the driver give back what it holds of the device's memory.
_held: list[Lease] = []


@dataclass(frozen=True)
class Wanted:
    """What a job was given by its profile.

    Attributes:
        gpus: How many devices.
        percent: How much of each: 100, or less of a single one.
    """

    gpus: int
    percent: int


def wanted_gpus(resources: Mapping[str, Any], rule: str) -> Wanted:
    """Return what a job is to lease.

    Args:
        resources: The job's ``gpu``, and ``gpu_percent``, which is of all its devices together: 200 are two whole ones.
            Without it, they are whole.
        rule: The rule's name.

    Raises:
        UserError: They are no such numbers.
    """
    gpus, percent = resources.get("gpu"), resources.get("gpu_percent")
    if gpus is None:
        gpus = 0
    if not isinstance(gpus, int) or gpus < 0:
        raise UserError(f"resources.gpu of rule {rule}", repr(gpus), "a number of GPUs, 0 or more", _MEND)
    if percent is None:
        return Wanted(gpus, WHOLE)
    least = 1 if gpus == 1 else WHOLE * gpus
    if not isinstance(percent, int) or not least <= percent <= WHOLE * gpus:
        allowed = "1 to 100" if gpus == 1 else f"{WHOLE * gpus}, since only a job with one GPU can share it"
        raise UserError(f"resources.gpu_percent of rule {rule}", f"{percent!r} with gpu: {gpus}", allowed, _MEND)
    return Wanted(gpus, percent // max(1, gpus))


def lease_gpus(resources: Mapping[str, Any], rule: str) -> None:
    """Wait until a job's GPUs are its own, for as long as this process lives, and let CUDA see these alone.

    Called before CUDA is: it reads ``CUDA_VISIBLE_DEVICES`` once. A job without a GPU is left as it is.

    Args:
        resources: The job's ``gpu`` and ``gpu_percent``.
        rule: The rule's name.

    Raises:
        UserError: The job asks for what no job can have, or for more GPUs than it may use.
    """
    wanted = wanted_gpus(resources, rule)
    if not wanted.gpus:
        return
    # Jobs without a GPU do not wait for its import.
    from essential_sparsity.run.device_locks import wait_for_devices

    names = {gpu.key: gpu.name for gpu in visible_gpus(os.environ)}
    check_enough(wanted, len(names), rule)
    began = time.monotonic()
    lease = wait_for_devices(
        lock_folder(), list(names), wanted.gpus, wanted.percent, f"process {os.getpid()}, {rule}"
    )  # fmt: skip
    _held.append(lease)
    os.environ[VISIBLE] = ",".join(names[key] for key in lease.locks)
    logging.info(
        "GPUs: %s (%d %% of each), after %.1f s", os.environ[VISIBLE], wanted.percent, time.monotonic() - began
    )  # fmt: skip


def check_enough(wanted: Wanted, usable: int, rule: str) -> None:
    """Check that a job may use as many devices as it wants.

    Raises:
        UserError: It may not.
    """
    if usable < wanted.gpus:
        shown = os.environ.get(VISIBLE)
        raise UserError(
            where=f"resources.gpu of rule {rule} (set-resources in the profile, or --set-resources)",
            found=f"gpu={wanted.gpus}, but {usable or 'no'} GPUs to use" + (f" ({VISIBLE}={shown})" if shown else ""),
            expected="no more GPUs than nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves",
            mend=f"correct {VISIBLE}, or set gpu: {usable} for the rule",
        )


def lock_folder() -> Path:
    """Return the folder of this machine's locks, in the system's folder for temporary files; any user may write there.

    Raises:
        UserError: It cannot be used.
    """
    machine = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())
    folder = Path(tempfile.gettempdir()) / f"essential-sparsity-gpus-{machine}"
    umask = os.umask(0)
    try:
        # Everybody's, like /tmp itself: nobody can remove another's files.
        folder.mkdir(mode=0o1777, exist_ok=True)
        found = "" if os.access(folder, os.W_OK | os.X_OK) and not folder.is_symlink() else "no folder to write in"
    except OSError as error:
        found = first_line(error)
    finally:
        os.umask(umask)
    if found:
        raise UserError(
            where=f"the locks of this machine's GPUs, {folder}",
            found=found,
            expected="a folder that every user of the machine may write in",
            mend="remove it, or set TMPDIR to another folder for all runs on this machine",
        )
    return folder
