"""The comparison of shapes: its probabilities by quadrature, and what it says of curves with and without a knee."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import entries
from essential_sparsity.knees import bayes as knee_bayes
from essential_sparsity.knees.bayes import LEAST_PROBABILITY, PRIOR
from essential_sparsity.knees.readings import LEFT, NOT_CENSORED, RIGHT
from essential_sparsity.knees.rules import find_knee, find_many

SETTINGS = entries.knees()
TWELVE = np.linspace(0, 0.95, 12)


def broken_line(joint: float, levels: np.ndarray = TWELVE) -> np.ndarray:
    return 0.9 - 0.02 * levels - np.maximum(0.0, levels - joint)


def noisy(curve: np.ndarray, noise: float, draws: int = 300, seed: int = 0) -> np.ndarray:
    return curve + noise * np.random.default_rng(seed).standard_normal((draws, len(curve)))


def knee_probability(curves: np.ndarray) -> np.ndarray:
    return knee_bayes._posterior(TWELVE, curves)[1].sum(axis=1)


def hats(levels: np.ndarray, nodes: tuple[float, ...]) -> np.ndarray:
    """Design of the line through heights at nodes."""
    return np.stack([np.interp(levels, nodes, row) for row in np.eye(len(nodes))], axis=1)


def evidence(design: np.ndarray, heights: np.ndarray) -> float:
    """Marginal likelihood by quadrature over the noise, at which the integral over the heights is a normal one."""
    n, k = design.shape
    fit = np.linalg.lstsq(design, heights, rcond=None)[0]
    rss = float(((heights - design @ fit) ** 2).sum())
    log_sigma = np.linspace(math.log(1e-4), math.log(1e3), 4001)
    variance = np.exp(2 * log_sigma)
    of_heights = 0.5 * k * np.log(2 * math.pi * variance) - 0.5 * np.linalg.slogdet(design.T @ design)[1]
    likelihood = -0.5 * n * np.log(2 * math.pi * variance) - rss / (2 * variance) + of_heights - k * math.log(2.0)
    # Inverse gamma with half a degree of freedom and half a residual of 1 % squared, up to its constant.
    prior = -1.5 * np.log(variance) - 0.01**2 / (2 * variance)
    return float(np.trapezoid(np.exp(likelihood + prior) * 2 * variance, log_sigma))


@pytest.mark.parametrize("curve", [broken_line(0.6), 0.9 - 0.5 * TWELVE, np.full(12, 0.8), 0.9 - 0.5 * TWELVE**2])
def test_probabilities_of_shapes_are_those_of_quadrature(curve: np.ndarray) -> None:
    scores = noisy(curve, 0.02, draws=1, seed=3)
    heights = (scores[0] - scores.min()) / np.ptp(scores) - 0.5
    u = TWELVE / TWELVE[-1]
    middles = {n: (np.arange(n) + 0.5) / n for n in (24, 192)}
    pairs = itertools.combinations(middles[24], 2)
    designs = {
        "flat": [np.ones((12, 1))],
        "line": [hats(u, (0.0, 1.0))],
        # A parabola by its values at the ends and in the middle: Lagrange's basis.
        "parabola": [np.stack([2 * (u - 0.5) * (u - 1), -4 * u * (u - 1), 2 * u * (u - 0.5)], axis=1)],
        "power": [np.stack([1 - u**p, u**p], axis=1) for p in np.linspace(1, 3, 33)],
        "one joint": [hats(u, (0.0, joint, 1.0)) for joint in middles[192]],
        "two joints": [hats(u, (0.0, one, other, 1.0)) for one, other in pairs],
    }
    determined = {k: [d for d in v if np.linalg.matrix_rank(d, tol=1e-6) == d.shape[1]] for k, v in designs.items()}
    weights = {k: PRIOR[k] * np.mean([evidence(d, heights) for d in v]) for k, v in determined.items()}
    expected = {k: weight / sum(weights.values()) for k, weight in weights.items()}
    shapes, _ = knee_bayes._posterior(TWELVE, scores)
    for name, probability in expected.items():
        assert shapes[name][0] == pytest.approx(probability, rel=1e-3, abs=1e-9), name
    assert sum(PRIOR.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("joint", [0.3, 0.5, 0.62, 0.75])
@pytest.mark.parametrize("levels", [TWELVE, np.array([0, 0.1, 0.25, 0.3, 0.45, 0.5, 0.6, 0.7, 0.72, 0.8, 0.9, 0.95])])
def test_a_joint_is_recovered_under_noise(joint: float, levels: np.ndarray) -> None:
    found = find_many(levels, noisy(broken_line(joint, levels), 0.004), "bayes", SETTINGS)
    assert np.isfinite(found.knee).mean() > 0.95
    assert abs(np.nanmedian(found.knee) - joint) < 0.01
    assert np.nanmedian(np.abs(found.knee - joint)) < 0.02
    assert (found.censored == 0).mean() > 0.95


@pytest.mark.parametrize("n", [7, 9, 12, 20])
@pytest.mark.parametrize("noise", [0.002, 0.015, 0.05])
def test_straight_noisy_lines_rarely_have_a_knee(n: int, noise: float) -> None:
    levels = np.linspace(0, 0.95, n)
    found = find_many(levels, noisy(0.9 - 0.5 * levels, noise, draws=1000), "bayes", SETTINGS)
    assert np.isfinite(found.knee).mean() < 0.1


@pytest.mark.parametrize(
    "curve",
    [
        0.9 - 0.5 * TWELVE,
        0.9 - 0.5 * TWELVE**2,
        0.9 - 0.5 * TWELVE**3,
        0.9 - 0.5 * TWELVE**2.5,
        0.5 + 0.4 * (1 - TWELVE) ** 6,
        0.5 + 0.4 * np.maximum(0, 0.3 - TWELVE),
        0.5 + 0.4 * TWELVE,
        0.5 + np.minimum(TWELVE, 0.5),
    ],
    ids=["line", "parabola", "cubic", "between them", "levels off", "ends on a floor", "rises", "stops rising"],
)
def test_curves_that_do_not_fall_faster_than_before_have_no_knee(curve: np.ndarray) -> None:
    # Without noise, and with little.
    assert find_knee(TWELVE, curve, "bayes", SETTINGS).knee is None
    for noise in (0.002, 0.01):
        assert np.isfinite(find_many(TWELVE, noisy(curve, noise), "bayes", SETTINGS).knee).mean() < 0.05


@pytest.mark.parametrize(
    ("curve", "low", "high"),
    [
        # Where a cliff lies between two levels, nothing more is known.
        (np.where(TWELVE < 0.6, 0.9, 0.5), TWELVE[6], TWELVE[7]),
        (0.5 + 0.4 / (1 + np.exp((TWELVE - 0.6) / 0.04)), 0.43, 0.6),
        (0.9 - 0.4 * np.clip((TWELVE - 0.5) / 0.2, 0, 1), 0.43, 0.55),
    ],
    ids=["cliff", "sigmoid", "to a floor"],
)
def test_a_fall_to_a_floor_has_its_knee_before_the_fall(curve: np.ndarray, low: float, high: float) -> None:
    for scores in (curve[None], noisy(curve, 0.004, draws=50)):
        found = find_many(TWELVE, scores, "bayes", SETTINGS).knee
        assert np.isfinite(found).all()
        assert (found > low).all()
        assert (found < high).all()


def test_a_knee_beyond_the_inner_levels_is_censored() -> None:
    late = np.r_[np.full(11, 0.9), 0.3]
    found = find_knee(TWELVE, late, "bayes", SETTINGS)
    assert (found.knee, found.censored) == (TWELVE[-2], RIGHT)
    early = 0.9 - np.maximum(0, TWELVE - 0.8 * TWELVE[1])
    found = find_knee(TWELVE, early, "bayes", SETTINGS)
    assert (found.knee, found.censored) == (TWELVE[1], LEFT)
    assert find_knee(TWELVE, broken_line(0.5), "bayes", SETTINGS).censored == NOT_CENSORED


def test_the_reason_gives_the_probability_of_a_knee_and_the_likeliest_shape() -> None:
    line = 0.9 - 0.5 * TWELVE
    probability = knee_probability(line[None])[0]
    assert probability < LEAST_PROBABILITY
    expected = f"a knee has a probability of {100 * probability:.0f} % (likeliest shape: line)"
    assert find_knee(TWELVE, line, "bayes", SETTINGS).flags == (expected,)


def test_the_probability_of_a_knee_falls_with_the_noise() -> None:
    curve = broken_line(0.6)
    means = [knee_probability(noisy(curve, noise)).mean() for noise in (0.002, 0.02, 0.1, 0.5)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.99
    assert means[-1] < 0.5


def test_stairs_look_like_a_line() -> None:
    # A failure that the rule's documentation names.
    stairs = 0.9 - 0.2 * (TWELVE > 0.3) - 0.2 * (TWELVE > 0.7)
    assert find_knee(TWELVE, stairs, "bayes", SETTINGS).knee is None
