"""Jobs that lease fake devices: real processes, forked by the hundred, some of them killed; and who had what when.

Run as a script it prints a line of JSON for each use of a device. What is written there is the jobs' own account, by
the system's clock: nothing here asks the locks.
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
from functools import partial
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
VISIBLE = ("0,1,2,3", "0,1,2,3", "3,1,2,0", "2,1")


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


def uses_of(journal: Path) -> list[Use]:
    """Read what the jobs wrote, and what killed them."""
    events: dict[int, dict[str, Any]] = {}
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        events.setdefault(event["job"], {})[event["event"]] = event
    uses = []
    for job, own in events.items():
        if "enter" in own:
            end = min(own[name]["time"] for name in ("leave", "kill") if name in own)
            for device in own["enter"]["devices"]:
                uses.append(Use(device, job, own["enter"]["percent"], own["enter"]["time"], end))
    return uses


def write(journal: Path, job: int, event: str, **more: object) -> None:
    """Add a line at once, wherever other processes add theirs."""
    line = json.dumps({"job": job, "event": event, "time": time.monotonic_ns(), **more}) + "\n"
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def run_one(job: int, kind: str, dies: bool, journal: Path, folder: Path) -> None:
    """Be a job: lease, work, end; or die with the devices in hand."""
    from essential_sparsity.run.leases import lease_gpus

    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    draw = random.Random(job)
    os.environ["CUDA_VISIBLE_DEVICES"] = draw.choice(VISIBLE) if kind != "all" else VISIBLE[0]
    lease_gpus(KINDS[kind], kind)
    devices = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    write(journal, job, "enter", devices=devices, percent=KINDS[kind].get("gpu_percent", 100) // len(devices))
    time.sleep(draw.uniform(0.001, 0.03))
    if dies:
        write(journal, job, "kill")
        os.kill(os.getpid(), signal.SIGKILL)
    write(journal, job, "leave")


def main(journal: Path, jobs: int, at_once: int, seed: int) -> None:
    """Run jobs until all have ended; one in ten dies with its devices, and one in ten is killed whatever it does."""
    from essential_sparsity.run import device_locks, leases  # noqa: F401

    device_locks.wait_for_devices = partial(device_locks.wait_for_devices, poll_s=0.05)  # type: ignore[assignment]
    draw = random.Random(seed)
    running: dict[int, tuple[int, float]] = {}
    for job in range(jobs):
        kind = draw.choices(list(CHOICES), list(CHOICES.values()))[0]
        fate = draw.random()
        process = os.fork()
        if process == 0:
            os.setsid()
            try:
                run_one(job, kind, fate < 0.1, journal, journal.parent / f"study {job % 2}")
            finally:
                os._exit(int(sys.exc_info()[0] is not None))
        write(journal, job, "start", kind=kind)
        running[process] = (job, time.monotonic() + draw.uniform(0, 0.3) if 0.1 <= fate < 0.2 else math.inf)
        while len(running) >= at_once or (job == jobs - 1 and running):
            end_some(running, journal)


def end_some(running: dict[int, tuple[int, float]], journal: Path) -> None:
    """Kill the jobs whose time has come, and take note of those that have ended."""
    for process, (job, when) in running.items():
        if time.monotonic() >= when:
            write(journal, job, "kill")
            os.kill(process, signal.SIGKILL)
            running[process] = (job, math.inf)
    process, status = os.waitpid(-1, os.WNOHANG)
    if process:
        job, when = running.pop(process)
        write(journal, job, "end", status=os.waitstatus_to_exitcode(status))
    else:
        time.sleep(0.005)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
