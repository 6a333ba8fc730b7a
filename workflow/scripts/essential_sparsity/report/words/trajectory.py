"""What a reader must know of a trajectory: steps that are missing, and steps whose weights stand out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_age, checkpoint_label, listed_checkpoints, same_weights
from essential_sparsity.emergence.tables import ALL_WEIGHTS
from essential_sparsity.report.words.numbers import records
from essential_sparsity.tables import Row

# An outlier's norm lies beyond those of its neighbours, two on each side, by more than this share.
OUTLIER_MARGIN = 0.1
# A change is abrupt below this adjusted p-value.
SIGNIFICANT = 0.05


def missing_notes(lookups: Mapping[str, Mapping[str, Mapping[str, str]]]) -> list[str]:
    """Return a sentence for each model whose trajectory lacks steps.

    Args:
        lookups: What was looked up of each model: its ``missing`` checkpoints, with the reason.
    """
    return [
        f"The hub lacks {len(lookup['missing'])} of the {len(lookup['missing']) + len(lookup['found'])} steps of "
        f"{model}, which are left out: {listed_checkpoints(lookup['missing'])}."
        for model, lookup in lookups.items()
        if lookup["missing"]
    ]


def same_notes(provenance: Iterable[Mapping[str, str]]) -> list[str]:
    """Return a sentence for checkpoints of a model that have the same weights.

    Args:
        provenance: As of :func:`same_weights`.
    """
    return [
        f"{listed_checkpoints(names)} of {model} have the same weights (SHA-256 {digest[:12]}): one checkpoint "
        "under several names. Ask who published them before you read emergence from them."
        for (model, digest), names in same_weights(provenance).items()
    ]


def outlier_notes(weights: pd.DataFrame) -> list[str]:
    """Return a sentence for each step whose weights stand out among its neighbours, a sign of a damaged checkpoint.

    A norm that grows or shrinks with training stands out nowhere: it lies between those before and after.

    Args:
        weights: The table of weights: ``model, checkpoint, n, mean, std`` of every matrix.
    """
    notes = []
    for model, rows in weights.groupby("model", sort=True):
        squares = rows["n"] * (rows["std"] ** 2 + rows["mean"] ** 2)
        norms = squares.groupby(rows["checkpoint"]).sum() ** 0.5
        norms = norms[sorted(norms.index, key=checkpoint_age)]
        notes += [
            f"{model}, {checkpoint_label(name)}, stands out: the norm of its prunable weights is {ratio:.2g} times the "
            "nearest of its neighbours'. Look at that checkpoint before you read anything from it."
            for name, ratio in outliers(norms).items()
        ]
    return notes


def change_notes(changes: pd.DataFrame) -> list[str]:
    """Return a sentence for each model whose trajectories were looked through for abrupt changes.

    Args:
        changes: The table of changes.
    """
    notes = []
    for model, rows in changes[changes["p_adjusted"].notna()].groupby("model", sort=True):
        matrices = rows[rows["name"] != ALL_WEIGHTS]
        abrupt = matrices[matrices["p_adjusted"] < SIGNIFICANT]
        pooled = rows[(rows["name"] == ALL_WEIGHTS) & (rows["p_adjusted"] < SIGNIFICANT)]
        together = (
            f"{', '.join(_change(row) for row in records(pooled))} of all prunable weights together"
            if len(pooled)
            else "no statistic of all prunable weights together"
        )
        notes.append(
            f"Over the pre-training of {model}, {together} jumps more abruptly than smooth drift; of single matrices, "
            f"{len(abrupt)} of {len(matrices)} trajectories do (adjusted p < {SIGNIFICANT:g})."
        )
    return notes


def _change(row: Row) -> str:
    return f"{row['statistic']} at step {row['change_step']:,}"


def outliers(norms: pd.Series) -> dict[str, float]:
    """Return the steps whose norm lies outside those of two steps before and two after, with its ratio to the nearest.

    Args:
        norms: A norm for each checkpoint, in the order of training; the first two and the last two are not judged.
    """
    found = {}
    values = norms.to_numpy(dtype=float)
    for i in range(2, len(values) - 2):
        near = np.delete(values[i - 2 : i + 3], 2)
        nearest = float(np.clip(values[i], near.min(), near.max()))
        ratio = values[i] / nearest if nearest else float(values[i] > 0) + 1.0
        if abs(np.log(max(ratio, 1e-12))) > np.log1p(OUTLIER_MARGIN):
            found[str(norms.index[i])] = float(ratio)
    return found
