"""The rule `curvature`, against quadrature and SciPy's isotonic fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from essential_sparsity.knees.curvature import BANDWIDTH, isotonic
from essential_sparsity.knees.readings import LEFT, RIGHT, Knee
from essential_sparsity.knees.rules import find_knee
from knee_curves import FAST, GRID, SETTINGS, UNEVEN, broken_line, sigmoid


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
