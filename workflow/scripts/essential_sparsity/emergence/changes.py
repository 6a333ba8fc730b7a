"""Change points: the largest jump of a statistic over pre-training, tested against smooth drift with noise.

Without a jump a trajectory over evenly spaced steps is a Gaussian process ``y = a + b t + g(t) + u``, where ``g`` is an
integrated random walk, whose posterior mean is the cubic smoothing spline (Wahba 1978), ``t`` is the step or its
logarithm, and ``u`` is autoregressive noise of first order. How smooth ``g`` is, the autocorrelation and the choice of
``t`` are those of the largest restricted likelihood (REML; Patterson and Thompson 1971). A jump is a level shift from
one step on (de Jong and Penzer 1998). The statistic is the F statistic of the shift at its best place, or 0 where a
kink or one stray value explains more; its distribution is drawn from the fitted process, estimating anew in each draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import stdtrit

from essential_sparsity.checkpoints.steps import LEAST_STEPS, even_steps
from essential_sparsity.emergence.tables import ALL_WEIGHTS, CHANGES
from essential_sparsity.inference import Floats, generator_of, holm
from essential_sparsity.tables import Row, stack

Integers = NDArray[np.intp]

STATISTICS = (
    "fraction_below_0.001", "fraction_below_0.01", "fraction_below_0.1_std", "fraction_below_0.1_median", "kurtosis",
    "hoyer", "effective_rank",
)  # fmt: skip
# A jump has this many steps on each side at least: one or two stray values are no new level.
MARGIN = 3
CONFIDENCE = 0.95

_NOT_A_JUMP = "a kink or a stray value explains more than a jump"
_CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95)
# Variance of the integrated random walk by that of the noise, both as means over the steps.
_RATIOS = (0.0, *(10.0**power for power in np.arange(-2.0, 13.1, 1.5)))
_TINY = 1e-300
# Draws go on until this many reach the observed statistic (Besag and Clifford 1991) ...
_ENOUGH = 20
_BATCH = 400
# ... or until an observed one that no draw reaches stays below 0.025 after Holm's adjustment.
_LEAST_DRAWS = 1999
_DRAWS_A_TEST = 40


@dataclass(frozen=True)
class Change:
    """The largest jump of a trajectory.

    Attributes:
        place: Index of the first value after it.
        jump: Its height, beside the drift.
        low: Lower bound of the height's interval, given the place.
        high: Upper bound.
        statistic: The F statistic, or 0 where a kink or a stray value explains more.
        p_value: The chance of such a statistic under smooth drift.
    """

    place: int
    jump: float
    low: float
    high: float
    statistic: float
    p_value: float


class _Process:
    """The process of the null with fixed parameters: what is left of trajectories once its drift is known.

    Args:
        trend: Orthonormal columns of the constant and of time, n x 2.
        covariance: Of the random part, up to a factor, n x n.
        shapes: Columns of what may be added: shifts first, then the others, n x m.
    """

    def __init__(self, trend: Floats, covariance: Floats, shapes: Floats) -> None:
        self.root: Floats = np.asarray(np.linalg.cholesky(covariance))
        inverse = solve_triangular(self.root, np.eye(len(trend)), lower=True)
        basis, corner = np.linalg.qr(inverse @ trend)
        self.remainder: Floats = inverse - basis @ (basis.T @ inverse)
        self.log_determinant = 2 * float(np.log(np.diag(self.root)).sum() + np.log(np.abs(np.diag(corner))).sum())
        self._shapes = shapes

    @cached_property
    def lengths(self) -> Floats:
        """How long each shape is once whitened and freed of the trend."""
        return np.asarray(np.linalg.norm(self.remainder @ self._shapes, axis=0))

    @cached_property
    def directions(self) -> Floats:
        """Rows whose products with a trajectory are the square roots of what each shape explains, m x n."""
        return np.asarray(((self.remainder @ self._shapes) / self.lengths).T @ self.remainder)

    def residual(self, y: Floats) -> Floats:
        """Return the residual sum of squares of trajectories, the columns of ``y``."""
        return np.asarray(((self.remainder @ y) ** 2).sum(axis=0))


class SmoothDrift:
    """The null: smooth drift with autocorrelated noise over evenly spaced steps.

    Args:
        steps: The steps.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        n, place = len(steps), np.arange(len(steps))
        self.places = np.arange(MARGIN, n - MARGIN + 1)
        shifts = (place[:, None] >= self.places).astype(float)
        kinks = np.maximum(0.0, place[:, None] - np.arange(1.0, n - 1))
        shapes = np.hstack([shifts, kinks, np.eye(n)])
        spacing = steps[1] - steps[0]
        lags = np.abs(place[:, None] - place)
        self._processes = []
        for time in (place.astype(float), np.log1p(np.array(steps) / spacing)):
            scaled = (time - time[0]) / (time[-1] - time[0])
            trend = np.linalg.qr(np.column_stack([np.ones(n), scaled]))[0]
            walk = _integrated_random_walk(scaled, trend)
            self._processes.append([
                _Process(trend, r**lags + ratio * walk, shapes) for ratio in _RATIOS for r in _CORRELATIONS
            ])  # fmt: skip

    def largest_change(self, values: Floats, draws: int, *key: Any) -> Change:
        """Return the largest jump of a trajectory, and its test.

        Args:
            values: The trajectory, one value a step; finite, and not constant.
            draws: The most draws from the null.
            key: What the random numbers depend on.
        """
        spread = float(np.ptp(values))
        y = ((values - values.mean()) / spread)[:, None]
        likely = [_likeliest(family, y) for family in self._processes]
        family = self._processes[int(np.argmin([float(deviance[0]) for _, deviance in likely]))]
        (chosen,) = _likeliest(family, y)[0]
        statistics, columns = self._statistics(family, np.array([chosen]), y)
        observed, column = float(statistics[0]), int(columns[0])
        reached, drawn = 0, 0
        random = generator_of("changes", *key)
        while reached < _ENOUGH and drawn < draws:
            sample = family[chosen].root @ random.standard_normal((len(y), min(_BATCH, draws - drawn)))
            found, _ = self._statistics(family, _likeliest(family, sample)[0], sample)
            reached, drawn = reached + int((found >= observed).sum()), drawn + sample.shape[1]
        jump, error = _height(family, column, y[:, 0])
        reach = error * float(stdtrit(len(y) - 3, (1 + CONFIDENCE) / 2))
        p_value = (reached + 1) / (drawn + 1)
        low, high = spread * (jump - reach), spread * (jump + reach)
        return Change(int(self.places[column]), spread * jump, low, high, observed, p_value)

    def _statistics(self, family: Sequence[_Process], chosen: Integers, y: Floats) -> tuple[Floats, Integers]:
        """Return the statistic of each trajectory under its own process, and the column of its best shift."""
        statistics, columns = np.zeros(y.shape[1]), np.zeros(y.shape[1], dtype=np.intp)
        for i in np.unique(chosen):
            mine = np.flatnonzero(chosen == i)
            explained = (family[i].directions @ y[:, mine]) ** 2
            shifts, others = np.split(explained, [len(self.places)])
            best = shifts.max(axis=0)
            left = np.maximum(family[i].residual(y[:, mine]) - best, _TINY)
            statistics[mine] = np.where(best >= others.max(axis=0), best / left * (len(y) - 3), 0.0)
            columns[mine] = shifts.argmax(axis=0)
        return statistics, columns


