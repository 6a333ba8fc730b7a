"""Batches: of rows of similar length, padded, and smaller where memory does not suffice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from essential_sparsity.data.prepared import Ragged
from essential_sparsity.progress import progress
from essential_sparsity.run.exhaustion import is_out_of_memory

T = TypeVar("T")
Ints = npt.NDArray[np.int64]


def smaller(batch_size: int) -> int:
    """Return the largest divisor of a batch size that is at most half of it: parts of it are equally large."""
    return next(part for part in range(batch_size // 2, 0, -1) if batch_size % part == 0)


def halving(batch_size: int, run: Callable[[int], T], what: str) -> T:
    """Run with a batch size, and with half of it, and so on, where memory does not suffice.

    Args:
        batch_size: The batch size to begin with.
        run: What to run; called with the batch size.
        what: What it is, for the log.

    Returns:
        What ``run`` returned.

    Raises:
        RuntimeError: Memory does not even suffice for a batch of one.
    """
    while True:
        try:
            return run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not is_out_of_memory(error):
                raise
        batch_size = smaller(batch_size)
        logging.warning("%s: out of memory, going on with batches of %d", what, batch_size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def draw_training_rows(rows: Ints, examples: int, seed: int) -> Ints:
    """Draw the training rows of a seed, the same for every sparsity; all, in their order, if there are no more."""
    return rows if examples >= len(rows) else np.random.default_rng(seed).permutation(rows)[:examples]


def run_by_length(lengths: Ints, batch_size: int, run: Callable[[Ints], Sequence[Tensor]], what: str) -> list[Tensor]:
    """Run over all rows in batches of similar length, halving them where memory does not suffice.

    Longest first, so that memory fails at once or not at all; batches that are done are not done again.

    Args:
        lengths: The length of each row, (rows,).
        batch_size: Rows of a batch.
        run: Takes rows and returns tensors, each with a row for each of them.
        what: What it is, for the log.

    Returns:
        The tensors for all rows, on the CPU, in the order of ``lengths``.
    """
    done: list[tuple[Ints, list[Tensor]]] = []

    def attempt(size: int) -> None:
        seen = sum(len(rows) for rows, _ in done)
        order = np.argsort(-lengths, kind="stable")[seen:]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for rows in progress(batches, what, total=len(batches), unit="batches"):
            done.append((rows, [part.cpu() for part in run(rows)]))

    halving(batch_size, attempt, what)
    back = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in done]), kind="stable"))
    return [torch.cat(parts)[back] for parts in zip(*(parts for _, parts in done), strict=True)]


def padded(rows: Ragged, chosen: Ints, fill: int, side: str = "right") -> Tensor:
    """Return rows as one tensor.

    Args:
        rows: All rows.
        chosen: The numbers of those that are wanted, (batch,).
        fill: What stands where a row has ended.
        side: ``right`` or ``left``: where it stands.

    Returns:
        (batch, longest), int64.
    """
    parts = [rows[int(row)] for row in chosen]
    longest = max(len(part) for part in parts)
    out = np.full((len(parts), longest), fill, dtype=np.int64)
    for line, part in zip(out, parts, strict=True):
        if side == "left":
            line[longest - len(part) :] = part
        else:
            line[: len(part)] = part
    return torch.from_numpy(out)


def attention(rows: Ragged, chosen: Ints, side: str = "right") -> Tensor:
    """Return which places of :func:`padded` rows are tokens, (batch, longest), int64: 1 or 0."""
    lengths = torch.from_numpy(rows.lengths[chosen])
    places = torch.arange(int(lengths.max()))
    if side == "left":
        places = places.flip(0)
    return (places < lengths[:, None]).long()
