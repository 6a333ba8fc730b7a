"""The loss curves that pre-training records, as rows of a study's table."""

from __future__ import annotations

import pandas as pd

from essential_sparsity.tables import LOSSES


def loss_rows(model: str, curve: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the table of losses for one training.

    Args:
        model: The model's name in the registry.
        curve: What the training recorded, a row a logged step; figures that its objective does not have are missing.
    """
    return curve.assign(model=model).reindex(columns=list(LOSSES.columns))
