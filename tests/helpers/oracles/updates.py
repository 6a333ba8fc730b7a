"""Updates: the kept weights' new values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from oracles import selection
from oracles.scores import damped, hessian, inverse_rows

Array = np.ndarray[Any, np.dtype[Any]]


def sweep(
    w: Array, x: Array, samples: int, step: int, choose: Callable[[Array, Array, int], Array], damping: float = 0.01
) -> tuple[Array, Array]:
    """SparseGPT (arXiv 2301.00774, algorithm 1), with every error moved at once onto all columns that follow.

    At every ``step``-th column, ``choose`` is given the step's updated columns, their ``[H^-1]_jj`` and the number of
    the first; it returns which are kept. Returns the mask and the new weights.
    """
    h, dead = hessian(x, samples)
    rows = inverse_rows(damped(h, damping))
    diagonal = np.array([r[0] for r in rows])
    w = w.astype(np.float64)
    w[:, dead] = 0.0
    keep = np.ones(w.shape, dtype=bool)
    for j in range(w.shape[1]):
        if j % step == 0:
            keep[:, j : j + step] = choose(w[:, j : j + step], diagonal[j : j + step], j)
        # Equation 3, in every row that loses its weight j: the best change of those that follow.
        removed = ~keep[:, j]
        w[removed, j:] -= np.outer(w[removed, j] / rows[j][0], rows[j])
        w[removed, j] = 0.0
    return keep, w


def sparsegpt(
    w: Array, x: Array, samples: int, sparsity: float, width: int = 128, damping: float = 0.01, published: bool = False
) -> tuple[Array, Array]:
    """Chosen in blocks of columns, over all rows; ``published``: with the reference's threshold."""

    def choose(columns: Array, diagonal: Array, _: int) -> Array:
        scores = columns**2 / diagonal
        return selection.published_threshold(scores, sparsity) if published else selection.layer(scores, sparsity)

    return sweep(w, x, samples, width, choose, damping)


def sparsegpt_n_of_m(
    w: Array, x: Array, samples: int, kept: int, size: int, damping: float = 0.01
) -> tuple[Array, Array]:
    """``kept`` of every ``size`` weights of a row."""
    return sweep(w, x, samples, size, lambda c, d, _: selection.n_of_m(c**2 / d, kept, size), damping)


def sparsegpt_given(w: Array, keep: Array, x: Array, samples: int, damping: float = 0.01) -> Array:
    """With a mask that something else has chosen."""
    return sweep(w, x, samples, 1, lambda c, d, j: keep[:, j : j + 1], damping)[1]


def reconstruct(w: Array, keep: Array, x: Array, samples: int, damping: float = 0.01) -> Array:
    """Row by row, the kept weights that change the outputs least: ``H_kk w' = (H w)_k`` with the damped Hessian."""
    h = damped(hessian(x, samples)[0], damping)
    found = np.zeros(w.shape)
    for i in range(len(w)):
        kept = keep[i]
        if kept.any():
            found[i, kept] = np.linalg.solve(h[np.ix_(kept, kept)], (h @ w[i])[kept])
    return found
