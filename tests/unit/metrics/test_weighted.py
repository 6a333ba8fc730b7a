"""Metrics of weighted examples: what the registry's metrics give of literally repeated rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.errors import UserError
from essential_sparsity.inference import Floats
from essential_sparsity.metrics.registry import (
    METRICS,
    compute_metric,
    metric_features,
    weighted_values,
)
from essential_sparsity.metrics.squad import gold_label
from essential_sparsity.metrics.weighted import midranks

WHERE = "model m, task t"
CLASSES = {"accuracy": ["a", "b", "c"], "f1": ["no", "yes"], "matthews": ["a", "b", "c", "d"]}


def drawn_examples(metric: str, n: int, generator: np.random.Generator) -> pd.DataFrame:
    """Examples with everything that any metric reads, ties in numbers included."""
    frame = pd.DataFrame({"id": np.arange(n), "group": "", "score": np.nan, "loss": np.nan, "n": 1})
    if metric in ("pearson", "spearman"):
        labels = np.round(generator.normal(100, 1, n), 1)
        return frame.assign(label=labels.astype(str), prediction=(labels + generator.integers(-2, 3, n)).astype(str))
    if metric == "exact_match":
        said = generator.choice(["the river", "sea"], n)
        return frame.assign(label=[gold_label(["A river."])] * n, prediction=said)
    if metric in CLASSES:
        labels, said = (generator.choice(CLASSES[metric], n) for _ in range(2))
        return frame.assign(label=labels, prediction=np.where(generator.random(n) < 0.5, labels, said))
    tokens = generator.integers(1, 200, n)
    return frame.assign(score=generator.random(n), loss=generator.gamma(4.0, 1.0, n), n=tokens)


def value(metric: str, frame: pd.DataFrame) -> float:
    return compute_metric(metric, frame, WHERE, positive="yes").value


def features(metric: str, frame: pd.DataFrame) -> Floats:
    return metric_features(metric, frame, WHERE, positive="yes")


@pytest.mark.parametrize("metric", [*METRICS, "brier_of_nobody"])
@given(seed=st.integers(0, 10_000), n=st.integers(5, 40))
@settings(max_examples=10, deadline=None)
def test_weights_are_repetitions(metric: str, seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    frame = drawn_examples(metric, n, generator)
    picked = [np.arange(n), *(generator.integers(0, n, n) for _ in range(3))]
    weights = np.stack([np.bincount(rows, minlength=n) for rows in picked]).astype(float)
    found = weighted_values(metric, weights, features(metric, frame)[None])[0]
    for rows, given_value in zip(picked, found, strict=True):
        try:
            expected = value(metric, frame.iloc[rows])
        except UserError:
            # One label alone, or no positive: no model can be measured on such rows, and a draw counts as 0.
            expected = 0.0 if metric in ("matthews", "pearson", "spearman") else given_value
        assert given_value == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_all_curves_of_one_call_are_those_of_calls_of_their_own(metric: str) -> None:
    generator = np.random.default_rng(3)
    parts = [features(metric, drawn_examples(metric, 30, generator)) for _ in range(4)]
    weights = generator.integers(0, 3, (5, 30)).astype(float)
    together = weighted_values(metric, weights, np.stack(parts))
    apart = [weighted_values(metric, weights, part[None])[0] for part in parts]
    np.testing.assert_allclose(together, apart, rtol=1e-12)


def test_a_class_that_one_level_alone_predicts_adds_columns_of_zeros_elsewhere() -> None:
    frame = drawn_examples("matthews", 30, np.random.default_rng(0))
    own = features("matthews", frame)
    padded = np.pad(own, ((0, 0), (0, 4)))
    weights = np.ones((1, 30))
    assert weighted_values("matthews", weights, padded[None]) == weighted_values("matthews", weights, own[None])


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman", "f1"])
def test_a_model_that_answers_every_example_alike_gets_zero_not_nan(metric: str) -> None:
    frame = drawn_examples(metric, 20, np.random.default_rng(1)).assign(prediction="no" if metric == "f1" else "7.25")
    found = weighted_values(
        metric, np.random.default_rng(2).integers(0, 3, (4, 20)) * 1.0, features(metric, frame)[None]
    )
    assert (found == 0).all()


def test_a_perplexity_that_overflows_is_infinite_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    frame = drawn_examples("perplexity", 3, np.random.default_rng(0)).assign(loss=[1.0, 2.0, 5000.0])
    found = weighted_values("perplexity", np.array([[1.0, 1, 0], [1, 1, 1]]), features("perplexity", frame)[None])[0]
    assert np.isfinite(found[0])
    assert found[1] == np.inf
    assert not recwarn.list


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12))
def test_midranks_are_those_of_the_repeated_values(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import rankdata

    values, weights = np.array(pairs, dtype=float).T
    ranks = midranks(weights[None], values)[0]
    np.testing.assert_allclose(np.repeat(ranks, weights.astype(int)), rankdata(np.repeat(values, weights.astype(int))))


def test_features_refuse_what_the_metric_refuses() -> None:
    frame: Any = drawn_examples("perplexity", 3, np.random.default_rng(0)).assign(loss=[1.0, np.nan, 2.0])
    with pytest.raises(UserError, match="loss"):
        features("perplexity", frame)
