"""What a rule reads off a curve: its knee, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from essential_sparsity.inference import Floats

NOT_CENSORED, LEFT, RIGHT = "none", "left", "right"

# What `Readings.censored` holds for each.
CODES = {NOT_CENSORED: 0, LEFT: -1, RIGHT: 1}

# What float64 leaves of an exact zero after a fit or a mean, relative to the values.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Settings:
    """How knees are read: the study's key ``knees``.

    Attributes:
        rules: Those that are applied, the headline's first.
        tolerance: Largest loss that counts as none, as a fraction of what ``loss`` says.
        loss: A key of :data:`knees.tolerance.LOSSES`.
        sensitivity: Kneedle's S: how many steps of decline must follow a knee.
        confidence: The probability with which an interval is to hold the true knee.
        draws: Bootstrap draws from which intervals and tests are made.
    """

    rules: Sequence[str]
    tolerance: float
    loss: str
    sensitivity: float
    confidence: float
    draws: int


@dataclass(frozen=True)
class Knee:
    """A rule's reading of a curve.

    Attributes:
        knee: The essential sparsity, in [0, 1); None where the rule finds none.
        censored: ``left`` if the first level already lies beyond it, ``right`` if the last level still lies before
            it, so that the levels do not enclose the true knee; else ``none``.
        flags: Why there is no knee, or why it should be doubted; empty if nothing is to be said.
        grid_low: The last level before the first that lies beyond the tolerance; None for other rules, and where
            that is the dense model.
        grid_high: The first level that lies beyond the tolerance; None for other rules, and where there is none.
    """

    knee: float | None
    censored: str = NOT_CENSORED
    flags: tuple[str, ...] = ()
    grid_low: float | None = None
    grid_high: float | None = None


@dataclass(frozen=True)
class Readings:
    """A rule's readings of many curves on one grid.

    Attributes:
        knee: The knees, of shape (draws,); NaN where the rule finds none.
        censored: -1 where a knee is censored to the left, 1 where to the right, else 0; of shape (draws,).
    """

    knee: Floats
    censored: npt.NDArray[np.int8]


# Reads the knees of curves that are finite and have enough levels: levels, scores (draws, levels), settings, chance.
ReadMany = Callable[[Floats, Floats, Settings, float | None], Readings]

# Says of one such curve why it has no knee, or why its knee should be doubted: levels, score, settings, chance, knee.
Explain = Callable[[Floats, Floats, Settings, float | None, float | None], tuple[str, ...]]


def nothing(draws: int) -> Readings:
    """Return the readings of curves of which none has a knee."""
    return Readings(np.full(draws, np.nan), np.zeros(draws, dtype=np.int8))


def is_flat(scores: Floats) -> npt.NDArray[np.bool_]:
    """Say which curves, of shape (draws, levels), differ between their levels by rounding alone."""
    flat: npt.NDArray[np.bool_] = np.ptp(scores, axis=1) <= ROUNDING * np.abs(scores).max(axis=1)
    return flat
