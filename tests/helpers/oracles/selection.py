"""Selections: which weights stay. A stable sort is the rule: smallest first, of equal ones the first first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def keep_all_but(scores: Array, k: int) -> Array:
    """The mask, in the shape of the scores, that removes the ``k`` smallest in their flat order."""
    keep = np.ones(scores.size, dtype=bool)
    keep[np.argsort(scores.ravel(), kind="stable")[:k]] = False
    return keep.reshape(scores.shape)


def global_pool(scores: Mapping[str, Array], sparsity: float) -> dict[str, Array]:
    """``round(s n)`` of all matrices' weights, in their order."""
    flat = np.concatenate([s.ravel() for s in scores.values()])
    keep = keep_all_but(flat, round(sparsity * flat.size))
    ends = np.cumsum([s.size for s in scores.values()])
    parts = np.split(keep, ends[:-1])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def layer(scores: Array, sparsity: float) -> Array:
    """``round(s n)`` of a matrix's weights."""
    return keep_all_but(scores, round(sparsity * scores.size))


def row(scores: Array, sparsity: float) -> Array:
    """``round(s n)`` of each row's weights."""
    return np.stack([keep_all_but(r, round(sparsity * len(r))) for r in scores])


def column_block(scores: Array, sparsity: float, width: int = 128) -> Array:
    """``round(s n)`` of the weights of every ``width`` columns, the last block being what is left."""
    parts = [layer(scores[:, a : a + width], sparsity) for a in range(0, scores.shape[1], width)]
    return np.concatenate(parts, axis=1)


def n_of_m(scores: Array, kept: int, size: int) -> Array:
    """``kept`` of every ``size`` consecutive weights of a row stay."""
    groups = scores.reshape(-1, size)
    keep = np.ones(groups.shape, dtype=bool)
    order = np.argsort(groups, axis=1, kind="stable")
    np.put_along_axis(keep, order[:, : size - kept], False, axis=1)
    return keep.reshape(scores.shape)


def published_threshold(scores: Array, sparsity: float, counted_from: int = 0) -> Array:
    """Keep what is larger than the ``int(s n)``-th smallest: counted from 0 by most references, from 1 by MULTIFLOW."""
    place = int(sparsity * scores.size) - counted_from
    limit = np.sort(scores.ravel())[min(place, scores.size - 1)] if place >= 0 else -1.0
    keep: Array = scores > limit
    return keep


def published_row(scores: Array, sparsity: float) -> Array:
    """``int(s n)`` of each row's weights, as Wanda counts."""
    return np.stack([keep_all_but(r, int(sparsity * len(r))) for r in scores])
