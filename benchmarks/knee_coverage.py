"""How often 95 % intervals of knees cover the true knee of synthetic curves, and how often equal knees test unequal.

The true knee is the rule's reading of the noiseless curve on the same levels. Without arguments the headline rule,
`tolerance`, is measured; with `--table` all rules are, and a Markdown table is printed below the JSON line.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import report
from scipy.special import ndtri

from essential_sparsity.inference import Floats, p_value
from essential_sparsity.knees.intervals import knee_interval
from essential_sparsity.knees.readings import Knee, Readings, Settings
from essential_sparsity.knees.resampling import Sample, draw_mean, resampled_values
from essential_sparsity.knees.rules import RULES, find_knee, find_many
from essential_sparsity.metrics.registry import performance

# Curves of each row, and draws of each curve.
CURVES, DRAWS = 1000, 200
WORKERS = 2
# Curves whose draws are read at once.
TOGETHER = 10
SETTINGS = Settings(("tolerance",), 0.02, "relative", sensitivity=1.0, confidence=0.95, draws=1000)
LEVELS = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9])

# Standard deviations of the seeds' effects: on a whole curve, and on each level of it.
OF_CURVE, OF_LEVEL = 0.01, 0.005
# Share of the variance of an example's difficulty that all levels have in common.
SHARED = 0.8


def broken_line(s: Floats) -> Floats:
    """Accuracy that declines slowly, and steeply from 52 % on."""
    return np.asarray(0.85 - 0.01 * s - np.clip(s - 0.52, 0.0, 0.35))


def sigmoid(s: Floats) -> Floats:
    """Accuracy that falls from 88 % to chance around 68 %."""
    return np.asarray(0.5 + 0.38 / (1 + np.exp((s - 0.68) / 0.06)))


def no_plateau(s: Floats) -> Floats:
    """Accuracy that falls ever faster from the start."""
    return np.asarray(0.9 - 0.4 * np.expm1(4 * s) / np.expm1(3.6))


def accuracies(truth: Callable[[Floats], Floats], examples: int) -> Draw:
    """Return curves of accuracy whose examples are right if their difficulty lies below a threshold."""

    def draw(generator: np.random.Generator, seeds: int, methods: int) -> tuple[Floats, list[Floats]]:
        chances = truth(LEVELS)
        difficulty = np.sqrt(SHARED) * generator.standard_normal(examples)
        found = []
        for effects in seed_effects(generator, seeds, methods):
            noise = np.sqrt(1 - SHARED) * generator.standard_normal((len(LEVELS), seeds, examples))
            threshold = ndtri(np.clip(chances[:, None] + effects, 1e-9, 1 - 1e-9))
            right = difficulty + noise < threshold[:, :, None]
            found.append(np.stack([np.ones(right.shape), right], axis=3))
        return chances, found

    return Draw("accuracy", draw)


def perplexities(examples: int) -> Draw:
    """Return curves of perplexity whose logarithm grows exponentially, by windows of unlike length and difficulty."""

    def draw(generator: np.random.Generator, seeds: int, methods: int) -> tuple[Floats, list[Floats]]:
        rise = 3.6 * np.expm1(5 * LEVELS) / np.expm1(4.5)
        tokens = generator.integers(60, 129, examples).astype(float)
        difficulty = generator.normal(0.0, 0.6, examples)
        frailty = np.exp(generator.normal(-0.045, 0.3, examples))
        found = []
        for effects in seed_effects(generator, seeds, methods):
            noise = generator.normal(0.0, 0.05, (len(LEVELS), seeds, examples))
            losses = 3 + difficulty + rise[:, None, None] * frailty + effects[:, :, None] + noise
            found.append(np.stack([np.broadcast_to(tokens, losses.shape), tokens * losses], axis=3))
        return np.exp(3 + rise), found

    return Draw("perplexity", draw)


def seed_effects(generator: np.random.Generator, seeds: int, methods: int) -> list[Floats]:
    """Return what seeds add to each curve (levels, seeds), in part the same for all methods; one seed is none."""
    if seeds == 1:
        return [np.zeros((len(LEVELS), 1))] * methods
    common = generator.normal(0.0, OF_CURVE, seeds)
    return [common + generator.normal(0.0, OF_LEVEL, (len(LEVELS), seeds)) for _ in range(methods)]


@dataclass(frozen=True)
class Draw:
    """A way to draw curves.

    Attributes:
        metric: The metric of the curves.
        draw: Of a generator, the seeds and the number of curves, the true values and the features of each curve.
    """

    metric: str
    draw: Callable[[np.random.Generator, int, int], tuple[Floats, list[Floats]]]


SHAPES: dict[str, Callable[[], Draw]] = {
    "broken line, 1,000 examples": lambda: accuracies(broken_line, 1000),
    "sigmoid, 2,000 examples": lambda: accuracies(sigmoid, 2000),
    "exponential in nats, 500 windows": lambda: perplexities(500),
    "no plateau, 1,000 examples": lambda: accuracies(no_plateau, 1000),
}
# Of a curve without a plateau rules disagree on whether it has a knee; it shows where intervals fail.
HEADLINE = tuple(name for name in SHAPES if not name.startswith("no plateau"))
SEEDS = (1, 3, 5)

Counts = dict[str, int]


def measure(shape: str, seeds: int, rules: Sequence[str], curves: int, part: int) -> dict[str, Counts]:
    """Count for each rule, over a part of the synthetic curves, what comes out.

    Returns:
        By rule: the ``curves``, how many have ``none``, the ``knees`` that have an interval, and how many of these
        ``covered`` the truth; and of pairs of curves with the same truth how many were ``tested`` and ``rejected``.
        Of a curve that has no knee without noise nothing can be covered, nor equal knees told apart.
    """
    made = SHAPES[shape]()
    keys = ("curves", "none", "knees", "covered", "tested", "rejected")
    counts: dict[str, Counts] = {rule: dict.fromkeys(keys, 0) for rule in rules}
    mine = range(part, curves, WORKERS)
    for start in range(0, len(mine), TOGETHER):
        samples, drawn = [], []
        for i in mine[start : start + TOGETHER]:
            generator = np.random.default_rng([i, seeds, list(SHAPES).index(shape)])
            truth, features = made.draw(generator, seeds, 2)
            samples.append([sample_of(made.metric, f, seeds, str(i)) for f in features])
            drawn.append([scores_of(s) for s in samples[-1]])
        for rule in rules:
            true = find_knee(LEVELS, performance(truth, made.metric), rule, SETTINGS).knee
            read = find_many(LEVELS, np.concatenate([scores for pair in drawn for scores in pair]), rule, SETTINGS)
            readings = [Readings(*r) for r in zip(split(read.knee), split(read.censored), strict=True)]
            pairs = zip(readings[::2], readings[1::2], strict=True)
            for pair, scores, of_draws in zip(samples, drawn, pairs, strict=True):
                knees = [find_knee(LEVELS, s.score, rule, SETTINGS) for s in pair]
                count(counts[rule], rule, true, knees, scores[0], of_draws)
    return counts


def split(draws: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Return what belongs to each curve."""
    return np.split(draws, len(draws) // DRAWS)


def count(
    counts: Counts,
    rule: str,
    true: float | None,
    knees: list[Knee],
    scores: Floats,
    readings: tuple[Readings, Readings],
) -> None:
    """Add to the counts what a rule finds in a pair of curves of the same truth; the interval is that of the first."""
    counts["curves"] += 1
    counts["none"] += knees[0].knee is None
    if true is None or knees[0].knee is None:
        return
    interval = knee_interval(LEVELS, scores, knees[0], readings[0], rule, SETTINGS, None)
    if interval.low is not None and interval.high is not None:
        counts["knees"] += 1
        counts["covered"] += interval.low - 1e-9 <= true <= interval.high + 1e-9
    apart = readings[0].knee - readings[1].knee
    if knees[1].knee is not None and np.isnan(apart).mean() <= 0.5:
        counts["tested"] += 1
        counts["rejected"] += p_value(apart[~np.isnan(apart)]) < 0.05


def sample_of(metric: str, features: Floats, seeds: int, name: str) -> Sample:
    """Return what the library resamples; draws differ from curve to curve by the name of the task."""
    from essential_sparsity.metrics.registry import weighted_values

    levels, _, examples, k = features.shape
    flat = features.reshape(levels * seeds, examples, k)
    values = weighted_values(metric, np.ones((1, examples)), flat)[:, 0].reshape(levels, seeds)
    return Sample(metric, name, LEVELS, tuple(range(seeds)), values, features, "")


def scores_of(sample: Sample) -> Floats:
    """Return draws of a curve (draws, levels)."""
    drawn = draw_mean(sample, resampled_values(sample, DRAWS), DRAWS)
    assert drawn is not None
    return drawn.scores


def main() -> None:
    """Print the coverage of the headline rule, and with ``--table`` that of all rules."""
    table = "--table" in sys.argv[1:]
    rules, shapes = (tuple(RULES), tuple(SHAPES)) if table else (("tolerance",), HEADLINE)
    began = time.perf_counter()
    cases = list(product(shapes, SEEDS))
    jobs = [(shape, seeds, rules, CURVES, part) for shape, seeds in cases for part in range(WORKERS)]
    with ProcessPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(measure, *zip(*jobs, strict=True)))
    found = {case: added(parts[i * WORKERS : (i + 1) * WORKERS]) for i, case in enumerate(cases)}
    headline = [share(found[case]["tolerance"], "covered", "knees") for case in cases if case[0] in HEADLINE]
    report(
        "knee-coverage", coverage=float(np.mean(headline)), lowest=min(headline), highest=max(headline),
        curves=CURVES * len(headline), seconds=time.perf_counter() - began,
    )  # fmt: skip
    if table:
        print_table(found, rules)


