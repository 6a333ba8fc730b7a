"""The tables of masks: the sparsity of every matrix, and how alike two masks are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from essential_sparsity.tables import CHECKPOINT, Row, Schema, count, flag, fraction, number, text

SIMILARITIES = Schema(
    "similarities",
    {
        **CHECKPOINT,
        "sparsity": fraction(description="The level of both masks."),
        "method": text(description="Method of the first mask."),
        "other_method": text(description="Method of the second mask."),
        "seed": count(description="Seed of the masks, of which one alone may depend on it; 0 if neither does."),
        "cosine": fraction(
            description="Cosine of the kept sets: |A and B| / sqrt(|A| |B|), over all prunable weights."
        ),
        "cosine_corrected": number(
            most=1.0, description="The cosine on a scale where masks that are drawn apart have 0, and equal ones 1."
        ),
        "overlap": fraction(description="|A and B| / min(|A|, |B|)."),
        "jaccard": fraction(description="|A and B| / |A or B|."),
    },
    unique=["model", "checkpoint", "sparsity", "method", "other_method", "seed"],
)

LAYERS = Schema(
    "layers",
    {
        **CHECKPOINT,
        "method": text(description="Name in the registry of methods."),
        "seed": count(description="Seed of the mask; 0 for a deterministic score."),
        "sparsity": fraction(description="Target of the whole model."),
        "position": count(description="Place of the matrix in the model, from 0."),
        "name": text(description="Name of the tensor in the checkpoint."),
        "shape": text(description="Shape as stored, such as 768x3072."),
        "pruned": flag(description="Whether its weights are prunable."),
        "reason": text(description="Why it is pruned, or why not."),
        "target": fraction(nullable=True, description="Sparsity asked of it; null if global."),
        "realised": fraction(description="Fraction of its weights that the mask removes."),
    },
    unique=["model", "checkpoint", "method", "seed", "sparsity", "name"],
)


def layer_rows(
    matrices: Iterable[Any], removed: Mapping[str, int], targets: Mapping[str, float]
) -> list[Row]:  # fmt: skip
    """Return the rows of ``layers`` for one mask: one for each tensor of the checkpoint, pruned or not."""
    rows: list[Row] = []
    for position, m in enumerate(matrices):
        # One pool of all weights asks nothing of a matrix.
        target = targets.get(m.name, math.nan) if m.pruned else 0.0
        rows.append({
            "position": position, "name": m.name, "shape": "x".join(map(str, m.shape)), "pruned": m.pruned,
            "reason": m.reason, "target": target, "realised": removed.get(m.name, 0) / m.size,
        })  # fmt: skip
    return rows
