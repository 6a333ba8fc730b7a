"""The tables of a study: their schemas, declared once and checked on write, and how they are put together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from essential_sparsity.table_schema import Column, Schema

_text = partial(Column, str)
_number = partial(Column, float)
_fraction = partial(Column, float, least=0.0, most=1.0)
_count = partial(Column, "Int64")
_flag = partial(Column, bool)


EVALUATIONS = Schema(
    "evaluations",
    {
        "study": _text(description="Name of the study."),
        "model": _text(description="Name in the registry of models."),
        "source": _text(description="Where the model's bytes came from."),
        "revision": _text(nullable=True, description="Version of the package, digest of the file or of the training."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "step": _count(nullable=True, description="Step of pre-training; null for `final`."),
        "method": _text(description="Name in the registry of methods; `dense` for the unpruned model."),
        "score": _text(nullable=True, description="How weights are ranked; null for `dense`, as the next ten."),
        "allocation": _text(nullable=True, description="How the budget is divided over the layers."),
        "scope": _text(nullable=True, description="The pool in which weights compete."),
        "pattern": _text(nullable=True, description="`unstructured`, or N:M with N kept of every M."),
        "refinement": _text(nullable=True, description="Exchanges of removed and kept weights, or `none`."),
        "update": _text(nullable=True, description="How kept weights are changed, or `none`."),
        "compat": _text(nullable=True, description="`exact`, or `published` for the references' rules of counting."),
        "calibration": _text(
            nullable=True, description="Name in the registry of calibrations; null if not calibrated."
        ),
        "propagate": _text(
            nullable=True, description="Inputs that calibration saw: `dense`, or block by block of the `pruned` model."
        ),
        "options": _text(nullable=True, description="Numbers that differ from the published ones, as JSON; or null."),
        "rounds": _text(
            nullable=True,
            description="Task and levels, up to this one, of iterative pruning, as JSON; null for one shot.",
        ),
        "sparsity": _fraction(description="Target: fraction of the prunable weights to remove."),
        "realised_sparsity": _fraction(description="Zeros counted in the model that was evaluated."),
        "task": _text(description="Name in the registry of tasks."),
        "protocol": _text(description="How the task is evaluated, such as `perplexity` or `finetune`."),
        "metric": _text(description="What `value` is."),
        "value": _number(description="The metric, in its own unit (accuracy is a fraction)."),
        "higher_is_better": _flag(description="Direction of the metric."),
        "chance": _number(description="The metric of a model that knows nothing."),
        "other_metrics": _text(nullable=True, description="Further metrics of the same predictions, as JSON; or null."),
        "flags": _text(description="What should be doubted, such as `dense at chance`; empty if nothing."),
        "notes": _text(description="What a reader should know, such as how many texts were cut; empty if nothing."),
        "n": _count(least=1, description="Predictions that the metric is computed from."),
        "seed": _count(description="Seed of the mask and of fine-tuning; 0 where nothing is drawn."),
        "seconds": _number(description="Wall time of the evaluation without start-up."),
        "peak_memory_mb": _number(description="Peak of the process, 10^6 bytes; of the allocator on a GPU."),
        "device": _text(description="`cpu` or the name of the GPU."),
        "workflow_commit": _text(nullable=True, description="Commit of the workflow; null outside a git clone."),
        "torch_version": _text(description="Version of torch."),
        "transformers_version": _text(description="Version of transformers."),
    },
    unique=["model", "checkpoint", "method", "sparsity", "task", "seed"],
)

KNEES = Schema(
    "knees",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "method": _text(description="Name in the registry of methods."),
        "task": _text(description="Name in the registry of tasks."),
        "metric": _text(description="What the values are."),
        "seed": _count(nullable=True, description="Seed of the curve; null for the mean curve over the seeds."),
        "rule": _text(description="The rule that read the knee."),
        "knee": _fraction(nullable=True, description="The essential sparsity; null if there is none."),
        "grid_low": _fraction(
            nullable=True, description="Rule `tolerance`: the last level before the first beyond it; else null."
        ),
        "grid_high": _fraction(nullable=True, description="Rule `tolerance`: the first level beyond it; else null."),
        "ci_low": _fraction(nullable=True, description="Lower bound of the knee's interval; null if there is none."),
        "ci_high": _fraction(nullable=True, description="Upper bound of the knee's interval; null if there is none."),
        "interval": _text(
            nullable=True,
            among=("examples", "seeds", "seeds and examples"),
            description="What was resampled for the interval; null if there is none.",
        ),
        "censored": _text(
            among=("none", "left", "right"),
            description="`left`: below the first level; `right`: above the last level.",
        ),
        "dense_value": _number(nullable=True, description="The metric of the unpruned model."),
        "value_at_knee": _number(nullable=True, description="The metric at the knee, between levels interpolated."),
        "n_seeds": _count(description="Seeds behind the curve."),
        "flags": _text(description="Why there is no knee, or why to doubt it; empty if nothing is to be said."),
    },
    unique=["model", "checkpoint", "method", "task", "seed", "rule"],
)

CURVES = Schema(
    "curves",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "method": _text(description="Name in the registry of methods."),
        "task": _text(description="Name in the registry of tasks."),
        "metric": _text(description="What the values are."),
        "sparsity": _fraction(description="The level; 0 for the dense model, where every curve starts."),
        "value": _number(
            nullable=True, description="The metric, in its own unit: the mean over the seeds; null if no seed has one."
        ),
        "ci_low": _number(nullable=True, description="Lower bound of the value's interval; null if there is none."),
        "ci_high": _number(nullable=True, description="Upper bound of the value's interval; null if there is none."),
        "n_seeds": _count(description="Seeds behind the value."),
        "n": _count(least=1, description="Predictions behind the value of one seed."),
    },
    unique=["model", "checkpoint", "method", "task", "sparsity"],
)

DIFFERENCES = Schema(
    "differences",
    {
        "kind": _text(
            among=("methods", "checkpoints", "models"),
            description="What differs: `methods`, `checkpoints` (each from the last), or `models` at the last.",
        ),
        "model": _text(description="Model of the first knee."),
        "checkpoint": _text(description="Checkpoint of the first knee."),
        "method": _text(description="Method of the first knee."),
        "task": _text(description="Task of both."),
        "other_model": _text(description="Model of the second knee."),
        "other_checkpoint": _text(description="Checkpoint of the second knee."),
        "other_method": _text(description="Method of the second knee."),
        "rule": _text(description="The rule that read both."),
        "difference": _number(
            nullable=True, least=-1.0, most=1.0,
            description="The first knee minus the second; null if one is null or censored.",
        ),
        "ci_low": _number(nullable=True, description="Lower bound of the interval; null if there is none."),
        "ci_high": _number(nullable=True, description="Upper bound of the interval; null if there is none."),
        "p_value": _fraction(nullable=True, description="Two-sided, of no difference; null if there is no interval."),
        "p_adjusted": _fraction(nullable=True, description="Holm's, over the study's comparisons by the rule."),
        "flags": _text(description="Why there is no difference or test, what bound is known, or what to doubt."),
    },
    unique=[
        "kind", "model", "checkpoint", "method", "task", "other_model", "other_checkpoint", "other_method", "rule",
    ],
)  # fmt: skip

LEVELS = Schema(
    "levels",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "method": _text(description="Name in the registry of methods."),
        "task": _text(description="Name in the registry of tasks."),
        "round": _count(least=1, description="The round that evaluated the level; 1 is the start."),
        "sparsity": _fraction(description="The level."),
        "low": _fraction(nullable=True, description="In the end, the last level before the first beyond tolerance."),
        "high": _fraction(nullable=True, description="In the end, the first level beyond tolerance; null if none is."),
        "reason": _text(description="Why no further levels were placed for the curve."),
    },
    unique=["model", "checkpoint", "method", "task", "sparsity"],
)

SIMILARITIES = Schema(
    "similarities",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "sparsity": _fraction(description="The level of both masks."),
        "method": _text(description="Method of the first mask."),
        "other_method": _text(description="Method of the second mask."),
        "seed": _count(description="Seed of the masks, of which one alone may depend on it; 0 if neither does."),
        "cosine": _fraction(
            description="Cosine of the kept sets: |A and B| / sqrt(|A| |B|), over all prunable weights."
        ),
        "cosine_corrected": _number(
            most=1.0, description="The cosine on a scale where masks that are drawn apart have 0, and equal ones 1."
        ),
        "overlap": _fraction(description="|A and B| / min(|A|, |B|)."),
        "jaccard": _fraction(description="|A and B| / |A or B|."),
    },
    unique=["model", "checkpoint", "sparsity", "method", "other_method", "seed"],
)

LAYERS = Schema(
    "layers",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "method": _text(description="Name in the registry of methods."),
        "seed": _count(description="Seed of the mask; 0 for a deterministic score."),
        "sparsity": _fraction(description="Target of the whole model."),
        "position": _count(description="Place of the matrix in the model, from 0."),
        "name": _text(description="Name of the tensor in the checkpoint."),
        "shape": _text(description="Shape as stored, such as 768x3072."),
        "pruned": _flag(description="Whether its weights are prunable."),
        "reason": _text(description="Why it is pruned, or why not."),
        "target": _fraction(nullable=True, description="Sparsity asked of it; null if global."),
        "realised": _fraction(description="Fraction of its weights that the mask removes."),
    },
    unique=["model", "checkpoint", "method", "seed", "sparsity", "name"],
)

_STATISTICS = {
    "n": _count(description="Number of weights."),
    "mean": _number(description="Mean weight."),
    "std": _number(description="Standard deviation."),
    "mean_magnitude": _number(description="Mean of |w|."),
    "fraction_zero": _fraction(description="Share of weights that are exactly zero."),
    "fraction_below_0.001": _fraction(description="Share of weights with |w| < 0.001."),
    "fraction_below_0.01": _fraction(description="Share of weights with |w| < 0.01."),
    "fraction_below_0.1_std": _fraction(description="Share with |w| below a tenth of their own matrix's std."),
    "kurtosis": _number(description="Excess kurtosis; 0 for a normal distribution."),
    "hoyer": _fraction(description="Hoyer sparsity: 0 for equal magnitudes, 1 for one weight."),
    "fraction_below_0.0001": _fraction(description="Share of weights with |w| < 0.0001."),
    "fraction_below_0.1": _fraction(description="Share of weights with |w| < 0.1."),
    "fraction_below_0.01_median": _fraction(
        description="Share with |w| below a hundredth of the median |w| of their own matrix."
    ),
    "fraction_below_0.1_median": _fraction(
        description="Share with |w| below a tenth of the median |w| of their own matrix."
    ),
}

WEIGHTS = Schema(
    "weights",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "step": _count(nullable=True, description="Step of pre-training; null for `final`."),
        "position": _count(description="Place of the matrix among the prunable ones, from 0."),
        "name": _text(description="Name of the tensor in the checkpoint."),
        **_STATISTICS,
        "effective_rank": _number(
            nullable=True, least=0.0,
            description="exp of the entropy of the normalised singular values; null if it was not computed.",
        ),
        "stable_rank": _number(
            nullable=True, least=0.0,
            description="Sum of the squared singular values by the largest; null if it was not computed.",
        ),
    },
    unique=["model", "checkpoint", "name"],
)  # fmt: skip

TRAJECTORIES = Schema(
    "trajectories",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "step": _count(nullable=True, description="Step of pre-training; null for `final`."),
        **_STATISTICS,
    },
    unique=["model", "checkpoint"],
)

HISTOGRAMS = Schema(
    "histograms",
    {
        "model": _text(description="Name in the registry of models."),
        "checkpoint": _text(description="`final` or the step of pre-training."),
        "step": _count(nullable=True, description="Step of pre-training; null for `final`."),
        "low": _number(least=0.0, description="Lower edge of the bin of |w|, which belongs to it."),
        "high": _number(least=0.0, description="Upper edge, which does not; 0 for the row of zeros."),
        "n": _count(least=0, description="Number of prunable weights in the bin."),
    },
    unique=["model", "checkpoint", "low", "high"],
)

# What the table of changes calls all prunable weights together.
ALL_WEIGHTS = "all"

CHANGES = Schema(
    "changes",
    {
        "model": _text(description="Name in the registry of models."),
        "name": _text(description="Name of the tensor in the checkpoint; `all` for all prunable weights together."),
        "statistic": _text(description="The statistic: a column of `weights`, and of `trajectories` for `all`."),
        "change_step": _count(
            nullable=True, description="First step after the largest jump; null if none was looked for."
        ),
        "jump": _number(nullable=True, description="The jump, beside the smooth drift; signed."),
        "jump_share": _number(nullable=True, description="The jump by the range of the trajectory; signed."),
        "ci_low": _number(nullable=True, description="Lower bound of the interval of `jump_share`, at that step."),
        "ci_high": _number(nullable=True, description="Upper bound of the interval of `jump_share`, at that step."),
        "p_value": _fraction(nullable=True, description="Of no jump: smooth drift with autocorrelated noise alone."),
        "p_adjusted": _fraction(
            nullable=True, description="Holm's, over the matrices and statistics of a model; those of `all` apart."
        ),
        "flags": _text(description="Why there is no change point, or what to doubt; empty if nothing."),
    },
    unique=["model", "name", "statistic"],
)

LOSSES = Schema(
    "losses",
    {
        "model": _text(description="Name in the registry of a model that the workflow trains."),
        "step": _count(least=0, description="Optimiser steps done."),
        "loss": _number(
            nullable=True, description="Mean loss of training over the steps since the row before; null at step 0."
        ),
        "held_out_loss": _number(
            nullable=True, description="Loss on the split `test`; null but at checkpoints, and without that split."
        ),
        "held_out_accuracy": _number(
            nullable=True,
            least=0.0,
            most=1.0,
            description="Accuracy there; null besides for objectives without classes.",
        ),
        "learning_rate": _number(nullable=True, description="At the last of these steps; null at step 0."),
    },
    unique=["model", "step"],
)

COSTS = Schema(
    "costs",
    {
        "rule": _text(description="The rule of the job."),
        "job": _text(description="The job's wildcards, joined by slashes."),
        "seconds": _number(description="Wall time of the whole job, start-up included."),
        "cpu_seconds": _number(nullable=True, description="CPU time of the job's processes."),
        "max_rss_mb": _number(nullable=True, description="Peak resident memory, MB (10^6 bytes)."),
        "mean_load": _number(nullable=True, description="CPU use, per cent of one core."),
        "read_mb": _number(nullable=True, description="Read from disk, MB."),
        "written_mb": _number(nullable=True, description="Written to disk, MB."),
        "planned_seconds": _number(nullable=True, description="Wall time that the job was given (`runtime`)."),
        "planned_mb": _number(nullable=True, description="Memory that the job was given (`mem_mb`), MB."),
        "gpus": _number(nullable=True, description="GPUs that the job was given."),
    },
    unique=["rule", "job"],
)

EXAMPLES = Schema(
    "examples",
    {
        "id": _count(description="Row of the prepared dataset, number of the window, or of the item in its group."),
        "group": _text(description="Subset of the task, such as `mismatched` or a subject of MMLU; else empty."),
        "label": _text(description="The true answer; empty where there is none, as for perplexity."),
        "prediction": _text(description="The model's answer; empty for perplexity."),
        "score": _number(nullable=True, description="What the example adds to a metric that is a mean; else null."),
        "loss": _number(nullable=True, description="Negative log-likelihood in nats; of a window, the mean a token."),
        "n": _count(least=1, description="Predictions behind the row: tokens of a window, words, or 1."),
    },
    unique=["group", "id"],
)

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"

FINDINGS = Schema(
    "findings",
    {
        "finding": _text(description="Name of the finding; it may have several rows."),
        "claim": _text(description="What is claimed, as the study stated it."),
        "statistic": _text(description="What is estimated."),
        "of": _text(description="What it is taken of, as JSON."),
        "estimate": _number(nullable=True, description="The statistic; infinite if unbounded, null if there is none."),
        "ci_low": _number(nullable=True, description="Lower bound of its interval; null if there is none."),
        "ci_high": _number(nullable=True, description="Upper bound; infinite if the interval is open."),
        "n_seeds": _count(least=0, description="Pre-trainings of the smaller group, or seeds of the curves."),
        "verdict": _text(
            among=(HOLDS, DOES_NOT_HOLD, UNDECIDED),
            description="Whether the whole interval lies where the claim holds, or outside; else `undecided`.",
        ),
        "holds_where": _text(description="The values at which the claim holds, such as `above 2`."),
        "study": _text(description="Name of the study."),
        "scale": _text(among=("desk", "paper"), description="The study's scale."),
        "diverged": _text(description="Dense models behind it at chance or without a finite value, seed by seed."),
        "flags": _text(description="Why there is no estimate or interval, or what to doubt."),
    },
    unique=["finding", "statistic", "of"],
)

# The findings of several studies.
ALL_FINDINGS = replace(FINDINGS, unique=["study", *FINDINGS.unique])

# What is measured of weights: a row a matrix, one for all together, and their histogram.
MEASURED = {"matrices": WEIGHTS, "pooled": TRAJECTORIES, "histograms": HISTOGRAMS}

# The tables that every study has. Besides, there are LEVELS of one whose levels are placed, SIMILARITIES of one that
# compares masks, LOSSES of one that trains, and FINDINGS of one that makes claims.
SCHEMAS = {
    s.name: s
    for s in (
        EVALUATIONS, KNEES, CURVES, DIFFERENCES, LAYERS, WEIGHTS, TRAJECTORIES, HISTOGRAMS, CHANGES, COSTS,
    )
}  # fmt: skip


def stack(frames: Iterable[pd.DataFrame], schema: Schema) -> pd.DataFrame:
    """Put tables of one kind below each other; an empty table with the schema's columns where there are none."""
    parts = list(frames)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(schema.columns))