def added(parts: Sequence[dict[str, Counts]]) -> dict[str, Counts]:
    """Add the counts of the parts of a case."""
    return {rule: {key: sum(p[rule][key] for p in parts) for key in parts[0][rule]} for rule in parts[0]}


def share(counts: Counts, part: str, whole: str) -> float:
    """Return a share of the counts; NaN of none."""
    return counts[part] / counts[whole] if counts[whole] else float("nan")


def print_table(found: dict[tuple[str, int], dict[str, Counts]], rules: Sequence[str]) -> None:
    """Print a row for each case: by rule the share covered, and the share of equal knees that are told apart."""
    print(f"| Curve | Seeds | {' | '.join(RULES[rule].label for rule in rules)} |\n|---|---|{'---|' * len(rules)}")
    for (shape, seeds), by_rule in found.items():
        print(f"| {shape} | {seeds} | {' | '.join(cell(by_rule[rule]) for rule in rules)} |")


def cell(counts: Counts) -> str:
    """Return what the table says of a rule; where the noiseless curve has no knee, the curves that have none either."""
    if not counts["knees"]:
        return f"none in {100 * share(counts, 'none', 'curves'):.1f}"
    covered, rejected = share(counts, "covered", "knees"), share(counts, "rejected", "tested")
    return f"{100 * covered:.1f} / {100 * rejected:.1f}"


if __name__ == "__main__":
    main()
