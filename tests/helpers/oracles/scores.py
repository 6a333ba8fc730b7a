"""Scores: one number a weight, the smaller the sooner it goes."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def norms(x: Array, samples: int) -> Array:
    """``sqrt(mean over samples of ||X_j||_2^2)``: the mean is over sequences, the norm over all their tokens."""
    return np.array([np.sqrt(np.sum(x[:, j] ** 2) / samples) for j in range(x.shape[1])])


def hessian(x: Array, samples: int) -> tuple[Array, Array]:
    """``2/n sum x x^T``, with 1 on the diagonal of inputs that are always zero, and which those are."""
    h = 2.0 / samples * (x.T @ x)
    dead = np.diag(h) == 0
    h[dead, dead] = 1.0
    return h, dead


def damped(h: Array, damping: float) -> Array:
    """The Hessian with a share of the mean of its diagonal added to it."""
    raised: Array = h + damping * np.mean(np.diag(h)) * np.eye(len(h))
    return raised


def inverse_rows(h: Array) -> list[Array]:
    """Row 0 of the inverse of the Hessian of inputs j, j + 1, ..., for every j.

    Each inverse follows from the one before it by a step of elimination (SparseGPT, equation 4).
    """
    inverse = np.linalg.inv(h)
    rows = []
    while len(inverse):
        rows.append(inverse[0].copy())
        inverse = (inverse - np.outer(inverse[:, 0], inverse[0]) / inverse[0, 0])[1:, 1:]
    return rows


def magnitude(w: Array) -> Array:
    """``|W|``."""
    return np.abs(w)


def wanda(w: Array, x: Array, samples: int) -> Array:
    """``|W_ij| ||X_j||`` (arXiv 2306.11695, equation 1)."""
    found: Array = np.abs(w) * norms(x, samples)[None, :]
    return found


def sparsegpt(w: Array, x: Array, samples: int, damping: float = 0.01) -> Array:
    """``W_ij^2 / [H^-1]_jj`` with H of the inputs from j on (arXiv 2301.00774, algorithm 1); dead inputs' are 0."""
    h, dead = hessian(x, samples)
    diagonal = np.array([row[0] for row in inverse_rows(damped(h, damping))])
    return np.where(dead[None, :], 0.0, w**2 / diagonal[None, :])


def ria(w: Array, x: Array, samples: int, power: float = 0.5) -> Array:
    """``(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) ||X_j||^a`` (Zhang et al., ICLR 2024)."""
    norm = norms(x, samples)
    column_sums, row_sums = np.sum(np.abs(w), axis=0), np.sum(np.abs(w), axis=1)
    found = np.zeros(w.shape)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            if w[i, j]:
                found[i, j] = (abs(w[i, j]) / column_sums[j] + abs(w[i, j]) / row_sums[i]) * norm[j] ** power
    return found


def multiflow(w: Array, x: Array, samples: int) -> Array:
    """``|W_ij|`` times the mean of ``|W| ||X||`` over row i, times that over column j (arXiv 2404.05621)."""
    flow = wanda(w, x, samples)
    found: Array = np.abs(w) * np.mean(flow, axis=1)[:, None] * np.mean(flow, axis=0)[None, :]
    return found
