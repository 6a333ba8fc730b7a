"""Exact selection: the ``k = round(s * n)`` smallest scores of a pool, ties broken by position.

A pool of any size takes two passes that count keys in histograms (upper, then lower half of the bits;
one pass for half-precision keys), for all levels at once, and a third that compares. Nothing is concatenated and
nothing is sorted, so memory is bounded by the parts in flight. Pools that lie within a matrix, such as its rows, are
sorted where they stand.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from essential_sparsity.checkpoints.tensors import chunks
from essential_sparsity.pruning.bits import BitPlanes
from essential_sparsity.pruning.keys import PART, PATTERN_PART, PATTERNS, Keys, KeySource

_HALF_BITS = 16
_LOWER = 1 << _HALF_BITS
# Keys are not negative, so their upper halves have a bit less.
_UPPER = 1 << (_HALF_BITS - 1)
_MILLION = 1_000_000
# Histograms of lower halves that are held at once, 0.5 MB each: more cuts than that take further passes.
_SLOTS = 64
# Groups of matrices whose half-precision keys are counted apart, 0.25 MB each.
_GROUPS = 128


@dataclass(frozen=True)
class Cut:
    """Where a pool is cut: remove every key below ``key``, and some of the weights with exactly that key.

    Attributes:
        key: The largest removed key; -1 if nothing is removed.
        ties: How many weights with that key are removed of the matrices from ``first`` on, by matrix and flat index.
        equal: How many weights with that key those matrices have.
        first: In the pool's matrices before this one (from 0) all weights with that key are removed.
    """

    key: int
    ties: int
    equal: int
    first: int = 0


NOTHING = Cut(key=-1, ties=0, equal=0)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Yield as many threads as torch computes with; each then computes alone."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool, _threads(1):
        yield pool


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
        groups = list(chunks(len(names), -(-len(names) // _GROUPS))) if names else []
        counts = np.stack([_upper_counts(keys, names[a:b], shift=0) for a, b in groups])
        cumulative = counts.sum(axis=0).cumsum()
        return [_narrowed(_cut(cumulative, k, base=0), counts, [a for a, _ in groups]) for k in ks]
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


def _narrowed(cut: Cut, counts: Keys, firsts: Sequence[int]) -> Cut:
    """Begin the count of a cut's ties at the group of matrices in which they end.

    Args:
        cut: Of a whole pool.
        counts: How many weights of each group have each key, (groups, keys).
        firsts: Each group's first matrix.
    """
    if cut == NOTHING:
        return cut
    cumulative = counts[:, cut.key].cumsum()
    group = int(np.searchsorted(cumulative, cut.ties))
    before = int(cumulative[group - 1]) if group else 0
    return Cut(cut.key, cut.ties - before, cut.equal - before, firsts[group])


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

    for at, name in enumerate(names):
        below = np.zeros(len(bounds) + 1, dtype=np.int64)
        for part in _parts(replace(keys, patterns=None), [name], places):
            below += part
        # Entry i: keys smaller than the i-th bound.
        smaller = dict(zip(bounds.tolist(), below.cumsum().tolist(), strict=False))
        counts[name] = []
        for i, cut in enumerate(cuts):
            equal = smaller[cut.key + 1] - smaller[cut.key]
            if at >= cut.first:
                equal = min(left[i], equal)
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
    # A cut has two bounds: some keys that equal it may go, and some stay.
    by_code = keys.table is not None and 2 * len(cuts) <= np.iinfo(np.uint8).max
    prepare, length = (_compare_codes, PATTERN_PART) if by_code else (_compare_keys, PART)
    memory = _Memory(len(cuts) * max((-(-keys.sizes[name] // 8) for name in names), default=0))
    known, compare = None, None
    threads = torch.get_num_threads()
    waiting: list[_Compared] = []
    with _workers() as pool:
        for at, name in enumerate([*names, None]):
            # One matrix is compared while another one is waited for, unless what this one keeps of equal keys decides
            # what that one keeps.
            while waiting and (name is None or len(waiting) > 1 or waiting[-1].split):
                done = waiting.pop(0)
                done.settle(keys, cuts, left)
                with _threads(threads):
                    yield done.name, done.masks
                # So that the memory of its masks can be used again.
                del done
            if name is None:
                return
            masks = memory.take((len(cuts), -(-keys.sizes[name] // 8)))
            spans = list(chunks(keys.sizes[name], length))
            # Only where some equal keys go and some stay have they to be counted: all go until a matrix holds too many.
            all_go = [count > 0 for count in left]
            split = [i for i, cut in enumerate(cuts) if at >= cut.first and left[i] > 0 and cut.ties < cut.equal]
            if compare is None or known != (all_go, split):
                known, compare = (all_go, split), prepare(keys, cuts, all_go, split)
            counts = [pool.submit(compare, name, start, stop, masks) for start, stop in spans]
            waiting.append(_Compared(name, masks, spans, split, counts))
            del masks, counts


@dataclass(frozen=True)
class _Compared:
    """A matrix whose parts are being compared.

    Attributes:
        name: Its name.
        masks: What is being written.
        spans: The parts' bounds.
        split: The cuts whose equal keys are counted.
        counts: For each part, how many keys equal each of these cuts.
    """

    name: str
    masks: Keys
    spans: Sequence[tuple[int, int]]
    split: Sequence[int]
    counts: Sequence[Future[Sequence[int]]]

    def settle(self, keys: KeySource, cuts: Sequence[Cut], left: list[int]) -> None:
        """Wait for all parts; keep what has equal keys beyond those that are ``left`` to go, and count these down."""
        for part in self.counts:
            for i, equal in zip(self.split, part.result(), strict=True):
                left[i] -= int(equal)
        for i in self.split:
            if left[i] < 0:
                _restore(keys, self.name, self.spans, cuts[i], self.masks[i], -left[i])
                left[i] = 0


class _Memory:
    """Memory for the masks of one matrix after the other, used again once nobody holds what lies in it.

    The kernel clears what it hands out: for masks, that would take as long as making them.

    Args:
        size: Bytes of the largest.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._all: list[Keys] = []
        sample = [np.empty(0, dtype=np.uint8)]
        self._unused = sys.getrefcount(sample[0])

    def take(self, shape: tuple[int, int]) -> Keys:
        """Return an array that is not initialised."""
        # Every view, of a view too, counts as a reference to the memory.
        unused = (i for i in range(len(self._all)) if sys.getrefcount(self._all[i]) == self._unused)
        place = next(unused, len(self._all))
        if place == len(self._all):
            self._all.append(np.empty(self._size, dtype=np.uint8))
        return self._all[place][: math.prod(shape)].reshape(shape)


