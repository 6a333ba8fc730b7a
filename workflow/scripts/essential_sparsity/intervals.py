"""Intervals of knees, for each rule by the construction whose coverage is right (docs/knees.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from essential_sparsity.knee_tolerance import tolerated_score
from essential_sparsity.metrics import Floats, metric_of, value_of
from essential_sparsity.readings import Knee, Readings, Settings

# Between two levels a curve is compared with the tolerance at so many points: crossings are interpolated between them.
_STEPS = 16

# Draws without a knee that are too few to speak of, and so many that what is left says nothing.
_FEW, MOST_WITHOUT = 0.05, 0.5

OPEN_ABOVE = "the interval is open above: the knee may lie beyond the last level"
OPEN_BELOW = "the interval is open below: the knee may lie before the first level"


@dataclass(frozen=True)
class Interval:
    """The interval of a knee.

    Attributes:
        low: Its lower bound, a sparsity; None where there is no interval.
        high: Its upper bound.
        flags: What should be doubted.
    """

    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()


# Of levels, scores (draws, levels), readings, settings, chance and confidence, the bounds.
Construction = Callable[[Floats, Floats, Readings, Settings, float | None, float], tuple[float, float]]


def quantiles(draws: Floats, confidence: float) -> Floats:
    """Return the central quantiles (2, ...) of draws (draws, ...), the k-th of n draws being that at k / (n + 1)."""
    tail = (1 - confidence) / 2
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull"), dtype=np.float64)


def percentile(
    sparsity: Floats, scores: Floats, readings: Readings, settings: Settings, chance: float | None, confidence: float
) -> tuple[float, float]:
    """Return the quantiles of the knees of the draws (Efron 1979)."""
    low, high = quantiles(readings.knee[~np.isnan(readings.knee)], confidence)
    return float(low), float(high)


def inverted(
    sparsity: Floats, scores: Floats, readings: Readings, settings: Settings, chance: float | None, confidence: float
) -> tuple[float, float]:
    """Return the sparsities at which the draws cannot tell the curve from its threshold, as Fieller (1954) does.

    ``d(s)`` is the score less the threshold. The interval begins where the lower quantile of d first falls below 0 and
    ends where the upper one does. At the true knee d is 0, and its interval contains 0 as often as its confidence
    says, whatever the slope: the knee itself, a ratio, may have draws that are far from normal.
    """
    fine = np.interp(np.arange((len(sparsity) - 1) * _STEPS + 1) / _STEPS, np.arange(len(sparsity)), sparsity)
    # Without a knee are draws that have no threshold.
    scores = scores[~np.isnan(readings.knee)]
    above = scores - tolerated_score(scores[:, :1], settings, chance)
    right = np.clip(np.searchsorted(sparsity, fine), 1, len(sparsity) - 1)
    share = (fine - sparsity[right - 1]) / (sparsity[right] - sparsity[right - 1])
    bounds = quantiles(above[:, right - 1] * (1 - share) + above[:, right] * share, confidence)
    return _first_below(fine, bounds[0]), _first_below(fine, bounds[1])


def _first_below(places: Floats, values: Floats) -> float:
    """Return where values first fall below 0, interpolated; the last place where they never do."""
    below = np.flatnonzero(values < 0)
    if below.size == 0:
        return float(places[-1])
    if below[0] == 0:
        return float(places[0])
    around = slice(int(below[0]) - 1, int(below[0]) + 1)
    return float(np.interp(0.0, -values[around], places[around]))


CONSTRUCTIONS: dict[str, Construction] = {"tolerance": inverted}


def knee_interval(
    sparsity: Floats, scores: Floats, knee: Knee, readings: Readings, rule: str, settings: Settings,
    chance: float | None,
) -> Interval:  # fmt: skip
    """Return the interval of a knee.

    Args:
        sparsity: The levels (levels,).
        scores: Draws of the curve (draws, levels).
        knee: The knee of the curve itself.
        readings: The rule's readings of the draws.
        rule: The rule that read them.
        settings: The study's ``knees``: ``confidence`` and what the rule needs.
        chance: The performance of a model that knows nothing; None where it is not known.

    Returns:
        The interval: none where the curve has no knee, or most of its draws have none.
    """
    if knee.knee is None:
        return Interval()
    without = float(np.isnan(readings.knee).mean())
    flags = without_text(without)
    if without > MOST_WITHOUT:
        return Interval(flags=tuple(flags))
    tail = (1 - settings["confidence"]) / 2
    flags += [
        flag for flag, code in ((OPEN_BELOW, -1), (OPEN_ABOVE, 1)) if float((readings.censored == code).mean()) > tail
    ]
    construction = CONSTRUCTIONS.get(rule, percentile)
    low, high = construction(sparsity, scores, readings, settings, chance, settings["confidence"])
    return Interval(min(low, knee.knee), max(high, knee.knee), tuple(flags))


def without_text(share: float) -> list[str]:
    """Say that draws have no knee, if they are too many to be left out unsaid."""
    if share > MOST_WITHOUT:
        return [f"no interval: {share:.0%} of the draws have no knee"]
    return [f"{share:.0%} of the draws have no knee"] if share > _FEW else []


# The values that a metric can have, by its unit.
_RANGES = {"fraction": (0.0, 1.0), "correlation": (-1.0, 1.0), "perplexity": (1.0, np.inf), "nats": (0.0, np.inf)}


def value_bounds(scores: Floats, metric: str, confidence: float) -> Floats:
    """Return the bounds (2, levels) of values, in the metric's own unit, from draws of performance (draws, levels)."""
    bounds = np.sort(value_of(quantiles(scores, confidence), metric), axis=0)
    return np.clip(bounds, *_RANGES.get(metric_of(metric).unit, (-np.inf, np.inf)))
