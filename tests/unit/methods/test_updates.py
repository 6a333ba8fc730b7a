"""Updates: SparseGPT's is its algorithm, reconstruction is the least-squares solution, a singular Hessian is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles.scores
import oracles.selection
import oracles.updates as oracle
import random_layers
from essential_sparsity.errors import UserError
from essential_sparsity.methods.statistics import InputStatistics, damped_hessian, inverse_factor
from essential_sparsity.methods.updates import UPDATES, sweep_columns

Array = np.ndarray[Any, np.dtype[Any]]
FAST = settings(deadline=None, max_examples=40, derandomize=True)
SAMPLES = 4


def layer(seed: int, outputs: int = 12, inputs: int = 40, tokens: int = 200) -> tuple[Array, Array, Array]:
    """Weights, a mask, and inputs."""
    w, x = random_layers.weights(seed, outputs, inputs), random_layers.activations(seed, tokens, inputs)
    return w, oracles.selection.layer(np.abs(w), 0.5), x


def updated(name: str, w: Array, keep: Array, x: Array, dtype: torch.dtype = torch.float64, **options: float) -> Array:
    statistics = random_layers.statistics(x, SAMPLES, dtype)
    found = UPDATES[name].apply(torch.tensor(w).to(dtype), torch.tensor(keep), statistics, "w", options)
    assert found.dtype is dtype
    return found.double().numpy()


def change(before: Array, after: Array, x: Array) -> float:
    """The squared change of the layer's outputs."""
    return float((((after - before) @ x.T) ** 2).sum())


def distance(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


ORACLES = {"sparsegpt": oracle.sparsegpt_given, "reconstruct": oracle.reconstruct}


def test_every_update_has_an_oracle() -> None:
    assert ORACLES.keys() == UPDATES.keys()


@pytest.mark.parametrize("name", sorted(UPDATES))
@pytest.mark.parametrize("shape", [(12, 40), (5, 150), (7, 1), (1, 9)])
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_updates_are_the_papers(name: str, shape: tuple[int, int], damping: float) -> None:
    w, keep, x = layer(1, *shape)
    expected = ORACLES[name](w, keep, x, SAMPLES, damping)
    assert distance(updated(name, w, keep, x, damping=damping), expected) < 1e-9


@pytest.mark.parametrize("name", sorted(UPDATES))
def test_updates_in_single_precision_agree_to_its_rounding(name: str) -> None:
    w, keep, x = layer(2)
    w, x = w.astype(np.float32).astype(np.float64), x.astype(np.float32).astype(np.float64)
    assert distance(updated(name, w, keep, x, torch.float32), ORACLES[name](w, keep, x, SAMPLES)) < 1e-4


@pytest.mark.parametrize("name", sorted(UPDATES))
def test_removed_weights_are_zero_and_the_layer_is_nearer_to_the_dense_one(name: str) -> None:
    w, keep, x = layer(3)
    found = updated(name, w, keep, x)
    assert (found[~keep] == 0).all()
    assert change(w, found, x) < 0.7 * change(w, w * keep, x)


@pytest.mark.parametrize("name", sorted(UPDATES))
def test_a_mask_that_keeps_everything_changes_nothing_and_one_that_keeps_nothing_leaves_zeros(name: str) -> None:
    w, _, x = layer(4)
    np.testing.assert_allclose(updated(name, w, np.ones(w.shape, dtype=bool), x), w, rtol=1e-12)
    assert (updated(name, w, np.zeros(w.shape, dtype=bool), x) == 0).all()


@pytest.mark.parametrize("name", sorted(UPDATES))
def test_updates_leave_the_weights_and_the_mask_alone(name: str) -> None:
    w, keep, x = layer(5)
    weight, mask, statistics = torch.tensor(w), torch.tensor(keep), random_layers.statistics(x, SAMPLES)
    gram = statistics.hessian()
    UPDATES[name].apply(weight, mask, statistics, "w", {})
    np.testing.assert_array_equal(weight.numpy(), w)
    np.testing.assert_array_equal(mask.numpy(), keep)
    assert torch.equal(statistics.hessian(), gram)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(UPDATES))
