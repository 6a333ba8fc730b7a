"""How often smooth courses of a statistic over pre-training test as abrupt, and how often real jumps do.

Each line is a course, with the share of its simulated trajectories whose p-value is at most 0.05: at several sizes of
the noise (its standard deviation by the range of the course) and autocorrelations, and over all of them. Of jumps it
also says how often the place is exact, and how often the 95 % interval of the height holds the true one. A ramp over
one interval of steps is a jump at that spacing; longer ramps and kinks are drift, and shown for what the test makes of
them. Takes minutes; ``python benchmarks/change_points.py 400`` simulates 400 trajectories a cell, not 100.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from harness import report

from essential_sparsity.emergence.changes import SmoothDrift
from essential_sparsity.inference import Floats, generator_of

SPACING, DRAWS, LEVEL = 50, 399, 0.05
NOISE, CORRELATIONS = (1e-4, 0.01, 0.05), (0.0, 0.7)
LENGTHS = (24, 61)
# Where the jump of every course is, by the length of the training.
PLACE = 0.4

SMOOTH: dict[str, Callable[[Floats], Floats]] = {
    "linear": lambda t: t,
    "exponential approach": lambda t: 1 - np.exp(-t / 0.15),
    "fast exponential approach": lambda t: 1 - np.exp(-t / 0.06),
    "logistic": lambda t: 1 / (1 + np.exp(-(t - 0.5) / 0.1)),
    "power law": lambda t: (1 + 40 * t) ** -0.5,
    "logarithm": lambda t: np.log1p(50 * t) / np.log(51),
    "slow start": lambda t: 1 - np.exp(-((t / 0.15) ** 2)),
}
JUMPS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "jump alone": (lambda t: 0.0 * t, 1.0),
    "exponential approach and 30 %": (lambda t: 0.7 * (1 - np.exp(-t / 0.15)), 0.3),
    "exponential approach and 10 %": (lambda t: 0.9 * (1 - np.exp(-t / 0.15)), 0.1),
}
BENDS: dict[str, Callable[[Floats], Floats]] = {
    "kink": lambda t: np.maximum(0.0, t - PLACE) / (1 - PLACE),
    "ramp over a tenth": lambda t: np.clip((t - PLACE) / 0.1, 0.0, 1.0),
}


def noise(n: int, deviation: float, correlation: float, generator: np.random.Generator) -> Floats:
    """Return autoregressive noise of first order."""
    values = generator.standard_normal(n)
    for i in range(1, n):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return deviation * values


def simulate(drift: SmoothDrift, course: Floats, name: str, height: float, repeats: int) -> dict[str, Any]:
    """Return what the test makes of a course with a jump of some height; 0 for none."""
    n, cells, exact, covered, total = len(course), {}, 0, 0, 0
    place = round(PLACE * (n - 1))
    values = course + height * (np.arange(n) >= place)
    for deviation, correlation in product(NOISE, CORRELATIONS):
        rejected = 0
        for i in range(repeats):
            key = ("change points", name, n, deviation, correlation, i)
            trajectory = values + noise(n, deviation, correlation, generator_of(*key))
            found = drift.largest_change(trajectory, DRAWS, *key)
            rejected += found.p_value <= LEVEL
            exact += found.place == place
            covered += found.low <= height <= found.high
        cells[f"{deviation:g}, {correlation:g}"] = round(rejected / repeats, 3)
        total += rejected
    runs = repeats * len(cells)
    jump = {"exact_place": round(exact / runs, 3), "coverage": round(covered / runs, 3)} if height else {}
    return {"course": name, "steps": n, "rejected": round(total / runs, 4), **jump, "by_noise": cells}


def main() -> None:
    """Print a line a course and number of steps."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    courses = [(name, course, 0.0) for name, course in {**SMOOTH, **BENDS}.items()]
    courses += [(name, course, height) for name, (course, height) in JUMPS.items()]
    for n in LENGTHS:
        began = time.perf_counter()
        drift, t = SmoothDrift([SPACING * i for i in range(n)]), np.linspace(0, 1, n)
        smooth: list[float] = []
        for name, course, height in courses:
            found = simulate(drift, course(t), name, height, repeats)
            report("change_points", **found)
            if name in SMOOTH:
                smooth.append(float(found["rejected"]))
        seconds = time.perf_counter() - began
        report("change_points", steps=n, rejected_of_smooth=sum(smooth) / len(smooth), seconds=seconds)


if __name__ == "__main__":
    main()
