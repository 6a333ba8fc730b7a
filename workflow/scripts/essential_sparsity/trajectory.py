"""The checkpoints of a pre-training: which steps are kept and what they are called."""

from __future__ import annotations

import math

import numpy as np

FINAL = "final"


def checkpoint_steps(steps: int, checkpoints: int, first: int) -> list[int]:
    """Return the steps to keep: 0, then ``checkpoints - 1`` evenly spaced in the logarithm from ``first`` on."""
    # Downwards, so that two checkpoints are step 0 and the last.
    spaced = np.geomspace(steps, min(first, steps), checkpoints - 1).round().astype(int)
    return sorted({0, *map(int, spaced)})


def step_name(step: int) -> str:
    """Return the name of a checkpoint: ``step000128``."""
    return f"step{step:06d}"


def step_of(checkpoint: str) -> int | None:
    """Return the step that a checkpoint's name says; None for ``final``, whose step is not known."""
    return None if checkpoint == FINAL else int(checkpoint.removeprefix("step"))


def checkpoint_label(checkpoint: str) -> str:
    """Return what a reader calls a checkpoint: ``final`` or ``step 3,000``."""
    step = step_of(checkpoint)
    return FINAL if step is None else f"step {step:,}"


def checkpoint_age(checkpoint: str) -> float:
    """Return a number that orders checkpoints by pre-training; ``final`` is the last."""
    step = step_of(checkpoint)
    return math.inf if step is None else float(step)
