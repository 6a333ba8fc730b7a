"""Draws of a curve: what its scores might have been with other examples and other seeds.

A score varies with the examples that the model is tested on and, where something is drawn, with the seed. Both are
resampled for all levels of a curve at once (Sellam et al. 2021, arXiv 2106.16163): an example or seed that makes one
level score higher does so at its neighbours, too, and differences between levels keep that.

With few units a bootstrap is too narrow twice over: its variance is that of the sample divided by n rather than n - 1,
and the variance is itself estimated. Deviations are therefore multiplied by ``sqrt(n / (n - 1))`` and by
``sqrt((n - 1) / chi^2)``, with chi^2 drawn at n - 1 degrees of freedom: for a mean of normal values the draws are then
Student's t about the estimate, and their quantiles the textbook interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from essential_sparsity.inference import Floats, generator_of
from essential_sparsity.knees.readings import ROUNDING
from essential_sparsity.metrics.registry import performance, weighted_values

EXAMPLES, SEEDS, BOTH = "examples", "seeds", "seeds and examples"

# Elements of the weights that are held as float64 at once: 32 MB.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Sample:
    """What a curve was measured on.

    Attributes:
        metric: Its metric.
        task: Its task: curves of one task draw alike, so that their differences are paired.
        sparsity: The levels (levels,), ascending, the dense model first.
        seeds: The seeds that every level has.
        values: The metric (levels, seeds).
        features: Of the examples (levels, seeds, examples, k), as :func:`metrics.registry.metric_features` gives them;
            None where examples cannot be resampled.
        index: Digest of the examples' names, the same for samples whose examples are the same.
    """

    metric: str
    task: str
    sparsity: Floats
    seeds: tuple[int, ...]
    values: Floats
    features: Floats | None
    index: str

    @property
    def score(self) -> Floats:
        """Performance of the mean over the seeds (levels,)."""
        return performance(self.values.mean(axis=1), self.metric)


@dataclass(frozen=True)
class Draws:
    """Draws of a curve.

    Attributes:
        scores: Performance (draws, levels).
        resampled: ``examples``, ``seeds`` or ``seeds and examples``.
    """

    scores: Floats
    resampled: str


def resampled_values(sample: Sample, draws: int) -> Floats | None:
    """Return the metric of resampled examples, the same ones at every level and seed.

    Returns:
        Of shape (draws, levels, seeds); None where examples cannot be resampled.
    """
    if sample.features is None or sample.features.shape[2] < 2:
        return None
    levels, seeds, n, k = sample.features.shape
    features = sample.features.reshape(levels * seeds, n, k)
    counts = example_counts(n, draws, sample.task, sample.index)
    step = max(1, _BLOCK // n)
    parts = [
        weighted_values(sample.metric, counts[i : i + step].astype(np.float64), features)
        for i in range(0, draws, step)
    ]  # fmt: skip
    return np.concatenate(parts, axis=1).T.reshape(draws, levels, seeds)


def draw_mean(sample: Sample, resampled: Floats | None, draws: int) -> Draws | None:
    """Draw the mean curve over the seeds: with other examples and, where there are several seeds, other seeds.

    Args:
        sample: What the curve was measured on.
        resampled: Of :func:`resampled_values`.
        draws: How many draws.

    Returns:
        The draws; None where there is nothing to resample.
    """
    several = len(sample.seeds) > 1
    if resampled is None:
        return Draws(sample.score + _seed_deviations(sample, draws, None), SEEDS) if several else None
    scores = sample.score + _example_deviations(sample, resampled.mean(axis=2), sample.score)
    if not several:
        return Draws(scores, EXAMPLES)
    return Draws(scores + _seed_deviations(sample, draws, resampled), BOTH)


def draw_seed(sample: Sample, resampled: Floats | None, seed: int) -> Draws | None:
    """Draw the curve of one seed with other examples; None where they cannot be resampled."""
    if resampled is None:
        return None
    place = sample.seeds.index(seed)
    own = performance(sample.values[:, place], sample.metric)
    return Draws(own + _example_deviations(sample, resampled[:, :, place], own), EXAMPLES)


@lru_cache(maxsize=2)
def example_counts(n: int, draws: int, *key: str) -> npt.NDArray[np.uint8]:
    """Draw n of n examples with replacement: how often each draw has each example (draws, n)."""
    generator = generator_of("examples", *key)
    # Counts follow Poisson's distribution of mean 1, nearly: none ever comes near 255.
    counts = np.empty((draws, n), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, n, n), minlength=n)
    return counts


def _example_deviations(sample: Sample, resampled: Floats, score: Floats) -> Floats:
    """Return by how much the scores (draws, levels) of resampled examples differ from a curve's, at full width."""
    assert sample.features is not None
    n = sample.features.shape[2]
    scale = np.sqrt(n / (n - 1)) * _student_scale(n - 1, len(resampled), "examples", sample.task, sample.index)
    # A perplexity may be infinite; its curve has no knee.
    with np.errstate(invalid="ignore"):
        return np.asarray(scale[:, None] * (performance(resampled, sample.metric) - score), dtype=np.float64)


