"""Scores: magnitude is exact in every dtype, random draws depend on the seed and the name alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.scores import SCORES, magnitude, random


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_magnitude_is_exact_for_every_half_precision_value(dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[torch.isfinite(every)]
    expected = np.abs(every.to(torch.float64).numpy())
    score = magnitude(every, "w", 0)
    assert score.dtype is torch.float32
    np.testing.assert_array_equal(score.to(torch.float64).numpy(), expected)
    # Distinct magnitudes stay distinct: no tie is made by the conversion.
    assert score.unique().numel() == np.unique(expected).size


@settings(deadline=None, derandomize=True)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(0, 9), st.text(max_size=5))
def test_magnitude_ignores_sign_name_and_seed(value: float, seed: int, name: str) -> None:
    score = magnitude(torch.tensor([value, -value]), name, seed)
    assert score.tolist() == [abs(value)] * 2


def test_magnitude_leaves_the_weights_alone() -> None:
    weight = torch.tensor([[-1.0, 2.0]])
    magnitude(weight, "w", 0)
    assert weight.tolist() == [[-1.0, 2.0]]


def test_random_depends_on_seed_and_name_alone() -> None:
    shape = (16, 8)
    draw = random(torch.zeros(shape), "a", 3)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(draw, random(torch.randn(shape, dtype=torch.float64).to(torch.bfloat16), "a", 3))
    assert not torch.equal(draw, random(torch.zeros(shape), "a", 4))
    assert not torch.equal(draw, random(torch.zeros(shape), "b", 3))


def test_random_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    random(torch.zeros(100), "a", 0)
    assert torch.equal(torch.rand(3), expected)


def test_random_is_uniform() -> None:
    n, bins = 200_000, 50
    draw = random(torch.zeros(n), "layer.0.query.weight", 0).numpy()
    assert draw.min() >= 0
    assert draw.max() < 1
    counts = np.histogram(draw, bins=bins, range=(0, 1))[0]
    chi_square = float(((counts - n / bins) ** 2 / (n / bins)).sum())
    # 49 degrees of freedom: 0.1 % of uniform samples lie above 85.4, and 0.1 % below 23.
    assert 23 < chi_square < 85.4


def test_draws_of_matrices_and_seeds_are_independent() -> None:
    n = 50_000
    draws = [random(torch.zeros(n), f"layers.{i}.weight", s).numpy() for i in range(4) for s in range(2)]
    correlation = np.corrcoef(draws)
    off_diagonal = correlation[~np.eye(len(draws), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(n)


def test_a_name_and_a_seed_do_not_run_together() -> None:
    assert not torch.equal(random(torch.zeros(9), "1a", 1), random(torch.zeros(9), "a", 11))


@pytest.mark.parametrize("name", sorted(SCORES))
def test_every_score_is_float32_of_the_shape_and_not_negative(name: str) -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    score = SCORES[name](weight, "w", 0)
    assert score.dtype is torch.float32
    assert score.shape == weight.shape
    assert bool((score >= 0).all())
