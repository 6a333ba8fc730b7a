"""Selection removes exactly the asked number, smallest first, ties by position, whatever the pool looks like."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.ao.pruning.sparsifier.weight_norm_sparsifier import WeightNormSparsifier
from torch.nn.utils import prune

from essential_sparsity.errors import UserError
from essential_sparsity.methods.levels import removed_count
from essential_sparsity.pruning import keys as keys_module
from essential_sparsity.pruning import selection as selection_module
from essential_sparsity.pruning.keys import KeySource, keys_of_scores, sortable
from essential_sparsity.pruning.selection import (
    NOTHING,
    Cut,
    below_published_threshold,
    find_cuts,
    keep_masks,
    removed_counts,
    smallest,
    smallest_in_groups,
    smallest_of_sorted,
    sorted_rows,
)
from oracles import selection as oracle

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HALF = (torch.float16, torch.bfloat16)
FAST = settings(deadline=None, max_examples=40, derandomize=True)

# Few distinct values make ties the rule; many make them the exception.
values = st.one_of(
    st.sampled_from([0.0, -0.0, 0.5, -0.5, 1e-30, 2.0]),
    st.floats(-4, 4, width=16),
    st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True),
)
pools = st.lists(st.lists(values, min_size=1, max_size=24), min_size=1, max_size=4)
levels = st.one_of(st.integers(0, 999).map(lambda i: i / 1000), st.floats(0, 1, exclude_max=True))


def source(weights: Mapping[str, Tensor]) -> KeySource:
    """Keys of magnitudes, 16 bits wide where all weights are of one half-precision type."""
    dtypes = {w.dtype for w in weights.values()}
    bits = 16 if len(dtypes) == 1 and dtypes <= set(HALF) else 32
    keys = {name: sortable(w.abs(), name, bits) for name, w in weights.items()}
    return KeySource({name: len(k) for name, k in keys.items()}, bits, lambda name, a, b: keys[name][a:b])


def by_pattern(weights: Mapping[str, Tensor]) -> KeySource:
    """Keys of magnitudes of weights of one half-precision type, with the table of all their bit patterns."""
    (dtype,) = {w.dtype for w in weights.values()}
    every = torch.arange(keys_module.PATTERNS, dtype=torch.int32).to(torch.int16).view(dtype).abs()
    table = torch.where(torch.isfinite(every), every.view(torch.int16).int(), -1).numpy()
    patterns = {name: w.view(torch.int16).int() & 0xFFFF for name, w in weights.items()}
    return replace(source(weights), table=table, patterns=lambda name, a, b: patterns[name][a:b])


def masks_at(
    weights: Mapping[str, Tensor], ks: Sequence[int], keys_of: Callable[[Mapping[str, Tensor]], KeySource] = source
) -> list[dict[str, Array]]:
    """For each ``k``, the keep masks of one pool of all weights."""
    keys, names = keys_of(weights), list(weights)
    found: list[dict[str, Array]] = [{} for _ in ks]
    for name, packed in keep_masks(keys, names, find_cuts(keys, names, ks)):
        for i, bits in enumerate(packed):
            found[i][name] = np.unpackbits(bits, count=weights[name].numel()).astype(bool)
    return found


def selected(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Array]:
    return masks_at(weights, [removed_count(sparsity, sum(w.numel() for w in weights.values()))])[0]


def expected(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Array]:
    return oracle.global_pool({n: np.abs(w.double().numpy().ravel()) for n, w in weights.items()}, sparsity)


def as_weights(pool: list[list[float]], dtype: torch.dtype) -> dict[str, Tensor]:
    # Clamped, since the largest values are infinite in half precision.
    limit = 6e4 if dtype is torch.float16 else 1e38
    return {f"w{i}": torch.tensor(w, dtype=torch.float64).clamp(-limit, limit).to(dtype) for i, w in enumerate(pool)}


def joined(masks: Mapping[str, Array]) -> Array:
    return np.concatenate(list(masks.values()))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of eight weights and few counters, so that pools of tests are made of many."""
    monkeypatch.setattr(selection_module, "PART", 8)
    monkeypatch.setattr(selection_module, "PATTERN_PART", 8)
    monkeypatch.setattr(selection_module, "_GROUPS", 2)
    monkeypatch.setattr(selection_module, "_SLOTS", 2)
    monkeypatch.setattr(selection_module, "_MILLION", 16)


