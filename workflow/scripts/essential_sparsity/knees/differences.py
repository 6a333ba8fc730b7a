"""Differences of knees: between methods, checkpoints and models, with intervals and a test for many comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_age
from essential_sparsity.inference import holm, p_value
from essential_sparsity.knees.intervals import MOST_WITHOUT, quantiles, without_text
from essential_sparsity.knees.readings import CODES, LEFT, NOT_CENSORED, RIGHT, Knee, Readings
from essential_sparsity.tables import Row

METHODS, CHECKPOINTS, MODELS = "methods", "checkpoints", "models"


@dataclass(frozen=True)
class CurveKnee:
    """What a rule reads off a mean curve and off its draws.

    Attributes:
        model: The curve's model, as its next fields name its place.
        checkpoint: Its checkpoint.
        method: Its method.
        task: Its task.
        rule: The rule.
        knee: The knee of the curve itself.
        readings: Those of its draws; None where nothing could be resampled.
        flags: What to doubt of the draws, such as that there was one seed.
    """

    model: str
    checkpoint: str
    method: str
    task: str
    rule: str
    knee: Knee
    readings: Readings | None
    flags: tuple[str, ...] = ()


def difference_rows(knees: Sequence[CurveKnee], confidence: float) -> pd.DataFrame:
    """Compare the knees of a study by each rule.

    Methods are compared with each other on one checkpoint and task; checkpoints of a model with its last; models with
    each other by a method, at the last checkpoint of each.

    Args:
        knees: The mean curves' knees, by all rules.
        confidence: The confidence of the intervals.

    Returns:
        Rows of the table of differences. ``p_adjusted`` is Holm's, over all comparisons by one rule: rules are
        readings of the same curves, of which a reader takes one.
    """
    ordered = sorted(knees, key=lambda k: (k.rule, k.task, k.model, k.checkpoint, k.method))
    rows = [_difference(kind, one, other, confidence) for kind, one, other in _pairs(ordered)]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    by_rule = frame.groupby("rule")["p_value"]
    frame["p_adjusted"] = by_rule.transform(lambda p: holm(p.to_numpy(float)))
    # The smallest p-value that a number of draws can show, times the comparisons.
    needed = np.ceil(2 * by_rule.transform("count") / (1 - confidence))
    at_least = frame["p_value"] <= 2 / (frame.pop("known") + 1) * (1 + 1e-9)
    for i in frame.index[at_least & (frame["p_adjusted"] > 1 - confidence)]:
        too_few = f"too few draws for so many comparisons: `knees.draws` of {needed[i]:.0f} could tell these apart"
        frame.loc[i, "flags"] = "; ".join(filter(None, [frame.loc[i, "flags"], too_few]))
    return frame


_COLUMNS = [
    "kind", "model", "checkpoint", "method", "task", "other_model", "other_checkpoint", "other_method", "rule",
    "difference", "ci_low", "ci_high", "p_value", "p_adjusted", "flags", "known",
]  # fmt: skip


def _pairs(knees: Sequence[CurveKnee]) -> Iterator[tuple[str, CurveKnee, CurveKnee]]:
    """Yield the kind of each comparison and its two sides."""
    for _, group in _grouped(knees, "rule", "task", "model", "checkpoint"):
        yield from ((METHODS, one, other) for one, other in itertools.combinations(group, 2))
    lasts: list[CurveKnee] = []
    for _, group in _grouped(knees, "rule", "task", "method", "model"):
        *earlier, last = sorted(group, key=lambda k: checkpoint_age(k.checkpoint))
        lasts.append(last)
        yield from ((CHECKPOINTS, one, last) for one in earlier)
    for _, group in _grouped(lasts, "rule", "task", "method"):
        yield from ((MODELS, one, other) for one, other in itertools.combinations(group, 2))


def _grouped(knees: Sequence[CurveKnee], *axes: str) -> Iterator[tuple[tuple[str, ...], list[CurveKnee]]]:
    def key(knee: CurveKnee) -> tuple[str, ...]:
        return tuple(getattr(knee, axis) for axis in axes)

    for value, group in itertools.groupby(sorted(knees, key=key), key):
        yield value, list(group)


def _difference(kind: str, one: CurveKnee, other: CurveKnee, confidence: float) -> Row:
    """Return the row of a comparison but for the adjusted p-value."""
    row: dict[str, object] = {
        "kind": kind, "model": one.model, "checkpoint": one.checkpoint, "method": one.method, "task": one.task,
        "other_model": other.model, "other_checkpoint": other.checkpoint, "other_method": other.method,
        "rule": one.rule, "difference": np.nan, "ci_low": np.nan, "ci_high": np.nan, "p_value": np.nan,
    }  # fmt: skip
    if one.knee.knee is None or other.knee.knee is None:
        return {**row, "flags": _absent(one, other)}
    if (one.knee.censored, other.knee.censored) != (NOT_CENSORED, NOT_CENSORED):
        return {**row, "flags": _bound(one.knee, other.knee)}
    row |= {"difference": one.knee.knee - other.knee.knee}
    if one.readings is None or other.readings is None:
        return {**row, "flags": "nothing to resample: no interval and no test"}
    draws = one.readings.knee - other.readings.knee
    without = float(np.isnan(draws).mean())
    flags = list(dict.fromkeys([*one.flags, *other.flags, *without_text(without)]))
    if without > MOST_WITHOUT:
        return {**row, "flags": "; ".join(flags)}
    beyond = float(((one.readings.censored != CODES[NOT_CENSORED]) | (other.readings.censored != 0)).mean())
    if beyond > (1 - confidence) / 2:
        flags.append(f"in {beyond:.0%} of the draws a knee lies outside the levels: the interval may be too narrow")
    known = draws[~np.isnan(draws)]
    row["ci_low"], row["ci_high"] = quantiles(known, confidence)
    return {**row, "p_value": p_value(known), "known": len(known), "flags": "; ".join(flags)}


def _absent(one: CurveKnee, other: CurveKnee) -> str:
    which = [name for name, k in (("the first", one), ("the second", other)) if k.knee.knee is None]
    return f"{' and '.join(which)} curve has no knee" if len(which) == 1 else "neither curve has a knee"


def _bound(one: Knee, other: Knee) -> str:
    """Say what is known of a difference of which a side is censored."""
    assert one.knee is not None
    assert other.knee is not None
    sides = [
        f"the {name} knee lies {'beyond the last' if k.censored == RIGHT else 'before the first'} level"
        for name, k in (("first", one), ("second", other))
        if k.censored != NOT_CENSORED
    ]
    apart = f"{100 * (_outermost(one) - _outermost(other)):+.1f} points"
    # A censored knee lies further out than its level.
    at_least = one.censored != LEFT and other.censored != RIGHT
    at_most = one.censored != RIGHT and other.censored != LEFT
    known = f"at least {apart}" if at_least else f"at most {apart}" if at_most else "not known"
    return f"{' and '.join(sides)}: the difference is {known}"


def _outermost(knee: Knee) -> float:
    """Return the place beyond which a censored knee lies: on the left the first level, where the rule names it."""
    assert knee.knee is not None
    return knee.grid_high if knee.censored == LEFT and knee.grid_high is not None else knee.knee
