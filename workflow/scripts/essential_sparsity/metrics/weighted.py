"""Metrics of weighted examples: what 1,000 bootstrap draws of an evaluation are computed by.

A draw gives example ``i`` the weight ``w_i``, how often it was drawn. Most metrics are functions of sums
``sum_i w_i x_i`` of a few features ``x`` of each example, so that all draws of all levels are one matrix product;
Spearman's correlation ranks the examples of each draw anew.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from essential_sparsity.inference import Floats

# Of weights (draws, examples) and features (curves, examples, k), the metric (curves, draws). Columns of zeros after
# the last feature change nothing.
Weighted = Callable[[Floats, Floats], Floats]

# Beyond this, exp() overflows a float64.
LARGEST_EXPONENT = 709.0


def of_sums(metric: Callable[[Floats], Floats]) -> Weighted:
    """Return the weighted form of a metric that is a function of weighted sums of features (..., k)."""

    def weighted(weights: Floats, features: Floats) -> Floats:
        curves, n, k = features.shape
        sums = weights @ features.transpose(1, 0, 2).reshape(n, curves * k)
        return metric(sums.reshape(len(weights), curves, k).transpose(1, 0, 2))

    return weighted


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; 0 / 0, as of a resample without positives or of a model that answers every example alike, is 0."""
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.asarray(np.where(denominator == 0, 0.0, numerator / safe), dtype=np.float64)


def mean(sums: Floats) -> Floats:
    """Return the weighted mean of ``1, x``."""
    return ratio(sums[..., 1], sums[..., 0])


def exp_mean(sums: Floats) -> Floats:
    """Return the perplexity of ``n, n * loss``; infinite where it overflows."""
    nats = mean(sums)
    finite = nats < LARGEST_EXPONENT
    return np.where(finite, np.exp(np.where(finite, nats, 0.0)), np.inf)


def f1(sums: Floats) -> Floats:
    """Return F1 = 2 TP / (P + T) of ``true positive, predicted positive, truly positive``."""
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def matthews(sums: Floats) -> Floats:
    """Return Matthews' coefficient of ``1, right, t_1, p_1, t_2, p_2, ...``, for any number of classes.

    ``t_k`` says whether the label, and ``p_k`` whether the prediction, is class k (Gorodkin 2004, eq. 8).
    """
    n, right, labels, predictions = sums[..., 0], sums[..., 1], sums[..., 2::2], sums[..., 3::2]
    shared = right * n - (labels * predictions).sum(axis=-1)
    spread = (n**2 - (labels**2).sum(axis=-1)) * (n**2 - (predictions**2).sum(axis=-1))
    return ratio(shared, np.sqrt(np.maximum(spread, 0.0)))


def pearson(sums: Floats) -> Floats:
    """Return Pearson's correlation of ``1, x, y, x^2, y^2, x y``."""
    n, x, y, xx, yy, xy = (sums[..., i] for i in range(6))
    x_spread, y_spread = n * xx - x**2, n * yy - y**2
    # What rounding leaves of an exact zero, where a resample holds one value alone.
    alike = (x_spread <= _ROUNDING * n * xx) | (y_spread <= _ROUNDING * n * yy)
    spread = np.sqrt(np.maximum(x_spread, 0.0) * np.maximum(y_spread, 0.0))
    return np.clip(np.where(alike, 0.0, ratio(n * xy - x * y, spread)), -1.0, 1.0)


_ROUNDING = 1e-12


def spearman(weights: Floats, features: Floats) -> Floats:
    """Return Spearman's correlation of ``x, y``: Pearson's of the mid-ranks that a draw gives them.

    Integer weights give exactly the ranks of the resampled rows: a value that is drawn w times after W others shares
    the ranks W + 1 to W + w, whose mean is W + (w + 1) / 2.
    """
    found = []
    for x, y in zip(features[:, :, 0], features[:, :, 1], strict=True):
        total = weights.sum(axis=1, keepdims=True)
        first, second = (midranks(weights, values) - (total + 1) / 2 for values in (x, y))
        spreads = (weights * first**2).sum(axis=1), (weights * second**2).sum(axis=1)
        shared = (weights * first * second).sum(axis=1)
        found.append(ratio(shared, np.sqrt(spreads[0] * spreads[1])))
    return np.stack(found)


def midranks(weights: Floats, values: Floats) -> Floats:
    """Return the mid-rank (draws, examples) of each value among those that a draw of weights repeats."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    own = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks = np.cumsum(own, axis=1) - own + (own + 1) / 2
    return np.asarray(ranks[:, place], dtype=np.float64)
