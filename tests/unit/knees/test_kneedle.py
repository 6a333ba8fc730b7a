"""The rule `kneedle`, against the package kneed and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kneed import KneeLocator
from scipy.interpolate import PchipInterpolator

from essential_sparsity.knees.kneedle import chord_slope, first_knee
from essential_sparsity.knees.readings import NOT_CENSORED, RIGHT, Knee, is_flat
from essential_sparsity.knees.rules import find_knee, find_many
from knee_curves import FAST, GRID, SETTINGS, UNEVEN, broken_line, random_curves, sigmoid


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
