"""What an evaluation returns, whatever its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Outcome:
    """The result of one evaluation.

    Attributes:
        value: The headline metric.
        n: How many predictions it is computed from.
        chance: The metric of a model that knows nothing.
        examples: A row an example: ``id, group, label, prediction, score, loss, n``, as ``tables.EXAMPLES`` describes
            them; the headline metric can be recomputed from it.
        others: Further metrics by their name.
        notes: What a reader of the row should know, such as how many texts were cut.
    """

    value: float
    n: int
    chance: float
    examples: pd.DataFrame
    others: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
