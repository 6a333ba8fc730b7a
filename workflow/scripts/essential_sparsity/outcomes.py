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
        examples: A row an example, from which the metric can be recomputed: ``id``, ``group`` (a subset, '' without),
            ``label``, ``prediction``, ``score`` (what it adds to a metric that is a mean; may be null), ``loss`` (nats;
            may be null) and ``n`` (predictions behind the row).
        others: Further metrics by name.
        notes: What a reader of the row should know.
    """

    value: float
    n: int
    chance: float
    examples: pd.DataFrame
    others: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