def _integrated_random_walk(time: Floats, trend: Floats) -> Floats:
    """Return its covariance, scaled so that what a straight line leaves of it has the mean variance 1."""
    low, high = np.minimum(time[:, None], time), np.maximum(time[:, None], time)
    covariance = low**2 * (3 * high - low) / 6
    free = np.eye(len(time)) - trend @ trend.T
    return np.asarray(covariance / (np.trace(free @ covariance @ free) / len(time)))


def _likeliest(family: Sequence[_Process], y: Floats) -> tuple[Integers, Floats]:
    """Return the likeliest process of each trajectory, and its restricted deviance up to a constant."""
    freedom = len(y) - 2
    deviances = np.stack([freedom * np.log(np.maximum(p.residual(y), _TINY)) + p.log_determinant for p in family])
    return deviances.argmin(axis=0), deviances.min(axis=0)


def _height(family: Sequence[_Process], column: int, y: Floats) -> tuple[float, float]:
    """Return the height of a shift and its standard error under the process that is likeliest beside it."""
    found = []
    for process in family:
        along, length = float(process.directions[column] @ y), float(process.lengths[column])
        left = max(float(process.residual(y[:, None])[0]) - along**2, _TINY) / (len(y) - 3)
        deviance = (len(y) - 3) * np.log(left) + process.log_determinant + 2 * np.log(length)
        found.append((float(deviance), along / length, float(np.sqrt(left)) / length))
    return min(found)[1:]


