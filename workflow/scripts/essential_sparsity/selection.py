"""Exact selection: the ``k = round(s * n)`` smallest scores of a pool, ties broken by position.

A pool of any size takes two passes that count keys in histograms (upper, then lower half of the bits;
one pass for half-precision keys), for all levels at once, and a third that compares. Nothing is concatenated and
nothing is sorted, so memory is bounded by the parts in flight. Pools that lie within a matrix, such as its rows, are
sorted where they stand.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from essential_sparsity.keys import PART, PATTERN_PART, PATTERNS, Keys, KeySource
from essential_sparsity.weights import chunks

_HALF_BITS = 16
_LOWER = 1 << _HALF_BITS
# Keys are not negative, so their upper halves have a bit less.
_UPPER = 1 << (_HALF_BITS - 1)
_MILLION = 1_000_000
# Histograms of lower halves that are held at once, 0.5 MB each: more cuts than that take further passes.
_SLOTS = 64


@dataclass(frozen=True)
class Cut:
    """Where a pool is cut: remove every key below ``key``, and the first ``ties`` weights with that key.

    Attributes:
        key: The largest removed key; -1 if nothing is removed.
        ties: How many of the weights with exactly that key are removed, in the order of matrix and flat index.
        equal: How many weights have that key.
    """

    key: int
    ties: int
    equal: int


NOTHING = Cut(key=-1, ties=0, equal=0)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Yield as many threads as torch computes with; each then computes alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _in_order(pool: ThreadPoolExecutor, tasks: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Run tasks on the pool's threads, a few ahead of what is taken, and yield their results in order."""
    waiting = iter(tasks)
    running = [pool.submit(task) for task in islice(waiting, ahead)]
    while running:
        yield running.pop(0).result()
        running += [pool.submit(task) for task in islice(waiting, 1)]


_AHEAD = 2 * (os.cpu_count() or 1)


def _parts(keys: KeySource, names: Sequence[str], work: Callable[[Any], Keys]) -> Iterator[Keys]:
    """Yield what ``work`` makes of the keys of every part of a pool, or of its bit patterns, on all threads."""
    load, length = (keys.load, PART) if keys.patterns is None else (keys.patterns, PATTERN_PART)
    with _workers() as pool:
        tasks = (
            (lambda n=name, a=start, b=stop: work(load(n, a, b)))
            for name in names
            for start, stop in chunks(keys.sizes[name], length)
        )
        yield from _in_order(pool, tasks, _AHEAD)


def _histogram(values: Keys, bins: int) -> Keys:
    counts: Keys = torch.bincount(torch.from_numpy(values), minlength=bins).numpy()
    return counts


def _upper_counts(keys: KeySource, names: Sequence[str], shift: int) -> Keys:
    """Count the upper halves of all keys of a pool."""
    if keys.table is not None:
        return _counts_by_pattern(keys, names, keys.table)
    total = np.zeros(_UPPER, dtype=np.int64)
    for part in _parts(keys, names, lambda values: _histogram(values >> shift if shift else values, _UPPER)):
        total += part
    return total


def _counts_by_pattern(keys: KeySource, names: Sequence[str], table: Keys) -> Keys:
    """Count the keys of a pool by counting the bit patterns of its weights."""
    total = np.zeros(PATTERNS, dtype=np.int64)
    for part in _parts(keys, names, lambda patterns: torch.bincount(patterns, minlength=PATTERNS).numpy()):
        total += part
    if total[table < 0].any():
        for name in names:
            for start, stop in chunks(keys.sizes[name], PATTERN_PART):
                # Refuses the matrix by name.
                keys.load(name, start, stop)
    counts = np.zeros(_UPPER, dtype=np.int64)
    np.add.at(counts, table[table >= 0], total[table >= 0])
    return counts


