"""Levels are placed around the place where a curve leaves the tolerance, within the budget, and never twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from essential_sparsity.knees.placing import (
    CENSORED,
    NARROW,
    NO_CHANCE,
    NO_DENSE,
    NOT_FINITE,
    NOTHING_TO_LOSE,
    REASONS,
    SPENT,
    Placement,
    Placing,
    next_levels,
)

START = (0.1, 0.3, 0.5, 0.7, 0.9)
DEFAULT = Placing(0.01, "relative", (), 12, 0.01, 2)

Curve = Callable[[float], float]


@dataclass
class Run:
    """A sweep that was run to its end.

    Attributes:
        levels: All levels, in the order of their rounds.
        placements: What each round was told.
    """

    levels: list[float]
    placements: list[Placement] = field(default_factory=list)

    @property
    def end(self) -> Placement:
        return self.placements[-1]


def sweep(curve: Curve, start: tuple[float, ...] = START, chance: float | None = None, **settings: Any) -> Run:
    """Evaluate and place until there is nothing more to place; fail where that does not end."""
    run = Run([0.0, *start])
    for _ in range(100):
        sparsity = np.array(sorted(run.levels))
        placed = next_levels(sparsity, np.array([curve(s) for s in sparsity]), replace(DEFAULT, **settings), chance)
        run.placements.append(placed)
        assert bool(placed.levels) != bool(placed.reason), "either levels or a reason"
        if placed.reason:
            return run
        run.levels += placed.levels
    raise AssertionError("the sweep does not end")


def cliff(place: float) -> Curve:
    return lambda s: 0.9 if s <= place else 0.5


def line(place: float) -> Curve:
    return lambda s: 0.9 - 0.8 * max(0.0, s - place)


def exponential(place: float) -> Curve:
    return lambda s: -3.0 - 0.03 * math.expm1(8 * s) / math.expm1(8 * place)


def sigmoid(place: float) -> Curve:
    return lambda s: 0.5 + 0.4 / (1 + math.exp((s - place) / 0.02))


def crossing(curve: Curve, tolerance: float = 0.01) -> float:
    """Return where a falling curve leaves the tolerance, by bisection."""
    allowed = curve(0.0) - tolerance * abs(curve(0.0))
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if curve(middle) < allowed else (middle, high)
    return low


FALLING = [cliff, line, exponential, sigmoid]
PLACES = [0.004, 0.05, 0.0999, 0.101, 0.1337, 0.25, 0.4, 0.499, 0.6283, 0.75, 0.89, 0.92, 0.97]


@pytest.mark.parametrize("family", FALLING)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("per_round", [1, 2, 3, 5])
def test_the_bracket_holds_the_crossing_at_every_round(
    family: Callable[[float], Curve], place: float, per_round: int
) -> None:
    curve = family(place)
    at = crossing(curve)
    run = sweep(curve, per_round=per_round, budget=30)
    for placed in run.placements:
        assert placed.low is not None
        assert placed.low <= at + 1e-9
        assert placed.high is None or at <= placed.high + 1e-9
    assert run.end.reason == NARROW
    assert run.end.high is not None
    assert run.end.low is not None
    assert run.end.high - run.end.low <= 0.01 + 1e-9


@pytest.mark.parametrize("family", FALLING)
@pytest.mark.parametrize("place", PLACES)
def test_the_default_budget_reaches_the_default_width(family: Callable[[float], Curve], place: float) -> None:
    run = sweep(family(place))
    assert run.end.reason == NARROW
    assert len(run.levels) <= 12


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_curve_levels_are_new_and_the_budget_is_kept(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = {i: float(v) for i, v in enumerate(np.cumsum(draw.normal(-0.001, 0.01, 1001)) + 1)}
    budget, per_round = int(draw.integers(7, 40)), int(draw.integers(1, 8))
    width = float(draw.choice([0.001, 0.002, 0.01, 0.05]))
    run = sweep(lambda s: scores[round(1000 * s)], budget=budget, per_round=per_round, width=width)
    assert len(run.levels) <= budget
    assert len(set(run.levels)) == len(run.levels)
    assert all(f"{s:.3f}" == f"{s:.6f}"[:5] and 0 <= s < 1 for s in run.levels), "levels that a path can name"
    for placed in run.placements:
        assert len(placed.levels) <= per_round
        assert list(placed.levels) == sorted(placed.levels)
        assert placed.low is not None
        assert all(placed.low < s and s < (placed.high or 1.0) for s in placed.levels)
    assert run.end.reason in REASONS
    # As in the rule `tolerance`: the first level that fails, whatever comes after it.
    known = sorted(run.levels)
    failing = [s for s in known if scores[round(1000 * s)] < 0.99 * scores[0]]
    assert run.end.high == (failing[0] if failing else None)


@pytest.mark.parametrize("per_round", [1, 2, 4])
@pytest.mark.parametrize("family", FALLING)
def test_no_more_rounds_than_even_division_takes(family: Callable[[float], Curve], per_round: int) -> None:
    width = 0.003
    even = math.ceil(math.log(0.2 / width) / math.log(per_round + 1) - 1e-9)
    for place in np.linspace(0.11, 0.88, 30):
        run = sweep(family(float(place)), per_round=per_round, width=width, budget=40)
        assert run.end.reason == NARROW
        assert len(run.placements) - 1 <= even


def test_a_guess_saves_levels_where_the_fall_is_smooth() -> None:
    """Of losses that grow exponentially the logarithm is a line: the first guess is right."""
    places = np.linspace(0.15, 0.85, 20)
    smooth = [len(sweep(exponential(float(p)), per_round=1, budget=20).levels) for p in places]
    abrupt = [len(sweep(cliff(float(p)), per_round=1, budget=20).levels) for p in places]
    assert sum(smooth) < sum(abrupt) - len(places) / 2


@pytest.mark.parametrize(
    ("loss_low", "loss_high"),
    [(0.0099, 0.5), (0.002, 0.0101), (0.005, 0.02)],
    ids=["guess at the lower end", "guess at the upper end", "guess in the middle"],
)
def test_a_misleading_curve_costs_no_more_than_division(loss_low: float, loss_high: float) -> None:
    """An adversary leaves the largest piece of each round, and losses that point where the crossing is not."""
    low, high, rounds = 300, 500, 0
    while high - low > 10:
        sparsity = np.array([0.0, low / 1000, high / 1000])
        placed = next_levels(sparsity, np.array([1.0, 1 - loss_low, 1 - loss_high]), replace(DEFAULT, budget=40))
        ends = [low, *(round(1000 * s) for s in placed.levels), high]
        low, high = max(pairwise(ends), key=lambda piece: piece[1] - piece[0])
        rounds += 1
    assert rounds <= 3  # 200 thousandths in thirds: 67, 23, 8


def test_a_small_budget_is_divided_evenly_as_far_as_it_goes() -> None:
    run = sweep(cliff(0.41), budget=8)
    assert run.end.reason == SPENT
    assert len(run.levels) == 8
    assert (run.end.low, run.end.high) == (0.367, 0.433)


def test_a_curve_that_fails_from_the_start_is_searched_below_it() -> None:
    run = sweep(cliff(0.037))
    assert all(s < 0.1 for s in run.levels[6:])
    assert run.end.reason == NARROW


def test_a_curve_that_never_fails_is_tried_nearer_to_1_and_given_up() -> None:
    run = sweep(lambda s: 0.9)
    assert run.end.reason == CENSORED
    assert run.end.high is None
    assert run.end.low == 0.99
    assert run.levels[6:] == [0.945, 0.99]


def test_a_budget_can_end_before_that() -> None:
    run = sweep(lambda s: 0.9, budget=7, per_round=3)
    assert run.levels[6:] == [0.99]
    assert sweep(lambda s: 0.9, start=(0.2, 0.4), budget=3).end.reason == SPENT


def test_the_first_of_two_cliffs_counts() -> None:
    run = sweep(lambda s: 0.9 - 0.02 * (s > 0.234) - 0.4 * (s > 0.62))
    assert run.end.low is not None
    assert run.end.high is not None
    assert run.end.low <= 0.234 < run.end.high
    assert run.end.high - run.end.low <= 0.01 + 1e-9


def test_a_dip_that_recovers_counts_as_it_does_in_the_rule() -> None:
    run = sweep(lambda s: 0.8 if 0.25 < s < 0.35 else 0.9 if s < 0.8 else 0.5)
    assert run.end.low is not None
    assert run.end.high is not None
    assert run.end.low <= 0.25 < run.end.high


def test_a_perplexity_that_first_improves_is_measured_against_the_dense_model() -> None:
    def curve(s: float) -> float:
        return -(3.0 - 0.1 * min(s, 0.5) + 4 * max(0.0, s - 0.5) ** 2)

    run = sweep(curve)
    assert run.end.low is not None
    assert run.end.high is not None
    assert run.end.low <= crossing(curve) <= run.end.high
    assert run.end.low > 0.5


@pytest.mark.parametrize("seed", range(10))
def test_mild_noise_moves_the_knee_little(seed: int) -> None:
    draw = np.random.default_rng(seed)
    noise = draw.normal(0, 0.001, 1001)
    noise[0] = 0.0
    curve = line(0.42)
    run = sweep(lambda s: curve(s) + float(noise[round(1000 * s)]))
    # The tolerance is 0.009; three errors of noise are 0.003, and the line loses that in 0.00375.
    assert run.end.low is not None
    assert abs(run.end.low - crossing(curve)) < 0.01 + 0.005
    assert len(run.levels) <= 12


def test_a_loss_in_points_and_one_above_chance_are_other_thresholds() -> None:
    def curve(s: float) -> float:
        return 0.6 - 0.5 * s

    found = {
        loss: sweep(curve, tolerance=0.1, loss=loss, chance=0.5, width=0.001, budget=30).end.low
        for loss in ("relative", "absolute", "above_chance")
    }
    # 0.5 s = 0.06, 0.1 and 0.01.
    assert found == {"relative": pytest.approx(0.12, abs=0.002), "absolute": pytest.approx(0.2, abs=0.002),
                     "above_chance": pytest.approx(0.02, abs=0.002)}  # fmt: skip


@pytest.mark.parametrize(
    ("sparsity", "score", "settings", "reason"),
    [
        ([], [], {}, NO_DENSE),
        ([0.1, 0.2], [0.9, 0.8], {}, NO_DENSE),
        ([0.0, 0.1, 0.2], [0.9, math.nan, 0.8], {}, NOT_FINITE),
        ([0.0, 0.1, 0.2], [math.nan, 0.9, 0.8], {}, NOT_FINITE),
        ([0.0, 0.1, 0.2], [-3.0, -3.1, -math.inf], {}, NOT_FINITE),
        ([0.0, 0.1, 0.2], [0.4, 0.4, 0.4], {"loss": "above_chance"}, NOTHING_TO_LOSE),
        ([0.0, 0.1, 0.2], [0.0, 0.0, 0.0], {"loss": "relative"}, NOTHING_TO_LOSE),
    ],
)
def test_what_cannot_be_placed_ends_with_the_reason(
    sparsity: list[float], score: list[float], settings: dict[str, Any], reason: str
) -> None:
    placed = next_levels(np.array(sparsity), np.array(score), replace(DEFAULT, **settings), chance=0.5)
    assert (placed.levels, placed.reason) == ((), reason)


def test_a_chance_that_is_not_known_is_no_threshold() -> None:
    placed = next_levels(np.array([0.0, 0.1]), np.array([0.9, 0.8]), replace(DEFAULT, loss="above_chance"))
    assert placed.reason == NO_CHANCE
