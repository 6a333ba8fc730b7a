"""What a curve was measured on: the examples of its evaluations, as resampling takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.tables import evaluation_places
from essential_sparsity.inference import Floats
from essential_sparsity.knees.resampling import Sample
from essential_sparsity.metrics.registry import metric_features, performance, weighted_values

# Scores of float32 models are stored exactly; what remains is the order of summation.
_SAME = 1e-6


@dataclass(frozen=True)
class Examples:
    """The examples of a study's evaluations.

    Attributes:
        folder: Where they lie, each beside its evaluation's row; None where nothing is to be resampled.
        positive: The class that F1 is of, by the name of the task.
        drawn: The methods and tasks whose results depend on the seed.
    """

    folder: Path | None = None
    positive: Mapping[str, str | None] = field(default_factory=dict)
    drawn: frozenset[str] = frozenset()


def sample_of(axes: Mapping[str, str], rows: pd.DataFrame, examples: Examples) -> tuple[Sample | None, tuple[str, ...]]:
    """Return what a curve was measured on.

    Args:
        axes: ``model, checkpoint, method, task, metric`` of the curve.
        rows: Its rows, as :func:`knees.curves.curves` gives them.
        examples: The examples of the study's evaluations.

    Returns:
        The sample, and why something of it cannot be resampled. No sample where levels have different seeds or a
        value is missing; no features where examples are missing, differ between levels or seeds, or do not give the
        values of the table.
    """
    if rows.duplicated(["sparsity", "seed"]).any():
        return None, ("a level with several values of one seed: no interval",)
    wide = rows.pivot_table(index="sparsity", columns="seed", values="value", aggfunc="first", dropna=False)
    if wide.isna().to_numpy().any():
        return None, ()
    sparsity, seeds = wide.index.to_numpy(float), tuple(int(seed) for seed in wide.columns)
    values = wide.to_numpy(float)
    features, index, why = _features(axes, rows, values, examples)
    return Sample(axes["metric"], axes["task"], sparsity, seeds, values, features, index), why


def _features(
    axes: Mapping[str, str], rows: pd.DataFrame, values: Floats, examples: Examples
) -> tuple[Floats | None, str, tuple[str, ...]]:
    """Return the features (levels, seeds, examples, k), the digest of the examples' names, and why there are none."""
    if examples.folder is None:
        return None, "", ()
    ordered = rows.sort_values(["sparsity", "seed"])
    same = {name: axes[name] for name in ("model", "checkpoint", "task")}
    places = evaluation_places(ordered.assign(**same, seed=ordered["evaluated_seed"]))
    files = [examples.folder / f"{place}.examples.parquet" for place in places]
    if not all(file.is_file() for file in files):
        return None, "", ("examples of some levels are missing: not resampled",)
    positive = examples.positive.get(axes["task"])
    try:
        read = [_read(file, file.stat().st_mtime_ns, axes["metric"], positive) for file in files]
    except UserError as error:
        return None, "", (f"examples not resampled: {error.where}: {error.found}",)
    index = read[0][1]
    if any(names != index for _, names in read):
        return None, "", ("levels or seeds with different examples: not resampled",)
    width = max(features.shape[1] for features, _ in read)
    padded = np.stack([np.pad(features, ((0, 0), (0, width - features.shape[1]))) for features, _ in read])
    again = weighted_values(axes["metric"], np.ones((1, padded.shape[1])), padded)[:, 0]
    scores = performance(np.stack([again, values.reshape(-1)]), axes["metric"])
    if not np.allclose(scores[0], scores[1], rtol=_SAME, atol=_SAME):
        return None, "", ("the examples do not give the values: not resampled",)
    return padded.reshape(*values.shape, *padded.shape[1:]), index, ()


# The dense model's examples are part of every curve that starts there.
@lru_cache(maxsize=64)
def _read(path: Path, _modified: int, metric: str, positive: str | None) -> tuple[Floats, str]:
    """Return the features of an evaluation's examples, ordered by their names, and the digest of these."""
    examples = pd.read_parquet(path).sort_values(["group", "id"], kind="stable", ignore_index=True)
    names = "\n".join(examples["group"]).encode() + examples["id"].to_numpy(np.int64).tobytes()
    return metric_features(metric, examples, str(path), positive), hashlib.sha256(names).hexdigest()[:16]