def test_updates_return_the_weights_type(name: str, dtype: torch.dtype) -> None:
    w, keep, x = layer(6)
    weight = torch.tensor(w).to(dtype)
    found = UPDATES[name].apply(
        weight, torch.tensor(keep), random_layers.statistics(x, SAMPLES, torch.float32), "w", {}
    )
    assert found.dtype is dtype
    expected = torch.tensor(ORACLES[name](weight.double().numpy(), keep, x, SAMPLES))
    # Computed in single precision, rounded once.
    limit = 2 * torch.finfo(dtype).eps * expected.abs().max()
    assert bool(((found.double() - expected).abs() < limit).all())


def test_reconstruction_is_the_best_that_a_mask_allows() -> None:
    w, keep, x = layer(7, tokens=2000)
    found = updated("reconstruct", w, keep, x, damping=0.0)
    # At the minimum the residual is orthogonal to every kept input.
    gradient = (found - w) @ x.T @ x * keep
    assert np.abs(gradient).max() < 1e-8 * np.abs(w @ x.T @ x).max()
    assert change(w, found, x) <= change(w, updated("sparsegpt", w, keep, x), x)
    draw = np.random.default_rng(0)
    for _ in range(10):
        assert change(w, found, x) < change(w, found + 1e-3 * draw.standard_normal(w.shape) * keep, x)


def test_reconstruction_solves_where_inputs_are_singular() -> None:
    # Fewer tokens than inputs, and one input that is always zero: the damping makes the solution unique.
    w, keep, x = layer(8, inputs=40, tokens=12)
    x[:, 5] = 0.0
    found = updated("reconstruct", w, keep, x)
    assert distance(found, oracle.reconstruct(w, keep, x, SAMPLES)) < 1e-7
    np.testing.assert_allclose(found[:, 5], (w * keep)[:, 5])


@pytest.mark.parametrize("block_size", [1, 3, 16, 40, 500])
def test_the_block_size_of_a_given_mask_does_not_show(block_size: int) -> None:
    # Errors move onto later columns at once or in blocks: the same sums in another order.
    w, keep, x = layer(9)
    expected = oracle.sparsegpt_given(w, keep, x, SAMPLES)
    assert distance(updated("sparsegpt", w, keep, x, block_size=block_size), expected) < 1e-12


def test_the_weights_of_a_dead_input_become_zero_by_sparsegpt() -> None:
    w, keep, x = layer(10)
    x[:, 4] = 0.0
    found = updated("sparsegpt", w, keep, x)
    assert (found[:, 4] == 0).all()
    assert distance(found, oracle.sparsegpt_given(w, keep, x, SAMPLES)) < 1e-12


@pytest.mark.parametrize("with_dead", [False, True])
def test_the_factor_is_that_of_the_inverse_hessian(with_dead: bool) -> None:
    _, _, x = layer(11)
    if with_dead:
        x[:, [0, 7]] = 0.0
    found = inverse_factor(random_layers.statistics(x, SAMPLES), "w", {})
    h, dead = oracles.scores.hessian(x, SAMPLES)
    h = oracles.scores.damped(h, 0.01)
    upper = found.factor.numpy()
    np.testing.assert_array_equal(np.triu(upper), upper)
    np.testing.assert_allclose(upper.T @ upper @ h, np.eye(len(h)), atol=1e-10)
    np.testing.assert_array_equal(found.dead.numpy(), dead)
    assert found.damping == 0.01


def test_matrices_with_the_same_inputs_share_the_factor() -> None:
    statistics = random_layers.statistics(layer(12)[2], SAMPLES)
    assert inverse_factor(statistics, "query", {}) is inverse_factor(statistics, "key", {})


def test_the_damped_hessian_does_not_touch_the_statistics() -> None:
    x = layer(13)[2]
    x[:, 0] = 0.0
    statistics = random_layers.statistics(x, SAMPLES)
    first, second = damped_hessian(statistics, 0.5)[0], damped_hessian(statistics, 0.5)[0]
    assert torch.equal(first, second)
    assert float(statistics.hessian()[0, 0]) == 0.0


