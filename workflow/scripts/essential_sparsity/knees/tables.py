"""The tables of knees, of curves, of differences between knees, and of placed levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from essential_sparsity.tables import CURVE, Row, Schema, count, fraction, number, text

KNEES = Schema(
    "knees",
    {
        **CURVE,
        "metric": text(description="What the values are."),
        "seed": count(nullable=True, description="Seed of the curve; null for the mean curve over the seeds."),
        "rule": text(description="The rule that read the knee."),
        "knee": fraction(nullable=True, description="The essential sparsity; null if there is none."),
        "grid_low": fraction(
            nullable=True, description="Rule `tolerance`: the last level before the first beyond it; else null."
        ),
        "grid_high": fraction(nullable=True, description="Rule `tolerance`: the first level beyond it; else null."),
        "ci_low": fraction(nullable=True, description="Lower bound of the knee's interval; null if there is none."),
        "ci_high": fraction(nullable=True, description="Upper bound of the knee's interval; null if there is none."),
        "interval": text(
            nullable=True,
            among=("examples", "seeds", "seeds and examples"),
            description="What was resampled for the interval; null if there is none.",
        ),
        "censored": text(
            among=("none", "left", "right"),
            description="`left`: below the first level; `right`: above the last level.",
        ),
        "dense_value": number(nullable=True, description="The metric of the unpruned model."),
        "value_at_knee": number(nullable=True, description="The metric at the knee, between levels interpolated."),
        "n_seeds": count(description="Seeds behind the curve."),
        "flags": text(description="Why there is no knee, or why to doubt it; empty if nothing is to be said."),
    },
    unique=["model", "checkpoint", "method", "task", "seed", "rule"],
)

CURVES = Schema(
    "curves",
    {
        **CURVE,
        "metric": text(description="What the values are."),
        "sparsity": fraction(description="The level; 0 for the dense model, where every curve starts."),
        "value": number(
            nullable=True, description="The metric, in its own unit: the mean over the seeds; null if no seed has one."
        ),
        "ci_low": number(nullable=True, description="Lower bound of the value's interval; null if there is none."),
        "ci_high": number(nullable=True, description="Upper bound of the value's interval; null if there is none."),
        "n_seeds": count(description="Seeds behind the value."),
        "n": count(least=1, description="Predictions behind the value of one seed."),
    },
    unique=["model", "checkpoint", "method", "task", "sparsity"],
)

DIFFERENCES = Schema(
    "differences",
    {
        "kind": text(
            among=("methods", "checkpoints", "models"),
            description="What differs: `methods`, `checkpoints` (each from the last), or `models` at the last.",
        ),
        "model": text(description="Model of the first knee."),
        "checkpoint": text(description="Checkpoint of the first knee."),
        "method": text(description="Method of the first knee."),
        "task": text(description="Task of both."),
        "other_model": text(description="Model of the second knee."),
        "other_checkpoint": text(description="Checkpoint of the second knee."),
        "other_method": text(description="Method of the second knee."),
        "rule": text(description="The rule that read both."),
        "difference": number(
            nullable=True, least=-1.0, most=1.0,
            description="The first knee minus the second; null if one is null or censored.",
        ),
        "ci_low": number(nullable=True, description="Lower bound of the interval; null if there is none."),
        "ci_high": number(nullable=True, description="Upper bound of the interval; null if there is none."),
        "p_value": fraction(nullable=True, description="Two-sided, of no difference; null if there is no interval."),
        "p_adjusted": fraction(nullable=True, description="Holm's, over the study's comparisons by the rule."),
        "flags": text(description="Why there is no difference or test, what bound is known, or what to doubt."),
    },
    unique=[
        "kind", "model", "checkpoint", "method", "task", "other_model", "other_checkpoint", "other_method", "rule",
    ],
)  # fmt: skip

LEVELS = Schema(
    "levels",
    {
        **CURVE,
        "round": count(least=1, description="The round that evaluated the level; 1 is the start."),
        "sparsity": fraction(description="The level."),
        "low": fraction(nullable=True, description="In the end, the last level before the first beyond tolerance."),
        "high": fraction(nullable=True, description="In the end, the first level beyond tolerance; null if none is."),
        "reason": text(description="Why no further levels were placed for the curve."),
    },
    unique=["model", "checkpoint", "method", "task", "sparsity"],
)


def level_rows(placed: Mapping[str, Any]) -> list[Row]:
    """Return the rows of ``levels`` for one curve, from what its last round wrote."""
    ends = {key: math.nan if placed[key] is None else placed[key] for key in ("low", "high")}
    axes = {key: placed[key] for key in ("model", "checkpoint", "method", "task", "reason")} | ends
    rounds = enumerate(placed["rounds"], start=1)
    return [{**axes, "round": number, "sparsity": level} for number, levels in rounds for level in levels]
