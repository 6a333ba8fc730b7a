"""Jobs that lease fake devices: real processes, forked by the hundred, some of them killed; and who had what when.

Run as a script, as root for jobs of two users, it prints a line of JSON for each event. That is the jobs' own account,
by the system's clock: nothing here asks the locks.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {
    "whole": {"gpu": 1},
    "two": {"gpu": 2},
    "quarter": {"gpu": 1, "gpu_percent": 25},
    "half": {"gpu": 1, "gpu_percent": 50},
    "all": {"gpu": 4, "gpu_percent": 400},
}
CHOICES = {"whole": 10, "two": 4, "quarter": 5, "half": 2, "all": 1}
# The same four devices for most: some runs may use two of them only.
VISIBLE = ("0123", "0123", "3120", "21")
USERS = (64001, 64002)


@dataclass(frozen=True)
class Use:
    """A time in which a job surely had a part of a device: from when it had it until it gave it back or was killed."""

    device: str
    job: int
    percent: int
    begin: int
    end: int


def most_in_use(uses: Iterable[Use]) -> dict[str, int]:
    """Return the largest sum of the parts of each device that were in use at one time, in percent."""
    changes = sorted(
        change for use in uses for change in ((use.end, -use.percent, use.device), (use.begin, use.percent, use.device))
    )
    now: dict[str, int] = {}
    most: dict[str, int] = {}
    for _, percent, device in changes:
        now[device] = now.get(device, 0) + percent
        most[device] = max(most.get(device, 0), now[device])
    return most


def uses_of(events: Iterable[dict[str, Any]]) -> list[Use]:
    """Read what the jobs wrote, and what killed them."""
    jobs: dict[int, dict[str, Any]] = {}
    for event in events:
        jobs.setdefault(event["job"], {})[event["event"]] = event
    uses = []
    for job, own in jobs.items():
        if "enter" in own:
            end = min(own[name]["time"] for name in ("leave", "kill") if name in own)
            for device in own["enter"]["devices"]:
                uses.append(Use(device, job, own["enter"]["percent"], own["enter"]["time"], end))
    return uses


def write(job: int, event: str, **more: object) -> None:
    """Add a line at once, wherever other processes add theirs."""
    os.write(1, (json.dumps({"job": job, "event": event, "time": time.monotonic_ns(), **more}) + "\n").encode())


def run_one(job: int, kind: str, dies: bool, devices: dict[str, str]) -> None:
    """Be a job of one of two users, who have folders for temporary files: lease, work, end; or die with the devices."""
    from essential_sparsity.run.leases import lease_gpus

    if os.getuid() == 0:
        os.setuid(USERS[job % 2])
    os.umask(0o077)
    draw = random.Random(job)
    visible = draw.choice(VISIBLE) if kind != "all" else VISIBLE[0]
    os.environ |= {"TMPDIR": f"/tmp/{job % 2}", "CUDA_VISIBLE_DEVICES": ",".join(devices[name] for name in visible)}
    lease_gpus(KINDS[kind], kind)
    held = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    write(job, "enter", devices=held, percent=KINDS[kind].get("gpu_percent", 100) // len(held))
    time.sleep(draw.uniform(0.001, 0.03))
    if dies:
        write(job, "kill")
        os.kill(os.getpid(), signal.SIGKILL)
    write(job, "leave")


def main(prefix: str, jobs: int, at_once: int, seed: int) -> None:
    """Run jobs until all have ended; one in ten dies with its devices, and one in ten is killed whatever it does."""
    from essential_sparsity.run import leases

    leases.PAUSE_S = 0.05
    draw = random.Random(seed)
    running: dict[int, tuple[int, float]] = {}
    for job in range(jobs):
        kind = draw.choices(list(CHOICES), list(CHOICES.values()))[0]
        fate = draw.random()
        process = os.fork()
        if process == 0:
            try:
                run_one(job, kind, fate < 0.1, {name: f"{prefix}{name}" for name in VISIBLE[0]})
            finally:
                os._exit(int(sys.exc_info()[0] is not None))
        write(job, "start", kind=kind)
        running[process] = (job, time.monotonic() + draw.uniform(0, 0.3) if 0.1 <= fate < 0.2 else math.inf)
        while len(running) >= at_once or (job == jobs - 1 and running):
            end_some(running)


def end_some(running: dict[int, tuple[int, float]]) -> None:
    """Kill the jobs whose time has come, and take note of those that have ended."""
    for process, (job, when) in running.items():
        if time.monotonic() >= when:
            write(job, "kill")
            os.kill(process, signal.SIGKILL)
            running[process] = (job, math.inf)
    process, status = os.waitpid(-1, os.WNOHANG)
    if process:
        write(running.pop(process)[0], "end", status=os.waitstatus_to_exitcode(status))
    else:
        time.sleep(0.005)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))
    main(sys.argv[1], *map(int, sys.argv[2:]))
