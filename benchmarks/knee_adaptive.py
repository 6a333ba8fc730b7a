"""The knee of a sweep whose levels are placed, against that of a grid of 96 levels, on 100 synthetic curves.

``--table`` prints a row a family, and the same with the noise of an evaluation on 2,000 examples, paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from harness import report

from essential_sparsity.knees.placing import Placing, next_levels
from essential_sparsity.knees.readings import Settings
from essential_sparsity.knees.rules import find_knee

Floats = npt.NDArray[np.float64]
Curve = Callable[[Floats], Floats]

GRID = np.arange(96) / 100
START = (0.1, 0.3, 0.5, 0.7, 0.9)
PLACING = Placing(0.01, "relative", (), budget=12, width=0.01, per_round=2)
SETTINGS = Settings(("tolerance",), PLACING.tolerance, PLACING.loss, sensitivity=1.0, confidence=0.95, draws=1000)
EXAMPLES = 2000


@dataclass(frozen=True)
class Family:
    """Curves of one shape.

    Attributes:
        curve: Returns the curve, of scores over sparsity, that leaves the plateau near a place.
        places: Where the curves of the benchmark do.
    """

    curve: Callable[[float], Curve]
    places: Floats

    def curves(self) -> list[Curve]:
        """Return the family's curves."""
        return [self.curve(float(place)) for place in self.places]


def broken_line(place: float) -> Curve:
    """Return an accuracy that is level up to a joint, and falls on a line."""
    return lambda s: 0.9 - 0.6 * np.maximum(0.0, s - place)


def sigmoid(place: float) -> Curve:
    """Return an accuracy that falls to chance in a sigmoid whose middle lies beyond the place."""
    return lambda s: 0.5 + 0.4 / (1 + np.exp((s - place - 0.1) / 0.025))


def exponential(place: float) -> Curve:
    """Return minus the logarithm of a perplexity: the loss in nats grows exponentially, by 0.03 at the place."""
    return lambda s: -(3.0 + 0.03 * np.expm1(7 * s) / np.expm1(7 * place))


def gain(place: float) -> Curve:
    """Return minus the logarithm of a perplexity that first improves."""
    return lambda s: -(3.0 - 0.06 * np.minimum(s, place) + 6 * np.maximum(0.0, s - place) ** 1.5)


def cliffs(place: float) -> Curve:
    """Return an accuracy with two cliffs: one that loses 3 points, and later one that loses the rest."""
    steps = ((0.03, place, 0.004), (0.35, place + 0.25, 0.01))
    return lambda s: 0.9 - np.sum([size / (1 + np.exp((middle - s) / scale)) for size, middle, scale in steps], axis=0)


INNER = np.linspace(0.12, 0.86, 16)
FAMILIES = {
    "broken line": Family(broken_line, INNER),
    "sigmoid": Family(sigmoid, INNER),
    "exponential perplexity": Family(exponential, INNER),
    "gain, then a fall": Family(gain, INNER),
    "two cliffs": Family(cliffs, np.linspace(0.12, 0.68, 16)),
    "near 0": Family(sigmoid, np.linspace(0.02, 0.1, 10)),
    "near 1": Family(cliffs, np.linspace(0.88, 0.94, 10)),
}


def measured(curve: Curve, seed: int) -> Curve:
    """Return a curve as 2,000 examples show it, the same ones at every level.

    Accuracy: an example is right at a level where its difficulty, drawn once, and what pruning does to it there, drawn
    anew, stay below the accuracy; of two levels of equal accuracy 2 % of the answers differ. Perplexity: what a window
    loses is a multiple of the mean loss, drawn once, and 0.1 nats up or down, drawn anew.
    """
    draw = np.random.default_rng(seed)
    dense = float(curve(np.zeros(1))[0])
    difficulty, multiple = draw.random(EXAMPLES), draw.exponential(size=EXAMPLES)

    def at(level: float) -> float:
        own = np.random.default_rng([seed, round(1000 * level)]).normal(size=EXAMPLES) * (level > 0)
        value = float(curve(np.array([level]))[0])
        if dense > 0:
            return float(np.mean(difficulty + 0.018 * own < value))
        return dense + float(np.mean((value - dense) * multiple + 0.1 * own))

    return lambda s: np.array([at(float(level)) for level in s])


def sweep(score: Curve) -> tuple[Floats, Floats, int]:
    """Place levels until the sweep is over; return them with their scores, and the number of rounds."""
    sparsity = np.array([0.0, *START])
    rounds = 1
    while placed := next_levels(sparsity, score(sparsity), PLACING).levels:
        sparsity = np.sort([*sparsity, *placed])
        rounds += 1
    return sparsity, score(sparsity), rounds


def knee(sparsity: Floats, score: Floats) -> float:
    """Return the knee by the rule `tolerance`."""
    found = find_knee(sparsity, score, "tolerance", SETTINGS).knee
    if found is None:
        raise RuntimeError("a synthetic curve without a knee")
    return found


@dataclass(frozen=True)
class Found:
    """What a sweep came to.

    Attributes:
        error: Distance of its knee to that of the grid on the same scores, in sparsity.
        off: Distance of its knee to that of the grid on the curve without noise.
        grid_off: Distance of the knee of the grid to the same.
        evaluations: Levels that the sweep evaluated, the dense one included.
        rounds: Its rounds.
    """

    error: float
    off: float
    grid_off: float
    evaluations: int
    rounds: int


def compare(curve: Curve, score: Curve) -> Found:
    """Compare a sweep on measured scores with the grid."""
    sparsity, values, rounds = sweep(score)
    swept, grid, true = knee(sparsity, values), knee(GRID, score(GRID)), knee(GRID, curve(GRID))
    return Found(abs(swept - grid), abs(swept - true), abs(grid - true), len(sparsity), rounds)


def without_noise(family: Family) -> list[Found]:
    """Compare on every curve of a family."""
    return [compare(curve, curve) for curve in family.curves()]


def with_noise(family: Family) -> list[Found]:
    """Compare on every curve of a family as examples show it, once."""
    return [compare(curve, measured(curve, seed)) for seed, curve in enumerate(family.curves())]


def print_table(found: dict[str, list[Found]], noisy: dict[str, list[Found]]) -> None:
    """Print a row a family, in percentage points of sparsity."""
    print("| Curves | | Evaluations: mean, most | Worst error | Sweep with noise: mean, worst | Grid with noise |")
    print("|---|---|---|---|---|---|")
    for name, results in found.items():
        counts = [r.evaluations for r in results]
        error = max(r.error for r in results)
        off = [r.off for r in noisy[name]], [r.grid_off for r in noisy[name]]
        distances = " | ".join(f"{100 * np.mean(x):.1f}, {100 * max(x):.1f}" for x in off)
        print(f"| {name} | {len(results)} | {np.mean(counts):.1f}, {max(counts)} | {100 * error:.2f} | {distances} |")


def main() -> None:
    """Print the line; with ``--table``, the table before it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="print a row a family, without and with noise")
    found = {name: without_noise(family) for name, family in FAMILIES.items()}
    if parser.parse_args().table:
        print_table(found, {name: with_noise(family) for name, family in FAMILIES.items()})
    results = [result for family in found.values() for result in family]
    report(
        "knee-adaptive", evaluations=max(r.evaluations for r in results), error=max(r.error for r in results),
        limit_evaluations=12, limit_error=0.01, mean_evaluations=float(np.mean([r.evaluations for r in results])),
        rounds=max(r.rounds for r in results), curves=len(results), grid=len(GRID),
    )  # fmt: skip


if __name__ == "__main__":
    main()