@FAST
@given(pools, st.sampled_from(DTYPES), levels)
def test_a_pool_is_cut_as_by_a_stable_sort_over_the_concatenation(
    pool: list[list[float]], dtype: torch.dtype, sparsity: float
) -> None:
    weights = as_weights(pool, dtype)
    masks = selected(weights, sparsity)
    assert list(masks) == list(weights)
    np.testing.assert_array_equal(joined(masks), joined(expected(weights, sparsity)))
    assert (~joined(masks)).sum() == round(sparsity * joined(masks).size)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_parts_and_passes_do_not_show(dtype: torch.dtype, values: int) -> None:
    # Many cuts in few counters, ties that begin and end in any part of any matrix.
    draw = torch.Generator().manual_seed(values)
    weights = {
        n: torch.randint(0, values, (s,), generator=draw).to(dtype) / 7 for n, s in (("a", 37), ("b", 1), ("c", 64))
    }
    for keys_of in (source,) if dtype is torch.float32 else (source, by_pattern):
        for k, masks in enumerate(masks_at(weights, range(103), keys_of)):
            np.testing.assert_array_equal(joined(masks), joined(expected(weights, k / 102)), err_msg=f"{k} of 102")


@FAST
@given(st.lists(st.lists(values, max_size=24), min_size=1, max_size=9), st.sampled_from(HALF), st.integers(1, 9))
def test_groups_of_matrices_do_not_show(pool: list[list[float]], dtype: torch.dtype, groups: int) -> None:
    weights = as_weights(pool, dtype)
    n = sum(map(len, pool))
    # Few levels, which are compared by codes, and more than those have room for.
    for ks in (sorted({0, n // 3, n // 2, n}), [*range(n + 1)] * (1 + 200 // (n + 1))):
        with patch.object(selection_module, "_GROUPS", groups):
            for keys_of in (source, by_pattern):
                for k, masks in zip(ks, masks_at(weights, ks, keys_of), strict=True):
                    np.testing.assert_array_equal(joined(masks), joined(expected(weights, k / max(n, 1))))


@pytest.mark.parametrize("keys_of", [source, by_pattern])
def test_masks_that_are_kept_are_not_overwritten_and_others_leave_their_memory(
    keys_of: Callable[[Mapping[str, Tensor]], KeySource],
) -> None:
    draw = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(800, generator=draw).to(torch.bfloat16) for i in range(12)}
    keys, names = keys_of(weights), list(weights)
    cuts = find_cuts(keys, names, [2400, 4800])
    rows = {name: masks[1] for name, masks in keep_masks(keys, names, cuts)}
    for name, row in rows.items():
        np.testing.assert_array_equal(np.unpackbits(row).astype(bool), expected(weights, 0.5)[name])
    places = {masks.ctypes.data for _, masks in keep_masks(keys, names, cuts)}
    # One matrix's masks are held by the loop, and two are made meanwhile.
    assert len(places) <= 4


@FAST
@given(pools, st.sampled_from(DTYPES), st.lists(levels, min_size=1, max_size=6))
def test_all_levels_at_once_are_each_level_by_itself(
    pool: list[list[float]], dtype: torch.dtype, sparsities: list[float]
) -> None:
    weights = as_weights(pool, dtype)
    n = sum(w.numel() for w in weights.values())
    ks = [removed_count(s, n) for s in sparsities]
    for k, masks in zip(ks, masks_at(weights, ks), strict=True):
        np.testing.assert_array_equal(joined(masks), joined(masks_at(weights, [k])[0]))


@FAST
@given(pools, st.sampled_from(DTYPES), levels, levels)
def test_levels_are_nested(pool: list[list[float]], dtype: torch.dtype, a: float, b: float) -> None:
    weights = as_weights(pool, dtype)
    fewer, more = (joined(selected(weights, s)) for s in sorted((a, b)))
    assert not (more & ~fewer).any(), "a weight that a lower sparsity removed came back at a higher one"


@FAST
@given(pools, st.sampled_from(DTYPES), st.lists(levels, min_size=1, max_size=4))
def test_counts_of_a_cut_are_those_of_its_masks(
    pool: list[list[float]], dtype: torch.dtype, sparsities: list[float]
) -> None:
    weights = as_weights(pool, dtype)
    keys, names = source(weights), list(weights)
    ks = [removed_count(s, sum(keys.sizes.values())) for s in sparsities]
    counts = removed_counts(keys, names, find_cuts(keys, names, ks))
    for i, masks in enumerate(masks_at(weights, ks)):
        assert {name: c[i] for name, c in counts.items()} == {name: int((~m).sum()) for name, m in masks.items()}


@FAST
@given(pools, st.sampled_from(DTYPES), levels)
def test_a_cut_says_what_it_is(pool: list[list[float]], dtype: torch.dtype, sparsity: float) -> None:
    keys = source(as_weights(pool, dtype))
    everything = np.concatenate([keys.load(name, 0, n) for name, n in keys.sizes.items()])
    k = removed_count(sparsity, everything.size)
    (cut,) = find_cuts(keys, list(keys.sizes), [k])
    if k == 0:
        assert cut == NOTHING
    else:
        equal = [int((keys.load(name, 0, n) == cut.key).sum()) for name, n in keys.sizes.items()]
        assert cut.key == np.sort(everything)[k - 1]
        assert cut.equal == sum(equal[cut.first :])
        assert (everything < cut.key).sum() + sum(equal[: cut.first]) + cut.ties == k
        assert 0 < cut.ties <= cut.equal


def test_ties_are_counted_only_where_they_end() -> None:
    weights = {n: torch.ones(10, dtype=torch.bfloat16) for n in "abcd"}
    keys = source(weights)
    assert find_cuts(keys, list("abcd"), [20, 25]) == [
        Cut(key=0x3F80, ties=10, equal=30, first=1),
        Cut(key=0x3F80, ties=5, equal=20, first=2),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0.1, 0.15, 0.5, 0.9, 0.999])
def test_count_is_exact_in_pools_of_ties(dtype: torch.dtype, sparsity: float) -> None:
    # 20,000 weights of 4 magnitudes: a threshold would remove up to a quarter too many.
    draw = torch.Generator().manual_seed(0)
    weights = {n: torch.randint(-3, 4, (5000,), generator=draw).to(dtype) / 8 for n in "abcd"}
    assert (~joined(selected(weights, sparsity))).sum() == round(sparsity * 20_000)


@pytest.mark.parametrize("amount", [0.05, 0.3, 0.5, 0.77, 0.99])
def test_one_pool_agrees_with_torch_where_no_scores_are_equal(amount: float) -> None:
    torch.manual_seed(2)
    layers = [nn.Linear(31, 17, bias=False), nn.Linear(17, 23, bias=False)]
    everything = torch.cat([x.weight.detach().abs().flatten() for x in layers])
    assert everything.unique().numel() == everything.numel(), "the test needs distinct magnitudes"
    masks = selected({str(i): layer.weight.detach().clone() for i, layer in enumerate(layers)}, amount)
    prune.global_unstructured([(x, "weight") for x in layers], pruning_method=prune.L1Unstructured, amount=amount)
    for i, layer in enumerate(layers):
        np.testing.assert_array_equal(masks[str(i)], layer.get_buffer("weight_mask").bool().numpy().ravel())


@FAST
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from(DTYPES),
    st.floats(0.001, 0.999),
)
def test_any_pool_agrees_with_torch_where_no_scores_are_equal(
    shapes: list[tuple[int, int]], seed: int, dtype: torch.dtype, amount: float
) -> None:
    n = sum(a * b for a, b in shapes)
    # Neighbours on a grid that every type can tell apart, of either sign.
    draw = torch.Generator().manual_seed(seed)
    bits = torch.tensor(1.0, dtype=dtype).view(torch.int16 if dtype in HALF else torch.int32) + torch.randperm(
        n, generator=draw
    )
    flat = bits.to(torch.int16 if dtype in HALF else torch.int32).view(dtype) * (
        torch.randint(0, 2, (n,), generator=draw) * 2 - 1
    )
    layers = [nn.Linear(b, a, bias=False, dtype=dtype) for a, b in shapes]
    for layer, part in zip(layers, flat.split([a * b for a, b in shapes]), strict=True):
        layer.weight.data = part.view(layer.weight.shape).clone()
    masks = selected({str(i): layer.weight.detach().flatten() for i, layer in enumerate(layers)}, amount)
    prune.global_unstructured([(x, "weight") for x in layers], pruning_method=prune.L1Unstructured, amount=amount)
    theirs = np.concatenate([layer.get_buffer("weight_mask").bool().numpy().ravel() for layer in layers])
    np.testing.assert_array_equal(joined(masks), theirs)