def evaluation_places(rows: pd.DataFrame) -> list[str]:
    """Return where evaluations' files lie, by rows with their axes: ``model/checkpoint/method/0.300/task/seed``."""
    axes = rows[["model", "checkpoint", "method", "sparsity", "task", "seed"]].itertuples(index=False)
    return [f"{e.model}/{e.checkpoint}/{e.method}/{e.sparsity:.3f}/{e.task}/{e.seed}" for e in axes]


def mean_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """Return ``sparsity, value`` of a curve, ascending: the mean over the seeds at each level."""
    means = rows.groupby("sparsity", sort=True)["value"].mean()
    return pd.DataFrame({"sparsity": means.index, "value": means.to_numpy()})


_DENSE_AXES = ["model", "checkpoint", "task"]


def curves(evaluations: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield each curve: its model, checkpoint, method, task and metric, and its rows with the dense model's first.

    The dense model is evaluated once for all methods and, where nothing is drawn, once for all seeds: a seed's curve
    takes the dense row of its seed, or else the only one there is. ``evaluated_seed`` is the seed that a row was
    evaluated with.
    """
    evaluations = evaluations.assign(evaluated_seed=evaluations["seed"])
    axes = ["model", "checkpoint", "method", "task", "metric"]
    dense = evaluations[evaluations["method"] == "dense"]
    dense_of = dict(list(dense.groupby(_DENSE_AXES)))
    for key, rows in evaluations[evaluations["method"] != "dense"].groupby(axes, sort=True):
        curve = dict(zip(axes, key, strict=True))
        same = dense_of.get(tuple(curve[axis] for axis in _DENSE_AXES), dense.iloc[:0])
        starts = []
        for seed in rows["seed"].unique():
            own = same[same["seed"] == seed]
            starts.append((own if len(own) else same).assign(seed=seed))
        yield curve, pd.concat([*starts, rows], ignore_index=True).sort_values(["seed", "sparsity"])


def level_rows(placed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ``levels`` for one curve, from what its last round wrote."""
    ends = {key: math.nan if placed[key] is None else placed[key] for key in ("low", "high")}
    axes = {key: placed[key] for key in ("model", "checkpoint", "method", "task", "reason")} | ends
    rounds = enumerate(placed["rounds"], start=1)
    return [{**axes, "round": number, "sparsity": level} for number, levels in rounds for level in levels]


def layer_rows(
    matrices: Iterable[Any], removed: Mapping[str, int], targets: Mapping[str, float]
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the rows of ``layers`` for one mask: one for each tensor of the checkpoint, pruned or not."""
    rows = []
    for position, m in enumerate(matrices):
        # One pool of all weights asks nothing of a matrix.
        target = targets.get(m.name, math.nan) if m.pruned else 0.0
        rows.append({
            "position": position, "name": m.name, "shape": "x".join(map(str, m.shape)), "pruned": m.pruned,
            "reason": m.reason, "target": target, "realised": removed.get(m.name, 0) / m.size,
        })  # fmt: skip
    return rows
