"""Allocations: the budget is met, no matrix is asked for more than it has, and the shares are the papers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracles.allocation as oracle
import oracles.scores
import oracles.selection
import random_layers
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.methods.allocation import ALLOCATIONS, power_law_exponent, scaled_to_budget, shifted_to_budget
from essential_sparsity.methods.levels import ALL, removed_count
from essential_sparsity.methods.scores import SCORES, Score
from essential_sparsity.methods.statistics import InputStatistics

Array = np.ndarray[Any, np.dtype[Any]]
FAST = settings(deadline=None, max_examples=60, derandomize=True)
SAMPLES = 4
LEVELS = (0.0, 0.1, 0.5, 0.8, 0.95)
# Two matrices a block, of different sizes; the third block is larger than the others.
SHAPES = {0: [(24, 16), (16, 40)], 1: [(16, 16), (32, 16)], 2: [(48, 32), (16, 64)], 3: [(8, 16), (20, 20)]}


class Made:
    """A model of made-up layers, in float64."""

    def __init__(self, shapes: Mapping[int, Sequence[tuple[int, int]]] = SHAPES, seed: int = 0) -> None:
        self.matrices = [
            random_layers.matrix(f"block.{b}.{i}", *shape, block=b)
            for b, pair in shapes.items()
            for i, shape in enumerate(pair)
        ]
        self.weights = {
            # Blocks differ in how heavy their tails are.
            m.name: np.sign(w := random_layers.weights(seed + i, *m.shape)) * np.abs(w) ** (1 + m.block / 4)
            for i, m in enumerate(self.matrices)
        }
        self.x = {m.name: random_layers.activations(seed + i, 100, m.inputs) for i, m in enumerate(self.matrices)}

    def weight(self, matrix: Matrix) -> Tensor:
        return torch.tensor(self.weights[matrix.name])

    def inputs(self, matrix: Matrix) -> InputStatistics:
        return random_layers.statistics(self.x[matrix.name], SAMPLES)

    def removed_by(self, score: Score, matrices: Sequence[Matrix], with_ties: bool) -> dict[str, list[int]]:
        assert score is SCORES["magnitude"]
        assert not with_ties, "there are none"
        scores = {m.name: np.abs(self.weights[m.name]) for m in matrices}
        masks = [oracles.selection.global_pool(scores, s) for s in ALL]
        return {m.name: [int((~mask[m.name]).sum()) for mask in masks] for m in matrices}

    @property
    def blocks(self) -> dict[int, list[Matrix]]:
        return {b: [m for m in self.matrices if m.block == b] for b in sorted({m.block for m in self.matrices})}

    def spread(self, of_blocks: Array) -> Array:
        """What each matrix gets of its block."""
        place = list(self.blocks)
        return np.array([of_blocks[place.index(m.block)] for m in self.matrices])

    @property
    def block_sizes(self) -> list[int]:
        return [sum(m.size for m in members) for members in self.blocks.values()]


MADE = Made()


def measured(model: Made, name: str, **options: Any) -> dict[str, Any]:
    measure = ALLOCATIONS[name].measure
    return {} if measure is None else measure(model.matrices, model, options)


def divided(model: Made, name: str, sparsity: float, found: Mapping[str, Any], **options: Any) -> Array:
    sparsities = ALLOCATIONS[name].divide(model.matrices, sparsity, found, options)
    assert list(sparsities) == [m.name for m in model.matrices]
    return np.array(list(sparsities.values()))


def shares(model: Made, threshold: float = 5.0) -> list[float]:
    return [
        oracle.outlier_share(
            [oracles.scores.wanda(model.weights[m.name], model.x[m.name], SAMPLES) for m in members], threshold
        )
        for members in model.blocks.values()
    ]


def exponents(model: Made, logarithm_of_bound: bool = False) -> list[float]:
    return [
        float(np.mean([oracle.power_law_exponent(oracle.spectrum(model.weights[m.name]), logarithm_of_bound)
                       for m in members]))
        for members in model.blocks.values()
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
@pytest.mark.parametrize("sparsity", LEVELS)
def test_the_budget_is_met_and_no_matrix_is_asked_for_more_than_it_has(name: str, sparsity: float) -> None:
    found = divided(MADE, name, sparsity, measured(MADE, name))
    assert (found >= 0).all()
    assert (found <= 1).all()
    sizes = np.array([m.size for m in MADE.matrices])
    # Magnitude removes whole weights.
    assert abs((found * sizes).sum() - sparsity * sizes.sum()) < (0.5001 if name == "magnitude" else 1e-6)


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_more_sparsity_asks_no_matrix_for_less(name: str) -> None:
    found = measured(MADE, name)
    per_level = np.array([divided(MADE, name, i / 100, found) for i in range(100)])
    assert (np.diff(per_level, axis=0) >= -1e-9).all()


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_what_is_measured_is_plain_numbers(name: str) -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (int, float)

    assert plain(measured(MADE, name))


@pytest.mark.parametrize("sparsity", LEVELS)
def test_uniform_and_erk_are_the_papers(sparsity: float) -> None:
    shapes = [(m.outputs, m.inputs) for m in MADE.matrices]
    np.testing.assert_allclose(divided(MADE, "uniform", sparsity, {}), oracle.uniform(shapes, sparsity), rtol=1e-12)
    np.testing.assert_allclose(divided(MADE, "erk", sparsity, {}), oracle.erk(shapes, sparsity), rtol=1e-9, atol=1e-12)


def test_erk_keeps_matrices_dense_that_would_pass_one() -> None:
    model = Made({0: [(4, 4), (400, 100)], 1: [(6, 3), (100, 400)]})
    found = divided(model, "erk", 0.3, {})
    assert found[0] == found[2] == 0
    assert found[1] == pytest.approx(found[3])
    assert found[1] > 0.3


@pytest.mark.parametrize("sparsity", LEVELS)
def test_magnitude_gives_each_matrix_what_one_pool_removes_of_it(sparsity: float) -> None:
    found = divided(MADE, "magnitude", sparsity, measured(MADE, "magnitude"))
    np.testing.assert_allclose(found, oracle.magnitude(MADE.weights, sparsity), rtol=1e-12)
    counts = [removed_count(s, m.size) for s, m in zip(found, MADE.matrices, strict=True)]
    assert sum(counts) == removed_count(sparsity, sum(m.size for m in MADE.matrices))


@pytest.mark.parametrize("sparsity", LEVELS)
@pytest.mark.parametrize(("threshold", "reach"), [(5.0, 0.08), (3.0, 0.3)])
def test_owl_is_the_papers(sparsity: float, threshold: float, reach: float) -> None:
    found = measured(MADE, "owl", owl_threshold=threshold)
    np.testing.assert_allclose(list(found["outliers"].values()), shares(MADE, threshold), rtol=1e-12)
    per_block = oracle.owl(shares(MADE, threshold), MADE.block_sizes, sparsity, reach)
    np.testing.assert_allclose(
        divided(MADE, "owl", sparsity, found, owl_range=reach), MADE.spread(per_block), rtol=1e-9, atol=1e-12
    )


def test_owl_removes_less_where_there_are_more_outliers() -> None:
    found = measured(MADE, "owl")
    order = np.argsort(list(found["outliers"].values()))
    per_block = [divided(MADE, "owl", 0.5, found)[2 * b] for b in order]
    assert per_block == sorted(per_block, reverse=True)
    assert per_block[0] - per_block[-1] == pytest.approx(2 * 0.08)


def test_owls_defaults_are_those_of_its_readme() -> None:
    assert measured(MADE, "owl") == measured(MADE, "owl", owl_threshold=5.0)
    assert measured(MADE, "owl") != measured(MADE, "owl", owl_threshold=3.0)


def test_published_owl_takes_the_mean_over_blocks_and_lets_nothing_below_a_hundredth() -> None:
    found = measured(MADE, "owl")
    for sparsity in (0.02, 0.05, 0.5, 0.95):
        theirs = divided(MADE, "owl", sparsity, found, compat="published")
        expected = MADE.spread(oracle.owl_published(shares(MADE), sparsity))
        np.testing.assert_allclose(theirs, expected, rtol=1e-9)
    sizes = np.array([m.size for m in MADE.matrices])

    def overall(sparsity: float, **options: str) -> float:
        return float((divided(MADE, "owl", sparsity, found, **options) * sizes).sum() / sizes.sum())

    # Blocks of different size: the model as a whole misses its target, and the exact rule does not.
    assert abs(overall(0.5, compat="published") - 0.5) > 1e-3
    assert overall(0.5) == pytest.approx(0.5)
    # Near 0 the reference asks 0.01 of blocks that would be asked for less than nothing.
    assert divided(MADE, "owl", 0.02, found, compat="published").min() == 0.01
    assert divided(MADE, "owl", 0.02, found).min() == 0


@pytest.mark.parametrize("sparsity", LEVELS)
@pytest.mark.parametrize("reach", [0.3, 0.8])
def test_alpha_pruning_is_the_papers(sparsity: float, reach: float) -> None:
    found = measured(MADE, "alpha-pruning")
    np.testing.assert_allclose(list(found["exponents"].values()), exponents(MADE), rtol=1e-9)
    per_block = oracle.alpha_pruning(exponents(MADE), MADE.block_sizes, sparsity, reach)
    np.testing.assert_allclose(
        divided(MADE, "alpha-pruning", sparsity, found, alpha_range=reach),
        MADE.spread(per_block),
        rtol=1e-9,
        atol=1e-12,
    )


def test_alpha_pruning_removes_more_where_tails_are_lighter() -> None:
    found = measured(MADE, "alpha-pruning")
    order = np.argsort(list(found["exponents"].values()))
    per_block = [divided(MADE, "alpha-pruning", 0.5, found)[2 * b] for b in order]
    assert per_block == sorted(per_block)
    assert per_block[-1] / per_block[0] == pytest.approx(1.3 / 0.7)


def test_published_alpha_pruning_lets_ratios_pass_one_and_misses_its_target() -> None:
    found = measured(MADE, "alpha-pruning", compat="published")
    ratios = MADE.spread(oracle.alpha_pruning_published(exponents(MADE, True), MADE.block_sizes, 0.95))
    assert ratios.max() > 1, "the test needs a ratio past 1"
    theirs = divided(MADE, "alpha-pruning", 0.95, found, compat="published")
    # There is no more to remove of a matrix than all of it.
    np.testing.assert_allclose(theirs, np.minimum(ratios, 1), rtol=1e-9)
    sizes = np.array([m.size for m in MADE.matrices])
    assert (theirs * sizes).sum() / sizes.sum() < 0.949
    ours = divided(MADE, "alpha-pruning", 0.95, found)
    assert (ours * sizes).sum() / sizes.sum() == pytest.approx(0.95)
    # Where nothing passes 1 there is no difference.
    theirs, ours = (divided(MADE, "alpha-pruning", 0.5, found, compat=c) for c in ("published", "exact"))
    np.testing.assert_allclose(theirs, ours)


def tailed(seed: int, below: int = 300) -> Array:
    """Eigenvalues with a peak at 20 whose tail falls as a power, and many smaller ones."""
    draw = np.random.default_rng(seed)
    tail = 20 * draw.random(300) ** (-1 / 1.5)
    return np.sort(np.concatenate([2 + 18 * draw.random(below), 20 + draw.random(400), tail]))


@pytest.mark.parametrize("seed", range(4))
def test_the_exponent_of_a_spectrum_is_the_papers_and_the_references(seed: int) -> None:
    values = tailed(seed)
    exact, slip = power_law_exponent(values.tolist()), power_law_exponent(values.tolist(), lowest_at_logarithm=True)
    assert exact == pytest.approx(oracle.power_law_exponent(values), rel=1e-9)
    assert slip == pytest.approx(oracle.power_law_exponent(values, logarithm_of_bound=True), rel=1e-9)


def spiked(n: int) -> Array:
    """Eigenvalues of a power law from 3 on with a spike at 20 and a gap behind it: no tail that begins there fits."""
    law = 3 * np.random.default_rng(0).random(n) ** (-1 / 1.2)
    return np.sort(np.concatenate([law[(law < 20) | (law > 40)], 20 + 0.01 * np.random.default_rng(1).random(n // 6)]))


def test_the_references_slip_lets_the_tail_begin_far_below_the_peak() -> None:
    values = spiked(2000)
    exact, slip = power_law_exponent(values.tolist()), power_law_exponent(values.tolist(), lowest_at_logarithm=True)
    assert abs(exact - slip) > 0.1
    assert exact == pytest.approx(oracle.power_law_exponent(values), rel=1e-9)
    assert slip == pytest.approx(oracle.power_law_exponent(values, logarithm_of_bound=True), rel=1e-9)


def test_published_alpha_pruning_measures_with_the_slip() -> None:
    # A diagonal matrix has the singular values that stand on it.
    values = spiked(300)
    model = Made({0: [(len(values), len(values))]})
    model.weights["block.0.0"] = np.diag(np.sqrt(values))
    found = {c: measured(model, "alpha-pruning", compat=c)["exponents"]["0"] for c in ("exact", "published")}
    for compat, exponent in found.items():
        assert exponent == pytest.approx(oracle.power_law_exponent(values, compat == "published"), rel=1e-6)
    assert abs(found["exact"] - found["published"]) > 0.1


@pytest.mark.parametrize("exponent", [1.8, 2.5, 4.0])
def test_the_exponent_of_a_pure_power_law_is_found(exponent: float) -> None:
    draw = np.random.default_rng(7)
    values = np.sort(draw.random(6_000) ** (-1 / (exponent - 1)))
    assert power_law_exponent(values.tolist()) == pytest.approx(exponent, rel=0.06)


def test_the_exponent_does_not_depend_on_the_size_of_the_weights() -> None:
    values = tailed(5)
    assert power_law_exponent((64 * values).tolist()) == pytest.approx(power_law_exponent(values.tolist()))


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0, 3.0], [2.0, 2.0, 2.0]])
def test_a_spectrum_without_a_tail_has_a_finite_exponent(values: list[float]) -> None:
    assert np.isfinite(power_law_exponent(values))


def test_blocks_that_are_all_the_same_get_the_same() -> None:
    model = Made({0: [(8, 8)], 1: [(8, 8)]})
    for name, found in (
        ("owl", {"outliers": {"0": 1.0, "1": 1.0}}),
        ("alpha-pruning", {"exponents": {"0": 2.0, "1": 2.0}}),
    ):
        for compat in ("exact", "published"):
            np.testing.assert_allclose(divided(model, name, 0.4, found, compat=compat), [0.4, 0.4])


@pytest.mark.parametrize("name", ["erk", "alpha-pruning"])
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_get_the_same_whether_one_tensor_holds_them_or_several(name: str, transposed: bool) -> None:
    made = Made({0: [(24, 16)] * 3 + [(16, 40)], 1: [(20, 16), (16, 16)]})
    experts, rest = made.matrices[:3], made.matrices[3:]
    shape = (3, 16, 24) if transposed else (3, 24, 16)
    fused = replace(experts[0], name="experts", shape=shape, transposed=transposed)
    together = Made({})
    together.matrices = [fused, *rest]
    together.weights = {**made.weights, "experts": np.concatenate([made.weights[m.name] for m in experts])}
    options = {"compat": "exact"}
    measure, divide = ALLOCATIONS[name].measure, ALLOCATIONS[name].divide
    found = []
    for model in (made, together):
        measured = {} if measure is None else measure(model.matrices, model, options)
        found.append(divide(model.matrices, 0.7, measured, options))
    assert found[1]["experts"] == pytest.approx(found[0][experts[0].name])
    for m in rest:
        assert found[1][m.name] == pytest.approx(found[0][m.name])


def test_matrices_outside_the_blocks_are_a_block_of_their_own() -> None:
    model = Made({-1: [(8, 8)], 0: [(24, 16)], 1: [(16, 40)]})
    assert list(measured(model, "owl")["outliers"]) == ["-1", "0", "1"]
    found = divided(model, "owl", 0.5, measured(model, "owl"))
    np.testing.assert_allclose(found, oracle.owl(shares(model), model.block_sizes, 0.5), rtol=1e-9)


positive = st.floats(1e-3, 1e3)
budgets = st.lists(st.tuples(positive, st.integers(1, 10_000)), min_size=1, max_size=8)


@FAST
@given(budgets, st.floats(0, 1))
def test_scaling_meets_any_budget(parts: list[tuple[float, int]], share: float) -> None:
    ratios, sizes = [r for r, _ in parts], [n for _, n in parts]
    found = np.array(scaled_to_budget(ratios, sizes, share * sum(sizes)))
    np.testing.assert_allclose(found, oracle.capped(ratios, sizes, share * sum(sizes)), rtol=1e-6, atol=1e-9)
    assert (found * sizes).sum() == pytest.approx(share * sum(sizes), rel=1e-9)
    assert (found >= 0).all()
    assert (found <= 1).all()


@FAST
@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 10_000)), min_size=1, max_size=8), st.floats(0, 1))
def test_shifting_meets_any_budget(parts: list[tuple[float, int]], share: float) -> None:
    values, sizes = [v for v, _ in parts], [n for _, n in parts]
    found = np.array(shifted_to_budget(values, sizes, share * sum(sizes)))
    np.testing.assert_allclose(found, oracle.clipped(values, sizes, share * sum(sizes)), rtol=1e-6, atol=1e-9)
    assert (found * sizes).sum() == pytest.approx(share * sum(sizes), rel=1e-9, abs=1e-9)