@lru_cache(maxsize=8)
def _drift(steps: tuple[int, ...]) -> SmoothDrift:
    return SmoothDrift(steps)


def find_changes(weights: pd.DataFrame, trajectories: pd.DataFrame) -> pd.DataFrame:
    """Return the largest change point of every trajectory of a study, with its test.

    Args:
        weights: The table of weights.
        trajectories: The table of all prunable weights together.

    Returns:
        Rows of the table of changes, for every model with several steps: its matrices, then all of them together.
    """
    tables = [trajectories.assign(name=ALL_WEIGHTS, position=-1), weights]
    rows: list[Row] = []
    for table in tables:
        stepped = table[table["step"].notna()].sort_values(["model", "position", "step"])
        for _, mine in stepped.groupby("model", sort=True):
            found = list(_model_changes(mine)) if mine["step"].nunique() > 1 else []
            adjusted = holm(np.array([row["p_value"] for row in found], dtype=float))
            rows += [{**row, "p_adjusted": p} for row, p in zip(found, adjusted, strict=True)]
    return CHANGES.typed(stack([pd.DataFrame(rows)] if rows else [], CHANGES).sort_values("model", kind="stable"))


def _model_changes(rows: pd.DataFrame) -> Iterator[Row]:
    """Yield the change of each trajectory of one model."""
    steps = even_steps(rows["step"].astype(int))
    names = [name for name in STATISTICS if name in rows]
    tests = rows["name"].nunique() * len(names)
    kept = rows[rows["step"].isin(steps)]
    for name, matrix in kept.groupby("name", sort=False):
        for statistic in names:
            axes = {"model": matrix["model"].iloc[0], "name": name, "statistic": statistic}
            yield {**axes, **_change_row(steps, matrix[statistic].to_numpy(float), tests, axes)}


def _change_row(steps: Sequence[int], values: Floats, tests: int, axes: Mapping[str, str]) -> Row:
    nothing = dict.fromkeys(("change_step", "jump", "jump_share", "ci_low", "ci_high", "p_value"), np.nan)
    if not np.isfinite(values).all() or len(values) != len(steps):
        return {**nothing, "flags": "missing values"}
    if len(steps) < LEAST_STEPS:
        return {**nothing, "flags": f"{len(steps)} evenly spaced steps, of {LEAST_STEPS} at least"}
    spread = float(np.ptp(values))
    if spread <= 1e-12 * float(np.abs(values).max()):
        return {**nothing, "flags": "constant"}
    draws = max(_LEAST_DRAWS, _DRAWS_A_TEST * tests)
    found = _drift(tuple(steps)).largest_change(values, draws, *axes.values())
    return {
        "change_step": steps[found.place], "jump": found.jump, "jump_share": found.jump / spread,
        "ci_low": found.low / spread, "ci_high": found.high / spread, "p_value": found.p_value,
        "flags": "" if found.statistic else _NOT_A_JUMP,
    }  # fmt: skip
