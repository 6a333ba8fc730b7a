"""Batches: filled up on one side, as large as memory allows, and none twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.data.batches import attention, halving, padded, run_by_length, smaller
from essential_sparsity.data.prepared import Ragged

rows_of_numbers = st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=9), min_size=1, max_size=20)


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged(np.concatenate([np.array(r) for r in rows]), np.cumsum([0, *map(len, rows)]))


@settings(max_examples=40, deadline=None)
@given(rows_of_numbers, st.sampled_from(["left", "right"]))
def test_padding_fills_up_on_one_side(rows: list[list[int]], side: str) -> None:
    chosen = np.arange(len(rows))[::-1]
    ids, mask = padded(ragged(rows), chosen, -1, side), attention(ragged(rows), chosen, side)
    for line, seen, row in zip(ids, mask, [rows[i] for i in chosen], strict=True):
        assert line[seen.bool()].tolist() == row
        assert (line[~seen.bool()] == -1).all()
        first = int(seen.argmax())
        assert first == (len(line) - len(row) if side == "left" else 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 12))
def test_results_come_in_the_order_of_the_rows_whatever_memory_allows(lengths: list[int], size: int, room: int) -> None:
    seen: list[int] = []

    def run(rows: Any) -> list[torch.Tensor]:
        if len(rows) > room:
            raise torch.OutOfMemoryError("no room")
        seen.extend(rows.tolist())
        return [torch.from_numpy(rows), torch.from_numpy(rows * 2.0)]

    one, two = run_by_length(np.array(lengths), size, run, "x")
    assert one.tolist() == list(range(len(lengths)))
    assert two.tolist() == [2.0 * i for i in range(len(lengths))]
    assert sorted(seen) == list(range(len(lengths))), "no row twice"
    assert [lengths[i] for i in seen] == sorted(lengths, reverse=True), "longest first"


@given(st.integers(2, 500))
def test_a_smaller_batch_divides_the_batch(size: int) -> None:
    assert size % smaller(size) == 0
    assert smaller(size) <= size // 2
    assert all(size % larger for larger in range(smaller(size) + 1, size // 2 + 1))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        halving(8, lambda _: (_ for _ in ()).throw(RuntimeError("shape")), "x")
    with pytest.raises(torch.OutOfMemoryError):
        halving(8, lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")), "x")