def _lower_counts(keys: KeySource, names: Sequence[str], uppers: Sequence[int]) -> Keys:
    """Count, for each of some upper halves, the lower halves of the keys that have it: (uppers, 65,536)."""
    slots = torch.full((_UPPER,), -1, dtype=torch.int32)
    slots[list(uppers)] = torch.arange(len(uppers), dtype=torch.int32) * _LOWER

    def places(values: Keys) -> Keys:
        at = slots.index_select(0, torch.from_numpy(values >> _HALF_BITS)).numpy()
        chosen = np.flatnonzero(at >= 0)
        found: Keys = at[chosen] + (values[chosen] & (_LOWER - 1))
        return found

    total = np.zeros(len(uppers) * _LOWER, dtype=np.int64)
    waiting: list[Keys] = []
    for part in _parts(keys, names, places):
        waiting.append(part)
        # Few of a part's keys have one of these upper halves: counted by the million, not part by part.
        if sum(map(len, waiting)) > _MILLION:
            total += _histogram(np.concatenate(waiting), len(total))
            waiting = []
    total += _histogram(np.concatenate([*waiting, np.zeros(0, np.int32)]), len(total))
    table: Keys = total.reshape(len(uppers), _LOWER)
    return table


def find_cuts(keys: KeySource, names: Sequence[str], ks: Sequence[int]) -> list[Cut]:
    """Find the cuts that remove exactly ``k`` weights of a pool, for every ``k``, in shared passes over its matrices.

    Args:
        keys: The keys of the pool's matrices.
        names: Those matrices, in the model's order.
        ks: How many weights to remove, in any order.
    """
    if keys.bits == _HALF_BITS:
        cumulative = _upper_counts(keys, names, shift=0).cumsum()
        return [_cut(cumulative, k, base=0) for k in ks]
    cumulative = _upper_counts(keys, names, shift=_HALF_BITS).cumsum()
    cuts = [_cut(cumulative, k, base=0) for k in ks]
    # The places in the list of those cuts that need the lower halves of the same keys.
    places: dict[int, list[int]] = {}
    for i, cut in enumerate(cuts):
        if cut.key >= 0:
            places.setdefault(cut.key, []).append(i)
    wanted = sorted(places)
    for at in range(0, len(wanted), _SLOTS):
        uppers = wanted[at : at + _SLOTS]
        for upper, counts in zip(uppers, _lower_counts(keys, names, uppers), strict=True):
            cumulative = counts.cumsum()
            for i in places[upper]:
                cuts[i] = _cut(cumulative, cuts[i].ties, base=upper << _HALF_BITS)
    return cuts


def _cut(cumulative: Keys, k: int, base: int) -> Cut:
    """Return the cut at the k-th smallest key (k from 1) of a cumulative histogram whose first bin is ``base``."""
    if k == 0:
        return NOTHING
    index = int(np.searchsorted(cumulative, k))
    before = int(cumulative[index - 1]) if index else 0
    return Cut(base + index, k - before, int(cumulative[index]) - before)


def removed_counts(keys: KeySource, names: Sequence[str], cuts: Sequence[Cut]) -> dict[str, list[int]]:
    """Return how many weights of each matrix each cut removes; one pass.

    Args:
        keys: As given to :func:`find_cuts`.
        names: As given there.
        cuts: What it returned.
    """
    # Keys below a cut, and equal to it, counted for all cuts by the place of each key among these bounds.
    bounds = np.unique([bound for cut in cuts for bound in (cut.key, cut.key + 1)])
    left = [cut.ties for cut in cuts]
    counts: dict[str, list[int]] = {}

    def places(values: Keys) -> Keys:
        return np.bincount(np.searchsorted(bounds, values, side="right"), minlength=len(bounds) + 1)

    for name in names:
        below = np.zeros(len(bounds) + 1, dtype=np.int64)
        for part in _parts(replace(keys, patterns=None), [name], places):
            below += part
        # Entry i: keys smaller than the i-th bound.
        smaller = dict(zip(bounds.tolist(), below.cumsum().tolist(), strict=False))
        counts[name] = []
        for i, cut in enumerate(cuts):
            equal = min(left[i], smaller[cut.key + 1] - smaller[cut.key])
            left[i] -= equal
            counts[name].append(smaller[cut.key] + equal)
    return counts


