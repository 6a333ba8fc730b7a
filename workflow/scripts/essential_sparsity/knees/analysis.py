"""From evaluations to knees, with intervals from the examples behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.inference import Floats
from essential_sparsity.knees.curves import curves, mean_curve
from essential_sparsity.knees.differences import CurveKnee, difference_rows
from essential_sparsity.knees.intervals import Interval, knee_interval, value_bounds
from essential_sparsity.knees.readings import Knee, Readings, Settings
from essential_sparsity.knees.resampling import Draws, draw_mean, draw_seed, resampled_values
from essential_sparsity.knees.rules import find_knee, find_many, value_at
from essential_sparsity.knees.samples import Examples, sample_of
from essential_sparsity.knees.tables import CURVES, DIFFERENCES, KNEES
from essential_sparsity.metrics.registry import performance, value_of
from essential_sparsity.tables import Row, Schema

ONE_SEED = "one seed: the spread over seeds is not in the interval"
TWO_SEEDS = "two seeds: their spread is hardly known, and the interval wide"
UNEVEN_SEEDS = "levels with different seeds"


@dataclass(frozen=True)
class Analysis:
    """What is read off the curves of a study: the tables :data:`knees.tables.KNEES`, ``CURVES`` and ``DIFFERENCES``."""

    knees: pd.DataFrame
    curves: pd.DataFrame
    differences: pd.DataFrame


@dataclass(frozen=True)
class Curve:
    """A curve as rules read it: that of a seed, or the mean over the seeds.

    Attributes:
        sparsity: Its levels (levels,).
        value: The metric (levels,).
        metric: Its name.
        chance: The performance of a model that knows nothing; None where it is not known.
        draws: Draws of its performance; None where nothing could be resampled.
        flags: What to doubt of it, whatever the rule.
    """

    sparsity: Floats
    value: Floats
    metric: str
    chance: float | None
    draws: Draws | None
    flags: tuple[str, ...]

    @property
    def score(self) -> Floats:
        """Its performance (levels,)."""
        return performance(self.value, self.metric)


@dataclass(frozen=True)
class Measured:
    """A mean curve over the seeds with those of the seeds, whose draws are of the same examples.

    Attributes:
        mean: The mean curve.
        seeds: The curve of each seed.
        doubts: What to doubt of the draws.
    """

    mean: Curve
    seeds: Mapping[int, Curve]
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """What a rule reads off a curve and off its draws; without draws, no readings and an empty interval."""

    rule: str
    knee: Knee
    draws: Readings | None
    interval: Interval


@dataclass(frozen=True)
class _Read:
    """What is read off one mean curve, and the rows of the table of knees, those of its seeds included."""

    axes: Mapping[str, str]
    rows: pd.DataFrame
    curve: Curve
    readings: list[Reading]
    knees: list[Row]
    doubts: tuple[str, ...]


def find_knees(evaluations: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Read the knees as :func:`analyse` does, without intervals."""
    read = (_read_curve(axes, rows, settings, None) for axes, rows in curves(evaluations))
    return _table([row for curve in read for row in curve.knees], KNEES)


def analyse(evaluations: pd.DataFrame, settings: Settings, examples: Examples) -> Analysis:
    """Read the knees of every curve: by each rule, for each seed and for the mean curve over the seeds.

    A level that no seed has a value for, and a missing dense model, leave a curve without a knee, and the flag says
    why. Where levels have different seeds the mean curve is read and flagged, but has no interval: its steps are
    differences between seeds, too.

    Args:
        evaluations: Rows of the table of evaluations.
        settings: The study's ``knees``: ``rules`` and what they need, ``confidence`` and ``draws``.
        examples: The examples of the evaluations; where there are none seeds alone are resampled.
    """
    read = [_read_curve(axes, rows, settings, examples) for axes, rows in curves(evaluations)]
    levels = [_level_rows(r.axes, r.rows, r.curve, settings.confidence) for r in read]
    found = [
        CurveKnee(
            r.axes["model"], r.axes["checkpoint"], r.axes["method"], r.axes["task"], reading.rule, reading.knee,
            reading.draws, r.doubts,
        )
        for r in read
        for reading in r.readings
    ]  # fmt: skip
    return Analysis(
        _table([row for r in read for row in r.knees], KNEES),
        pd.concat(levels, ignore_index=True) if levels else _table([], CURVES),
        difference_rows(found, settings.confidence)[list(DIFFERENCES.columns)],
    )


def measure(axes: Mapping[str, str], rows: pd.DataFrame, draws: int, examples: Examples | None) -> Measured:
    """Return a curve as rules read it, the mean and every seed's, with draws.

    Args:
        axes: What names the curve.
        rows: Its rows, as :func:`knees.curves.curves` gives them.
        draws: How many draws.
        examples: The examples of the evaluations; None where nothing is to be resampled, not even seeds.
    """
    sample, why = (None, ()) if examples is None else sample_of(axes, rows, examples)
    resampled = None if sample is None else resampled_values(sample, draws)
    mean = None if sample is None else draw_mean(sample, resampled, draws)
    doubts = (*why, *_few_seeds(axes, rows, examples.drawn)) if mean and examples else why
    curve = _curve(axes, rows, mean, doubts)
    seeds = {}
    for seed in sorted(map(int, rows["seed"].unique())):
        part = rows[rows["seed"] == seed]
        drawn = None if sample is None else draw_seed(sample, resampled, seed)
        seeds[seed] = _curve(axes, part, drawn, why)
    return Measured(curve, seeds, doubts)


