"""Curves whose knee is known, on grids of levels, for tests of the rules."""

from __future__ import annotations

import numpy as np
from hypothesis import settings

import entries

SETTINGS = entries.knees()
GRID = np.round(np.arange(0.0, 1.0, 0.05), 3)
UNEVEN = np.array([0.0, 0.1, 0.3, 0.4, 0.55, 0.6, 0.62, 0.7, 0.85, 0.95])
FAST = settings(deadline=None, derandomize=True, max_examples=40)


def broken_line(
    joint: float, before: float = -0.02, after: float = -1.0, start: float = 0.85, levels: np.ndarray = GRID
) -> np.ndarray:
    return start + before * levels + (after - before) * np.maximum(0.0, levels - joint)


def sigmoid(levels: np.ndarray = GRID, middle: float = 0.6, width: float = 0.04) -> np.ndarray:
    """Accuracy that falls from 90 % to chance at 50 %, and stays there."""
    return 0.5 + 0.4 / (1 + np.exp((levels - middle) / width))


def random_curves(draws: int, levels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Curves that mostly fall, some smoothly and some like noise."""
    draw = np.random.default_rng(seed)
    joint, fall = draw.uniform(0.2, 0.8, (draws, 1)), draw.uniform(0, 2, (draws, 1))
    noise = draw.choice([1e-4, 0.01, 0.1], (draws, 1)) * draw.standard_normal((draws, len(levels)))
    return 0.9 - 0.05 * levels - fall * np.maximum(0, levels - joint) ** draw.integers(1, 3, (draws, 1)) + noise
