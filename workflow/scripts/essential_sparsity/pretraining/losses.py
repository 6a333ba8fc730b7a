"""The loss curves that pre-training records, as rows of a study's table."""

from __future__ import annotations

import pandas as pd

from essential_sparsity.tables import Schema, count, number, text


def loss_rows(model: str, curve: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the table of losses for one training.

    Args:
        model: The model's name in the registry.
        curve: What the training recorded, a row a logged step; figures that its objective does not have are missing.
    """
    return curve.assign(model=model).reindex(columns=list(LOSSES.columns))


LOSSES = Schema(
    "losses",
    {
        "model": text(description="Name in the registry of a model that the workflow trains."),
        "step": count(least=0, description="Optimiser steps done."),
        "loss": number(
            nullable=True, description="Mean loss of training over the steps since the row before; null at step 0."
        ),
        "held_out_loss": number(
            nullable=True, description="Loss on the split `test`; null but at checkpoints, and without that split."
        ),
        "held_out_accuracy": number(
            nullable=True,
            least=0.0,
            most=1.0,
            description="Accuracy there; null besides for objectives without classes.",
        ),
        "learning_rate": number(nullable=True, description="At the last of these steps; null at step 0."),
    },
    unique=["model", "step"],
)
