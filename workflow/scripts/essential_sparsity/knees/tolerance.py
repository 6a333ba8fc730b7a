"""The rule ``tolerance``: where a curve first loses more than a stated amount."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.readings import CODES, LEFT, NOT_CENSORED, RIGHT, Readings, Settings


def _of_the_dense_value(dense: Floats, chance: float | None) -> Floats:
    return np.where(dense == 0, np.nan, np.abs(dense))


def _of_one(dense: Floats, chance: float | None) -> Floats:
    return np.ones_like(dense)


def _of_the_distance_to_chance(dense: Floats, chance: float | None) -> Floats:
    if chance is None or not math.isfinite(chance):
        return np.full_like(dense, np.nan)
    return np.where(dense > chance, dense - chance, np.nan)


# What the tolerance is a fraction of: from the dense scores and that of chance; NaN where that is not defined.
LOSSES: dict[str, Callable[[Floats, float | None], Floats]] = {
    "relative": _of_the_dense_value,
    "absolute": _of_one,
    "above_chance": _of_the_distance_to_chance,
}


def tolerated_score(dense: Floats, tolerance: float, loss: str, chance: float | None) -> Floats:
    """Return the lowest scores that count as no loss, ``dense - tolerance * scale``.

    Args:
        dense: Scores of the dense model, of any shape.
        tolerance: Largest loss that counts as none.
        loss: A key of :data:`LOSSES`, which says what the tolerance is a fraction of: ``relative`` ``|dense|``,
            ``absolute`` 1, ``above_chance`` ``dense - chance``.
        chance: The score of a model that knows nothing; None where it is not known.

    Returns:
        The scores; NaN where the loss is ``above_chance`` and chance is not known or the dense model not above it.
    """
    bound: Floats = dense - tolerance * LOSSES[loss](dense, chance)
    return bound


def read_tolerance(sparsity: Floats, scores: Floats, settings: Settings, chance: float | None) -> Readings:
    """Return where curves first cross the tolerated score, linearly interpolated between levels.

    ``knee = s[k-1] + (s[k] - s[k-1]) (y[k-1] - bound) / (y[k-1] - y[k])``, where k is the first level with
    ``y[k] < bound`` and the bound is :func:`tolerated_score`. Jaiswal et al. 2023 (arXiv 2306.03805) read their curves
    at a drop of 1 %. It stops at the first crossing: a later level that happens to recover does not count.

    Censored to the left where k is the first level after the dense one, so that the crossing rests on the straight line
    between them alone; to the right, at the last level, where no level lies beyond the bound.

    Fails: it fires early on a gentle slope before a cliff, and on one noisy level; it does not say whether the curve
    bends at all; a relative loss depends on where the metric's zero is.
    """
    bound = tolerated_score(scores[:, 0], settings.tolerance, settings.loss, chance)
    beyond = scores < bound[:, None]
    fails = beyond.any(axis=1)
    first = np.where(fails, beyond.argmax(axis=1), 1)
    before, after = (np.take_along_axis(scores, k[:, None], axis=1)[:, 0] for k in (first - 1, first))
    # Where nothing fails the two may be equal, and the quotient is not used.
    share = (before - bound) / np.where(fails, before - after, 1.0)
    crossing = sparsity[first - 1] + share * (sparsity[first] - sparsity[first - 1])
    knee = np.where(np.isnan(bound), np.nan, np.where(fails, crossing, sparsity[-1]))
    censored = np.where(~fails, CODES[RIGHT], np.where(first == 1, CODES[LEFT], CODES[NOT_CENSORED]))
    return Readings(knee, np.where(np.isnan(bound), CODES[NOT_CENSORED], censored).astype(np.int8))


def explain_tolerance(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None, knee: float | None
) -> tuple[str, ...]:
    """Say why a curve has no tolerated score."""
    if knee is not None:
        return ()
    if settings.loss == "relative":
        return ("the dense value is 0, of which no share can be lost",)
    if chance is None or not math.isfinite(chance):
        return ("chance is not known",)
    return ("the dense model is not above chance",)


def enclosing_levels(
    sparsity: Floats, score: Floats, settings: Settings, chance: float | None
) -> tuple[float | None, float | None]:
    """Return the levels between which the crossing lies; None for one that is the dense model, or beyond the grid."""
    beyond = np.flatnonzero(score < tolerated_score(score[:1], settings.tolerance, settings.loss, chance))
    last_within = int(beyond[0]) - 1 if beyond.size else len(sparsity) - 1
    low = float(sparsity[last_within]) if last_within > 0 else None
    return low, float(sparsity[last_within + 1]) if beyond.size else None
