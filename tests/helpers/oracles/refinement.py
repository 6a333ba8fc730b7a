"""Refinements: exchanges of removed and kept weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.scores import wanda

Array = np.ndarray[Any, np.dtype[Any]]


def row_errors(w: Array, keep: Array, x: Array, samples: int) -> Array:
    """The expected change of each output, summed over a sequence, by the removal of weights."""
    errors: Array = np.sum(np.where(keep, 0.0, w * (x.sum(axis=0) / samples)), axis=1)
    return errors


def dsnot(w: Array, keep: Array, x: Array, samples: int, cycles: int = 50, threshold: float = 0.1) -> Array:
    """Dynamic sparse no training (arXiv 2310.08915, algorithm 1), row by row and weight by weight.

    While a row's error is larger than the threshold, grow the removed weight that lowers it most for its input's
    variance, and remove the kept one with the smallest Wanda score of those whose removal lowers it too. What has moved
    does not move again.
    """
    change = w * (x.sum(axis=0) / samples)
    variance = np.var(x, axis=0)
    importance = wanda(w, x, samples)
    refined = keep.copy()
    for i in range(len(w)):
        removed, kept = np.flatnonzero(~keep[i]).tolist(), np.flatnonzero(keep[i]).tolist()
        for _ in range(cycles):
            error = float(np.sum(change[i][~refined[i]]))
            if abs(error) <= threshold:
                break
            sign = np.sign(error)
            can_grow = [j for j in removed if sign * change[i, j] > 0]
            can_go = [j for j in kept if sign * change[i, j] < 0]
            if not can_grow or not can_go:
                break
            with np.errstate(divide="ignore"):
                grown = max(can_grow, key=lambda j: (sign * change[i, j] / variance[j], -j))
            gone = min(can_go, key=lambda j: (importance[i, j], j))
            refined[i, grown], refined[i, gone] = True, False
            removed.remove(grown)
            kept.remove(gone)
    return refined