@pytest.mark.parametrize(("sparsity", "n", "count"), [(0.4, 17, 7), (0.0, 5, 0), (0.999, 1, 1), (0.5, 3, 2)])
def test_removed_count_rounds_as_torch_does(sparsity: float, n: int, count: int) -> None:
    assert removed_count(sparsity, n) == count
    layer = prune.l1_unstructured(nn.Linear(n, 1, bias=False), "weight", amount=sparsity)
    assert int((layer.weight_mask == 0).sum()) == count


def test_sparsity_zero_keeps_everything_even_zeros() -> None:
    masks = selected({"a": torch.zeros(9), "b": torch.tensor([0.0, -0.0, 1.0])}, 0.0)
    assert joined(masks).all()


def test_removing_everything_removes_everything() -> None:
    weights = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([65504.0, 1.0, 3.0])}
    assert not joined(masks_at(weights, [5])[0]).any()
    assert not joined(masks_at({n: w.half() for n, w in weights.items()}, [5])[0]).any()


def test_matrices_of_one_weight() -> None:
    weights = {"a": torch.tensor([2.0]), "b": torch.tensor([1.0]), "c": torch.tensor([3.0])}
    assert joined(selected(weights, 0.34)).tolist() == [True, False, True]
    assert joined(selected({"a": weights["a"]}, 0.4)).tolist() == [True]  # round(0.4) is 0
    assert joined(selected({"a": weights["a"]}, 0.6)).tolist() == [False]