def _read_curve(
    axes: Mapping[str, str], rows: pd.DataFrame, settings: Settings, examples: Examples | None
) -> _Read:  # fmt: skip
    """Read a mean curve and those of its seeds; without examples, without intervals."""
    measured = measure(axes, rows, 0 if examples is None else settings.draws, examples)
    curve, several = measured.mean, len(measured.seeds) > 1
    readings = [read_knee(curve, rule, settings) for rule in settings.rules]
    knees = []
    for seed, own in measured.seeds.items():
        # The mean over one seed is that seed's curve, and is not read twice.
        of_seed = [read_knee(own, rule, settings) for rule in settings.rules] if several else readings
        knees += [_knee_row(axes, seed, 1, own, reading) for reading in of_seed]
    knees += [_knee_row(axes, pd.NA, len(measured.seeds), curve, reading) for reading in readings]
    return _Read(axes, rows, curve, readings, knees, measured.doubts)


def _table(rows: list[Row], schema: Schema) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(schema.columns))


def _few_seeds(axes: Mapping[str, str], rows: pd.DataFrame, drawn: frozenset[str]) -> tuple[str, ...]:
    """Say that one seed, where another would have given another curve, or two are few."""
    seeds = rows["seed"].nunique()
    if seeds == 1:
        return (ONE_SEED,) if drawn & {axes["method"], axes["task"]} else ()
    return (TWO_SEEDS,) if seeds == 2 else ()


def _curve(axes: Mapping[str, str], rows: pd.DataFrame, draws: Draws | None, why: tuple[str, ...]) -> Curve:
    flags = sorted({flag for flag in rows.loc[rows["method"] == "dense", "flags"] if flag})
    seeds_of_levels = seeds_by_level(rows)
    if seeds_of_levels[seeds_of_levels > 0].nunique() > 1:
        flags.append(UNEVEN_SEEDS)
    means = mean_curve(rows)
    sparsity, value = means["sparsity"].to_numpy(float), means["value"].to_numpy(float)
    return Curve(sparsity, value, axes["metric"], chance_score(rows, axes["metric"]), draws, (*flags, *why))


def read_knee(curve: Curve, rule: str, settings: Settings) -> Reading:
    """Read a knee off a curve and off its draws by a rule."""
    knee = find_knee(curve.sparsity, curve.score, rule, settings, curve.chance)
    if curve.draws is None or knee.knee is None:
        return Reading(rule, knee, None, Interval())
    scores = curve.draws.scores
    readings = find_many(curve.sparsity, scores, rule, settings, curve.chance)
    interval = knee_interval(curve.sparsity, scores, knee, readings, rule, settings, curve.chance)
    return Reading(rule, knee, readings, interval)


def _knee_row(axes: Mapping[str, str], seed: Any, n_seeds: int, curve: Curve, reading: Reading) -> Row:
    """Return a row of the table of knees."""
    knee, interval = reading.knee, reading.interval
    return {
        **axes, "seed": seed, "rule": reading.rule, "knee": _number(knee.knee), "grid_low": _number(knee.grid_low),
        "grid_high": _number(knee.grid_high), "ci_low": _number(interval.low), "ci_high": _number(interval.high),
        "interval": None if curve.draws is None or interval.low is None else curve.draws.resampled,
        "censored": knee.censored,
        "dense_value": curve.value[0] if len(curve.sparsity) and curve.sparsity[0] == 0 else np.nan,
        # On the scale of the score, on which the rules see a line between two levels.
        "value_at_knee": float(value_of(np.array(value_at(curve.sparsity, curve.score, knee.knee)), curve.metric)),
        "n_seeds": n_seeds,
        "flags": "; ".join([*curve.flags, *knee.flags, *interval.flags]),
    }  # fmt: skip


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _level_rows(axes: Mapping[str, str], rows: pd.DataFrame, curve: Curve, confidence: float) -> pd.DataFrame:
    """Return the rows of the table of curves for a mean curve."""
    bounds = np.full((2, len(curve.sparsity)), np.nan)
    if curve.draws:
        bounds = value_bounds(curve.draws.scores, curve.metric, confidence)
    frame = pd.DataFrame({
        **axes, "sparsity": curve.sparsity, "value": curve.value, "ci_low": bounds[0], "ci_high": bounds[1],
        "n_seeds": seeds_by_level(rows).to_numpy(), "n": rows.groupby("sparsity")["n"].max().to_numpy(),
    })  # fmt: skip
    return frame[list(CURVES.columns)]


def seeds_by_level(rows: pd.DataFrame) -> pd.Series[int]:
    """Return how many seeds have a value at each level of a curve."""
    return rows.assign(seed=rows["seed"].where(rows["value"].notna())).groupby("sparsity")["seed"].nunique()


def chance_score(rows: pd.DataFrame, metric: str) -> float | None:
    """Return the performance of a model that knows nothing, on the scale of a curve's score; None if not known.

    Args:
        rows: The rows of a curve.
        metric: What their values are.
    """
    chance = float(rows["chance"].mean())
    return float(performance(np.array([chance]), metric)[0]) if np.isfinite(chance) else None


def headline(knees: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Return the rows of the mean curves by the headline rule, and how far the rules lie apart.

    Returns:
        The rows with ``lowest`` and ``highest``, the range of the knees over the rules.
    """
    mean = knees[knees["seed"].isna()]
    axes = ["model", "checkpoint", "task", "method"]
    spread = mean.groupby(axes)["knee"].agg(lowest="min", highest="max").reset_index()
    return mean[mean["rule"] == rule].merge(spread, on=axes).sort_values(axes, ignore_index=True)
