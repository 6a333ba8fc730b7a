"""Every rule: knees of curves whose knee is known, and the answer where there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from essential_sparsity.knees.readings import CODES, RIGHT, Knee
from essential_sparsity.knees.rules import RULE_NAMES, RULES, find_knee, find_many, value_at
from knee_curves import GRID, SETTINGS, UNEVEN, broken_line, random_curves

# Rules that see a curve as it is drawn: on axes from the lowest to the highest value.
SHAPE_RULES = [rule for rule in RULES if rule != "tolerance"]


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