def test_an_all_zero_matrix_goes_first_in_order() -> None:
    weights = {"a": torch.ones(4), "zero": torch.zeros(6), "b": torch.ones(4)}
    assert joined(selected(weights, 0.25)).tolist() == [True] * 4 + [False] * 4 + [True] * 6
    masks = selected(weights, 0.5)  # 7 of 14: the six zeros and the first of the ones
    assert [int((~m).sum()) for m in masks.values()] == [1, 6, 0]


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.bfloat16, 16), (torch.bfloat16, 32)])
def test_negative_zero_is_zero(dtype: torch.dtype, bits: int) -> None:
    keys = sortable(torch.tensor([1.0, -0.0, 0.5, 0.0], dtype=dtype), "w", bits)
    assert keys[1] == keys[3] == 0
    assert keys[3] < keys[2] < keys[0]


def test_subnormals_are_ordered() -> None:
    tiny = torch.tensor([4e-45, 1e-45, 0.0, 3e-45])
    assert selected({"a": tiny}, 0.5)["a"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("dtype", HALF)
def test_keys_of_every_half_precision_value_order_like_the_values(dtype: torch.dtype) -> None:
    every = torch.arange(0, 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[torch.isfinite(every)].flip(0)
    for bits in (16, 32):
        keys = sortable(every, "w", bits).astype(np.int64)
        np.testing.assert_array_equal(np.argsort(keys), np.argsort(every.double().numpy()))
        assert len(np.unique(keys)) == len(keys), "no tie is made by the conversion"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), -1.0])
@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.bfloat16, 16), (torch.float16, 32)])
def test_scores_that_are_not_finite_or_negative_are_refused_by_name(bad: float, dtype: torch.dtype, bits: int) -> None:
    with pytest.raises(UserError, match=r"block\.3\.query.*negative, NaN or infinite"):
        sortable(torch.tensor([1.0, bad, 2.0], dtype=dtype), "block.3.query", bits)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_does_not_matter(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(300_000, generator=draw).to(dtype) for n in "ab"}
    assert len(weights["a"]) > keys_module.PART, "the test needs more than one part"
    found = []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(selected(weights, 0.37))
        assert torch.get_num_threads() == n, "the number of threads is given back"
    assert all((found[0][name] == found[1][name]).all() for name in weights)
    assert joined(found[0]).sum() == 600_000 - round(0.37 * 600_000)


