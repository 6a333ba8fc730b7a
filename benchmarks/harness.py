"""What the benchmarks share: each side runs in a process of its own, and its time and memory are counted there.

Memory is the peak of what is resident, above that of the process once it has imported torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

THREADS = 2

Side = Callable[[Path], dict[str, Any]]


def resident_mb(key: str) -> float:
    """Return a line of ``/proc/self/status`` in MB (10^6 bytes): ``VmRSS`` now, ``VmHWM`` the peak."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {key} in /proc/self/status")


def checkpoint_inputs(folder: Path) -> dict[str, str]:
    """Return what a checkpoint consists of, as a job's inputs name it."""
    parts = {"weights": "model.safetensors", "companions": "companions", "provenance": "provenance.json"}
    return {name: str(folder / part) for name, part in parts.items()}


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run(sides: dict[str, Side], compare: Callable[[], None]) -> None:
    """Compare the sides or, where the command line names a side and a folder, run it there and print its figures."""
    if len(sys.argv) == 1:
        compare()
        return
    import torch

    torch.set_num_threads(THREADS)
    before = resident_mb("VmRSS")
    found = sides[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({**found, "peak_mb": round(resident_mb("VmHWM") - before, 1)}))


def measure(script: str, side: str, folder: Path) -> dict[str, Any]:
    """Run one side of a benchmark in a new process; return its measurements."""
    command = [sys.executable, str(Path(__file__).parent / script), side, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} {side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def report(work: str, **figures: Any) -> None:
    """Print a benchmark's JSON line."""
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"work": work, **rounded}), flush=True)
