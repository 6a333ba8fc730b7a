"""Differences of knees: which are compared, their intervals, the test and its correction, and what bounds remain."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.inference import Floats, holm, p_value
from essential_sparsity.knees.differences import CurveKnee, difference_rows
from essential_sparsity.knees.readings import Knee, Readings
from essential_sparsity.knees.tables import DIFFERENCES


def knee(place: Knee | float | None, draws: Floats | None = None, censored: int = 0, **axes: Any) -> CurveKnee:
    """A curve's knee, by default that of one method, with draws around it."""
    found = place if isinstance(place, Knee) else Knee(place)
    names = {"model": "m", "checkpoint": "final", "method": "a", "task": "t", "rule": "tolerance", **axes}
    readings = None if draws is None else Readings(draws, np.full(len(draws), censored, dtype=np.int8))
    return CurveKnee(**names, knee=found, readings=readings)


def around(place: float, spread: float = 0.01, seed: int = 0, draws: int = 999) -> Floats:
    return place + spread * np.random.default_rng(seed).normal(size=draws)


def only(*knees: CurveKnee) -> dict[str, Any]:
    (row,) = difference_rows(knees, 0.95).to_dict("records")
    return {str(key): value for key, value in row.items()}


# --- which are compared ---------------------------------------------------------------------------------------------


def test_methods_checkpoints_and_models_are_compared() -> None:
    knees = [
        knee(0.5, model=model, checkpoint=checkpoint, method=method, rule=rule)
        for model, checkpoints in (("m", ["step000000", "step000010", "final"]), ("other", ["final"]))
        for checkpoint, method, rule in itertools.product(checkpoints, "abc", ["tolerance", "kneedle"])
    ]
    rows = difference_rows(knees, 0.95)
    # Three pairs of methods on each of four checkpoints; two earlier checkpoints of m; one pair of models.
    assert rows.groupby("kind").size().to_dict() == {"methods": 2 * 12, "checkpoints": 2 * 6, "models": 2 * 3}
    checkpoints = rows[rows["kind"] == "checkpoints"]
    assert set(checkpoints["other_checkpoint"]) == {"final"}
    assert set(checkpoints["checkpoint"]) == {"step000000", "step000010"}
    assert set(rows[rows["kind"] == "models"]["checkpoint"]) == {"final"}
    DIFFERENCES.typed(rows)
    shuffled = [knees[i] for i in np.random.default_rng(0).permutation(len(knees))]
    assert difference_rows(shuffled, 0.95).equals(rows), "the order of curves does not matter"


def test_a_study_of_one_curve_compares_nothing() -> None:
    assert len(DIFFERENCES.typed(difference_rows([knee(0.5)], 0.95))) == 0


def test_tasks_are_not_compared() -> None:
    assert len(difference_rows([knee(0.5, task="t"), knee(0.5, task="u")], 0.95)) == 0


# --- intervals and tests --------------------------------------------------------------------------------------------


def test_draws_are_subtracted_one_by_one() -> None:
    shared = around(0.0, 0.1)
    row = only(knee(0.6, 0.6 + shared, method="a"), knee(0.5, 0.5 + shared, method="b"))
    assert (row["difference"], row["ci_low"], row["ci_high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert row["p_value"] == pytest.approx(2 / 1000)
    apart = only(knee(0.6, 0.6 + shared, method="a"), knee(0.5, around(0.5, 0.1, seed=1), method="b"))
    assert apart["ci_low"] < 0 < apart["ci_high"]
    assert apart["p_value"] > 0.05


def test_swapping_the_sides_swaps_the_signs() -> None:
    one, other = around(0.6, 0.05), around(0.5, 0.05, seed=1)
    row = only(knee(0.6, one, method="a"), knee(0.5, other, method="b"))
    swapped = only(knee(0.6, one, method="b"), knee(0.5, other, method="a"))
    assert (swapped["difference"], swapped["ci_low"], swapped["ci_high"]) == pytest.approx(
        (-row["difference"], -row["ci_high"], -row["ci_low"])
    )
    assert swapped["p_value"] == row["p_value"]


def test_equal_knees_are_told_apart_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(0)
    rejected = 0
    for _ in range(1000):
        estimates = 0.5 + 0.02 * generator.normal(size=2)
        draws = estimates + 0.02 * generator.normal(size=(199, 2))
        rejected += p_value(draws[:, 0] - draws[:, 1]) < 0.05
    # Binomial: five in a hundred, give or take three standard errors.
    assert 30 <= rejected <= 72


def test_knees_that_are_always_the_same_level_are_not_told_apart() -> None:
    row = only(knee(0.5, np.full(999, 0.5), method="a"), knee(0.5, np.full(999, 0.5), method="b"))
    assert (row["difference"], row["p_value"]) == (0.0, 1.0)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6))
