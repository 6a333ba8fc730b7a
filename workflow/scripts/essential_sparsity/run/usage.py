"""What a job spends: each counts it itself, as it ends.

Snakemake's own benchmarks follow the processes below the one that it starts; a job whose process a server forked
(``workflow/starter``) is none of them.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from essential_sparsity.files import write_json


def peak_resident_mb() -> float:
    """Return the peak of this process's resident memory in MB (10^6 bytes); pages shared with others count."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's `ru_maxrss` goes on from the process that this one's interpreter was started by.
        peak = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6
    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _megabytes(peak: int) -> float:
    """Convert what the system counts peaks in: bytes on macOS, else units of 1024."""
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def age() -> float:
    """Return how long this process has been there, in seconds."""
    stat = Path("/proc/self/stat")
    if stat.exists():
        # By the clock that the kernel counts its processes' beginnings on. The day's, which psutil converts to, is
        # known to a second only for the moment of the start-up, and somebody may have set it since.
        ticks = int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - float(psutil.Process().create_time())


def spent() -> dict[str, float | None]:
    """Return what this process, and those that it has waited for, have spent since it began.

    Returns:
        ``seconds`` (wall), ``cpu_seconds`` of all, ``max_rss_mb`` of the largest, ``read_mb`` and ``written_mb``
        (disk, of this process; None where the system does not count them), MB of 10^6 bytes.
    """
    this = psutil.Process()
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    disk = this.io_counters() if hasattr(this, "io_counters") else None
    return {
        "seconds": age(),
        "cpu_seconds": sum(used.ru_utime + used.ru_stime for used in (own, children)),
        "max_rss_mb": max(peak_resident_mb(), _megabytes(children.ru_maxrss)),
        "read_mb": disk.read_bytes / 1e6 if disk else None,
        "written_mb": disk.write_bytes / 1e6 if disk else None,
    }


def write_cost(path: Path, rule: str, resources: Mapping[str, Any]) -> None:
    """Write what this job has spent, and what it was given.

    Args:
        path: A JSON file.
        rule: The job's.
        resources: The job's ``runtime`` (minutes), ``mem_mb`` and ``gpu``.
    """
    runtime, memory = resources.get("runtime"), resources.get("mem_mb")
    given = {
        "rule": rule,
        "planned_seconds": None if runtime is None else 60 * float(runtime),
        "planned_mb": memory,
        "gpus": float(resources.get("gpu") or 0),
    }
    write_json(path, {**spent(), **given})
