"""Knees of curves whose knee is known, and the answer where there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kneed import KneeLocator
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

import entries
from essential_sparsity.knees.curvature import BANDWIDTH, isotonic
from essential_sparsity.knees.kneedle import chord_slope, first_knee
from essential_sparsity.knees.readings import CODES, LEFT, NOT_CENSORED, RIGHT, Knee, is_flat
from essential_sparsity.knees.rules import RULE_NAMES, RULES, find_knee, find_many, value_at

SETTINGS = entries.knees()
GRID = np.round(np.arange(0.0, 1.0, 0.05), 3)
UNEVEN = np.array([0.0, 0.1, 0.3, 0.4, 0.55, 0.6, 0.62, 0.7, 0.85, 0.95])
FAST = settings(deadline=None, derandomize=True, max_examples=40)
# Rules that see a curve as it is drawn: on axes from the lowest to the highest value.
SHAPE_RULES = [rule for rule in RULES if rule != "tolerance"]


def broken_line(
    joint: float, before: float = -0.02, after: float = -1.0, start: float = 0.85, levels: np.ndarray = GRID
) -> np.ndarray:
    return start + before * levels + (after - before) * np.maximum(0.0, levels - joint)


def sigmoid(levels: np.ndarray = GRID, middle: float = 0.6, width: float = 0.04) -> np.ndarray:
    """Accuracy that falls from 90 % to chance at 50 %, and stays there."""
    return 0.5 + 0.4 / (1 + np.exp((levels - middle) / width))


def random_curves(draws: int, levels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Curves that mostly fall, some smoothly and some like noise."""
    draw = np.random.default_rng(seed)
    joint, fall = draw.uniform(0.2, 0.8, (draws, 1)), draw.uniform(0, 2, (draws, 1))
    noise = draw.choice([1e-4, 0.01, 0.1], (draws, 1)) * draw.standard_normal((draws, len(levels)))
    return 0.9 - 0.05 * levels - fall * np.maximum(0, levels - joint) ** draw.integers(1, 3, (draws, 1)) + noise


# --- tolerance ------------------------------------------------------------------------------------------------------


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


# --- Kneedle --------------------------------------------------------------------------------------------------------


def test_kneedle_finds_the_joint_of_two_lines() -> None:
    # That is the point furthest from the chord, by the definition of Satopää et al. 2011. The smooth curve rounds the
    # joint off on the side where it falls.
    found = find_knee(GRID, broken_line(0.6), "kneedle", SETTINGS)
    assert found.censored == NOT_CENSORED
    assert 0.6 <= found.knee < 0.6 + 0.25 * 0.05


def test_kneedle_depends_on_the_plotted_range() -> None:
    # One smooth curve cut at 0.7, 0.8, 0.9 and 0.95. Of 1 - u^5.5 over its range the distance u - u^5.5 from the chord
    # is largest at u = 5.5^(-1 / 4.5). Between levels a hundredth apart the smooth curve is off by little.
    levels = np.round(np.arange(0, 0.951, 0.01), 3)
    curve = 0.9 - 0.8 * levels**5.5
    for end in (0.7, 0.8, 0.9, 0.95):
        part = levels <= end
        found = find_knee(levels[part], curve[part], "kneedle", SETTINGS).knee
        assert found == pytest.approx(end * 5.5 ** (-1 / 4.5), abs=1e-4)


def kneed(levels: np.ndarray, curve: np.ndarray, sensitivity: float) -> float:
    """Return the level that the library finds; NaN where it finds none."""
    found = KneeLocator(levels, curve, S=sensitivity, curve="concave", direction="decreasing").knee
    return math.nan if found is None else float(found)


