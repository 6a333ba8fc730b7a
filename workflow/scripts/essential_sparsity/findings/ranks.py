"""The statistic of claims that harder tasks have earlier knees, or later ones."""

from __future__ import annotations

import numpy as np

from essential_sparsity.findings.claims import RankCorrelation
from essential_sparsity.findings.estimates import NO_DRAWS, ONE_MODEL, Estimate, bounds_of_draws
from essential_sparsity.findings.evidence import Evidence, MissingEvidenceError
from essential_sparsity.inference import Floats


def rank_correlation(of: RankCorrelation, evidence: Evidence) -> Estimate:
    """Return Kendall's tau-b between the stated difficulty of tasks and the knees of one model by one method.

    Its interval holds the quantiles over the draws, which are independent between tasks; it is about these tasks, not
    about tasks at large. Draws that swap two close knees pull it towards 0. Two knees of which a censored one may lie
    on either side of the other count as either order, and the interval has room for both.
    """
    difficulty = np.array(list(of.difficulty.values()), dtype=float)
    units = [unit for part in of.parts for unit in evidence.knee_units(part)]
    flags = tuple(dict.fromkeys([flag for unit in units for flag in unit.flags] + [ONE_MODEL]))
    value = tau_bounds(difficulty, *(np.array([[unit.value for unit in units]]),) * 2)[0, 0]
    if np.isnan(value):
        raise MissingEvidenceError("all tasks are equally difficult, or all knees are the same")
    seeds = min(unit.seeds for unit in units)
    drawn = [unit.draws for unit in units if unit.draws is not None]
    if len(drawn) < len(units):
        return Estimate(float(value), None, None, seeds, (*flags, NO_DRAWS))
    draws = np.stack(drawn, axis=2)
    low, high, remarks = bounds_of_draws(tau_bounds(difficulty, draws[0], draws[1]), evidence.confidence)
    if low is None or high is None:
        return Estimate(float(value), None, None, seeds, (*flags, *remarks))
    own = tau_bounds(difficulty, *(np.array([[getattr(unit, end) for unit in units]]) for end in ("least", "most")))
    low, high = min(low, float(own[0, 0]), float(value)), max(high, float(own[1, 0]), float(value))
    return Estimate(float(value), low, high, seeds, (*flags, *remarks))


def tau_bounds(x: Floats, least: Floats, most: Floats) -> Floats:
    """Return the smallest and the largest tau-b (2, draws) of numbers that are known by their bounds.

    ``tau_b = sum sign(x_i - x_j) sign(y_i - y_j) / sqrt(P_x P_y)`` over pairs, with P the pairs that are not tied
    (Kendall 1945). A pair whose bounds overlap, and are not one number, may have either sign.

    Args:
        x: Numbers that are known (n,).
        least: The smallest that the others may be (draws, n).
        most: The largest; NaN in either gives NaN.
    """
    first, second = np.triu_indices(len(x), 1)
    of_x = np.sign(x[first] - x[second])
    surely = np.sign(least[:, first] - most[:, second]).clip(min=0) - np.sign(least[:, second] - most[:, first]).clip(
        min=0
    )
    point = (least == most)[:, first] & (least == most)[:, second]
    unknown = (surely == 0) & ~point
    agreed = (of_x * surely).sum(axis=1)
    free = (unknown & (of_x != 0)).sum(axis=1)
    pairs = np.sqrt(float((of_x != 0).sum()) * ((surely != 0) | unknown).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        bounds = np.stack([agreed - free, agreed + free]) / pairs
    bounds[:, np.isnan(least).any(axis=1) | np.isnan(most).any(axis=1) | (pairs == 0)] = np.nan
    return np.asarray(bounds, dtype=np.float64)
