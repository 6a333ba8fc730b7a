"""Metrics of the library `evaluate`, from a clone of its repository: loading them by name would need the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "EVALUATE_METRICS"


def reference_metric(name: str, *options: str) -> Any:
    """Return a metric of `evaluate`, or skip the test."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"set {VARIABLE} to the folder `metrics` of a clone of huggingface/evaluate to compare with it")
    evaluate = pytest.importorskip("evaluate")
    assert (Path(folder) / name).is_dir(), f"{VARIABLE} names {folder}, which has no {name}"
    return evaluate.load(str(Path(folder) / name), *options)
