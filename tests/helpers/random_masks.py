"""Masks that remove a given number of weights, drawn and not chosen, and files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.pruning.masks import MaskHeader, pack, writing_mask

METHOD = {"score": "random", "allocation": "uniform", "scope": "global", "pattern": "unstructured"}


def random_keep(shape: Sequence[int], removed: int, seed: int) -> Tensor:
    """Return a boolean mask that removes so many weights."""
    flat = np.ones(int(np.prod(shape)), dtype=bool)
    flat[np.random.default_rng(seed).permutation(flat.size)[:removed]] = False
    return torch.from_numpy(flat.reshape(shape))


def random_masks(matrices: Sequence[Matrix], sparsity: float, seed: int = 0) -> dict[str, Tensor]:
    """Return masks of the prunable matrices that remove a share of each, rounded."""
    rows = [m for m in matrices if m.pruned]
    return {m.name: random_keep(m.shape, round(sparsity * m.size), seed + i) for i, m in enumerate(rows)}


def write_masks(
    path: Path, masks: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None, **header: Any
) -> MaskHeader:
    """Write masks, and new values of the kept weights if there are any, and return the header that was given."""
    said = {"model": "model", "checkpoint": "final", "method": METHOD, "seed": 0, "target": 0.5, **header}
    shapes = {name: list(keep.shape) for name, keep in masks.items()}
    whole = MaskHeader(**said, shapes=shapes, updated=values is not None)
    with writing_mask(path, whole) as writer:
        for name, keep in masks.items():
            writer.put(name, pack(keep), None if values is None else values[name])
    return whole
