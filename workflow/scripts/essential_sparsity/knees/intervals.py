"""Intervals of knees, for each rule by the construction whose coverage is right (docs/knees.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.curvature import curvature_at
from essential_sparsity.knees.kneedle import chord_slope
from essential_sparsity.knees.readings import CODES, LEFT, RIGHT, Knee, Readings, Settings
from essential_sparsity.knees.tolerance import tolerated_score
from essential_sparsity.metrics.registry import metric_of, value_of

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


@dataclass(frozen=True)
class Drawn:
    """Draws of a curve and what is read off them.

    Attributes:
        sparsity: The levels (levels,).
        scores: The draws (draws, levels).
        readings: The rule's readings of them.
        knee: The knee of the curve itself.
        settings: The study's ``knees``.
        chance: The performance of a model that knows nothing; None where it is not known.
    """

    sparsity: Floats
    scores: Floats
    readings: Readings
    knee: float
    settings: Settings
    chance: float | None

    @property
    def with_knee(self) -> Floats:
        """The draws that have a knee."""
        return self.scores[~np.isnan(self.readings.knee)]


# Of draws and a confidence, the bounds.
Construction = Callable[[Drawn, float], tuple[float, float]]

# Places where the slope of a draw is compared with 0, on the axis of sparsity scaled to [0, 1].
_PLACES = np.linspace(0.0, 1.0, 201)


def quantiles(draws: Floats, confidence: float) -> Floats:
    """Return the central quantiles (2, ...) of draws (draws, ...), the k-th of n draws being that at k / (n + 1)."""
    tail = (1 - confidence) / 2
    return np.asarray(np.quantile(draws, [tail, 1 - tail], axis=0, method="weibull"), dtype=np.float64)


def percentile(drawn: Drawn, confidence: float) -> tuple[float, float]:
    """Return the quantiles of the knees of the draws (Efron 1979)."""
    low, high = quantiles(drawn.readings.knee[~np.isnan(drawn.readings.knee)], confidence)
    return float(low), float(high)


def inverted(drawn: Drawn, confidence: float) -> tuple[float, float]:
    """Return the sparsities at which the draws cannot tell the curve from its threshold, as Fieller (1954) does.

    ``d(s)`` is the score less the threshold. The interval begins where the lower quantile of d first falls below 0 and
    ends where the upper one does. At the true knee d is 0, and its interval contains 0 as often as its confidence
    says, whatever the slope: the knee itself, a ratio, may have draws that are far from normal.
    """
    sparsity = drawn.sparsity
    fine = np.interp(np.arange((len(sparsity) - 1) * _STEPS + 1) / _STEPS, np.arange(len(sparsity)), sparsity)
    # Without a knee are draws that have no threshold.
    scores = drawn.with_knee
    above = scores - tolerated_score(scores[:, :1], drawn.settings.tolerance, drawn.settings.loss, drawn.chance)
    right = np.clip(np.searchsorted(sparsity, fine), 1, len(sparsity) - 1)
    share = (fine - sparsity[right - 1]) / (sparsity[right] - sparsity[right - 1])
    bounds = quantiles(above[:, right - 1] * (1 - share) + above[:, right] * share, confidence)
    return _first_below(fine, bounds[0]), _first_below(fine, bounds[1])


def _first_below(places: Floats, values: Floats, start: float = -np.inf) -> float:
    """Return where values first fall below 0 after a start, interpolated; the last place where they never do."""
    below = np.flatnonzero((values < 0) & (places > start))
    if below.size == 0:
        return float(places[-1])
    if below[0] == 0:
        return float(places[0])
    around = slice(int(below[0]) - 1, int(below[0]) + 1)
    return float(np.interp(0.0, -values[around], places[around]))


def _last_below(places: Floats, values: Floats, end: float = np.inf) -> float:
    """Return up to where values last lie below 0 before an end, interpolated; the first place where they never do."""
    return -_first_below(-places[::-1], values[::-1], -end)


def around_top(drawn: Drawn, confidence: float) -> tuple[float, float]:
    """Return the places around the knee at which the draws cannot tell the slope of Kneedle's distance from 0.

    The knee is the top of a hill, the distance from the chord, where its slope is 0; the test that it is 0 is inverted,
    as :func:`inverted` does for the threshold. The interval begins at the last place before the knee where the distance
    still rises, its slope's lower quantile above 0, and ends at the first one after it where it falls.
    """
    lower, upper = quantiles(chord_slope(drawn.sparsity, drawn.with_knee, _PLACES), confidence)
    knee = drawn.knee / float(drawn.sparsity[-1])
    bounds = _last_below(_PLACES, -lower, knee), _first_below(_PLACES, upper, knee)
    return _within_reach(drawn, confidence, bounds)


def of_peaks(drawn: Drawn, confidence: float) -> tuple[float, float]:
    """Return the range of places that may be the sharpest bend.

    Noise gives a curvature several peaks. A place may be the highest where the draws can tell neither the slope of the
    curvature from 0, nor its value from a larger one at the knee (a test of one side).
    """
    curvature = curvature_at(drawn.sparsity, drawn.with_knee, _PLACES)
    lower, upper = quantiles(np.gradient(curvature, _PLACES, axis=1), confidence)
    at_knee = curvature[:, np.abs(_PLACES - drawn.knee / drawn.sparsity[-1]).argmin()]
    less = np.quantile(curvature - at_knee[:, None], confidence, axis=0, method="weibull")
    # Above 0 where a place is told apart.
    apart = np.stack([lower, -upper, -less])
    inside = np.flatnonzero((apart <= 0).all(axis=0))
    if inside.size == 0:
        return drawn.knee, drawn.knee
    low = _edge(_PLACES, apart, int(inside[0]))
    high = -_edge(-_PLACES[::-1], apart[:, ::-1], len(_PLACES) - 1 - int(inside[-1]))
    return _within_reach(drawn, confidence, (low, high))


def _edge(places: Floats, apart: Floats, first: int) -> float:
    """Return where the last of several functions (functions, places) that is above 0 before a place falls to 0."""
    if first == 0:
        return float(places[0])
    around = slice(first - 1, first + 1)
    return max(float(np.interp(0.0, -row[around], places[around])) for row in apart if row[first - 1] > 0)


def _within_reach(drawn: Drawn, confidence: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return bounds, given on the axis scaled to [0, 1], within the levels that may have a knee.

    A knee lies between the second and the last but one level, and is censored there: where more draws are than a tail
    holds, the interval reaches it.
    """
    first, last = float(drawn.sparsity[1]), float(drawn.sparsity[-2])
    low, high = (min(max(bound * float(drawn.sparsity[-1]), first), last) for bound in bounds)
    is_open = {code: _censored(drawn.readings, code) > (1 - confidence) / 2 for code in (CODES[LEFT], CODES[RIGHT])}
    return first if is_open[CODES[LEFT]] else low, last if is_open[CODES[RIGHT]] else high


CONSTRUCTIONS: dict[str, Construction] = {"tolerance": inverted, "kneedle": around_top, "curvature": of_peaks}


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
    tail = (1 - settings.confidence) / 2
    ends = ((OPEN_BELOW, CODES[LEFT]), (OPEN_ABOVE, CODES[RIGHT]))
    flags += [flag for flag, code in ends if _censored(readings, code) > tail]
    drawn = Drawn(sparsity, scores, readings, knee.knee, settings, chance)
    low, high = CONSTRUCTIONS.get(rule, percentile)(drawn, settings.confidence)
    return Interval(min(low, knee.knee), max(high, knee.knee), tuple(flags))


def _censored(readings: Readings, code: int) -> float:
    """Return the share of the draws that are censored on a side."""
    return float((readings.censored == code).mean())


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
