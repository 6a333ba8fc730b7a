"""Estimates with intervals: of one model from its draws, of groups of models from their spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from essential_sparsity.inference import Floats
from essential_sparsity.knees.intervals import MOST_WITHOUT, quantiles, without_text

ONE_MODEL = "one pre-training seed: the spread over pre-trainings is not in the interval"
NO_DRAWS = "nothing to resample: no interval"


@dataclass(frozen=True)
class Estimate:
    """What a statistic is, and how sure that is.

    Attributes:
        value: The estimate; None where there is none.
        low: The lower bound of its interval, minus infinity where that is open; None where there is no interval.
        high: The upper bound.
        n_seeds: Pre-trainings behind it where groups of models are compared, else the seeds of the curves.
        flags: Why there is none, or what to doubt.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n_seeds: int = 1
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """What a model, or a difference of two, contributes: a number that may be known by its bounds alone.

    A knee before the first level or beyond the last lies somewhere up to the end of the scale. Bounds are carried
    through differences and means, so that no verdict rests on a level that is only a bound.

    Attributes:
        value: The number.
        least: The smallest that it may be; ``value`` unless it is censored.
        most: The largest.
        draws: ``least`` and ``most`` of each draw (2, draws), NaN where it has none; None where nothing was resampled.
        seeds: Seeds behind the number.
        flags: What to doubt.
    """

    value: float
    least: float
    most: float
    draws: Floats | None
    seeds: int = 1
    flags: tuple[str, ...] = ()


def minus(one: Unit, other: Unit) -> Unit:
    """Return the difference of two units; their draws are paired, which they are where the examples are the same."""
    draws = None if one.draws is None or other.draws is None else one.draws - other.draws[::-1]
    flags = tuple(dict.fromkeys([*one.flags, *other.flags]))
    return Unit(
        one.value - other.value, one.least - other.most, one.most - other.least, draws, min(one.seeds, other.seeds),
        flags,
    )  # fmt: skip


def within(estimate: Estimate, least: float, most: float) -> Estimate:
    """Return an estimate whose interval ends where its quantity does: Student's t knows of no ends."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(least, estimate.low), high=min(most, estimate.high))


def difference(one: Sequence[Unit], other: Sequence[Unit], pairing: str, confidence: float) -> Estimate:
    """Return the mean of one group minus that of another.

    One model against one: the quantiles of the paired draws. Groups of pre-trainings: Welch's t interval, or that of
    the differences at each place where models belong together (``in-order``), as :func:`mean` gives it.

    Args:
        one: The first group.
        other: The second, perhaps of another size.
        pairing: ``none`` or ``in-order``.
        confidence: Of the interval.
    """
    if pairing == "in-order" or len(one) == len(other) == 1:
        return mean([minus(a, b) for a, b in zip(one, other, strict=True)], confidence)
    return _of_groups([(one, 1), (other, -1)], confidence)


def mean(units: Sequence[Unit], confidence: float) -> Estimate:
    """Return the mean of models: from the draws of one, from the spread between several.

    The variance between models holds what differs from model to model: the training, and the share of the examples and
    seeds of each. What these change in all models alike is not in it; the covariance between the models' draws is, and
    is added.
    """
    return _of_one(units[0], confidence) if len(units) == 1 else _of_groups([(units, 1)], confidence)


def _of_one(unit: Unit, confidence: float) -> Estimate:
    flags = [*unit.flags, ONE_MODEL]
    if unit.draws is None:
        return Estimate(unit.value, None, None, unit.seeds, (*flags, NO_DRAWS))
    low, high, remarks = bounds_of_draws(unit.draws, confidence)
    if low is None or high is None:
        return Estimate(unit.value, None, None, unit.seeds, (*flags, *remarks))
    return Estimate(unit.value, min(low, unit.least), max(high, unit.most), unit.seeds, (*flags, *remarks))


def bounds_of_draws(draws: Floats, confidence: float) -> tuple[float | None, float | None, list[str]]:
    """Return the quantiles of draws (2, draws) that are known by their bounds, or none where most have no value."""
    known = draws[:, ~np.isnan(draws).any(axis=0)]
    without = 1 - known.shape[1] / draws.shape[1]
    if without > MOST_WITHOUT:
        return None, None, without_text(without)
    return float(quantiles(known[0], confidence)[0]), float(quantiles(known[1], confidence)[1]), without_text(without)


def _of_groups(groups: Sequence[tuple[Sequence[Unit], int]], confidence: float) -> Estimate:
    """Return a sum of means of groups, each with its sign, by Welch's t (Welch 1947) or, of one group, Student's."""
    units = [unit for group, _ in groups for unit in group]
    flags = tuple(dict.fromkeys(flag for unit in units for flag in unit.flags))
    sizes = [len(group) for group, _ in groups]
    value = sum(sign * float(np.mean([u.value for u in group])) for group, sign in groups)
    if min(sizes) < 2:
        return Estimate(value, None, None, min(sizes), (*flags, "one model in a group: no interval"))
    common = _common_variance(groups)
    # A censored number adds its bound on the side on which it is not known.
    below = [[u.least if sign > 0 else u.most for u in group] for group, sign in groups]
    above = [[u.most if sign > 0 else u.least for u in group] for group, sign in groups]
    values = [[u.value for u in group] for group, _ in groups]
    signs = [sign for _, sign in groups]
    ends = [t_bounds(parts, signs, common, confidence) for parts in (below, values, above)]
    return Estimate(value, min(low for low, _ in ends), max(high for _, high in ends), min(sizes), flags)


def t_bounds(
    groups: Sequence[Sequence[float]], signs: Sequence[int], common: float, confidence: float
) -> tuple[float, float]:
    """Return the t interval of a sum of means, each with its sign.

    Degrees of freedom are Welch's and Satterthwaite's, ``(sum v)^2 / sum(v_g^2 / (n_g - 1))`` with ``v_g = s_g^2 /
    n_g``, where a variance that all have in common counts as known.
    """
    centre = sum(sign * float(np.mean(group)) for sign, group in zip(signs, groups, strict=True))
    parts = [float(np.var(group, ddof=1)) / len(group) for group in groups]
    spread = sum(v**2 / (len(group) - 1) for v, group in zip(parts, groups, strict=True))
    total = sum(parts) + common
    freedom = total**2 / spread if spread > 0 else min(len(group) for group in groups) - 1
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(total)
    return centre - half, centre + half


def _common_variance(groups: Sequence[tuple[Sequence[Unit], int]]) -> float:
    """Return the variance of a sum of means of groups that the spread within them does not show.

    It is the mean covariance of two models' draws within each group, less twice that of two models of both.
    """
    units = [unit for group, _ in groups for unit in group]
    if any(unit.draws is None for unit in units):
        return 0.0
    draws = np.stack([unit.draws.mean(axis=0) for unit in units if unit.draws is not None], axis=1)
    known = draws[~np.isnan(draws).any(axis=1)]
    if len(known) < 2:
        return 0.0
    covariance = np.cov(known, rowvar=False)
    places = np.repeat(np.arange(len(groups)), [len(group) for group, _ in groups])
    total = 0.0
    for i, (_, sign) in enumerate(groups):
        for j, (_, other) in enumerate(groups):
            block = covariance[np.ix_(places == i, places == j)]
            pairs = block[~np.eye(len(block), dtype=bool)] if i == j else block
            total += sign * other * float(pairs.mean())
    return max(0.0, total)
