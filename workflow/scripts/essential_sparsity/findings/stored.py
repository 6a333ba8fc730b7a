"""Statistics of claims about masks, trajectories and weights, which tables of their own hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.findings.claims import AbruptChange, MaskSimilarity, WeightDifference
from essential_sparsity.findings.estimates import ONE_MODEL, Estimate, Unit, difference, mean, t_bounds
from essential_sparsity.findings.evidence import Evidence, MissingEvidenceError

EXACT = "masks without chance: exact for this checkpoint"


def mask_similarity(of: MaskSimilarity, evidence: Evidence) -> Estimate:
    """Return how alike the masks of two methods are, as the mean over levels.

    Over several models: Student's t interval over them, each the mean over its seeds. Of one model: over its seeds.
    Where neither method draws, the masks of a checkpoint are what they are: the interval is the estimate. One seed of a
    method that draws has no interval.
    """
    table = evidence.tables["similarities"]
    one, other = of.methods
    methods = table[["method", "other_method"]]
    pair = (methods == [one, other]).all(axis=1) | (methods == [other, one]).all(axis=1)
    levels = [round(level, 3) for level in of.levels]
    kept = table[pair & table["sparsity"].round(3).isin(levels)]
    per_model = []
    for model, checkpoint in of.checkpoints(evidence.last).items():
        rows = kept[(kept["model"] == model) & (kept["checkpoint"] == checkpoint)]
        if missing := sorted(set(levels) - set(rows["sparsity"].round(3))):
            raise MissingEvidenceError(f"no masks to compare on {model}/{checkpoint} at {', '.join(map(str, missing))}")
        per_model.append(rows.groupby("seed")[of.measure].mean().to_numpy(float))
    if len(per_model) > 1:
        return mean([_known(float(values.mean()), len(values)) for values in per_model], evidence.confidence)
    values = per_model[0]
    found = Estimate(float(values.mean()), None, None, len(values), (ONE_MODEL,))
    if not evidence.drawn & {one, other}:
        return replace(found, low=found.value, high=found.value, flags=(EXACT, ONE_MODEL))
    if len(values) < 2:
        return replace(found, flags=(ONE_MODEL, "one seed: no interval"))
    low, high = t_bounds([values.tolist()], [1], 0.0, evidence.confidence)
    return replace(found, low=low, high=high)


def abrupt_change(of: AbruptChange, evidence: Evidence) -> Estimate:
    """Return the share of a trajectory's whole range that its largest jump makes up, as the mean over models.

    Over several models: Student's t interval; of one: the interval of the table of changes. Any trajectory has a
    largest jump, and chosen as it is its interval lies off 0 even under smooth drift. Where the table's test does not
    tell the change of every model apart from that (p at most ``alpha``), no jump at all is not excluded, and the
    interval is extended to 0. The statistic being stated beforehand, p is not corrected for others.
    """
    table = evidence.tables["changes"]
    rows = table[(table["name"] == of.matrix) & (table["statistic"] == of.column)].set_index("model")
    if missing := [name for name in of.models if name not in rows.index]:
        raise MissingEvidenceError(f"no changes of {of.column} of {of.matrix} for {', '.join(missing)}")
    rows = rows.loc[list(of.models)]
    shares = rows["jump_share"].to_numpy(float)
    flags = [flag for text in rows["flags"].fillna("") for flag in text.split("; ") if flag]
    if np.isnan(shares).any():
        raise MissingEvidenceError("; ".join(dict.fromkeys(["no change of one of the models", *flags])))
    found = mean([_known(float(share), 1) for share in shares], evidence.confidence)
    if len(shares) == 1:
        low, high = (_number(rows[name].iloc[0]) for name in ("ci_low", "ci_high"))
        found = replace(found, low=low, high=high, flags=(ONE_MODEL,))
    p = float(rows["p_value"].astype(float).max(skipna=False))
    flags = [f"largest p {p:.2g}", *found.flags, *flags]
    if not p <= of.alpha:
        flags.insert(0, "not told apart from smooth drift: the interval is extended to 0")
        if found.low is not None and found.high is not None:
            found = replace(found, low=min(found.low, 0.0), high=max(found.high, 0.0))
    return replace(found, flags=tuple(dict.fromkeys(flags)))


def weight_statistic_difference(of: WeightDifference, evidence: Evidence) -> Estimate:
    """Return a statistic of the weights of one group of models minus that of another.

    Each model's is the mean over its prunable matrices, weighted by size: of a fraction, the fraction of all their
    weights. The interval is :func:`findings.estimates.difference`'s, over pre-trainings; one model has none.
    """
    one, other = (evidence.weights_of(group, of.column) for group in (of.one, of.other))
    return difference(one, other, of.pairing, evidence.confidence)


def _known(value: float, seeds: int) -> Unit:
    return Unit(value, value, value, None, seeds)


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
