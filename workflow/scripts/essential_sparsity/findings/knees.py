"""Statistics of claims about knees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from essential_sparsity.findings.claims import KneeDifference, Part
from essential_sparsity.findings.estimates import ONE_MODEL, Estimate, bounds_of_draws, difference, mean, within
from essential_sparsity.findings.evidence import Evidence, MissingEvidenceError
from essential_sparsity.inference import Floats
from essential_sparsity.knees.intervals import OPEN_ABOVE, OPEN_BELOW
from essential_sparsity.knees.readings import LEFT, NOT_CENSORED, RIGHT

UNBOUNDED = "the loss does not grow before the knee: the ratio is unbounded"
OPEN_RATIO = "the interval is open above: in some draws the loss does not grow before the knee"


def knee(of: Part, evidence: Evidence) -> Estimate:
    """Return the knee of a curve, or the mean knee of several models.

    The interval of one model is that of the table of knees (docs/knees.md), open to the end of the scale where the
    knee, or more draws than lie outside the interval on that side, lies outside the levels. That of several is
    Student's over the models (:func:`findings.estimates.mean`).
    """
    units = evidence.knee_units(of)
    if len(units) > 1:
        return within(mean(units, evidence.confidence), 0.0, 1.0)
    measured = next(evidence.of_part(of))
    reading = evidence.reading(measured.mean, of.rule)
    found, unit = reading.interval, units[0]
    flags = tuple(dict.fromkeys([*unit.flags, *found.flags, ONE_MODEL]))
    if found.low is None or found.high is None:
        return mean(units, evidence.confidence) if unit.draws is None else Estimate(
            unit.value, None, None, unit.seeds, flags
        )  # fmt: skip
    low = 0.0 if OPEN_BELOW in found.flags or reading.knee.censored == LEFT else found.low
    high = 1.0 if OPEN_ABOVE in found.flags or reading.knee.censored == RIGHT else found.high
    return Estimate(unit.value, low, max(high, unit.most), unit.seeds, flags)


def knee_difference(of: KneeDifference, evidence: Evidence) -> Estimate:
    """Return one knee minus another, of curves or of groups of models.

    Draws of curves of one task are paired; two tasks have examples of their own, and their draws are independent.
    Groups of pre-trainings: :func:`findings.estimates.difference`, as far as knees can differ at all.
    """
    found = difference(evidence.knee_units(of.one), evidence.knee_units(of.other), of.pairing, evidence.confidence)
    return within(found, -1.0, 1.0)


def slope_ratio(of: Part, evidence: Evidence) -> Estimate:
    """Return how many times faster the loss grows beyond the knee than before it.

    With k the knee by the rule, ``y = a + b s + c max(0, s - k)`` is fitted by least squares to the performance (nats
    of a perplexity), and the ratio is ``(b + c) / b``; by ``two-segment`` this is the fit that k is the joint of
    (Hudson 1966). Knee and slopes are those of each draw. A slope before the knee that is flat or rises makes the ratio
    unbounded, more than any number: draws are ordered by the angle of the two slopes, ``atan2(-(b + c), -b)``, whose
    quantiles are mapped back, so that the interval is open where a draw within it is unbounded. As the joint is chosen,
    the ratio of a noisy straight line is above 1, too: a claim should ask for more than that.
    """
    measured = next(evidence.of_part(of))
    curve, reading = measured.mean, evidence.reading(measured.mean, of.rule)
    assert reading.knee.knee is not None
    angle = _angles(curve.sparsity, curve.score[None], np.array([reading.knee.knee]))[0]
    flags = [*curve.flags, *reading.knee.flags, *measured.doubts, ONE_MODEL]
    if reading.knee.censored != NOT_CENSORED:
        flags.append("the levels do not enclose the knee")
    if np.isnan(angle):
        raise MissingEvidenceError("no ratio: too few levels beside the knee, or the loss grows on neither side")
    value = _ratio(float(angle))
    flags += [UNBOUNDED] if value == np.inf else []
    found = Estimate(value, None, None, len(measured.seeds), tuple(dict.fromkeys(flags)))
    if curve.draws is None or reading.draws is None:
        return replace(found, flags=(*found.flags, "nothing to resample: no interval"))
    angles = _angles(curve.sparsity, curve.draws.scores, reading.draws.knee)
    low, high, remarks = bounds_of_draws(np.stack([angles, angles]), evidence.confidence)
    if low is None or high is None:
        return replace(found, flags=(*found.flags, *remarks))
    low, high = _ratio(min(low, float(angle))), _ratio(max(high, float(angle)))
    remarks += [OPEN_RATIO] if high == np.inf > value else []
    return replace(found, low=low, high=high, flags=(*found.flags, *remarks))


def _ratio(angle: float) -> float:
    return np.inf if angle >= np.pi / 2 else float(np.tan(angle))


def _angles(sparsity: Floats, scores: Floats, knees: Floats) -> Floats:
    """Return the angles (draws,) of the slopes of the loss after and before the knees; NaN where there are none."""
    found = np.full(len(scores), np.nan)
    span = np.abs(scores).max(axis=1) / (sparsity[-1] - sparsity[0])
    for i in np.flatnonzero(~np.isnan(knees)):
        design = np.stack([np.ones_like(sparsity), sparsity, np.maximum(0.0, sparsity - knees[i])], axis=1)
        coefficients, _, rank, _ = np.linalg.lstsq(design, scores[i], rcond=None)
        # What rounding leaves of a flat line is no slope.
        before, after = (0.0 if abs(b) <= 1e-9 * span[i] else -b for b in (coefficients[1], sum(coefficients[1:])))
        if rank == 3 and (before > 0 or after > 0):
            found[i] = np.arctan2(after, before)
    return found
