"""Jobs that lease fake devices: real processes, forked by the hundred, some of them killed; and who had what when.

Run as a script, as root for jobs of two users, it prints a line of JSON for each event. That is the jobs' own account,
by the system's clock: nothing here asks the locks.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
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


def most_in_use(events: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the largest sum of the parts of each device that jobs surely had at one time, in percent.

    They surely have them from after they entered until before they left or were killed.
    """
    now, most, held = Counter[str](), Counter[str](), dict[int, dict[str, int]]()
    for event in sorted(events, key=lambda event: event["time"]):
        if event["event"] == "enter":
            held[event["job"]] = dict.fromkeys(event["devices"], event["percent"])
            now.update(held[event["job"]])
            most |= now
        elif event["event"] in ("leave", "kill"):
            now.subtract(held.pop(event["job"], {}))
    return dict(most)


def write(job: int, event: str, **more: object) -> None:
    """Add a line at once, wherever other processes add theirs."""
    os.write(1, (json.dumps({"job": job, "event": event, "time": time.monotonic_ns(), **more}) + "\n").encode())


def run_one(job: int, kind: str, prefix: str) -> None:
    """Be a job of one of two users, who have folders for temporary files: lease, work, end.

    One in ten dies with its devices, and one in ten is killed whatever it does.
    """
    from essential_sparsity.run.leases import lease_gpus

    def die(*_: object) -> None:
        write(job, "kill")
        os.kill(os.getpid(), signal.SIGKILL)

    write(job, "start", kind=kind)
    if os.getuid() == 0:
        os.setuid(USERS[job % 2])
    os.umask(0o077)
    draw = random.Random(job)
    fate = draw.random()
    signal.alarm(100)  # Jobs that wait for each other end, and fail the test.
    if 0.1 <= fate < 0.2:
        signal.signal(signal.SIGALRM, die)
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.001, 0.3))
    visible = draw.choice(VISIBLE) if kind != "all" else VISIBLE[0]
    os.environ |= {"TMPDIR": f"/tmp/{job % 2}", "CUDA_VISIBLE_DEVICES": ",".join(prefix + name for name in visible)}
    lease_gpus(KINDS[kind], kind)
    held = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    write(job, "enter", devices=held, percent=KINDS[kind].get("gpu_percent", 100) // len(held))
    time.sleep(draw.uniform(0.001, 0.03))
    if fate < 0.1:
        die()
    write(job, "leave")


def main(prefix: str, jobs: int, at_once: int, seed: int) -> None:
    """Run jobs until all have ended."""
    from essential_sparsity.run import leases

    leases.PAUSE_S = 0.05
    draw = random.Random(seed)
    for job in range(jobs):
        if job >= at_once:
            os.wait()
        kind = draw.choices(list(CHOICES), list(CHOICES.values()))[0]
        if not os.fork():
            try:
                run_one(job, kind, prefix)
            finally:
                os._exit(0)
    for _ in range(at_once):
        os.wait()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "scripts"))
    main(sys.argv[1], *map(int, sys.argv[2:]))
