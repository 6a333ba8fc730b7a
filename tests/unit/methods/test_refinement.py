"""Refinement exchanges weights within a row, towards a smaller expected error, as the paper says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import oracles.refinement as oracle
import oracles.scores
import oracles.selection
import random_layers
from essential_sparsity.methods.refinement import REFINEMENTS, dsnot

Array = np.ndarray[Any, np.dtype[Any]]
FAST = settings(deadline=None, max_examples=60, derandomize=True)
SAMPLES = 8


def refined(w: Array, keep: Array, x: Array, dtype: torch.dtype = torch.float64, **options: float) -> Array:
    statistics = random_layers.statistics(x, SAMPLES, dtype)
    return dsnot(torch.tensor(w).to(dtype), torch.tensor(keep), statistics, options).numpy()


def layer(seed: int, outputs: int = 24, inputs: int = 48, sparsity: float = 0.6) -> tuple[Array, Array, Array]:
    """Weights, the mask that Wanda gives them, and inputs."""
    w, x = random_layers.weights(seed, outputs, inputs), random_layers.activations(seed, 400, inputs)
    return w, oracles.selection.row(oracles.scores.wanda(w, x, SAMPLES), sparsity), x


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(24, 48), (5, 200), (9, 7), (3, 1)])
def test_dsnot_is_the_papers(sparsity: float, shape: tuple[int, int]) -> None:
    w, keep, x = layer(1, *shape, sparsity)
    np.testing.assert_array_equal(refined(w, keep, x), oracle.dsnot(w, keep, x, SAMPLES))


@pytest.mark.parametrize("options", [{"cycles": 1}, {"cycles": 3}, {"threshold": 0.0}, {"threshold": 5.0}])
def test_dsnot_takes_its_options(options: dict[str, Any]) -> None:
    w, keep, x = layer(2)
    found = refined(w, keep, x, **{f"dsnot_{name}": value for name, value in options.items()})
    np.testing.assert_array_equal(found, oracle.dsnot(w, keep, x, SAMPLES, **options))
    assert (found != refined(w, keep, x)).any(), "the option changes something"


def test_dsnot_refines_masks_of_any_score() -> None:
    w, _, x = layer(3)
    keep = oracles.selection.layer(np.abs(w), 0.7)
    np.testing.assert_array_equal(refined(w, keep, x), oracle.dsnot(w, keep, x, SAMPLES))


def test_dsnot_in_single_precision_is_the_same() -> None:
    w, keep, x = layer(4)
    w, x = w.astype(np.float32).astype(np.float64), x.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(refined(w, keep, x, torch.float32), oracle.dsnot(w, keep, x, SAMPLES))


def test_a_larger_threshold_stops_sooner_and_a_met_one_changes_nothing() -> None:
    w, keep, x = layer(5)
    worst = np.abs(oracle.row_errors(w, keep, x, SAMPLES)).max()
    np.testing.assert_array_equal(refined(w, keep, x, dsnot_threshold=worst), keep)
    moved = [(refined(w, keep, x, dsnot_threshold=worst * f) != keep).sum() for f in (0.9, 0.5, 0.1)]
    assert 0 < moved[0] <= moved[1] <= moved[2]


def test_an_error_that_equals_the_threshold_is_small_enough() -> None:
    # Removing the first weight costs 0.5, and the second could go in its place.
    w, keep, x = np.array([[0.5, -0.25]]), np.array([[False, True]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    statistics = random_layers.statistics(x, 1)
    for threshold, found in ((0.5, [[False, True]]), (0.25, [[True, False]])):
        options = {"dsnot_threshold": threshold}
        assert dsnot(torch.tensor(w), torch.tensor(keep), statistics, options).tolist() == found


def test_errors_shrink() -> None:
    w, keep, x = layer(6)
    before, after = (np.abs(oracle.row_errors(w, m, x, SAMPLES)) for m in (keep, refined(w, keep, x)))
    assert np.median(after) < 0.2 * np.median(before)


def test_a_growing_weight_is_the_one_with_the_largest_gain_for_its_variance() -> None:
    # One row, one cycle. The error is the sum over the removed weights 0, 1, 2: positive. Input 1 gains less than
    # input 0, but varies less. Of the kept weights, 4 has the wrong sign, and 3 is more important than 5.
    x = np.array([[2.0, 1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 0.9, 1.0, 1.0, 1.0, 1.0]])
    w = np.array([[1.0, 0.5, 0.1, -3.0, 0.2, -0.4]])
    keep = np.array([[False, False, False, True, True, True]])
    x[:, 2:] *= np.array([[1.0], [0.5]])
    found = dsnot(torch.tensor(w), torch.tensor(keep), random_layers.statistics(x, 1), {"dsnot_cycles": 1})
    assert found.tolist() == [[False, True, False, True, True, False]]


def test_ties_are_broken_by_position() -> None:
    x = np.array([[1.0] * 6, [0.5] * 6])
    w = np.array([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0]])
    keep = np.array([[False, False, False, True, True, True]])
    found = dsnot(torch.tensor(w), torch.tensor(keep), random_layers.statistics(x, 1), {"dsnot_cycles": 1})
    assert found.tolist() == [[True, False, False, False, True, True]]


def test_a_constant_input_comes_back_first() -> None:
    # No variance: its gain is worth more than any other's.
    w, x = np.array([[5.0, 0.01, -4.0, -3.0]]), np.array([[3.0, 1.0, 1.0, 1.0], [1.0, 1.0, 2.0, 3.0]])
    keep = np.array([[False, False, True, True]])
    found = dsnot(torch.tensor(w), torch.tensor(keep), random_layers.statistics(x, 1), {"dsnot_cycles": 1})
    assert found[0, 1]
    np.testing.assert_array_equal(found.numpy(), oracle.dsnot(w, keep, x, 1, cycles=1))


@pytest.mark.parametrize("kept", [True, False])
def test_a_row_with_nothing_to_exchange_stays(kept: bool) -> None:
    w, _, x = layer(7)
    keep = np.full(w.shape, kept)
    np.testing.assert_array_equal(refined(w, keep, x), keep)


@st.composite
def small_layers(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Layers with zeros, dead inputs and any mask; sixteenths, so that sums are exact and ties are ties."""
    outputs, inputs, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(2, 5))
    number = st.integers(-32, 32).map(lambda i: i / 16)
    w = np.array(draw(st.lists(number, min_size=outputs * inputs, max_size=outputs * inputs)))
    x = np.array(draw(st.lists(number, min_size=tokens * inputs, max_size=tokens * inputs)))
    keep = np.array(draw(st.lists(st.booleans(), min_size=outputs * inputs, max_size=outputs * inputs)))
    return w.reshape(outputs, inputs), keep.reshape(outputs, inputs), x.reshape(tokens, inputs)