def keep_masks(keys: KeySource, names: Sequence[str], cuts: Sequence[Cut]) -> Iterator[tuple[str, Keys]]:
    """Yield each matrix's name and, for each cut, its packed keep mask; one pass.

    Args:
        keys: As given to :func:`find_cuts`.
        names: As given there.
        cuts: What it returned.

    Yields:
        Masks are (cuts, ceil(n / 8)) bytes, the first weight in the highest bit, 1 where it is kept, 0 beyond the last.
    """
    left = [cut.ties for cut in cuts]
    compare, length = _comparison(keys, cuts)
    with _workers() as pool:
        for name in names:
            masks = np.zeros((len(cuts), -(-keys.sizes[name] // 8)), dtype=np.uint8)
            spans = list(chunks(keys.sizes[name], length))
            # Only where some equal keys go and some stay have they to be counted: all go until a matrix holds too many.
            split = [i for i, cut in enumerate(cuts) if left[i] > 0 and cut.ties < cut.equal]
            all_go = [ties > 0 for ties in left]
            tasks = ((lambda a=a, b=b, n=name, m=masks, g=all_go, s=split: compare(n, a, b, m, g, s)) for a, b in spans)
            for counts in _in_order(pool, tasks, _AHEAD):
                for i, equal in zip(split, counts, strict=True):
                    left[i] -= int(equal)
            for i in split:
                if left[i] < 0:
                    _restore(keys, name, spans, cuts[i], masks[i], -left[i])
                    left[i] = 0
            yield name, masks


# Takes a matrix's name, the bounds of a part, the masks to write, whether all keys equal to each cut go, and the cuts
# whose equal keys are to be counted; returns those counts.
_Comparison = Callable[[str, int, int, Keys, list[bool], list[int]], Sequence[int]]


def _comparison(keys: KeySource, cuts: Sequence[Cut]) -> tuple[_Comparison, int]:
    """Return how a part's keys are compared with the cuts, and the length of a part, a multiple of 8."""
    distinct = np.unique([cut.key for cut in cuts])
    if keys.table is None or keys.patterns is None or 2 * len(distinct) + 1 > np.iinfo(np.uint8).max:
        return partial(_compare_keys, keys, cuts), PART
    # A pattern's code: twice the number of distinct cuts below its key, and one more if its key is a cut.
    below = np.searchsorted(distinct, keys.table, side="left")
    codes = torch.from_numpy((2 * below + np.isin(keys.table, distinct)).astype(np.uint8))
    places = np.searchsorted(distinct, [cut.key for cut in cuts])
    return partial(_compare_codes, keys.patterns, codes, places), PATTERN_PART


def _compare_keys(
    keys: KeySource, cuts: Sequence[Cut], name: str, start: int, stop: int, masks: Keys, all_go: list[bool],
    split: list[int],
) -> Sequence[int]:  # fmt: skip
    """Compare keys one by one with every cut."""
    part = keys.load(name, start, stop)
    bounds = np.array([[cut.key + gone] for cut, gone in zip(cuts, all_go, strict=True)], dtype=part.dtype)
    masks[:, start // 8 : -(-stop // 8)] = np.packbits(part[None] >= bounds, axis=1)
    return [int(np.count_nonzero(part == cuts[i].key)) for i in split]


def _compare_codes(
    patterns: Callable[[str, int, int], Tensor], codes: Tensor, places: Keys, name: str, start: int, stop: int,
    masks: Keys, all_go: list[bool], split: list[int],
) -> Sequence[int]:  # fmt: skip
    """Look each weight's bit pattern up, and compare one byte with every cut."""
    part = codes.index_select(0, patterns(name, start, stop)).numpy()
    bounds = [np.uint8(2 * place + 1 + gone) for place, gone in zip(places, all_go, strict=True)]
    for first, last in chunks(len(part), PART):
        # In pieces that stay in a core's cache for all cuts.
        piece, begin = part[first:last], start + first
        for mask, bound in zip(masks, bounds, strict=True):
            mask[begin // 8 : -(-(begin + len(piece)) // 8)] = np.packbits(piece >= bound)
    if not split:
        return []
    counts = torch.bincount(torch.from_numpy(part), minlength=2 * int(places.max()) + 2)
    return [int(counts[2 * places[i] + 1]) for i in split]


def _restore(keys: KeySource, name: str, spans: Sequence[tuple[int, int]], cut: Cut, mask: Keys, count: int) -> None:
    """Keep the last ``count`` weights of a matrix whose key is the cut's."""
    for start, stop in reversed(spans):
        equal = np.flatnonzero(keys.load(name, start, stop) == cut.key)
        back = start + equal[max(0, len(equal) - count) :]
        np.bitwise_or.at(mask, back // 8, (128 >> (back % 8)).astype(np.uint8))
        count -= len(back)
        if not count:
            return


def smallest(scores: Tensor, k: int) -> Tensor:
    """Return where the ``k`` smallest of each row are, (rows, columns) boolean; ties by position.

    Args:
        scores: (rows, columns), on any device.
        k: From 0 to the number of columns.
    """
    return smallest_of_sorted(scores, sorted_rows(scores), k)


def sorted_rows(scores: Tensor) -> Tensor:
    """Return every row's scores in ascending order."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        # NumPy's vectorised sort is ten times as fast as torch's on a CPU.
        return torch.from_numpy(np.sort(scores.contiguous().numpy(), axis=1))
    return scores.sort(dim=1).values


def smallest_of_sorted(scores: Tensor, ascending: Tensor, k: int) -> Tensor:
    """As :func:`smallest`, given every row's scores in ascending order: many levels share one sort."""
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = ascending[:, k - 1 : k]
    chosen = scores <= limit
    # Rows in which more weights equal the limit than may go.
    tied = (ascending[:, k] == limit[:, 0]).nonzero().flatten() if k < scores.shape[1] else chosen.new_zeros(0).long()
    if len(tied):
        part, bound = scores[tied], limit[tied]
        equal = part == bound
        may_go = k - (part < bound).sum(1, keepdim=True)
        chosen[tied] = (part < bound) | (equal & (equal.cumsum(1) <= may_go))
    return chosen


def smallest_in_groups(scores: Tensor, kept: int, size: int) -> Tensor:
    """Return where all but the ``kept`` largest of every ``size`` consecutive scores of a row are; ties by position.

    Args:
        scores: (rows, columns), ``size`` dividing the columns.
        kept: How many of a group stay.
        size: Scores of a group.
    """
    groups = scores.reshape(-1, size)
    chosen = torch.empty_like(groups, dtype=torch.bool)
    for i in range(size):
        mine = groups[:, i : i + 1]
        # A weight's rank: how many go before it. Of equal ones the first goes first.
        rank = (groups[:, :i] <= mine).sum(1) + (groups[:, i + 1 :] < mine).sum(1)
        chosen[:, i] = rank < size - kept
    return chosen.reshape(scores.shape)


def below_published_threshold(scores: Tensor, sparsity: float, counted_from: int = 0) -> Tensor:
    """Return where scores are at most the ``int(s n)``-th of all in ascending order, with all ties.

    So the references choose within a matrix or block: those of magnitude, SparseGPT and RIA count from 0, and remove
    at least one weight more than ``int(s n)``; MULTIFLOW's counts from 1.
    """
    place = int(sparsity * scores.numel()) - counted_from
    if place < 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    ascending = sorted_rows(scores.reshape(1, -1))[0]
    return scores <= ascending[min(place, scores.numel() - 1)]