@settings(deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    # An hypothesis falls if every set of hypotheses that holds it falls to Bonferroni's test.
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
    expected = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(len(p))]
    np.testing.assert_allclose(holm(np.array(p)), expected)


def test_comparisons_without_a_test_do_not_count() -> None:
    found = holm(np.array([0.04, np.nan, 0.01]))
    assert found[[0, 2]] == pytest.approx([0.04, 0.02])
    assert np.isnan(found[1])
    assert np.isnan(holm(np.array([np.nan]))).all()


def test_correction_is_over_the_comparisons_by_one_rule() -> None:
    knees = [
        knee(0.5 + 0.1 * i, around(0.5 + 0.1 * i, 0.03, seed=i), method=method, rule=rule)
        for i, method in enumerate("abc")
        for rule in ("tolerance", "kneedle")
    ]
    rows = difference_rows(knees, 0.95)
    for _, by_rule in rows.groupby("rule"):
        np.testing.assert_allclose(by_rule["p_adjusted"], holm(by_rule["p_value"].to_numpy(float)))
        assert (by_rule["p_adjusted"] >= by_rule["p_value"]).all()


# --- what cannot be said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "flags"),
    [
        (None, 0.5, "the first curve has no knee"),
        (0.5, None, "the second curve has no knee"),
        (None, None, "neither curve has a knee"),
    ],
)
def test_without_a_knee_there_is_no_difference(one: float | None, other: float | None, flags: str) -> None:
    row = only(knee(one, around(0.5), method="a"), knee(other, around(0.5), method="b"))
    assert row["flags"] == flags
    assert np.isnan([row[key] for key in ("difference", "ci_low", "ci_high", "p_value", "p_adjusted")]).all()


@pytest.mark.parametrize("one", ["none", "left", "right"])
@pytest.mark.parametrize("other", ["none", "left", "right"])
def test_a_censored_knee_leaves_a_bound_that_holds(one: str, other: str) -> None:
    row = only(
        knee(Knee(0.6, one), around(0.6), method="a"), knee(Knee(0.4, other), around(0.4), method="b")
    )  # fmt: skip
    if (one, other) == ("none", "none"):
        assert row["difference"] == pytest.approx(0.2)
        return
    assert np.isnan([row[key] for key in ("difference", "ci_low", "ci_high", "p_value")]).all()
    # Where the true knees may lie, and what the difference then is.
    places = {"none": [0.0], "left": [-0.3, -0.01], "right": [0.01, 0.3]}
    differences = [0.2 + a - b for a in places[one] for b in places[other]]
    least, most = min(differences) >= 0.2 - 1e-9, max(differences) <= 0.2 + 1e-9
    said = "at least +20.0 points" if least else "at most +20.0 points" if most else "not known"
    assert row["flags"].endswith(f"the difference is {said}")


def test_a_knee_before_the_first_level_is_bounded_by_that_level() -> None:
    # Its place is read off the line from the dense model, which is an assumption; that it lies before 0.1 is known.
    early = knee(Knee(0.02, "left", (), None, 0.1), around(0.02), method="a")
    row = only(early, knee(Knee(0.05), around(0.05), method="b"))
    assert row["flags"].endswith("the difference is at most +5.0 points")


def test_more_comparisons_than_the_draws_can_decide_are_flagged() -> None:
    draws = np.random.default_rng(0).normal(0.0, 0.001, (8, 1000))
    knees = [knee(Knee(0.1 * (i + 1)), 0.1 * (i + 1) + draws[i], method=f"m{i}") for i in range(8)]
    many, few = difference_rows(knees, 0.95), difference_rows(knees[:7], 0.95)
    assert (many["p_adjusted"] > 0.05).all(), "28 comparisons, and no p-value below 2 / 1001"
    assert many["flags"].str.contains("`knees.draws` of 1120 could tell these apart").all()
    assert (few["p_adjusted"] < 0.05).all()
    assert (few["flags"] == "").all()


def test_doubts_of_either_side_are_carried_along_once() -> None:
    one = knee(0.6, around(0.6), method="a")
    doubted = [CurveKnee(**{**vars(k), "flags": ("one seed",)}) for k in (one, knee(0.5, around(0.5), method="b"))]
    assert only(*doubted)["flags"] == "one seed"
    assert "nothing to resample" in only(one, knee(0.5, None, method="b"))["flags"]
    outside = only(one, knee(0.5, around(0.5), censored=1, method="b"))
    assert outside["flags"] == "in 100% of the draws a knee lies outside the levels: the interval may be too narrow"


def test_too_few_draws_with_a_knee_give_no_interval() -> None:
    gone = around(0.5)
    gone[:600] = np.nan
    row = only(knee(0.5, gone, method="a"), knee(0.5, around(0.5), method="b"))
    assert np.isnan([row[key] for key in ("ci_low", "ci_high", "p_value")]).all()
    assert row["flags"] == "no interval: 60% of the draws have no knee"
    assert row["difference"] == 0.0
