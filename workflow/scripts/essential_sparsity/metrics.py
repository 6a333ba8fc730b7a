"""Metrics: their direction, the scale on which losses of performance are compared, and what chance is."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

HIGHER_IS_BETTER = {"perplexity": False, "accuracy": True}

# The flag of a dense model that knows nothing.
DENSE_AT_CHANCE = "dense at chance"


def performance(values: Floats, metric: str) -> Floats:
    """Return values on a scale on which higher is better: minus the logarithm for ``perplexity``, else as they are."""
    return -np.log(values) if metric == "perplexity" else np.asarray(values, dtype=np.float64)


def at_chance(value: float, chance: float, n: int, metric: str) -> bool:
    """Say whether a dense model is no better than one that knows nothing.

    For accuracy: not above the majority class by two binomial standard errors. For perplexity: not below the size of
    the vocabulary, the perplexity of an even guess.
    """
    if metric == "perplexity":
        return value >= chance
    return value <= chance + 2 * math.sqrt(max(chance * (1 - chance), 0.0) / n)
