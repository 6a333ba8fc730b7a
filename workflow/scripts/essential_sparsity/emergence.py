"""Statistics of a checkpoint's weights: what changes in them over pre-training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor

# Fixed thresholds of the paper's analysis, and one relative to the matrix's own spread.
ABSOLUTE_THRESHOLDS = (1e-3, 1e-2)
RELATIVE_THRESHOLD = 0.1


def hoyer_sparsity(weight: Tensor) -> float:
    """Return ``(sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1)``: 0 for equal magnitudes, 1 for a single non-zero weight.

    Source: Hoyer, Non-negative matrix factorization with sparseness constraints, JMLR 2004. 0.0 for all zeros.
    """
    w = weight.to(torch.float64).flatten()
    norm = float(w.norm())
    if norm == 0.0 or w.numel() == 1:
        return 0.0
    root = w.numel() ** 0.5
    # Equal magnitudes may come out below 0 by rounding.
    return float(min(1.0, max(0.0, (root - float(w.abs().sum()) / norm) / (root - 1.0))))


def excess_kurtosis(weight: Tensor) -> float:
    """Return ``E[(w - mean)^4] / var^2 - 3`` with population moments: 0 for a normal distribution."""
    w = weight.to(torch.float64).flatten()
    centred = w - w.mean()
    variance = float((centred**2).mean())
    return float((centred**4).mean()) / variance**2 - 3.0 if variance > 0 else 0.0


def matrix_statistics(weight: Tensor) -> dict[str, float]:
    """Return the statistics of one matrix; fractions are of its number of weights."""
    w = weight.to(torch.float64)
    size, spread = w.abs(), float(w.std(correction=0))
    below = {f"fraction_below_{t:g}": float((size < t).double().mean()) for t in ABSOLUTE_THRESHOLDS}
    return {
        "n": w.numel(),
        "mean": float(w.mean()),
        "std": spread,
        "mean_magnitude": float(size.mean()),
        "fraction_zero": float((w == 0).double().mean()),
        **below,
        "fraction_below_0.1_std": float((size < RELATIVE_THRESHOLD * spread).double().mean()),
        "kurtosis": excess_kurtosis(w),
        "hoyer": hoyer_sparsity(w),
    }


def checkpoint_statistics(weights: Path, names: Iterable[str], device: torch.device) -> pd.DataFrame:
    """Return a row of statistics for each named matrix of a checkpoint, read one at a time."""
    rows: list[dict[str, Any]] = []
    with safe_open(weights, framework="pt") as file:
        for name in names:
            rows.append({"name": name, **matrix_statistics(file.get_tensor(name).to(device))})
    return pd.DataFrame(rows)