def rough_curves(draws: int, levels: np.ndarray, seed: int) -> np.ndarray:
    """Curves with plateaus, ties, several cliffs and noise, some of them sigmoids."""
    draw = np.random.default_rng(seed)
    curves = random_curves(draws, levels, seed)
    curves[::4] = np.round(curves[::4], 1)
    curves[1::4] = sigmoid(levels, *draw.uniform([[0.3], [0.01]], [[0.8], [0.2]])) + 0.02 * curves[1::4]
    curves[2::8] = np.cumsum(-draw.integers(0, 3, (len(curves[2::8]), len(levels))), axis=1)
    curves[::16, len(levels) // 2 :] = curves[::16, len(levels) // 2, None]
    return curves[~is_flat(curves)]


@pytest.mark.parametrize("sensitivity", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("levels", [GRID, UNEVEN, UNEVEN[:4], np.linspace(0, 0.9, 7)], ids=["20", "10", "4", "7"])
def test_the_first_knee_is_that_of_the_library(levels: np.ndarray, sensitivity: float) -> None:
    curves = rough_curves(500, levels, round(10 * sensitivity))
    # Scaled as the library does: to the same floating-point numbers, so that ties are its ties.
    x = np.flip(1 - levels / levels[-1])
    lowest = curves.min(axis=1, keepdims=True)
    y = np.flip((curves - lowest) / (curves.max(axis=1, keepdims=True) - lowest), axis=1)
    knee = first_knee(y - x, sensitivity * abs(np.diff(x).mean()))
    assert (knee >= 0).any()
    expected = [kneed(levels, curve, sensitivity) for curve in curves]
    np.testing.assert_array_equal(np.where(knee < 0, np.nan, levels[::-1][knee]), expected)


@pytest.mark.parametrize("sensitivity", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("levels", [GRID, UNEVEN, UNEVEN[:4]], ids=["20", "10", "4"])
def test_kneedle_is_the_library_on_a_finely_sampled_smooth_curve(levels: np.ndarray, sensitivity: float) -> None:
    steps = 2000
    fine = np.linspace(0, levels[-1], steps + 1)
    curves = random_curves(25, levels, 17)
    found = find_many(levels, curves, "kneedle", replace(SETTINGS, sensitivity=sensitivity))
    # S counts steps of the levels; the library's are those of the sampling.
    asked = sensitivity * steps / (len(levels) - 1)
    expected = np.array([kneed(fine, PchipInterpolator(levels, curve)(fine), asked) for curve in curves])
    assert np.isfinite(expected).sum() > 5
    np.testing.assert_array_equal(found.censored == 1, expected > levels[-2])
    np.testing.assert_array_equal(found.censored == -1, expected < levels[1])
    np.testing.assert_allclose(found.knee, np.clip(expected, levels[1], levels[-2]), atol=levels[-1] / steps)


def test_the_slope_of_the_distance_is_that_of_the_smooth_curve_less_the_chords() -> None:
    curves, places = random_curves(20, UNEVEN, 19), np.linspace(0, 1, 57)
    for curve, slope in zip(curves, chord_slope(UNEVEN, curves, places), strict=True):
        smooth = PchipInterpolator(UNEVEN / UNEVEN[-1], (curve - curve.min()) / np.ptp(curve))
        np.testing.assert_allclose(slope, smooth.derivative()(places) + 1, atol=1e-9)


@FAST
@given(st.integers(0, 1000), st.floats(1e-4, 0.01))
def test_a_small_change_of_a_curve_moves_kneedle_little(seed: int, change: float) -> None:
    # A level would stay, or jump to the next one.
    curve = broken_line(0.53) - 0.3 * GRID**2
    noise = change * np.random.default_rng(seed).uniform(-1, 1, GRID.size)
    one, other = (find_knee(GRID, c, "kneedle", SETTINGS).knee for c in (curve, curve + noise))
    assert one is not None and other is not None
    assert 0 < abs(one - other) < 10 * change


def test_kneedle_takes_the_end_of_a_sigmoid_for_its_knee() -> None:
    assert find_knee(GRID, sigmoid(), "kneedle", SETTINGS) == Knee(GRID[-2], RIGHT)


def test_kneedle_finds_a_knee_in_a_straight_decline_with_noise() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal((50, GRID.size))
    readings = {rule: find_many(GRID, 0.9 - 0.5 * GRID + noise, rule, SETTINGS).knee for rule in ("kneedle", "bayes")}
    assert np.isfinite(readings["kneedle"]).mean() > 0.5
    assert np.isfinite(readings["bayes"]).mean() < 0.1


# --- two segments ---------------------------------------------------------------------------------------------------


@FAST
@given(st.floats(0.15, 0.8), st.floats(-0.1, 0.05), st.floats(-5.0, -0.3))
def test_two_segments_recover_the_joint(joint: float, before: float, after: float) -> None:
    for levels in (GRID, UNEVEN):
        found = find_knee(levels, broken_line(joint, before, after, levels=levels), "two-segment", SETTINGS)
        assert found.censored == NOT_CENSORED
        assert found.knee == pytest.approx(joint, abs=1e-6)


def test_two_segments_recover_the_joint_under_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.003, GRID.size)
    found = find_knee(GRID, broken_line(0.62) + noise, "two-segment", SETTINGS)
    assert found.knee == pytest.approx(0.62, abs=0.03)


def hinge_fit(levels: np.ndarray, curve: np.ndarray, joint: float) -> tuple[float, bool]:
    """Return the squared error of the best two lines that join there, and whether they fall faster after it."""
    design = np.stack([np.ones_like(levels), levels, np.maximum(0.0, levels - joint)], axis=1)
    coefficients = np.linalg.lstsq(design, curve, rcond=None)[0]
    error = float(((design @ coefficients - curve) ** 2).sum())
    return error, coefficients[2] < 0 and coefficients[1] + coefficients[2] < 0


@pytest.mark.parametrize("levels", [GRID, UNEVEN], ids=["even", "uneven"])
def test_no_joint_that_falls_faster_after_it_fits_better(levels: np.ndarray) -> None:
    candidates = np.linspace(levels[1], levels[-2], 301)
    for curve in random_curves(12, levels, 3):
        fits = [hinge_fit(levels, curve, joint) for joint in candidates]
        best = min((error for error, falls in fits if falls), default=None)
        found = find_knee(levels, curve, "two-segment", SETTINGS).knee
        assert (found is None) == (best is None)
        if found is not None and best is not None:
            error, falls = hinge_fit(levels, curve, found)
            assert falls
            assert levels[1] <= found <= levels[-2]
            assert error <= best * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("curve", [0.5 + 0.4 * (1 - GRID) ** 6, 0.5 + np.maximum(0, 0.4 - GRID), 0.5 + 0.3 * GRID])
def test_a_curve_that_does_not_fall_faster_later_has_no_two_segment_knee(curve: np.ndarray) -> None:
    found = find_knee(GRID, curve, "two-segment", SETTINGS)
    assert found == Knee(None, flags=("the curve does not fall faster after the joint",))


def test_two_segments_are_censored_at_the_ends_of_the_grid() -> None:
    # The bend lies between the last two levels: the search ends before it.
    late = np.r_[np.full(GRID.size - 1, 0.9), 0.1]
    assert find_knee(GRID, late, "two-segment", SETTINGS) == Knee(GRID[-2], RIGHT)
    early = broken_line(0.02, before=0.0)  # before the first level
    found = find_knee(GRID, early, "two-segment", SETTINGS)
    assert (found.knee, found.censored) == (GRID[1], LEFT)


def test_a_joint_that_noise_explains_is_doubted() -> None:
    noise = 0.01 * np.random.default_rng(1).standard_normal((40, GRID.size))
    flagged = {}
    for name, curve in {"straight": 0.9 - 0.5 * GRID, "broken": broken_line(0.5)}.items():
        found = [find_knee(GRID, c, "two-segment", SETTINGS) for c in curve + noise]
        flagged[name] = np.mean([bool(k.flags) for k in found if k.knee is not None])
    assert flagged["straight"] > 0.5
    assert flagged["broken"] == 0.0


# --- largest curvature ----------------------------------------------------------------------------------------------


def numeric_curvature(levels: np.ndarray, falling: np.ndarray) -> float:
    """Return where the smooth of a falling curve bends most, by quadrature and finite differences."""
    u, y = levels / levels[-1], (falling - falling[-1]) / (falling[0] - falling[-1])
    wide = np.linspace(-0.6, 1.6, 4401)
    line = np.interp(wide, u, y)
    line += np.where(wide < 0, (wide - u[0]) * (y[1] - y[0]) / (u[1] - u[0]), 0)
    line += np.where(wide > 1, (wide - u[-1]) * (y[-1] - y[-2]) / (u[-1] - u[-2]), 0)
    step = wide[1] - wide[0]
    kernel = np.exp(-((np.arange(-800, 801) * step / BANDWIDTH) ** 2) / 2)
    smooth = np.convolve(line, kernel / kernel.sum(), mode="same")
    slope = np.gradient(smooth, step)
    curvature = np.where((wide >= 0) & (wide <= 1), -np.gradient(slope, step) / (1 + slope**2) ** 1.5, -np.inf)
    return float(wide[curvature.argmax()] * levels[-1])


@pytest.mark.parametrize("levels", [GRID, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("shape", [lambda s: broken_line(0.55, levels=s), sigmoid, lambda s: 0.9 - 0.5 * s**4])
def test_curvature_is_that_of_the_smooth(levels: np.ndarray, shape: Any) -> None:
    found = find_knee(levels, shape(levels), "curvature", SETTINGS)
    assert found.knee == pytest.approx(numeric_curvature(levels, shape(levels)), abs=0.002)


@FAST
@given(st.floats(0.3, 0.8), st.floats(-4.0, -1.0))
def test_the_largest_curvature_lies_by_a_bandwidth_or_so_before_a_sharp_bend(joint: float, after: float) -> None:
    found = find_knee(GRID, broken_line(joint, after=after), "curvature", SETTINGS)
    assert found.knee is not None
    assert -2 * BANDWIDTH < found.knee - joint < 0.025


@pytest.mark.parametrize("levels", [1, 2, 7, 20])
def test_the_isotonic_fits_are_those_of_scipy(levels: int) -> None:
    curves = np.random.default_rng(0).normal(size=(100, levels)) - np.linspace(0, 2, levels)
    curves[::3] = np.round(curves[::3])
    expected = [isotonic_regression(curve, increasing=False).x for curve in curves]
    np.testing.assert_allclose(isotonic(curves), expected, atol=1e-12)


def test_curvature_does_not_heed_a_bump() -> None:
    curve = broken_line(0.6)
    bumped = curve + np.where(np.isclose(GRID, 0.3), 0.005, 0.0)
    one, other = (find_knee(GRID, c, "curvature", SETTINGS).knee for c in (curve, bumped))
    assert other == pytest.approx(one, abs=0.01)


def test_curvature_of_a_quarter_circle_is_one_everywhere_and_of_a_gentler_arc_no_knee() -> None:
    levels = np.linspace(0, 1, 41) * 0.9
    u = levels / 0.9
    gentle = np.sqrt(4 - (u + 0.2) ** 2)
    assert find_knee(levels, gentle, "curvature", SETTINGS) == Knee(
        None, flags=("no bend as sharp as a quarter circle",)
    )
    assert find_knee(levels, 0.9 - u**4, "curvature", SETTINGS).knee is not None


def test_where_only_the_smooth_says_where_the_knee_is_it_is_a_bound() -> None:
    coarse = np.array([0.0, 0.3, 0.5, 0.7, 0.9])
    early, late = 0.9 - np.maximum(0, coarse - 0.2), np.array([0.9, 0.9, 0.9, 0.9, 0.1])
    assert find_knee(coarse, early, "curvature", SETTINGS) == Knee(0.3, LEFT)
    assert find_knee(coarse, late, "kneedle", SETTINGS) == Knee(0.7, RIGHT)


# --- every rule -----------------------------------------------------------------------------------------------------

FLAT = [np.full(GRID.size, v) for v in (0.85, 1 / 3, -3.1415, 0.0)]
STRAIGHT = [0.9 - 0.5 * GRID, 0.77 - GRID / 3, -2.0 - 7.7 * GRID, 1e6 - 3e5 * GRID]


@pytest.mark.parametrize("curve", FLAT)
def test_a_flat_curve_bends_nowhere(curve: np.ndarray) -> None:
    rounded = curve * (1 + 1e-16 * np.random.default_rng(0).standard_normal(GRID.size))
    for rule in SHAPE_RULES:
        for flat in (curve, rounded):
            found = find_knee(GRID, flat, rule, SETTINGS)
            assert found.knee is None, rule
            assert found.flags
    lost = find_knee(GRID, curve, "tolerance", SETTINGS)
    assert lost.censored == RIGHT if curve.any() else lost.knee is None


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0, 0.0], [0.0, 0.01, 0.0, -0.3]])
def test_no_share_of_nothing_can_be_lost(values: list[float]) -> None:
    sparsity = np.array([0.0, 0.1, 0.2, 0.3])
    found = find_knee(sparsity, np.array(values), "tolerance", SETTINGS)
    assert found.knee is None
    assert found.flags == ("the dense value is 0, of which no share can be lost",)
    assert np.isnan(find_many(sparsity, np.array([values]), "tolerance", SETTINGS).knee).all()
    points = find_knee(sparsity, np.array(values), "tolerance", replace(SETTINGS, loss="absolute"))
    assert points.knee == (0.3 if not any(values) else pytest.approx(0.2 + 0.1 * SETTINGS.tolerance / 0.3))


@pytest.mark.parametrize("curve", STRAIGHT)
@pytest.mark.parametrize("rule", ["two-segment", "curvature", "bayes"])
def test_a_straight_decline_bends_nowhere(curve: np.ndarray, rule: str) -> None:
    found = find_knee(GRID, curve, rule, SETTINGS)
    assert found.knee is None
    assert found.flags


@pytest.mark.parametrize("rule", SHAPE_RULES)
def test_shapes_do_not_depend_on_the_unit(rule: str) -> None:
    curves = random_curves(60, GRID, 5)
    one = find_many(GRID, curves, rule, SETTINGS)
    assert np.isfinite(one.knee).sum() > 10
    for scale, shift in ((100.0, 0.0), (0.01, -3.0), (7.3, 50.0)):
        other = find_many(GRID, scale * curves + shift, rule, SETTINGS)
        np.testing.assert_allclose(other.knee, one.knee, atol=1e-6)
        np.testing.assert_array_equal(other.censored, one.censored)


@pytest.mark.parametrize(
    ("rule", "loss"),
    [*((rule, "relative") for rule in RULES), ("tolerance", "absolute"), ("tolerance", "above_chance")],
)
@pytest.mark.parametrize("levels", [GRID, UNEVEN], ids=["even", "uneven"])
def test_many_curves_are_read_as_each_is(rule: str, levels: np.ndarray, loss: str) -> None:
    asked = replace(SETTINGS, loss=loss)
    curves = random_curves(40, levels, 7)
    curves[3, 4], curves[8, 0], curves[9] = math.nan, -math.inf, 0.7
    many = find_many(levels, curves, rule, asked, 0.2)
    each = [find_knee(levels, curve, rule, asked, 0.2) for curve in curves]
    np.testing.assert_allclose(many.knee, [math.nan if k.knee is None else k.knee for k in each], rtol=1e-9)
    assert many.censored.tolist() == [CODES[k.censored] for k in each]
    assert many.censored.dtype == np.int8
    assert all(k.knee is not None or k.flags for k in each)


@pytest.mark.parametrize("rule", ["curvature", "bayes"])
def test_how_many_curves_are_read_at_once_does_not_matter(rule: str) -> None:
    curves = random_curves(2100, UNEVEN, 11)
    whole = find_many(UNEVEN, curves, rule, SETTINGS)
    parts = [find_many(UNEVEN, part, rule, SETTINGS) for part in np.split(curves, [700, 1300])]
    np.testing.assert_allclose(whole.knee, np.concatenate([part.knee for part in parts]), rtol=1e-9)
    np.testing.assert_array_equal(whole.censored, np.concatenate([part.censored for part in parts]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_gives_no_knee_and_is_named(rule: str, bad: float) -> None:
    curve = broken_line(0.5)
    curve[[7, 12]] = bad
    assert find_knee(GRID, curve, rule, SETTINGS) == Knee(None, flags=("no finite value at 35 %, 60 %",))


@pytest.mark.parametrize("rule", RULES)
def test_a_curve_without_the_dense_model_gives_no_knee(rule: str) -> None:
    assert find_knee(GRID[1:], broken_line(0.5)[1:], rule, SETTINGS) == Knee(None, flags=("no dense value",))
    assert find_knee(np.array([]), np.array([]), rule, SETTINGS) == Knee(None, flags=("no dense value",))
    assert np.isnan(find_many(GRID[1:], broken_line(0.5)[None, 1:], rule, SETTINGS).knee).all()


@pytest.mark.parametrize("rule", RULES)
def test_too_few_levels_for_a_rule_give_no_knee(rule: str) -> None:
    least = RULES[rule].least_levels
    curve = broken_line(0.5, levels=UNEVEN)
    for n in range(1, least):
        expected = Knee(None, flags=(f"fewer than {least} levels for {RULE_NAMES[rule]}",))
        assert find_knee(UNEVEN[:n], curve[:n], rule, SETTINGS) == expected
        assert np.isnan(find_many(UNEVEN[:n], curve[None, :n], rule, SETTINGS).knee).all()
    # Enough levels are read without an error, whatever is found.
    found = find_knee(UNEVEN[:least], np.r_[np.full(least - 2, 0.9), 0.6, 0.2], rule, SETTINGS)
    assert found.knee is not None or found.flags


@pytest.mark.parametrize("rule", RULES)
def test_a_knee_lies_within_the_levels(rule: str) -> None:
    found = find_many(GRID, random_curves(200, GRID, 13), rule, SETTINGS).knee
    assert np.isfinite(found).any()
    assert (found[np.isfinite(found)] >= GRID[0]).all()
    assert (found[np.isfinite(found)] <= GRID[-1]).all()


def test_a_rule_says_in_its_documentation_what_it_computes_where_it_is_from_and_where_it_fails() -> None:
    for name, rule in RULES.items():
        text = rule.read.__doc__ or ""
        assert "Fails:" in text, name
        assert "et al." in text or "Source:" in text or "19" in text, name


def test_the_value_at_the_knee_is_interpolated() -> None:
    levels, values = np.array([0.0, 0.2, 0.4]), np.array([1.0, 0.8, 0.0])
    assert value_at(levels, values, 0.3) == pytest.approx(0.4)
    assert value_at(levels, values, 0.2) == 0.8
    assert math.isnan(value_at(levels, values, None))
