"""Entries of the registries as a study has them: their schemas' defaults filled in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from essential_sparsity.data.kinds import Dataset
from essential_sparsity.data.tasks import AnyTask
from essential_sparsity.knees.readings import Settings
from essential_sparsity.methods.statistics import Calibration
from essential_sparsity.pretraining.recipe import AnyRecipe
from essential_sparsity.records import record
from essential_sparsity.sources.kinds import Source
from essential_sparsity.study.models import Model
from essential_sparsity.study.validation import load_yaml, validate

SCHEMAS = Path(__file__).resolve().parents[2] / "workflow" / "schemas"


def _entry(kind: str, hint: Any, values: dict[str, Any]) -> Any:
    entries = {"own": copy.deepcopy(values)}
    validate(entries, SCHEMAS / f"{kind}.schema.yaml", kind)
    return record(hint, entries["own"])


def task(protocol: str = "finetune", **values: Any) -> Any:
    """Return a task."""
    return _entry("tasks", AnyTask, {"label": "t", "dataset": "d", "protocol": protocol, **values})


def dataset(**values: Any) -> Dataset:
    """Return a dataset."""
    given = {"licence": "none", "source": {"kind": "path", "path": "d.csv"}, "format": "csv"}
    found: Dataset = _entry("datasets", Dataset, given | values)
    return found


def source(kind: str, **values: Any) -> Any:
    """Return a source."""
    return record(Source, {"kind": kind, **values})


def recipe(**values: Any) -> AnyRecipe:
    """Return the recipe of a pre-training."""
    given = {"kind": "pretrain", "recipe": {"corpus": "d", "steps": 9, **values}}
    found: AnyRecipe = _entry("models", Model, {"licence": "none", "source": given}).source.recipe
    return found


def calibration(**values: Any) -> Calibration:
    """Return a calibration."""
    found: Calibration = _entry("calibrations", Calibration, {"dataset": "d", **values})
    return found


def knees(**values: Any) -> Settings:
    """Return how knees are read."""
    keys = load_yaml(SCHEMAS / "study.schema.yaml")["properties"]["knees"]["properties"]
    return record(Settings, {name: key["default"] for name, key in keys.items()} | values)
