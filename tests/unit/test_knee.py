"""Knees of curves whose knee is known, and the answer where there is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.knee import LEFT, NOT_CENSORED, RIGHT, RULES, Knee, find_knee, value_at

SETTINGS: dict[str, Any] = {"tolerance": 0.02, "sensitivity": 1.0}
GRID = np.round(np.arange(0.0, 1.0, 0.05), 3)
FAST = settings(deadline=None, derandomize=True, max_examples=40)


def broken_line(joint: float, before: float = -0.02, after: float = -1.0, start: float = 0.85) -> np.ndarray:
    return start + before * GRID + (after - before) * np.maximum(0.0, GRID - joint)


@FAST
@given(st.floats(0.15, 0.8), st.floats(-0.1, 0.05), st.floats(-5.0, -0.3))
def test_two_segments_recover_the_joint(joint: float, before: float, after: float) -> None:
    found = find_knee(GRID, broken_line(joint, before, after), "two-segment", SETTINGS)
    assert found.censored == NOT_CENSORED
    assert found.knee == pytest.approx(joint, abs=0.01)


def test_two_segments_recover_the_joint_under_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.003, GRID.size)
    found = find_knee(GRID, broken_line(0.62) + noise, "two-segment", SETTINGS)
    assert found.knee == pytest.approx(0.62, abs=0.03)


@FAST
@given(st.floats(0.15, 0.8), st.floats(0.1, 100.0), st.floats(-50.0, 50.0))
def test_two_segments_do_not_depend_on_the_unit(joint: float, scale: float, shift: float) -> None:
    curve = broken_line(joint)
    one, other = (find_knee(GRID, c, "two-segment", SETTINGS).knee for c in (curve, scale * curve + shift))
    assert one is not None
    assert other == pytest.approx(one, abs=1e-3)


@FAST
@given(st.integers(1, 18), st.floats(0.005, 0.2))
def test_tolerance_gives_the_last_level_before_the_first_failure(first: int, tolerance: float) -> None:
    curve = np.full(GRID.size, 0.9)
    curve[first] = 0.9 * (1 - tolerance) - 1e-6
    # Whatever happens after the first failure, recovery included, does not matter.
    found = find_knee(GRID, curve, "tolerance", {"tolerance": tolerance})
    assert found == Knee(GRID[first - 1], LEFT if first == 1 else NOT_CENSORED)


def test_tolerance_is_met_exactly_at_the_bound() -> None:
    curve = np.array([1.0, 0.9, 0.75, 0.5])
    found = find_knee(np.array([0.0, 0.1, 0.2, 0.3]), curve, "tolerance", {"tolerance": 0.25})
    assert found.knee == 0.2


def test_tolerance_on_negative_scores_allows_a_loss_and_not_a_gain() -> None:
    # Minus the log of perplexity is negative: a tolerance of 2 % of 3.0 nats allows 3.06.
    curve = -np.array([3.0, 3.02, 3.05, 3.07, 3.2])
    levels = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert find_knee(levels, curve, "tolerance", SETTINGS).knee == 0.2


def test_tolerance_is_censored_where_nothing_fails_or_everything_does() -> None:
    flat = np.full(GRID.size, 0.9)
    assert find_knee(GRID, flat, "tolerance", SETTINGS) == Knee(GRID[-1], RIGHT)
    falls = np.r_[0.9, np.full(GRID.size - 1, 0.5)]
    assert find_knee(GRID, falls, "tolerance", SETTINGS) == Knee(0.0, LEFT)


def test_kneedle_finds_the_point_furthest_from_the_chord() -> None:
    # Of a broken line that is its joint (a grid point), by the definition of Satopää et al. 2011.
    found = find_knee(GRID, broken_line(0.6), "kneedle", SETTINGS)
    assert found == Knee(0.6, NOT_CENSORED)


def test_kneedle_depends_on_the_plotted_range() -> None:
    # The reason for reporting several rules: published in shared/reference/parity.md for a smooth curve.
    curve = 0.9 - GRID**4
    knees = [find_knee(GRID[:n], curve[:n], "kneedle", SETTINGS).knee for n in (12, 16, 20)]
    assert all(k is not None for k in knees)
    assert knees == sorted(knees)
    assert knees[0] < knees[-1]


FLAT = [np.full(GRID.size, v) for v in (0.85, 1 / 3, -3.1415, 0.0)]
STRAIGHT = [0.9 - 0.5 * GRID, 0.77 - GRID / 3, -2.0 - 7.7 * GRID, 1e6 - 3e5 * GRID]


@pytest.mark.parametrize("curve", FLAT)
def test_a_flat_curve_bends_nowhere(curve: np.ndarray) -> None:
    for rule in ("kneedle", "two-segment"):
        found = find_knee(GRID, curve, rule, SETTINGS)
        assert found.knee is None, rule
        assert found.flags
    assert find_knee(GRID, curve, "tolerance", SETTINGS) == Knee(GRID[-1], RIGHT)


@pytest.mark.parametrize("curve", STRAIGHT)
def test_a_straight_decline_bends_nowhere(curve: np.ndarray) -> None:
    found = find_knee(GRID, curve, "two-segment", SETTINGS)
    assert found == Knee(None, flags=("the curve does not fall faster after the joint",))


@pytest.mark.parametrize("curve", [0.5 + 0.4 * (1 - GRID) ** 6, 0.5 + 0.3 * np.maximum(0, 0.4 - GRID)])
def test_a_curve_that_falls_first_and_then_levels_off_has_no_two_segment_knee(curve: np.ndarray) -> None:
    found = find_knee(GRID, curve, "two-segment", SETTINGS)
    assert found.knee is None
    assert found.flags == ("the curve does not fall faster after the joint",)


def test_two_segments_are_censored_at_the_ends_of_the_grid() -> None:
    # The bend lies between the last two levels: the search ends before it.
    late = np.r_[np.full(GRID.size - 1, 0.9), 0.1]
    assert find_knee(GRID, late, "two-segment", SETTINGS) == Knee(GRID[-2], RIGHT)
    early = broken_line(0.02, before=0.0)  # before the first level
    assert find_knee(GRID, early, "two-segment", SETTINGS) == Knee(GRID[1], LEFT)


def test_two_segments_need_five_levels() -> None:
    found = find_knee(GRID[:4], broken_line(0.1)[:4], "two-segment", SETTINGS)
    assert found == Knee(None, flags=("fewer than 5 levels for two segments",))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_gives_no_knee(rule: str, bad: float) -> None:
    curve = broken_line(0.5)
    curve[7] = bad
    assert find_knee(GRID, curve, rule, SETTINGS) == Knee(None, flags=("a value that is not finite",))


@pytest.mark.parametrize("rule", RULES)
def test_a_curve_without_the_dense_model_gives_no_knee(rule: str) -> None:
    assert find_knee(GRID[1:], broken_line(0.5)[1:], rule, SETTINGS) == Knee(None, flags=("no dense value",))
    assert find_knee(np.array([]), np.array([]), rule, SETTINGS) == Knee(None, flags=("no dense value",))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_levels_give_no_knee(rule: str, n: int) -> None:
    assert find_knee(GRID[:n], broken_line(0.5)[:n], rule, SETTINGS) == Knee(None, flags=("fewer than 3 levels",))


@pytest.mark.parametrize("rule", RULES)
def test_a_knee_lies_on_the_curve(rule: str) -> None:
    for seed in range(20):
        draw = np.random.default_rng(seed)
        curve = 0.9 - 0.5 * np.sort(draw.random(GRID.size)) + draw.normal(0, 0.02, GRID.size)
        found = find_knee(GRID, curve, rule, SETTINGS)
        assert found.knee is not None or found.flags
        assert found.knee is None or GRID[0] <= found.knee <= GRID[-1]


def test_the_value_at_the_knee_is_interpolated() -> None:
    levels, values = np.array([0.0, 0.2, 0.4]), np.array([1.0, 0.8, 0.0])
    assert value_at(levels, values, 0.3) == pytest.approx(0.4)
    assert value_at(levels, values, 0.2) == 0.8
    assert math.isnan(value_at(levels, values, None))