@pytest.mark.usefixtures("threads", "small_parts")
def test_half_precision_by_patterns_does_not_depend_on_threads_and_takes_two_passes() -> None:
    draw = torch.Generator().manual_seed(2)
    weights = {n: torch.randn(3000, generator=draw).to(torch.bfloat16) for n in "abc"}
    ks = [900, 4500, 8100]
    asked: list[int] = []

    def watched(given: Mapping[str, Tensor]) -> KeySource:
        base = by_pattern(given)

        def patterns(name: str, start: int, stop: int) -> Tensor:
            asked.append(stop - start)
            assert base.patterns is not None
            return base.patterns(name, start, stop)

        return replace(base, patterns=patterns)

    for n in (1, 2):
        torch.set_num_threads(n)
        asked.clear()
        for k, masks in zip(ks, masks_at(weights, ks, watched), strict=True):
            np.testing.assert_array_equal(joined(masks), joined(expected(weights, k / 9000)))
        assert sum(asked) == 2 * 9000
        assert len(asked) > 2 * 3


@pytest.mark.usefixtures("threads")
def test_whoever_uses_a_mask_computes_with_all_threads() -> None:
    torch.set_num_threads(2)
    keys = source({n: torch.rand(100) for n in "ab"})
    masks = keep_masks(keys, list("ab"), find_cuts(keys, list("ab"), [50]))
    for _ in masks:
        assert torch.get_num_threads() == 2
        torch.set_num_threads(2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("levels", [1, 19, 60])
def test_keys_are_read_in_three_passes_whatever_the_number_of_levels(levels: int) -> None:
    # Counted by the upper and by the lower half of the bits, and compared; levels with distinct keys, so no ties.
    draw = torch.Generator().manual_seed(0)
    base = source({n: torch.rand(1000, generator=draw) for n in "abc"})
    asked: list[int] = []

    def load(name: str, start: int, stop: int) -> Array:
        asked.append(stop - start)
        return base.load(name, start, stop)

    keys = KeySource(base.sizes, base.bits, load)
    cuts = find_cuts(keys, list("abc"), [removed_count((i + 1) / (levels + 1), 3000) for i in range(levels)])
    assert all(cut.ties == cut.equal for cut in cuts)
    for _ in keep_masks(keys, list("abc"), cuts):
        pass
    assert sum(asked) == 3 * 3000


def test_memory_does_not_grow_with_the_number_of_levels() -> None:
    # Weights of all sizes, so that almost every level's cut has an upper half of its own: half a megabyte a counter.
    draw = torch.Generator().manual_seed(0)
    keys = source({"a": torch.exp(20 * torch.rand(20_000, generator=draw) - 10)})
    ks = [removed_count((i + 1) / 1000, 20_000) for i in range(999)]
    tracemalloc.start()
    cuts = find_cuts(keys, ["a"], ks)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert len({cut.key >> 16 for cut in cuts}) > 500, "the test needs more than 250 MB of counters in all"
    assert peak < 150, f"{peak:.0f} MB"


def test_scores_of_whole_matrices_are_computed_once_a_pass_and_two_are_held() -> None:
    asked: list[str] = []
    weights = {n: torch.rand(10) for n in "abc"}

    def scores_of(name: str) -> Tensor:
        asked.append(name)
        return weights[name]

    keys = keys_of_scores(dict.fromkeys(weights, 10), scores_of)
    cuts = find_cuts(keys, list("abc"), [15])
    masks = {name: np.unpackbits(bits[0], count=10).astype(bool) for name, bits in keep_masks(keys, list("abc"), cuts)}
    np.testing.assert_array_equal(joined(masks), joined(expected(weights, 0.5)))
    assert len(asked) == 3 * 3


# --- pools within a matrix ---


@st.composite
def matrices(draw: st.DrawFn) -> Array:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    entry = st.one_of(st.sampled_from([0.0, 0.5, 2.0]), st.floats(0, 4, width=16))
    return np.array(draw(st.lists(entry, min_size=rows * columns, max_size=rows * columns))).reshape(rows, columns)


@FAST
@given(matrices(), levels, st.sampled_from([*DTYPES, torch.float64]))
def test_rows_are_cut_as_by_a_stable_sort(scores: Array, sparsity: float, dtype: torch.dtype) -> None:
    removed = smallest(torch.tensor(scores).to(dtype), removed_count(sparsity, scores.shape[1]))
    np.testing.assert_array_equal(~removed.numpy(), oracle.row(scores, sparsity))


@FAST
@given(matrices())
def test_one_sort_serves_every_count(scores: Array) -> None:
    tensor = torch.tensor(scores)
    ascending = sorted_rows(tensor)
    for k in range(scores.shape[1] + 1):
        expected = np.stack([oracle.keep_all_but(r, k) for r in scores])
        np.testing.assert_array_equal(~smallest_of_sorted(tensor, ascending, k).numpy(), expected)


@FAST
@given(st.integers(1, 8).flatmap(lambda m: st.tuples(st.integers(0, m), st.just(m))), st.data())
def test_groups_keep_their_largest(pattern: tuple[int, int], data: st.DataObject) -> None:
    kept, size = pattern
    rows, groups = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    entry = st.one_of(st.sampled_from([0.0, 0.5, 2.0]), st.floats(0, 4, width=16))
    count = rows * groups * size
    scores = np.array(data.draw(st.lists(entry, min_size=count, max_size=count))).reshape(rows, groups * size)
    removed = smallest_in_groups(torch.tensor(scores), kept, size).numpy()
    np.testing.assert_array_equal(~removed, oracle.n_of_m(scores, kept, size))
    assert ((~removed).reshape(-1, size).sum(1) == kept).all()


def test_n_counts_what_is_kept() -> None:
    # Wanda, SparseGPT and RIA would call this 1:4 too, and keep three.
    assert (~smallest_in_groups(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), 1, 4)).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize(("kept", "size"), [(2, 4), (1, 4), (3, 4), (4, 8), (1, 2)])