@FAST
@given(small_layers())
def test_every_row_keeps_its_number_of_weights_and_none_moves_twice(made: tuple[Array, Array, Array]) -> None:
    w, keep, x = made
    found = refined(w, keep, x)
    np.testing.assert_array_equal(found.sum(1), keep.sum(1))
    # Were weights to move twice, more cycles could undo what fewer have done.
    previous = keep
    for cycles in range(1, 9):
        after = refined(w, keep, x, dsnot_cycles=cycles)
        assert not ((previous != keep) & (after == keep)).any()
        previous = after


@FAST
@given(small_layers(), st.sampled_from([0.0, 0.1, 1.0]))
def test_dsnot_is_the_papers_whatever_the_layer(made: tuple[Array, Array, Array], threshold: float) -> None:
    w, keep, x = made
    # Equal quotients may differ in their last bit, and what is divided by a variance of 0 has no order.
    variance = np.var(x, axis=0)
    assume(not (variance[np.abs(x).sum(0) > 0] == 0).any())
    for row in w * x.sum(0) / np.maximum(variance, 1e-300):
        assume(np.diff(np.sort(row[row != 0])).min(initial=1.0) > 1e-9)
    found = refined(w, keep, x, dsnot_threshold=threshold)
    np.testing.assert_array_equal(found, oracle.dsnot(w, keep, x, SAMPLES, threshold=threshold))


def test_the_registry_names_what_it_needs() -> None:
    assert {name: r.needs for name, r in REFINEMENTS.items()} == {"dsnot": "moments"}
