"""Statistics of inputs: what is added in parts is what is added at once, and files give back what they were given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles.scores
import random_layers
from essential_sparsity.errors import UserError
from essential_sparsity.methods.statistics import InputStatistics
from essential_sparsity.pruning.statistics import StatisticsFile, write_statistics

Array = np.ndarray[Any, np.dtype[Any]]
FAST = settings(deadline=None, max_examples=40, derandomize=True)
CPU = torch.device("cpu")


def gathered(x: Array, cuts: list[int], dtype: torch.dtype, with_gram: bool) -> InputStatistics:
    """Statistics of sequences, (samples, tokens, inputs), added batch by batch."""
    found = InputStatistics.empty(x.shape[2], with_gram, torch.empty(0, dtype=dtype))
    for batch in np.split(x, cuts):
        if len(batch):
            found.add(torch.tensor(batch).to(dtype), len(batch))
    return found


@FAST
@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.lists(st.integers(0, 6), max_size=3),
    st.booleans(), st.integers(0, 2**31),
)  # fmt: skip
def test_sums_are_over_all_tokens_however_they_are_batched(
    samples: int, tokens: int, inputs: int, cuts: list[int], with_gram: bool, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((samples, tokens, inputs)) + 1
    found = gathered(x, sorted(c for c in cuts if c <= samples), torch.float64, with_gram)
    flat = x.reshape(-1, inputs)
    assert (found.samples, found.tokens) == (samples, samples * tokens)
    np.testing.assert_allclose(found.squares, (flat**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(found.totals, flat.sum(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.mean(), flat.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.variance(), flat.var(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.norm(), oracles.scores.norms(flat, samples), rtol=1e-6)
    if with_gram:
        np.testing.assert_allclose(found.hessian(), 2 / samples * flat.T @ flat, rtol=1e-9, atol=1e-12)


def test_the_mean_of_norms_is_over_sequences_and_not_over_tokens() -> None:
    # Two sequences of three tokens, all ones: each has the squared norm 3.
    found = gathered(np.ones((2, 3, 1)), [], torch.float64, with_gram=True)
    assert float(found.norm()[0]) == pytest.approx(3**0.5)
    assert float(found.hessian()[0, 0]) == 2 * 6 / 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("with_gram", [False, True])
def test_half_precision_inputs_are_summed_in_more(dtype: torch.dtype, with_gram: bool) -> None:
    # 3000 tokens of 32: the sum of squares is 3 million, beyond float16, and its increments are lost in bfloat16.
    found = gathered(np.full((3, 1000, 2), 32.0), [1, 2], dtype, with_gram)
    assert found.squares.tolist() == [3_072_000.0] * 2
    assert found.totals.tolist() == [96_000.0] * 2
    assert found.norm().tolist() == pytest.approx([1_024_000**0.5] * 2)


def test_sums_of_many_sequences_do_not_drift() -> None:
    # A million times 0.1: in single precision alone, the last additions would lose 1 %.
    found = InputStatistics.empty(1, False, torch.empty(0))
    for _ in range(500):
        found.add(torch.full((2000, 1), 0.1), 1)
    assert float(found.totals[0]) == pytest.approx(1e5, rel=1e-6)
    assert float(found.squares[0]) == pytest.approx(1e4, rel=1e-6)


def test_adding_does_not_change_what_is_added() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    before = x.clone()
    InputStatistics.empty(4, True, x).add(x, 2)
    assert torch.equal(x, before)


def test_a_constant_input_has_no_variance_and_never_less_than_none() -> None:
    found = gathered(np.full((4, 50, 3), [0.1, 1e4, 3.0]), [1, 2, 3], torch.float32, with_gram=True)
    assert bool((found.variance() >= 0).all())
    assert bool((found.variance() <= 1e-6 * found.mean().square()).all())


def test_statistics_of_nothing_are_zero() -> None:
    # An expert that no token reached.
    found = InputStatistics.empty(3, True, torch.empty(0))
    assert found.norm().tolist() == found.mean().tolist() == found.variance().tolist() == [0.0] * 3


def test_a_hessian_that_was_not_gathered_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="Hessian"):
        gathered(np.ones((1, 2, 2)), [], torch.float32, with_gram=False).hessian()


def made(seed: int, inputs: int = 5, dtype: torch.dtype = torch.float64, with_gram: bool = True) -> InputStatistics:
    return random_layers.statistics(random_layers.activations(seed, 30, inputs), 3, dtype, with_gram)


@pytest.mark.parametrize("with_gram", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_file_gives_back_what_it_was_given(tmp_path: Path, with_gram: bool, dtype: torch.dtype) -> None:
    shared, other, last = (made(seed, 5, dtype, with_gram) for seed in range(3))
    blocks = [{"a.query": shared, "a.key": shared, "a.out": other}, {'b."query"\n': last, "b.schlüssel": last}]
    names = [name for block in blocks for name in block]
    write_statistics(tmp_path / "s.safetensors", blocks, names)
    with StatisticsFile(tmp_path / "s.safetensors") as file:
        for block in blocks:
            for name, expected in block.items():
                found = file.read(name, CPU)
                assert (found.samples, found.tokens) == (expected.samples, expected.tokens)
                assert torch.equal(found.squares, expected.squares)
                assert torch.equal(found.totals, expected.totals)
                assert (found.gram is None) == (expected.gram is None)
                assert found.gram is None or (expected.gram is not None and torch.equal(found.gram, expected.gram))


def test_matrices_with_the_same_inputs_are_given_one_object(tmp_path: Path) -> None:
    # So that a factor of the Hessian is found once for query, key and value.
    shared, other = made(0), made(1)
    write_statistics(
        tmp_path / "s.safetensors", [{"query": shared, "key": shared, "out": other}], ["query", "key", "out"]
    )
    with StatisticsFile(tmp_path / "s.safetensors") as file:
        assert file.read("query", CPU) is file.read("key", CPU)
        assert file.read("out", CPU) is not file.read("key", CPU)


def test_who_reads_while_another_does_changes_nothing_for_that(tmp_path: Path) -> None:
    # Scores of a global pool are computed ahead by a thread, while this one refines the matrices before. It may come in
    # where memory is given back: at the end of the statistics that were kept.
    widths = {"first": 3, "up": 5, "down": 7}
    statistics = {name: made(0, width) for name, width in widths.items()}
    write_statistics(tmp_path / "s.safetensors", [statistics], list(statistics))
    with StatisticsFile(tmp_path / "s.safetensors") as file:
        read_between: list[int] = []
        finalize(file.read("first", CPU), lambda: read_between.append(len(file.read("down", CPU).squares)))
        assert len(file.read("up", CPU).squares) == widths["up"]
        assert read_between == [widths["down"]]


def test_shared_statistics_are_written_once(tmp_path: Path) -> None:
    statistics = made(0, inputs=64)
    write_statistics(tmp_path / "one.safetensors", [{"a": statistics}], ["a"])
    write_statistics(tmp_path / "five.safetensors", [dict.fromkeys("abcde", statistics)], list("abcde"))
    one, five = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("one", "five"))
    assert five < one + 64 * 64 * 8


def test_statistics_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    def blocks() -> Iterator[dict[str, InputStatistics]]:
        yield {"a": made(0)}
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_statistics(tmp_path / "s.safetensors", blocks(), ["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_matrix_without_statistics_is_named(tmp_path: Path) -> None:
    write_statistics(tmp_path / "s.safetensors", [{"a": made(0)}], ["a", "block.3.query"])
    error = pytest.raises(UserError, match=r"block\.3\.query.*no statistics of its inputs")
    with StatisticsFile(tmp_path / "s.safetensors") as file, error:
        file.read("block.3.query", CPU)