def test_groups_agree_with_torchs_sparsifier(kept: int, size: int) -> None:
    torch.manual_seed(3)
    layer = nn.Linear(64, 24, bias=False)
    weight = layer.weight.detach().clone()
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, size), zeros_per_block=size - kept)
    sparsifier.prepare(nn.Sequential(layer), [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    assert bool((weight != 0).all())
    assert torch.equal(~smallest_in_groups(weight.abs(), kept, size), layer.weight != 0)


@FAST
@given(matrices(), levels, st.sampled_from([0, 1]))
def test_the_published_threshold_is_the_references(scores: Array, sparsity: float, counted_from: int) -> None:
    removed = below_published_threshold(torch.tensor(scores), sparsity, counted_from).numpy()
    np.testing.assert_array_equal(~removed, oracle.published_threshold(scores, sparsity, counted_from))
    assert removed.sum() >= min(int(sparsity * scores.size) + 1 - counted_from, scores.size)


def test_the_published_threshold_overshoots_on_ties_and_the_exact_count_does_not() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0]])
    assert int(below_published_threshold(scores, 0.25).sum()) == 3
    assert int(below_published_threshold(scores, 0.5).sum()) == 7
    assert int(smallest(scores, removed_count(0.25, 8)).sum()) == 2
    assert int(smallest(scores, removed_count(0.5, 8)).sum()) == 4


def test_keys_of_scores_may_be_asked_by_many_threads() -> None:
    weights = {n: torch.rand(1000) for n in "abcd"}
    keys = keys_of_scores(dict.fromkeys(weights, 1000), lambda name: weights[name])
    wrong: list[str] = []

    def ask(name: str) -> None:
        for start in range(0, 1000, 10):
            part = keys.load(name, start, start + 10)
            if not np.array_equal(part, weights[name][start : start + 10].view(torch.int32).numpy()):
                wrong.append(name)

    running = [threading.Thread(target=ask, args=(name,)) for name in weights]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert wrong == []