# Takes a matrix's name, the bounds of a part and the masks to write; returns how many keys equal each cut that counts.
_Comparison = Callable[[str, int, int, Keys], Sequence[int]]


def _compare_keys(keys: KeySource, cuts: Sequence[Cut], all_go: Sequence[bool], split: Sequence[int]) -> _Comparison:
    """Return what compares keys one by one with every cut.

    Args:
        keys: The pool's.
        cuts: Where it is cut.
        all_go: For each cut, whether the keys that equal it go.
        split: The cuts whose equal keys are to be counted.
    """

    def compare(name: str, start: int, stop: int, masks: Keys) -> Sequence[int]:
        part = keys.load(name, start, stop)
        bounds = np.array([[cut.key + gone] for cut, gone in zip(cuts, all_go, strict=True)], dtype=part.dtype)
        masks[:, start // 8 : -(-stop // 8)] = np.packbits(part[None] >= bounds, axis=1)
        return [int(np.count_nonzero(part == cuts[i].key)) for i in split]

    return compare


def _compare_codes(keys: KeySource, cuts: Sequence[Cut], all_go: Sequence[bool], split: Sequence[int]) -> _Comparison:
    """As :func:`_compare_keys`, by a table: each bit pattern of a weight has a code, which is compared bit by bit."""
    load, table = keys.patterns, keys.table
    assert load is not None and table is not None
    bounds = [cut.key + gone for cut, gone in zip(cuts, all_go, strict=True)]
    counted = [cuts[i].key for i in split]
    distinct = np.unique([*bounds, *counted, *(key + 1 for key in counted)])
    # How many of the bounds a key reaches: as many as a bound itself, if it reaches that one.
    codes = torch.from_numpy(np.searchsorted(distinct, table, side="right").astype(np.uint8))
    places, equals = ((np.searchsorted(distinct, found) + 1).tolist() for found in (bounds, counted))

    def compare(name: str, start: int, stop: int, masks: Keys) -> Sequence[int]:
        part = codes.index_select(0, load(name, start, stop))
        planes = BitPlanes(part.numpy(), len(distinct))
        for mask, place in zip(masks, places, strict=True):
            planes.at_least(place, out=mask[start // 8 : -(-stop // 8)])
        if not equals:
            return []
        counts = torch.bincount(part, minlength=len(distinct) + 1).tolist()
        return [counts[i] for i in equals]

    return compare


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
