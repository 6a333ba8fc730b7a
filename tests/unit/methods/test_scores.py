"""Scores: each is its paper's formula, magnitude is exact in every type, random draws go by seed, name and place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracles.scores
import random_layers
from essential_sparsity.methods.scores import SCORES, ScoreContext

Array = np.ndarray[Any, np.dtype[Any]]
FAST = settings(deadline=None, max_examples=60, derandomize=True)
CALIBRATED = sorted(name for name, score in SCORES.items() if score.needs != "nothing")
SAMPLES = 4
ORACLES: dict[str, Callable[[Array, Array, int], Array]] = {
    "magnitude": lambda w, x, n: oracles.scores.magnitude(w),
    "wanda": oracles.scores.wanda,
    "sparsegpt": oracles.scores.sparsegpt,
    "ria": oracles.scores.ria,
    "multiflow": oracles.scores.multiflow,
}


def magnitude(weight: Tensor) -> Tensor:
    return SCORES["magnitude"].compute(weight, ScoreContext())


def random(shape: int | tuple[int, ...], name: str = "w", seed: int = 0, start: int = 0) -> Tensor:
    return SCORES["random"].compute(torch.zeros(shape), ScoreContext(name, seed, start))


def calibrated(
    name: str, w: Array, x: Array, dtype: torch.dtype = torch.float64, with_gram: bool = True, **options: float
) -> Array:
    inputs = random_layers.statistics(x, SAMPLES, dtype, with_gram)
    found = SCORES[name].compute(torch.tensor(w).to(dtype), ScoreContext("w", inputs=inputs, options=options))
    return found.double().numpy()


def test_every_score_that_draws_nothing_has_an_oracle() -> None:
    assert ORACLES.keys() == {name for name, score in SCORES.items() if not score.stochastic}


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("shape", [(40, 56), (7, 3), (1, 5), (5, 1)])
def test_scores_agree_with_the_papers_formula(name: str, shape: tuple[int, int]) -> None:
    w, x = random_layers.weights(1, *shape), random_layers.activations(1, 300, shape[1])
    np.testing.assert_allclose(calibrated(name, w, x), ORACLES[name](w, x, SAMPLES), rtol=1e-10)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_scores_in_single_precision_agree_to_its_rounding(name: str) -> None:
    w, x = (a.astype(np.float32).astype(np.float64) for a in (random_layers.weights(2, 40, 56),
                                                              random_layers.activations(2, 300, 56)))  # fmt: skip
    np.testing.assert_allclose(calibrated(name, w, x, torch.float32), ORACLES[name](w, x, SAMPLES), rtol=2e-5)


@pytest.mark.parametrize("name", [n for n in CALIBRATED if SCORES[n].needs == "moments"])
def test_moments_alone_give_the_scores_that_products_give(name: str) -> None:
    w, x = random_layers.weights(3, 20, 24), random_layers.activations(3, 200, 24)
    np.testing.assert_allclose(calibrated(name, w, x, with_gram=False), ORACLES[name](w, x, SAMPLES), rtol=1e-6)


finite = st.floats(-8, 8, width=16)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Array, Array]:
    """Small layers with zeros, equal weights and inputs that are always zero."""
    outputs, inputs, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    w = draw(st.lists(finite, min_size=outputs * inputs, max_size=outputs * inputs))
    x = draw(st.lists(finite, min_size=tokens * inputs, max_size=tokens * inputs))
    alive = draw(st.lists(st.booleans(), min_size=inputs, max_size=inputs))
    return np.array(w).reshape(outputs, inputs), np.array(x).reshape(tokens, inputs) * alive


@FAST
@given(layers(), st.sampled_from(sorted(ORACLES)))
def test_scores_agree_with_the_papers_formula_whatever_the_layer(layer: tuple[Array, Array], name: str) -> None:
    w, x = layer
    # Subnormal sums are not scores of a layer.
    w, x = np.where(np.abs(w) < 1e-4, 0.0, w), np.where(np.abs(x) < 1e-4, 0.0, x)
    np.testing.assert_allclose(calibrated(name, w, x), ORACLES[name](w, x, SAMPLES), rtol=1e-7, atol=1e-30)


@pytest.mark.parametrize("name", CALIBRATED)
def test_the_weights_of_a_dead_input_score_zero(name: str) -> None:
    w, x = random_layers.weights(4, 6, 8), random_layers.activations(4, 50, 8)
    x[:, 3] = 0.0
    score = calibrated(name, w, x)
    assert (score[:, 3] == 0).all()
    assert (np.delete(score, 3, axis=1) > 0).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_ria_takes_its_power(power: float) -> None:
    w, x = random_layers.weights(5, 6, 8), random_layers.activations(5, 50, 8)
    expected = oracles.scores.ria(w, x, SAMPLES, power)
    np.testing.assert_allclose(calibrated("ria", w, x, ria_power=power), expected, rtol=1e-10)


def test_sparsegpt_takes_its_damping() -> None:
    w, x = random_layers.weights(6, 6, 8), random_layers.activations(6, 50, 8)
    for damping in (0.001, 0.5):
        expected = oracles.scores.sparsegpt(w, x, SAMPLES, damping)
        np.testing.assert_allclose(calibrated("sparsegpt", w, x, damping=damping), expected, rtol=1e-10)


@pytest.mark.parametrize("name", CALIBRATED)
def test_a_calibrated_score_without_statistics_is_a_defect(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"block\.3\.query"):
        SCORES[name].compute(torch.ones(2, 2), ScoreContext("block.3.query"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_magnitude_is_exact_for_every_half_precision_value(dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[torch.isfinite(every)]
    expected = np.abs(every.to(torch.float64).numpy())
    np.testing.assert_array_equal(magnitude(every).to(torch.float64).numpy(), expected)


@FAST
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([torch.float32, torch.float64]))
def test_magnitude_ignores_the_sign(value: float, dtype: torch.dtype) -> None:
    weight = torch.tensor([value, -value], dtype=torch.float64).to(dtype)
    score = magnitude(weight)
    assert score.dtype is dtype
    assert score.tolist() == [abs(weight[0].item())] * 2


@pytest.mark.parametrize("name", sorted(SCORES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_score_has_the_weights_shape_is_not_negative_and_leaves_them_alone(name: str, dtype: torch.dtype) -> None:
    weight = torch.tensor(random_layers.weights(7, 3, 5)).to(dtype)
    before = weight.clone()
    inputs = random_layers.statistics(random_layers.activations(7, 30, 5), SAMPLES, torch.float32)
    score = SCORES[name].compute(weight, ScoreContext("w", inputs=inputs))
    assert score.shape == weight.shape
    assert bool((score >= 0).all())
    assert bool(torch.isfinite(score).all())
    assert torch.equal(weight, before)


@FAST
@given(st.sampled_from([n for n, s in SCORES.items() if s.elementwise]), st.integers(1, 60), st.data())
def test_an_elementwise_score_of_a_part_is_a_part_of_the_score(name: str, size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start, size))
    weight = torch.linspace(-1, 1, size)
    whole = SCORES[name].compute(weight, ScoreContext("w", 3))
    part = SCORES[name].compute(weight[start:stop], ScoreContext("w", 3, start))
    assert torch.equal(part, whole[start:stop])


def test_random_depends_on_seed_and_name_alone() -> None:
    draw = random((16, 8), "a", 3)
    torch.manual_seed(99)  # the global generator has no part in it
    weight = torch.randn(16, 8, dtype=torch.float64).to(torch.bfloat16)
    assert torch.equal(draw, SCORES["random"].compute(weight, ScoreContext("a", 3)))
    assert not torch.equal(draw, random((16, 8), "a", 4))
    assert not torch.equal(draw, random((16, 8), "b", 3))


def test_random_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random(100)
    assert torch.equal(torch.rand(3), expected)


def test_random_is_uniform() -> None:
    n, bins = 200_000, 50
    draw = random(n, "layer.0.query.weight").numpy()
    assert draw.min() >= 0
    assert draw.max() < 1
    counts = np.histogram(draw, bins=bins, range=(0, 1))[0]
    chi_square = float(((counts - n / bins) ** 2 / (n / bins)).sum())
    # 49 degrees of freedom: 0.1 % of uniform samples lie above 85.4, and 0.1 % below 23.
    assert 23 < chi_square < 85.4


def test_draws_of_matrices_and_seeds_are_independent() -> None:
    n = 50_000
    draws = [random(n, f"layers.{i}.weight", s).numpy() for i in range(4) for s in range(2)]
    correlation = np.corrcoef(draws)
    off_diagonal = correlation[~np.eye(len(draws), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(n)


def test_draws_of_one_matrix_are_independent_of_their_neighbours() -> None:
    # Parts are drawn by advancing a counter: were it advanced too little, parts would repeat each other.
    n = 1 << 16
    draw = random(2 * n).numpy()
    for lag in (1, 4, 8, n):
        assert abs(np.corrcoef(draw[:n], draw[lag : lag + n])[0, 1]) < 5 / np.sqrt(n)


def test_a_name_and_a_seed_do_not_run_together() -> None:
    assert not torch.equal(random(9, "1a", 1), random(9, "a", 11))
