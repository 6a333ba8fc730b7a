"""Metrics: the scale on which performance is compared, and what a model that knows nothing reaches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from essential_sparsity.metrics import HIGHER_IS_BETTER, at_chance, performance


@pytest.mark.parametrize("metric", HIGHER_IS_BETTER)
def test_performance_is_higher_where_the_metric_is_better(metric: str) -> None:
    worse_to_better = np.array([0.1, 0.5, 0.9]) if HIGHER_IS_BETTER[metric] else np.array([900.0, 50.0, 1.0])
    assert (np.diff(performance(worse_to_better, metric)) > 0).all()


def test_perplexity_becomes_minus_the_nats_of_a_token() -> None:
    nats = np.array([0.0, 1.5, 10.0])
    np.testing.assert_allclose(performance(np.exp(nats), "perplexity"), -nats)


def test_accuracy_stays_as_it_is() -> None:
    np.testing.assert_array_equal(performance(np.array([0.25, 0.75]), "accuracy"), [0.25, 0.75])


def test_accuracy_at_chance_is_within_two_standard_errors_of_the_majority() -> None:
    chance, n = 0.6, 400
    error = math.sqrt(0.6 * 0.4 / 400)
    assert at_chance(0.6, chance, n, "accuracy")
    assert at_chance(0.3, chance, n, "accuracy")
    assert at_chance(0.6 + 1.99 * error, chance, n, "accuracy")
    assert not at_chance(0.6 + 2.01 * error, chance, n, "accuracy")


def test_more_examples_make_a_small_gain_believable() -> None:
    assert at_chance(0.55, 0.5, 100, "accuracy")
    assert not at_chance(0.55, 0.5, 10_000, "accuracy")


def test_perplexity_at_chance_is_an_even_guess_over_the_vocabulary() -> None:
    assert at_chance(50_000.0, 50_000.0, 10, "perplexity")
    assert not at_chance(49_999.0, 50_000.0, 10, "perplexity")
    assert at_chance(math.inf, 50_000.0, 10, "perplexity")
