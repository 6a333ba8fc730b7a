"""What an evaluation returns, whatever its protocol."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """The result of one evaluation.

    Attributes:
        value: The metric.
        n: How many predictions it is computed from.
        chance: The metric of a model that knows nothing.
        examples: A row an example: ``id, label, prediction, loss``; the metric can be recomputed from it.
    """

    value: float
    n: int
    chance: float
    examples: pd.DataFrame
