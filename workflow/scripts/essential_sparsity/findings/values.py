"""The statistic of claims about values at levels: how far one curve lies above another."""

from __future__ import annotations

import numpy as np

from essential_sparsity.findings.claims import ValueDifference
from essential_sparsity.findings.estimates import NO_DRAWS, ONE_MODEL, Estimate, Unit, difference, mean
from essential_sparsity.findings.evidence import Evidence, MissingEvidenceError
from essential_sparsity.inference import Floats
from essential_sparsity.knees.analysis import Measured
from essential_sparsity.knees.readings import NOT_CENSORED


def value_difference(of: ValueDifference, evidence: Evidence) -> Estimate:
    """Return the performance of one curve minus that of another, or minus its own dense value where no other is named.

    Performance is the metric where higher is better, and minus the logarithm of a perplexity (nats); with ``relative:
    dense`` each curve's change from its dense value, as a share of that. ``levels: essential`` are those that all
    curves have, up to the knee of the reference's mean curve: that knee is fixed, and not drawn anew. The mean over the
    levels has the interval of :func:`findings.estimates.difference`; the worst level has that of
    :func:`worst_bounds`.
    """
    one = list(evidence.of_part(of.one))
    other = list(evidence.of_part(of.other)) if of.other else []
    levels, flags = _levels(of, evidence, [*one, *other])
    if of.over == "worst":
        return _worst(of, evidence, one[0], other, levels, flags)
    units = [_unit(m, _values(m, levels, of.relative, not other), flags) for m in one]
    if not other:
        return mean(units, evidence.confidence)
    others = [_unit(m, _values(m, levels, of.relative, False), ()) for m in other]
    return difference(units, others, of.pairing, evidence.confidence)


def _levels(
    of: ValueDifference, evidence: Evidence, found: list[Measured]
) -> tuple[list[float], tuple[str, ...]]:  # fmt: skip
    """Return the levels to compare at, and what to doubt of them."""
    shared = sorted(set.intersection(*({round(float(s), 3) for s in m.mean.sparsity[1:]} for m in found)))
    if not isinstance(of.levels, str):
        if missing := [level for level in of.levels if round(level, 3) not in shared]:
            raise MissingEvidenceError(
                f"not all curves have the levels {', '.join(f'{100 * level:g} %' for level in missing)}"
            )
        return sorted(of.levels), ()
    assert of.reference is not None, "checked with the study"
    reference = next(evidence.of_part(of.reference))
    reading = evidence.reading(reference.mean, of.reference.rule)
    assert reading.knee.knee is not None
    levels = [level for level in shared if level <= reading.knee.knee + 1e-9]
    if not levels:
        raise MissingEvidenceError(f"no common level up to the knee of the reference, {100 * reading.knee.knee:.1f} %")
    flags = [f"levels up to the reference's knee, {100 * reading.knee.knee:.1f} %: {len(levels)}"]
    if reading.knee.censored != NOT_CENSORED:
        flags.append("the levels do not enclose the reference's knee")
    return levels, tuple(flags)


def _values(measured: Measured, levels: list[float], relative: str, from_dense: bool) -> tuple[Floats, Floats | None]:
    """Return a curve's performance (levels,) and its draws (draws, levels) at some levels."""
    curve = measured.mean
    places = [int(np.abs(curve.sparsity - level).argmin()) for level in levels]

    def at(scores: Floats) -> Floats:
        dense = scores[..., :1]
        start = dense if from_dense or relative == "dense" else 0.0
        return np.asarray((scores[..., places] - start) / (np.abs(dense) if relative == "dense" else 1.0))

    with np.errstate(invalid="ignore", divide="ignore"):
        values = at(curve.score)
        draws = None if curve.draws is None else at(curve.draws.scores)
    if not np.isfinite(values).all():
        raise MissingEvidenceError("a value that is missing or not finite at one of the levels")
    return values, draws


def _unit(measured: Measured, found: tuple[Floats, Floats | None], flags: tuple[str, ...]) -> Unit:
    values, draws = found
    value = float(values.mean())
    drawn = None if draws is None else np.repeat(draws.mean(axis=1)[None], 2, axis=0)
    doubts = tuple(dict.fromkeys([*measured.mean.flags, *measured.doubts, *flags]))
    return Unit(value, value, value, drawn, len(measured.seeds), doubts)


def _worst(
    of: ValueDifference, evidence: Evidence, one: Measured, other: list[Measured], levels: list[float],
    flags: tuple[str, ...],
) -> Estimate:  # fmt: skip
    sides = [_values(m, levels, of.relative, not other) for m in (one, *other)]
    values = sides[0][0] - (sides[1][0] if other else 0.0)
    at = levels[int(np.abs(values).argmax())]
    doubts = [flag for m in (one, *other) for flag in (*m.mean.flags, *m.doubts)]
    doubts = [*dict.fromkeys(doubts), *flags, f"largest at {100 * at:g} %", ONE_MODEL]
    seeds, worst = min(len(m.seeds) for m in (one, *other)), float(np.abs(values).max())
    draws = [drawn for _, drawn in sides if drawn is not None]
    if len(draws) < len(sides):
        return Estimate(worst, None, None, seeds, (*doubts, NO_DRAWS))
    low, high = worst_bounds(values, draws[0] - (draws[1] if other else 0.0), evidence.confidence)
    return Estimate(worst, low, high, seeds, tuple(doubts))


def worst_bounds(values: Floats, draws: Floats, confidence: float) -> tuple[float, float]:
    """Return the interval of the largest absolute value from a band that holds all levels at once.

    The band is ``d +- c se`` with c the quantile of the largest ``|draw - d| / se`` (the sup-t band of Montiel Olea and
    Plagborg-Moller 2019): the largest of draws would count noise twice and be too large. Wherever the band holds, the
    largest absolute value lies between the largest distance of the band from 0 and its outermost end.

    Args:
        values: Of the levels (levels,).
        draws: Their draws (draws, levels).
        confidence: Of the band, and at least that of the interval.
    """
    draws = draws[np.isfinite(draws).all(axis=1)]
    spread = draws.std(axis=0, ddof=1)
    away = np.abs(draws - values)
    standard = np.divide(away, spread, out=np.zeros_like(away), where=spread > 0)
    half = float(np.quantile(standard.max(axis=1), confidence, method="weibull")) * spread
    sizes = np.abs(values)
    return float(np.maximum(0.0, sizes - half).max()), float((sizes + half).max())
