"""Sweeps: curves whose levels the workflow places itself, round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from essential_sparsity.errors import UserError
from essential_sparsity.knees.curves import Curve
from essential_sparsity.knees.placing import Placing
from essential_sparsity.knees.readings import Settings
from essential_sparsity.methods.levels import sparsity_name


@dataclass(frozen=True, order=True)
class Sweep:
    """A curve whose levels are placed: the axes of its evaluations, and how.

    Attributes:
        seeds: Those that make a difference; all have the same levels.
        settings: How they are placed.
    """

    model: str
    checkpoint: str
    method: str
    task: str
    seeds: tuple[int, ...] = field(compare=False)
    settings: Placing = field(compare=False)

    @property
    def curve(self) -> Curve:
        """What names the curve."""
        return self.model, self.checkpoint, self.method, self.task


def checked_settings(adaptive: Mapping[str, Any], knees: Settings, where: str) -> Placing:
    """Return the settings of a sweep with what a schema cannot check or fill in.

    Args:
        adaptive: ``adaptive`` of an entry of the study.
        knees: Those of the study, for a sweep that names no tolerance.
        where: The entry's place, for messages.

    Raises:
        UserError: A level or the width has more than three decimals, or the budget does not reach beyond the start.
    """
    start = sorted({sparsity_name(s, f"{where}.start[{i}]") for i, s in enumerate(adaptive["start"])})
    needed = len(start) + 2
    if adaptive["budget"] < needed:
        raise UserError(
            f"{where}.budget", f"{adaptive['budget']}, which the dense model and {len(start)} levels of `start` use up",
            f"at least {needed}", "raise the budget, or take levels from `start`",
        )  # fmt: skip
    sparsity_name(adaptive["width"], f"{where}.width")
    return Placing(**{"tolerance": knees.tolerance, "loss": knees.loss, **adaptive, "start": start})


def worst_case(sweeps: Sequence[Sweep], dense: int) -> str:
    """Say how much the sweeps of a study can ask for; an empty text if there are none.

    Args:
        sweeps: The sweeps.
        dense: How many evaluations of dense models they begin at.
    """
    if not sweeps:
        return ""
    evaluations = dense + sum((s.settings.budget - 1) * len(s.seeds) for s in sweeps)
    rounds = max(_rounds(s.settings) for s in sweeps)
    budgets = sorted({s.settings.budget for s in sweeps})
    each = str(budgets[0]) if len(budgets) == 1 else f"{budgets[0]} to {budgets[-1]}"
    curves = "1 curve" if len(sweeps) == 1 else f"{len(sweeps)} curves"
    return f"Adaptive: at most {evaluations} evaluations in {rounds} rounds for {curves} ({each} levels each)."


def _rounds(settings: Placing) -> int:
    """Return the most rounds of a sweep: its start, and those that spend the rest of its budget."""
    later = settings.budget - 1 - len(settings.start)
    return 1 + math.ceil(later / settings.per_round)