def indefinite(by: float) -> InputStatistics:
    """Statistics whose Hessian has the smallest eigenvalue ``-by`` of its mean diagonal, as rounding may leave it."""
    statistics = random_layers.statistics(np.eye(6), 1)
    assert statistics.gram is not None
    statistics.gram[1, 4] = statistics.gram[4, 1] = 1 + by
    return statistics


@pytest.mark.parametrize(
    ("by", "asked", "used"),
    [(0.05, 0.01, 0.1), (0.05, 0.0, 0.1), (0.5, 0.01, 1.0), (3e-5, 0.0, 1e-4), (0.3, 0.06, 0.6)],
)
def test_a_singular_hessian_is_damped_ten_times_as_much_until_it_is_not(by: float, asked: float, used: float) -> None:
    found = inverse_factor(indefinite(by), "w", {"damping": asked})
    assert found.damping == pytest.approx(used)
    assert bool(torch.isfinite(found.factor).all())


def test_a_hessian_that_is_singular_to_rounding_is_damped() -> None:
    dampings = []
    for seed in range(14, 44):
        # Two inputs that are the same, and much larger than the rest.
        x = random_layers.activations(seed, 60, 8)
        x[:, 3] = x[:, 2] = 3e3 * x[:, 2]
        found = inverse_factor(random_layers.statistics(x, SAMPLES, torch.float32), "w", {"damping": 0.0})
        assert bool(torch.isfinite(found.factor).all())
        dampings.append(found.damping)
    # On which side of zero rounding leaves one of them depends on the processor.
    assert max(dampings) > 0


def test_the_damping_that_is_asked_is_used_where_it_suffices() -> None:
    for damping in (0.0, 0.01, 1.0):
        statistics = random_layers.statistics(layer(15)[2], SAMPLES)
        assert inverse_factor(statistics, "w", {"damping": damping}).damping == damping


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_a_hopeless_hessian_is_refused_by_name(damping: float) -> None:
    broken = [indefinite(by) for by in (2.0, float("nan"), float("inf"))]
    for statistics in broken:
        with pytest.raises(UserError, match=r"block\.3\.query.*singular Hessian.*calibrate on more text"):
            inverse_factor(statistics, "block.3.query", {"damping": damping})


def test_inputs_that_are_all_zero_leave_a_hessian_that_is_not_singular() -> None:
    found = inverse_factor(random_layers.statistics(np.zeros((10, 4)), SAMPLES), "w", {})
    assert bool(found.dead.all())


def test_choices_are_made_on_updated_columns() -> None:
    w, _, x = layer(17, inputs=16)
    factor = inverse_factor(random_layers.statistics(x, SAMPLES), "w", {})
    seen: list[tuple[int, int]] = []

    def choose(columns: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        seen.append((start, stop))
        # Before the first removal columns are the dense weights, after it they are not.
        assert torch.equal(columns, torch.tensor(w)[:, start:stop]) == (start == 0)
        keep = torch.zeros(columns.shape, dtype=torch.bool)
        keep[:, 1:] = True
        return keep

    keep, values = sweep_columns(torch.tensor(w), factor, choose, 4, 8)
    assert seen == [(0, 4), (4, 8), (8, 12), (12, 16)]
    assert keep.tolist() == [[i % 4 != 0 for i in range(16)]] * len(w)
    assert distance(values.numpy(), oracle.sparsegpt_given(w, keep.numpy(), x, SAMPLES)) < 1e-12


@FAST
@given(
    st.integers(1, 6), st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**31), st.sampled_from(sorted(UPDATES))
)
def test_updates_are_the_papers_whatever_the_layer(
    outputs: int, inputs: int, tokens: int, seed: int, name: str
) -> None:
    draw = np.random.default_rng(seed)
    w, x = draw.standard_normal((outputs, inputs)), draw.standard_normal((tokens, inputs))
    x[:, draw.random(inputs) < 0.2] = 0.0
    keep = draw.random(w.shape) < draw.random()
    found, expected = updated(name, w, keep, x, damping=0.1), ORACLES[name](w, keep, x, SAMPLES, 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
