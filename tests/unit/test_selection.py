"""Selection removes exactly the asked number, smallest first, ties by position, whatever the pool looks like."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from essential_sparsity.errors import UserError
from essential_sparsity.levels import removed_count
from essential_sparsity.scores import magnitude
from essential_sparsity.selection import SCOPES, select

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FAST = settings(deadline=None, max_examples=60, derandomize=True)

# Few distinct values make ties the rule; many make them the exception.
values = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e-30, 2.0]),
    st.floats(-4, 4, width=16),
    st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True),
)
pools = st.lists(st.lists(values, min_size=1, max_size=24), min_size=1, max_size=4)
levels = st.one_of(st.integers(0, 999).map(lambda i: i / 1000), st.floats(0, 1, exclude_max=True))


def scores_of(weights: Mapping[str, Tensor]) -> Callable[[str], Tensor]:
    return lambda name: magnitude(weights[name], name, 0)


def selected(weights: Mapping[str, Tensor], scope: str, sparsity: float) -> dict[str, Tensor]:
    sizes = {name: w.numel() for name, w in weights.items()}
    return dict(select(sizes, scores_of(weights), scope, sparsity))


def as_weights(pool: list[list[float]], dtype: torch.dtype) -> dict[str, Tensor]:
    # Clamped, since the largest values are infinite in half precision.
    limit = 6e4 if dtype is torch.float16 else 1e38
    return {f"w{i}": torch.tensor(w, dtype=torch.float64).clamp(-limit, limit).to(dtype) for i, w in enumerate(pool)}


def oracle(weights: Mapping[str, Tensor], sparsity: float) -> np.ndarray:
    """Keep mask over the concatenation: a stable sort of float64 magnitudes, the first ``round(s n)`` removed."""
    flat = np.abs(np.concatenate([w.to(torch.float64).numpy().ravel() for w in weights.values()]))
    keep = np.ones(flat.size, dtype=bool)
    keep[np.argsort(flat, kind="stable")[: round(sparsity * flat.size)]] = False
    return keep


def joined(masks: Mapping[str, Tensor]) -> np.ndarray:
    return np.concatenate([m.numpy() for m in masks.values()])


@FAST
@given(pools, st.sampled_from(DTYPES), levels)
def test_global_selection_is_a_stable_sort_over_the_concatenation(
    pool: list[list[float]], dtype: torch.dtype, sparsity: float
) -> None:
    weights = as_weights(pool, dtype)
    masks = selected(weights, "global", sparsity)
    assert list(masks) == list(weights)
    np.testing.assert_array_equal(joined(masks), oracle(weights, sparsity))


@FAST
@given(pools, st.sampled_from(DTYPES), levels)
def test_layer_selection_is_a_stable_sort_of_each_matrix(
    pool: list[list[float]], dtype: torch.dtype, sparsity: float
) -> None:
    weights = as_weights(pool, dtype)
    for name, keep in selected(weights, "layer", sparsity).items():
        np.testing.assert_array_equal(keep.numpy(), oracle({name: weights[name]}, sparsity))
        assert int((~keep).sum()) == round(sparsity * weights[name].numel())


@FAST
@given(pools, st.sampled_from(DTYPES), st.sampled_from(sorted(SCOPES)), levels, levels)
def test_levels_are_nested(pool: list[list[float]], dtype: torch.dtype, scope: str, a: float, b: float) -> None:
    weights = as_weights(pool, dtype)
    fewer, more = (joined(selected(weights, scope, s)) for s in sorted((a, b)))
    assert not (more & ~fewer).any(), "a weight that a lower sparsity removed came back at a higher one"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0.1, 0.15, 0.5, 0.9, 0.999])
def test_count_is_exact_in_pools_of_ties(dtype: torch.dtype, sparsity: float) -> None:
    # 20,000 weights of 7 magnitudes: a threshold would remove a seventh too many.
    draw = torch.Generator().manual_seed(0)
    weights = {n: torch.randint(-3, 4, (100, 50), generator=draw).to(dtype) / 8 for n in "abcd"}
    assert int((~torch.cat(list(selected(weights, "global", sparsity).values()))).sum()) == round(sparsity * 20_000)


@pytest.mark.parametrize("amount", [0.05, 0.3, 0.5, 0.77, 0.99])
def test_global_scope_agrees_with_torch_where_no_scores_are_equal(amount: float) -> None:
    layers = [nn.Linear(31, 17, bias=False), nn.Linear(17, 23, bias=False)]
    everything = torch.cat([x.weight.detach().abs().flatten() for x in layers])
    assert everything.unique().numel() == everything.numel(), "the test needs distinct magnitudes"
    weights = {str(i): layer.weight.detach().clone() for i, layer in enumerate(layers)}
    masks = selected(weights, "global", amount)
    prune.global_unstructured([(x, "weight") for x in layers], pruning_method=prune.L1Unstructured, amount=amount)
    for i, layer in enumerate(layers):
        assert torch.equal(masks[str(i)].view_as(layer.weight_mask), layer.weight_mask.bool())


@pytest.mark.parametrize("amount", [0.05, 0.4, 0.99])
def test_layer_scope_agrees_with_torch_where_no_scores_are_equal(amount: float) -> None:
    layers = [nn.Linear(31, 17, bias=False), nn.Linear(17, 23, bias=False)]
    weights = {str(i): layer.weight.detach().clone() for i, layer in enumerate(layers)}
    masks = selected(weights, "layer", amount)
    for i, layer in enumerate(layers):
        prune.l1_unstructured(layer, "weight", amount=amount)
        assert torch.equal(masks[str(i)].view_as(layer.weight_mask), layer.weight_mask.bool())


@pytest.mark.parametrize(("sparsity", "n", "count"), [(0.4, 17, 7), (0.0, 5, 0), (0.999, 1, 1), (0.5, 3, 2)])
def test_removed_count_rounds_as_torch_does(sparsity: float, n: int, count: int) -> None:
    assert removed_count(sparsity, n) == count
    layer = prune.l1_unstructured(nn.Linear(n, 1, bias=False), "weight", amount=sparsity)
    assert int((layer.weight_mask == 0).sum()) == count


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_sparsity_zero_keeps_everything_even_zeros(scope: str) -> None:
    masks = selected({"a": torch.zeros(3, 3), "b": torch.tensor([0.0, -0.0, 1.0])}, scope, 0.0)
    assert all(bool(m.all()) for m in masks.values())


def test_matrices_of_one_weight() -> None:
    weights = {"a": torch.tensor([2.0]), "b": torch.tensor([1.0]), "c": torch.tensor([3.0])}
    assert joined(selected(weights, "global", 0.34)).tolist() == [True, False, True]
    assert joined(selected(weights, "layer", 0.4)).tolist() == [True, True, True]  # round(0.4) is 0
    assert joined(selected(weights, "layer", 0.6)).tolist() == [False, False, False]


def test_an_all_zero_matrix_goes_first_in_order() -> None:
    weights = {"a": torch.ones(4), "zero": torch.zeros(6), "b": torch.ones(4)}
    assert joined(selected(weights, "global", 0.25)).tolist() == [True] * 4 + [False] * 4 + [True] * 6
    masks = selected(weights, "global", 0.5)  # 7 of 14: the six zeros and the first of the ones
    assert [int((~m).sum()) for m in masks.values()] == [1, 6, 0]


def test_negative_zero_is_zero() -> None:
    weights = {"a": torch.tensor([1.0, -0.0, 0.0, -0.0]), "b": torch.tensor([0.0, -0.0])}
    masks = selected(weights, "global", 0.5)  # three of five zeros, by position
    assert joined(masks).tolist() == [True, False, False, False, True, True]
    bare = dict(select({"a": 3}, lambda _: torch.tensor([1.0, -0.0, 0.5]), "global", 0.34))  # a score of -0.0 itself
    assert bare["a"].tolist() == [True, False, True]


def test_subnormals_are_ordered() -> None:
    tiny = torch.tensor([4e-45, 1e-45, 0.0, 3e-45])
    assert selected({"a": tiny}, "global", 0.5)["a"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scope", sorted(SCOPES))
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, scope: str, sparsity: float) -> None:
    weights = {"fine": torch.ones(4), "block.3.query": torch.tensor([1.0, bad, 2.0])}
    with pytest.raises(UserError, match=r"block\.3\.query.*NaN or infinite"):
        selected(weights, scope, sparsity)


def test_negative_scores_are_refused() -> None:
    with pytest.raises(UserError, match="negative"):
        dict(select({"a": 2}, lambda _: torch.tensor([1.0, -1.0]), "global", 0.5))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_does_not_matter() -> None:
    draw = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(300, 200, generator=draw).to(torch.bfloat16) for n in "ab"}
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(selected(weights, "global", 0.37))
    assert all(torch.equal(found[0][name], found[1][name]) for name in weights)
    assert joined(found[0]).sum() == 120_000 - round(0.37 * 120_000)


def test_memory_is_bounded_by_a_matrix() -> None:
    # Scores are asked for one matrix at a time, three passes, and nothing else is held.
    asked: list[str] = []
    weights = {n: torch.rand(10) for n in "abc"}

    def score_of(name: str) -> Tensor:
        asked.append(name)
        return weights[name]

    masks = select(dict.fromkeys(weights, 10), score_of, "global", 0.5)
    first = next(masks)
    assert first[0] == "a"
    assert asked == [*"abc", *"abc", "a"]
    assert [name for name, _ in masks] == ["b", "c"]
    assert asked == list(itertools.chain(*["abc"] * 3))