def _seed_deviations(sample: Sample, draws: int, resampled: Floats | None) -> Floats:
    """Return by how much the scores (draws, levels) of other seeds' means differ from a curve's.

    ``sum_s g_s (x_s - mean) / sqrt(n (n - 1))`` with normal g has the variance S / n of a mean of n seeds, S divided by
    n - 1; whole numbers of draws would give three seeds no more than ten different means. A seed's g is the same in
    all curves of a task.
    """
    n = len(sample.seeds)
    normal = np.stack([generator_of("seed", sample.task, s).standard_normal(draws) for s in sample.seeds], axis=1)
    scale = _student_scale(n - 1, draws, "seeds", sample.task, n) / np.sqrt(n * (n - 1))
    with np.errstate(invalid="ignore"):
        return np.asarray(scale[:, None] * (normal @ _between_seeds(sample, resampled).T), dtype=np.float64)


def _student_scale(freedom: int, draws: int, *key: Any) -> Floats:
    """Return what makes of normal deviations those of Student's t: ``sqrt(f / chi^2_f)``, of shape (draws,)."""
    return np.asarray(np.sqrt(freedom / generator_of("scale", *key).chisquare(freedom, draws)), dtype=np.float64)


def _between_seeds(sample: Sample, resampled: Floats | None) -> Floats:
    """Return the deviations (levels, seeds) of seeds from their mean, less what other examples would change in them.

    With y_is = m + a_i + b_s + e_is, seeds' means over N examples vary by var(b) + var(e) / N, and the mean over all
    by var(a) / N + var(b) / n + var(e) / (N n). Resampled examples give the first and the last; the variance between
    seeds would count the last twice. Its share is taken off apart for what a seed adds to all levels and for what it
    adds to each: knees depend on the second, which is the smaller and has more of it.
    """
    scores = performance(sample.values, sample.metric)
    if resampled is None:
        return _centred(scores)
    with np.errstate(invalid="ignore"):
        seen = _centred(scores)
        drawn = _centred(performance(resampled, sample.metric)) - seen
    known = np.isfinite(seen).all(axis=1) & np.isfinite(drawn).all(axis=(0, 2))
    # Where the seeds have one model, as the dense one of a zero-shot task, they add nothing to a level.
    known &= (np.abs(seen) > ROUNDING).any(axis=1) | (np.abs(drawn) > ROUNDING).any(axis=(0, 2))
    if not known.any():
        return seen
    of_all, of_each = _split(seen[known])
    drawn_all, drawn_each = _split(drawn[:, known])
    seen[known] = of_all * _kept(of_all, drawn_all) + of_each * _kept(of_each, drawn_each)
    return seen


def _centred(scores: Floats) -> Floats:
    return np.asarray(scores - scores.mean(axis=-1, keepdims=True), dtype=np.float64)


def _split(deviations: Floats) -> tuple[Floats, Floats]:
    """Split deviations (..., levels, seeds) into their mean over the levels and the rest."""
    common = np.asarray(deviations.mean(axis=-2, keepdims=True), dtype=np.float64)
    return common, deviations - common


def _kept(seen: Floats, drawn: Floats) -> float:
    """Return the factor that takes the variance of draws (draws, levels, seeds) off that of deviations."""
    between = float((seen**2).sum())
    within = float((drawn**2).sum(axis=(1, 2)).mean())
    return float(np.sqrt(max(0.0, 1 - within / between))) if between > 0 else 0.0
