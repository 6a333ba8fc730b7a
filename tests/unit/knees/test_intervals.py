"""Draws of curves against analytic variances, and intervals of knees against formulas and their coverage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.stats import norm, t

import entries
from essential_sparsity.inference import Floats
from essential_sparsity.knees.intervals import OPEN_ABOVE, OPEN_BELOW, knee_interval, quantiles, value_bounds
from essential_sparsity.knees.readings import Knee, Readings
from essential_sparsity.knees.resampling import (
    BOTH,
    EXAMPLES,
    SEEDS,
    Draws,
    Sample,
    draw_mean,
    draw_seed,
    resampled_values,
)
from essential_sparsity.knees.rules import find_knee, find_many

LEVELS = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
SETTINGS = entries.knees(draws=400)
RULES = ("tolerance", "kneedle", "two-segment", "curvature", "bayes")


def sample(outcomes: Floats, metric: str = "accuracy_norm", task: str = "t", index: str = "") -> Sample:
    """What a curve of means was measured on, from outcomes (levels, seeds, examples)."""
    levels, seeds, _ = outcomes.shape
    features = np.stack([np.ones_like(outcomes), outcomes], axis=3)
    sparsity = np.linspace(0, 0.9, levels)
    return Sample(metric, task, sparsity, tuple(range(seeds)), outcomes.mean(axis=2), features, index)


def mean_draws(of: Sample, draws: int) -> Draws:
    found = draw_mean(of, resampled_values(of, draws), draws)
    assert found is not None
    return found


# --- draws ----------------------------------------------------------------------------------------------------------


def test_the_spread_of_a_mean_is_its_standard_error() -> None:
    outcomes = np.random.default_rng(0).random((3, 1, 400)) < np.array([0.9, 0.7, 0.3])[:, None, None]
    drawn = mean_draws(sample(outcomes.astype(float)), 4000)
    assert drawn.resampled == EXAMPLES
    expected = outcomes[:, 0].std(axis=1, ddof=1) / np.sqrt(400)
    np.testing.assert_allclose(drawn.scores.std(axis=0), expected, rtol=0.05)
    np.testing.assert_allclose(drawn.scores.mean(axis=0), outcomes.mean(axis=(1, 2)), atol=4 * expected.max() / 60)


def test_levels_are_paired_by_their_examples() -> None:
    generator = np.random.default_rng(1)
    difficulty = generator.normal(size=500)
    outcomes = (difficulty + 0.3 * generator.normal(size=(2, 1, 500)) < np.array([0.8, 0.6])[:, None, None]).astype(
        float
    )
    drawn = mean_draws(sample(outcomes), 4000).scores
    apart = outcomes[0, 0] - outcomes[1, 0]
    assert (drawn[:, 0] - drawn[:, 1]).std() == pytest.approx(apart.std(ddof=1) / np.sqrt(500), rel=0.05)
    unpaired = np.sqrt(drawn.var(axis=0).sum())
    assert (drawn[:, 0] - drawn[:, 1]).std() < 0.7 * unpaired


def test_the_variance_of_both_is_that_of_the_two_way_layout() -> None:
    # y = a_i + b_s + e_is. Counting e twice would give half as much again.
    n, seeds, a, b, e = 200, 12, 1.0, 0.1, 3.0
    generator = np.random.default_rng(2)
    found = []
    for i in range(60):
        y = (
            a * generator.normal(size=(1, 1, n)) + b * generator.normal(size=(1, seeds, 1))
            + e * generator.normal(size=(4, seeds, n))
        )  # fmt: skip
        drawn = mean_draws(sample(y, "masked_loss", task=str(i)), 300)
        assert drawn.resampled == BOTH
        found.append(drawn.scores.var(axis=0).mean())
    # Student's t with 11 degrees of freedom has a variance of 11 / 9.
    expected = a**2 / n + e**2 / (n * seeds) + b**2 / seeds * 11 / 9
    assert np.mean(found) == pytest.approx(expected, rel=0.1)


def test_a_few_seeds_alone_give_the_textbook_interval() -> None:
    values = np.random.default_rng(3).normal(0.8, 0.02, (5, 3))
    of = Sample("accuracy", "t", np.linspace(0, 0.9, 5), (0, 1, 2), values, None, "")
    drawn = draw_mean(of, resampled_values(of, 40_000), 40_000)
    assert drawn is not None
    assert drawn.resampled == SEEDS
    half = t.ppf(0.975, 2) * values.std(axis=1, ddof=1) / np.sqrt(3)
    expected = np.stack([values.mean(axis=1) - half, values.mean(axis=1) + half])
    np.testing.assert_allclose(quantiles(drawn.scores, 0.95), expected, atol=0.06 * half.max())


def test_curves_of_one_task_share_their_examples_and_seeds() -> None:
    generator = np.random.default_rng(4)
    outcomes = generator.random((3, 3, 50))
    one, other = (mean_draws(sample(y), 200).scores for y in (outcomes, outcomes - 0.25))
    np.testing.assert_allclose(one - other, 0.25, atol=1e-9, err_msg="a constant difference has no spread")
    elsewhere = mean_draws(sample(outcomes, task="another"), 200).scores
    other_examples = mean_draws(sample(outcomes, index="other"), 200).scores
    for different in (elsewhere, other_examples):
        assert abs(np.corrcoef(one[:, 0], different[:, 0])[0, 1]) < 0.99


def test_draws_are_the_same_every_time_and_a_seed_of_one_is_the_mean() -> None:
    of = sample(np.random.default_rng(5).random((3, 1, 50)))
    again = mean_draws(of, 200).scores
    np.testing.assert_array_equal(mean_draws(of, 200).scores, again)
    own = draw_seed(of, resampled_values(of, 200), 0)
    assert own is not None
    np.testing.assert_array_equal(own.scores, again)


def test_perplexities_are_drawn_by_windows_weighted_by_their_tokens() -> None:
    generator = np.random.default_rng(6)
    tokens, losses = generator.integers(10, 200, 300).astype(float), generator.normal(3, 0.5, (2, 1, 300))
    features = np.stack([np.broadcast_to(tokens, losses.shape), tokens * losses], axis=3)
    mean = (losses * tokens).sum(axis=2) / tokens.sum()
    of = Sample("perplexity", "t", np.array([0.0, 0.5]), (0,), np.exp(mean), features, "")
    drawn = mean_draws(of, 4000).scores
    np.testing.assert_allclose(of.score, -mean[:, 0])
    # The delta method for a ratio of sums.
    expected = np.sqrt(((tokens * (losses - mean[:, :, None])) ** 2).sum(axis=2))[:, 0] / tokens.sum()
    np.testing.assert_allclose(drawn.std(axis=0), expected, rtol=0.06)


def test_nothing_is_drawn_from_one_example_and_one_seed() -> None:
    of = sample(np.ones((3, 1, 1)))
    assert resampled_values(of, 200) is None
    assert draw_mean(of, None, 200) is None
    assert draw_seed(of, None, 0) is None


# --- intervals ------------------------------------------------------------------------------------------------------


def interval_of(rule: str, scores: Floats, score: Floats | None = None, **settings: Any) -> tuple[Any, Knee]:
    score = scores.mean(axis=0) if score is None else score
    merged = replace(SETTINGS, **settings)
    knee = find_knee(LEVELS, score, rule, merged)
    return knee_interval(LEVELS, scores, knee, find_many(LEVELS, scores, rule, merged), rule, merged, None), knee


def falling(noise: float, draws: int = 400, seed: int = 0) -> Floats:
    curve = 0.9 - np.maximum(0, LEVELS - 0.45)
    return curve + noise * np.random.default_rng(seed).normal(size=(draws, len(LEVELS)))


@pytest.mark.parametrize("rule", RULES)
def test_without_noise_the_interval_is_the_knee(rule: str) -> None:
    found, knee = interval_of(rule, falling(0.0, draws=50))
    assert knee.knee is not None
    assert (found.low, found.high) == pytest.approx((knee.knee, knee.knee), abs=1e-3)
    assert found.flags == ()


@pytest.mark.parametrize("rule", RULES)
def test_more_noise_and_more_confidence_widen_the_interval(rule: str) -> None:
    def width(noise: float, confidence: float) -> float:
        found, knee = interval_of(rule, falling(noise), falling(0.0)[0], confidence=confidence)
        assert found.low <= knee.knee <= found.high
        return float(found.high - found.low)

    assert width(0.002, 0.95) <= width(0.01, 0.95)
    assert width(0.01, 0.6) <= width(0.01, 0.95)


def test_the_tolerance_interval_is_fiellers() -> None:
    # d falls in a straight line from one level to the next, with independent normal errors at both.
    d, se = np.array([0.01, -0.02]), np.array([0.003, 0.005])
    noise = np.random.default_rng(0).normal(size=(20_000, 2)) * se
    scores = np.full((20_000, len(LEVELS)), 0.5)
    scores[:, 0], scores[:, 1:5] = 1.0, 0.99
    scores[:, 5], scores[:, 6] = 0.98 + d[0] + noise[:, 0], 0.98 + d[1] + noise[:, 1]
    found, _ = interval_of("tolerance", scores)
    # Roots in u of ((1 - u) d_0 + u d_1)^2 = z^2 ((1 - u)^2 se_0^2 + u^2 se_1^2).
    z2, fall = norm.ppf(0.975) ** 2, d[1] - d[0]
    quadratic = [fall**2 - z2 * (se**2).sum(), 2 * (d[0] * fall + z2 * se[0] ** 2), d[0] ** 2 - z2 * se[0] ** 2]
    roots = 0.5 + 0.1 * np.sort(np.roots(quadratic))
    assert (found.low, found.high) == pytest.approx(tuple(roots), abs=0.0015)


def test_the_kneedle_interval_is_where_the_slope_of_the_distance_may_be_0() -> None:
    scores = falling(0.01, draws=300)
    found, knee = interval_of("kneedle", scores, falling(0.0)[0])
    assert knee.knee is not None
    fine = np.linspace(0, 0.9, 1801)
    distance = [PchipInterpolator(LEVELS, (y - y.min()) / np.ptp(y))(fine) - 1 + fine / 0.9 for y in scores]
    lower, upper = quantiles(np.gradient(np.array(distance), fine, axis=1), 0.95)
    # It rises for sure up to the lower bound, and falls for sure from the upper one on.
    low, high = fine[(fine < knee.knee) & (lower > 0)][-1], fine[(fine > knee.knee) & (upper < 0)][0]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.002)


def test_the_curvature_interval_has_every_bend_that_may_be_the_sharpest() -> None:
    # Two bends, the second a little sharper; noise makes each the sharper one in some draws.
    def stairs(noise: float) -> Floats:
        curve = 0.9 - 0.45 * np.clip((LEVELS - 0.2) / 0.1, 0, 1) - 0.5 * np.clip((LEVELS - 0.7) / 0.1, 0, 1)
        return curve + noise * np.random.default_rng(0).normal(size=(300, len(LEVELS)))

    sure, knee = interval_of("curvature", stairs(0.001), stairs(0.0)[0])
    assert knee.knee is not None
    assert knee.knee > 0.6
    assert (sure.low, sure.high) == pytest.approx((knee.knee, knee.knee), abs=0.02)
    unsure, _ = interval_of("curvature", stairs(0.04), stairs(0.0)[0])
    assert unsure.low < 0.2
    assert knee.knee <= unsure.high < 0.75


@pytest.mark.parametrize("rule", ["kneedle", "curvature"])
def test_where_draws_are_censored_the_interval_reaches_the_end(rule: str) -> None:
    scores = falling(0.01, draws=100)
    knee = find_knee(LEVELS, falling(0.0)[0], rule, SETTINGS)
    readings = find_many(LEVELS, scores, rule, SETTINGS)
    assert not readings.censored.any()
    inside = knee_interval(LEVELS, scores, knee, readings, rule, SETTINGS, None)
    assert inside.low is not None and inside.high is not None
    for code, flag, expected in ((-1, OPEN_BELOW, (0.1, inside.high)), (1, OPEN_ABOVE, (inside.low, 0.8))):
        readings.censored[:] = np.where(np.arange(100) < 3, code, 0)
        found = knee_interval(LEVELS, scores, knee, readings, rule, SETTINGS, None)
        assert (found.low, found.high) == pytest.approx(expected)
        assert found.flags == (flag,)


def test_a_knee_beyond_the_levels_leaves_the_interval_open() -> None:
    flat = 0.9 + 0.0 * falling(0.0)
    open_above, knee = interval_of("tolerance", flat)
    assert (open_above.low, open_above.high, knee.censored) == (0.9, 0.9, "right")
    assert open_above.flags == (OPEN_ABOVE,)
    cliff = flat.copy()
    cliff[:, 1:] = 0.5
    open_below, knee = interval_of("tolerance", cliff)
    assert knee.censored == "left"
    assert open_below.flags == (OPEN_BELOW,)
    # A last level that noise alone decides: the interval ends with the levels, and says so.
    close = flat + 0.02 * np.random.default_rng(0).normal(size=flat.shape)
    undecided, _ = interval_of("tolerance", close, np.where(LEVELS == 0.9, 0.88, 0.9))
    assert undecided.high == 0.9
    assert OPEN_ABOVE in undecided.flags


def test_draws_without_a_knee_are_counted() -> None:
    scores = falling(0.001, draws=100)
    knee = find_knee(LEVELS, scores.mean(axis=0), "two-segment", SETTINGS)
    readings = find_many(LEVELS, scores, "two-segment", SETTINGS)
    for missing, flags in ((4, ()), (10, ("10% of the draws have no knee",))):
        some = readings.knee.copy()
        some[:missing] = np.nan
        found = knee_interval(LEVELS, scores, knee, Readings(some, readings.censored), "two-segment", SETTINGS, None)
        assert found.flags == flags
        assert found.low is not None
    some[:60] = np.nan
    found = knee_interval(LEVELS, scores, knee, Readings(some, readings.censored), "two-segment", SETTINGS, None)
    assert (found.low, found.high, found.flags) == (None, None, ("no interval: 60% of the draws have no knee",))


def test_draws_without_a_threshold_are_left_out() -> None:
    # Above chance at 0.7 by two standard errors: a few dense models of the draws are not, and have no tolerance.
    scores = falling(0.0) - 0.1 * (LEVELS == 0)
    scores[:, 0] += 0.05 * np.random.default_rng(0).normal(size=len(scores))
    settings = replace(SETTINGS, loss="above_chance", tolerance=0.3)
    knee = find_knee(LEVELS, scores.mean(axis=0), "tolerance", settings, 0.7)
    readings = find_many(LEVELS, scores, "tolerance", settings, 0.7)
    assert 0 < np.isnan(readings.knee).mean() < 0.05
    found = knee_interval(LEVELS, scores, knee, readings, "tolerance", settings, 0.7)
    assert found.low is not None
    assert found.high is not None
    assert LEVELS[0] < found.low < knee.knee < found.high < LEVELS[-1]


def test_a_curve_without_a_knee_has_no_interval() -> None:
    scores = falling(0.01)
    readings = find_many(LEVELS, scores, "tolerance", SETTINGS)
    found = knee_interval(LEVELS, scores, Knee(None), readings, "tolerance", SETTINGS, None)
    assert (found.low, found.high) == (None, None)


def test_bounds_of_values_are_in_the_unit_of_the_metric() -> None:
    nats = np.random.default_rng(0).normal(-3.0, 0.1, (4000, 2))
    np.testing.assert_allclose(
        value_bounds(nats, "perplexity", 0.95), [[np.exp(2.804)] * 2, [np.exp(3.196)] * 2], rtol=0.02
    )
    high = np.random.default_rng(0).normal(0.99, 0.05, (4000, 1))
    assert value_bounds(high, "accuracy", 0.95)[1] == 1.0


# --- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "seeds"), [("tolerance", 1), ("tolerance", 3), ("two-segment", 1)])
def test_intervals_cover_the_true_knee(rule: str, seeds: int) -> None:
    truth = 0.85 - 0.01 * LEVELS - np.clip(LEVELS - 0.52, 0, 0.35)
    true = find_knee(LEVELS, truth, rule, SETTINGS).knee
    assert true is not None
    covered = 0
    for i in range(60):
        generator = np.random.default_rng(i)
        effects = generator.normal(0, 0.01, (1, seeds, 1)) if seeds > 1 else 0.0
        noise = np.sqrt(0.2) * generator.normal(size=(len(LEVELS), seeds, 300))
        difficulty = norm.cdf(np.sqrt(0.8) * generator.normal(size=300) + noise)
        of = sample((difficulty < truth[:, None, None] + effects).astype(float), task=str(i))
        found, _ = interval_of(rule, mean_draws(of, 150).scores, of.score)
        covered += found.low is None or found.low <= true <= found.high
    # Of 60 intervals at 95 %, fewer than 50: two in ten thousand.
    assert covered >= 50
