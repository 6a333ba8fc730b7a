"""The rule `two-segment`: the joint is found where it is put, and is the best of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from essential_sparsity.knees.readings import LEFT, NOT_CENSORED, RIGHT, Knee
from essential_sparsity.knees.rules import find_knee
from knee_curves import FAST, GRID, SETTINGS, UNEVEN, broken_line, random_curves


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
