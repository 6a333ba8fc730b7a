"""Intervals of estimates against the textbook's, and bounds that censored numbers leave."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from essential_sparsity.findings.estimates import Estimate, Unit, difference, mean, minus, within
from essential_sparsity.inference import Floats

numbers = st.integers(-20, 20).map(lambda n: n / 20)


def unit(value: float, draws: Floats | None = None, least: float | None = None, most: float | None = None) -> Unit:
    pair = None if draws is None else np.stack([draws, draws])
    return Unit(value, value if least is None else least, value if most is None else most, pair)


def bounds(found: Estimate) -> tuple[float, float]:
    assert found.low is not None and found.high is not None
    return found.low, found.high


@given(st.lists(numbers, min_size=2, max_size=6), st.lists(numbers, min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_groups_of_models_have_welchs_interval(one: list[float], other: list[float]) -> None:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return
    found = difference([*map(unit, one)], [*map(unit, other)], "none", 0.9)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.9)
    assert bounds(found) == pytest.approx((expected.low, expected.high))
    assert (found.value, found.n_seeds) == (pytest.approx(np.mean(one) - np.mean(other)), min(len(one), len(other)))


@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_models_in_order_have_the_paired_interval(pairs: list[tuple[float, float]]) -> None:
    one, other = map(list, zip(*pairs, strict=True))
    if np.ptp(np.subtract(one, other)) < 1e-9:
        return
    found = difference([*map(unit, one)], [*map(unit, other)], "in-order", 0.95)
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert bounds(found) == pytest.approx((expected.low, expected.high))


def test_one_model_against_one_has_the_quantiles_of_its_paired_draws() -> None:
    noise = np.random.default_rng(0).normal(size=999)
    # What both share is not in their difference.
    found = difference([unit(0.5, 0.5 + noise)], [unit(0.2, 0.2 + noise)], "none", 0.95)
    assert bounds(found) == pytest.approx((0.3, 0.3))
    assert any("one pre-training seed" in flag for flag in found.flags)
    low, high = bounds(mean([unit(0.0, noise)], 0.9))
    assert (low, high) == pytest.approx((np.sort(noise)[49], np.sort(noise)[949]))


def test_a_group_of_one_has_no_interval_against_a_larger_one() -> None:
    found = difference([unit(0.5)], [unit(0.2), unit(0.3)], "none", 0.95)
    assert (found.low, found.high) == (None, None)
    assert found.value == pytest.approx(0.25)


def test_what_all_models_share_widens_their_interval_and_what_each_has_does_not() -> None:
    generator = np.random.default_rng(1)
    own = [generator.normal(size=4000) for _ in range(3)]
    shared = generator.normal(size=4000)
    values = [0.1, 0.2, 0.4]
    plain = bounds(mean([*map(unit, values)], 0.95))
    apart = bounds(mean([unit(v, v + e) for v, e in zip(values, own, strict=True)], 0.95))
    together = bounds(mean([unit(v, v + shared) for v in values], 0.95))
    assert apart == pytest.approx(plain, abs=0.1)
    assert together[0] < plain[0] - 1 and together[1] > plain[1] + 1


@pytest.mark.parametrize("pairing", ["none", "in-order"])
def test_groups_of_three_trainings_cover_the_truth(pairing: str) -> None:
    generator = np.random.default_rng(2)
    covered, runs = 0, 400
    for _ in range(runs):
        # Examples move both groups alike and each by itself; the second is seen only in the draws.
        common, examples = generator.normal(size=2), generator.normal(size=(2, 200))
        groups = [
            [unit(t, t + examples[side]) for t in 0.7 * generator.normal(size=3) + common[side]] for side in (0, 1)
        ]
        low, high = bounds(difference(groups[0], groups[1], pairing, 0.9))
        covered += low <= 0 <= high
    # A binomial count at 90 % has a standard deviation of 1.5 %; known variance in common makes t conservative.
    assert 0.85 <= covered / runs <= 0.99


@given(st.lists(st.tuples(numbers, numbers, st.floats(0, 1)), min_size=2, max_size=2))
def test_a_difference_lies_between_the_bounds_of_its_sides(sides: list[tuple[float, float, float]]) -> None:
    units = [unit(min(a, b), least=min(a, b), most=max(a, b)) for a, b, _ in sides]
    inside = [u.least + share * (u.most - u.least) for u, (_, _, share) in zip(units, sides, strict=True)]
    found = minus(units[0], units[1])
    assert found.least - 1e-12 <= inside[0] - inside[1] <= found.most + 1e-12


def test_a_censored_model_opens_the_interval_of_its_group_on_one_side() -> None:
    one, other = [unit(0.5), unit(0.6)], [unit(0.2), unit(0.3)]
    known = bounds(difference(one, other, "none", 0.95))
    beyond = difference([one[0], replace(one[1], most=1.0)], other, "none", 0.95)
    assert bounds(beyond)[1] > known[1] + 0.2
    assert beyond.value == pytest.approx(0.3)
    # Subtracted, it opens the other side.
    assert bounds(difference(other, [one[0], replace(one[1], most=1.0)], "none", 0.95))[0] < -known[1] - 0.2


def test_an_interval_ends_where_its_quantity_does() -> None:
    estimate = Estimate(0.4, -1.7, 2.3, 3)
    assert within(estimate, -1.0, 1.0) == Estimate(0.4, -1.0, 1.0, 3)
    assert within(estimate, -2.0, 3.0) == estimate
    assert within(Estimate(0.4), -1.0, 1.0) == Estimate(0.4)
