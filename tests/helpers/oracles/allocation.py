"""Allocations: the sparsity of each matrix, or of each block of matrices, for a sparsity of them all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oracles import selection

Array = np.ndarray[Any, np.dtype[Any]]


def _at_total(values: Sequence[Array], sizes: Array, places: Sequence[float], total: float) -> float:
    """Where a rising piecewise linear function, whose corners and values are given, reaches the total."""
    return float(np.interp(total, [float(np.sum(sizes * v)) for v in values], places))


def capped(ratios: Sequence[float] | Array, sizes: Sequence[int], total: float) -> Array:
    """``min(1, c r)`` with the c at which the sizes times that sum up to the total."""
    r, n = np.array(ratios, dtype=np.float64), np.array(sizes, dtype=np.float64)
    corners = [0.0, *sorted(1 / r[r > 0])]
    scale = _at_total([np.minimum(1, c * r) for c in corners], n, corners, total)
    return np.minimum(1, scale * r)


def clipped(values: Sequence[float] | Array, sizes: Sequence[int], total: float) -> Array:
    """``min(1, max(0, v + c))`` with the c at which the sizes times that sum up to the total."""
    v, n = np.array(values, dtype=np.float64), np.array(sizes, dtype=np.float64)
    corners = sorted([*(-v), *(1 - v)])
    shift = _at_total([np.clip(v + c, 0, 1) for c in corners], n, corners, total)
    return np.clip(v + shift, 0, 1)


def stretched(values: Sequence[float]) -> Array:
    """Values mapped linearly onto [0, 1]."""
    v = np.array(values, dtype=np.float64)
    found: Array = (v - v.min()) / (v.max() - v.min())
    return found


def uniform(shapes: Sequence[tuple[int, int]], sparsity: float) -> Array:
    """The same everywhere."""
    return np.full(len(shapes), sparsity)


def erk(shapes: Sequence[tuple[int, int]], sparsity: float) -> Array:
    """Density proportional to ``(in + out) / (in out)``, at most 1 (arXiv 1911.11134)."""
    sizes = [a * b for a, b in shapes]
    return 1 - capped([(a + b) / (a * b) for a, b in shapes], sizes, (1 - sparsity) * sum(sizes))


def magnitude(weights: Mapping[str, Array], sparsity: float) -> Array:
    """What global magnitude removes of each matrix (arXiv 2404.05621)."""
    masks = selection.global_pool({name: np.abs(w) for name, w in weights.items()}, sparsity)
    return np.array([1 - keep.mean() for keep in masks.values()])


def outlier_share(scores: Sequence[Array], threshold: float = 5.0) -> float:
    """Per cent of a block's Wanda scores above ``threshold`` times their mean (arXiv 2310.05175, equation 2)."""
    together = np.concatenate([s.ravel() for s in scores])
    return 100.0 * float(np.mean(together > threshold * np.mean(together)))


def owl(shares: Sequence[float], sizes: Sequence[int], sparsity: float, reach: float = 0.08) -> Array:
    """A block's sparsity: linear in its outliers, falling by ``2 reach``, clipped, and s over all weights together."""
    return clipped(-2 * reach * stretched(shares), sizes, sparsity * sum(sizes))


def owl_published(shares: Sequence[float], sparsity: float, reach: float = 0.08) -> Array:
    """As the reference: the mean over blocks, whatever their sizes, is s, and nothing goes below 0.01."""
    density = 2 * reach * stretched(shares)
    found = 1 - (density - np.mean(density) + 1 - sparsity)
    return np.where(found <= 0, 0.01, np.minimum(found, 1))


def power_law_exponent(eigenvalues: Array, logarithm_of_bound: bool = False) -> float:
    """The exponent of a spectrum's tail, from near its histogram's peak on (arXiv 2410.10912, ``alpha_peak``).

    ``logarithm_of_bound``: compare with log10 of the lower bound, as the reference does by a slip.
    """
    values = np.sort(eigenvalues)
    logs = np.log10(values)
    edges = np.linspace(logs[0], logs[-1], 101)
    counts = [int(np.sum((a <= logs) & (logs < b))) for a, b in itertools.pairwise(edges)]
    counts[-1] += int(np.sum(logs == edges[-1]))
    peak = 10 ** edges[counts.index(max(counts))]
    lowest = np.log10(0.95 * peak) if logarithm_of_bound else 0.95 * peak
    found = []
    for i in range(len(values) - 1):
        if lowest <= values[i] <= 1.5 * peak:
            tail = values[i:]
            n = len(tail)
            alpha = 1 + n / np.sum(np.log(tail / tail[0]))
            fitted = 1 - (tail / tail[0]) ** (1 - alpha)
            distance = np.max(np.abs(fitted - np.arange(n) / n))
            found.append((distance, i, alpha))
    return float(min(found)[2])


def spectrum(w: Array) -> Array:
    """Squared singular values, ascending."""
    return np.sort(np.linalg.svd(w, compute_uv=False) ** 2)


def alpha_pruning(exponents: Sequence[float], sizes: Sequence[int], sparsity: float, reach: float = 0.3) -> Array:
    """A block's sparsity: proportional to ``1 - eps`` to ``1 + eps``, linear in its exponent, 1 at most."""
    return capped(1 - reach + 2 * reach * stretched(exponents), sizes, sparsity * sum(sizes))


def alpha_pruning_published(
    exponents: Sequence[float], sizes: Sequence[int], sparsity: float, reach: float = 0.3
) -> Array:
    """As the reference: scaled once, so that a block may be asked for more than it has."""
    ratios = 1 - reach + 2 * reach * stretched(exponents)
    return sparsity * sum(sizes) / float(np.sum(np.array(sizes) * ratios)) * ratios
