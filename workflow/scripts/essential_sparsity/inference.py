"""Drawn numbers and p-values: a generator for a place, two-sided p-values of draws, Holm's correction."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from essential_sparsity.files import canonical

Floats = npt.NDArray[np.float64]


def generator_of(*key: Any) -> np.random.Generator:
    """Return a generator that depends on the key alone, the same on every machine."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(canonical(key).encode()).digest()[:16], "big"))


def p_value(draws: Floats) -> float:
    """Return the two-sided p-value of no difference: twice the smaller share of draws on either side of zero.

    One is added to numerator and denominator (Davison and Hinkley 1997, section 4.2), so that it is never 0.
    """
    sides = [int((draws <= 0).sum()), int((draws >= 0).sum())]
    return min(1.0, 2 * (min(sides) + 1) / (len(draws) + 1))


def holm(p: Floats) -> Floats:
    """Return Holm's adjusted p-values (Holm 1979); NaN stays NaN and is no comparison.

    The k-th smallest of m is multiplied by ``m - k + 1``, capped at 1 and made no smaller than those before it.
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted
