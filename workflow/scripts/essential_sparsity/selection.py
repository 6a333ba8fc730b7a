"""Exact selection: the ``k = round(s * n)`` smallest scores of a pool of matrices, ties broken by position.

Scores are non-negative float32, whose bit patterns order as integers. The k-th smallest is found by its bits in two
histograms of 65,536 bins (upper half, then lower half), so a pool of any size takes three passes over its matrices and
no memory beyond the largest of them: nothing is concatenated and nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from essential_sparsity.errors import UserError
from essential_sparsity.levels import removed_count

_BINS = 1 << 16
_INFINITY = 0x7F800000

ScoreOf = Callable[[str], Tensor]


@dataclass(frozen=True)
class Cut:
    """Where a pool is cut: remove every key below ``key``, and the first ``ties`` weights with that key.

    Attributes:
        key: The bit pattern of the largest removed score.
        ties: How many of the weights with exactly that score are removed, in the order of matrix and flat index.
    """

    key: int
    ties: int


def _keys(score: Tensor, name: str) -> Tensor:
    """Return the order-preserving integers of the scores, flat, as int32.

    Raises:
        UserError: A score is negative, NaN or infinite.
    """
    keys = score.contiguous().flatten().view(torch.int32)
    if keys.numel() and int(keys.min()) < 0:
        # Either a negative score, or -0.0, whose sign bit would put it last: adding zero makes it 0.0.
        keys = (score.contiguous().flatten() + 0.0).view(torch.int32)
    # The bits of NaN and infinity are the largest, those of negative numbers are negative as integers.
    if keys.numel() and not 0 <= int(keys.min()) <= int(keys.max()) < _INFINITY:
        raise UserError(
            where=f"matrix {name}",
            found="a score that is negative, NaN or infinite",
            expected="finite weights, whose scores are finite and not negative",
            mend="use a checkpoint with finite weights",
        )
    return keys


def find_cut(names: Sequence[str], score_of: ScoreOf, k: int) -> Cut:
    """Find the cut that removes exactly ``k`` weights of a pool, in two passes over its matrices.

    Args:
        names: The pool's matrices, in the model's order.
        score_of: Returns the float32 scores of a matrix; called once a pass.
        k: How many weights to remove.
    """
    if k == 0:
        return Cut(key=0, ties=0)
    high, left = _bin_of(_histogram(_keys(score_of(n), n) >> 16 for n in names), k)
    low, ties = _bin_of(_histogram(_low_halves(names, score_of, high)), left)
    return Cut(key=(high << 16) | low, ties=ties)


def _low_halves(names: Sequence[str], score_of: ScoreOf, high: int) -> Iterator[Tensor]:
    for name in names:
        keys = _keys(score_of(name), name)
        yield keys[(keys >> 16) == high] & (_BINS - 1)


def _histogram(parts: Iterator[Tensor]) -> Tensor:
    total = torch.zeros(_BINS, dtype=torch.int64)
    for part in parts:
        total += torch.bincount(part, minlength=_BINS).cpu()
    return total


def _bin_of(histogram: Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th smallest (k from 1), and its rank within the bin (from 1)."""
    cumulative = histogram.cumsum(0)
    index = int(torch.searchsorted(cumulative, torch.tensor(k)))
    before = int(cumulative[index - 1]) if index else 0
    return index, k - before


def keep_masks(names: Sequence[str], score_of: ScoreOf, cut: Cut) -> Iterator[tuple[str, Tensor]]:
    """Yield each matrix's name and its boolean mask, flat, True where the weight is kept; one pass.

    Args:
        names: The pool's matrices, in the order given to :func:`find_cut`.
        score_of: As there.
        cut: What it returned.
    """
    ties = cut.ties
    for name in names:
        keys = _keys(score_of(name), name)
        keep = keys > cut.key
        equal = (keys == cut.key).nonzero().flatten()
        keep[equal[ties:]] = True
        ties = max(0, ties - equal.numel())
        yield name, keep


def pools_global(sizes: Mapping[str, int]) -> list[list[str]]:
    """Scope ``global``: one pool of all prunable matrices (the paper)."""
    return [list(sizes)]


def pools_layer(sizes: Mapping[str, int]) -> list[list[str]]:
    """Scope ``layer``: each matrix is a pool of its own, at the same sparsity."""
    return [[name] for name in sizes]


SCOPES: dict[str, Callable[[Mapping[str, int]], list[list[str]]]] = {"global": pools_global, "layer": pools_layer}


def select(sizes: Mapping[str, int], score_of: ScoreOf, scope: str, sparsity: float) -> Iterator[tuple[str, Tensor]]:
    """Yield the keep mask of every prunable matrix, flat and boolean, at one sparsity.

    Args:
        sizes: Number of weights of each prunable matrix, in the model's order.
        score_of: Returns the float32 scores of a matrix.
        scope: A key of :data:`SCOPES`.
        sparsity: Fraction of each pool to remove, in [0, 1).
    """
    for pool in SCOPES[scope](sizes):
        k = removed_count(sparsity, sum(sizes[name] for name in pool))
        yield from keep_masks(pool, score_of, find_cut(pool, score_of, k))
