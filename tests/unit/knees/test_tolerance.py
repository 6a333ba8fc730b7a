"""The rule `tolerance`: the loss that counts as none, by hand and by formula."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from essential_sparsity.knees.readings import LEFT, NOT_CENSORED, RIGHT, Knee
from essential_sparsity.knees.rules import find_knee, find_many
from knee_curves import FAST, GRID, SETTINGS, broken_line, random_curves


@FAST
@given(st.integers(1, 18), st.floats(0.005, 0.2), st.floats(0.01, 0.3), st.lists(st.floats(-0.5, 1.0), min_size=20))
def test_tolerance_gives_the_place_where_the_interpolated_curve_first_falls_below_the_bound(
    first: int, tolerance: float, further: float, later: list[float]
) -> None:
    # Whatever happens after the first failure, recovery included, does not matter.
    curve = np.r_[np.full(first, 0.9), 0.9 * (1 - tolerance) - further, np.array(later[first + 1 : GRID.size])]
    found = find_knee(GRID, curve, "tolerance", replace(SETTINGS, tolerance=tolerance))
    dense = np.linspace(0, GRID[-1], 200_001)
    oracle = dense[np.flatnonzero(np.interp(dense, GRID, curve) < 0.9 * (1 - tolerance))[0]]
    assert found.knee == pytest.approx(oracle, abs=1e-5)
    assert (found.grid_low, found.grid_high) == (GRID[first - 1] if first > 1 else None, GRID[first])
    assert found.censored == (LEFT if first == 1 else NOT_CENSORED)


def test_tolerance_is_met_exactly_at_the_bound() -> None:
    curve = np.array([1.0, 0.9, 0.75, 0.5])
    found = find_knee(np.array([0.0, 0.1, 0.2, 0.3]), curve, "tolerance", replace(SETTINGS, tolerance=0.25))
    assert found == Knee(pytest.approx(0.2), grid_low=0.2, grid_high=0.3)


def test_tolerance_on_negative_scores_allows_a_loss_and_not_a_gain() -> None:
    # Minus the log of perplexity is negative: a tolerance of 2 % of 3.0 nats allows 3.06.
    curve = -np.array([3.0, 3.02, 3.05, 3.07, 3.2])
    levels = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert find_knee(levels, curve, "tolerance", SETTINGS).knee == pytest.approx(0.25)


def test_tolerance_is_censored_where_nothing_fails_or_everything_does() -> None:
    flat = np.full(GRID.size, 0.9)
    assert find_knee(GRID, flat, "tolerance", SETTINGS) == Knee(GRID[-1], RIGHT, grid_low=GRID[-1])
    falls = np.r_[0.9, np.full(GRID.size - 1, 0.5)]
    # 0.018 of a fall of 0.4 over the first step.
    expected = Knee(pytest.approx(0.05 * 0.018 / 0.4), LEFT, grid_high=0.05)
    assert find_knee(GRID, falls, "tolerance", SETTINGS) == expected


@pytest.mark.parametrize(
    ("loss", "knee"),
    # Of a line from 0.9 down by 0.5 with chance at 0.4: 10 % of 0.9, of 1, of 0.5.
    [("relative", 0.18), ("absolute", 0.2), ("above_chance", 0.1)],
)
def test_a_tolerance_is_a_fraction_of_what_the_loss_says(loss: str, knee: float) -> None:
    found = find_knee(GRID, 0.9 - 0.5 * GRID, "tolerance", replace(SETTINGS, tolerance=0.1, loss=loss), chance=0.4)
    assert found.knee == pytest.approx(knee)


def test_the_default_loss_is_relative() -> None:
    curve = 0.9 - 0.5 * GRID
    assert find_knee(GRID, curve, "tolerance", replace(SETTINGS, tolerance=0.1)).knee == pytest.approx(0.18)


@pytest.mark.parametrize(
    ("chance", "reason"),
    [
        (None, "chance is not known"),
        (math.nan, "chance is not known"),
        (-math.inf, "chance is not known"),
        (0.85, "the dense model is not above chance"),
        (0.9, "the dense model is not above chance"),
    ],
)
def test_without_a_distance_to_chance_there_is_no_loss_above_chance(chance: float | None, reason: str) -> None:
    asked = replace(SETTINGS, loss="above_chance")
    assert find_knee(GRID, broken_line(0.5), "tolerance", asked, chance) == Knee(None, flags=(reason,))
    assert np.isnan(find_many(GRID, broken_line(0.5)[None], "tolerance", asked, chance).knee).all()


@FAST
@given(st.floats(0.1, 50.0), st.integers(0, 100))
def test_relative_losses_do_not_depend_on_the_unit(scale: float, seed: int) -> None:
    curves = random_curves(5, GRID, seed)
    one, other = (find_many(GRID, c, "tolerance", SETTINGS) for c in (curves, scale * curves))
    np.testing.assert_allclose(other.knee, one.knee, atol=1e-9)
    np.testing.assert_array_equal(other.censored, one.censored)


@FAST
@given(st.floats(0.1, 50.0), st.floats(-20.0, 20.0), st.integers(0, 100))
def test_losses_above_chance_do_not_depend_on_the_unit_nor_on_its_zero(scale: float, shift: float, seed: int) -> None:
    asked = replace(SETTINGS, tolerance=0.05, loss="above_chance")
    curves = random_curves(5, GRID, seed)
    one = find_many(GRID, curves, "tolerance", asked, 0.2)
    other = find_many(GRID, scale * curves + shift, "tolerance", asked, scale * 0.2 + shift)
    np.testing.assert_allclose(other.knee, one.knee, atol=1e-6)


def test_a_gentle_slope_before_a_cliff_is_beyond_the_tolerance_early() -> None:
    curve = broken_line(0.7, before=-0.06)
    tolerance, joint = (find_knee(GRID, curve, rule, SETTINGS).knee for rule in ("tolerance", "two-segment"))
    assert tolerance is not None and joint is not None
    assert tolerance == pytest.approx(0.017 / 0.06)
    assert joint == pytest.approx(0.7)


def test_of_two_cliffs_the_tolerance_takes_the_first() -> None:
    cliffs = np.where(GRID < 0.3, 0.9, np.where(GRID < 0.7, 0.7, 0.5))
    found = find_knee(GRID, cliffs, "tolerance", SETTINGS)
    assert (found.grid_low, found.grid_high) == (0.25, 0.3)
