"""One level of pruning of a checkpoint, read from its safetensors file without building the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from essential_sparsity.manifest import Matrix
from essential_sparsity.scores import SCORES
from essential_sparsity.selection import select


def prune_checkpoint(
    weights: Path, matrices: Sequence[Matrix], method: Mapping[str, str], sparsity: float, seed: int,
    device: torch.device,
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """Yield the keep mask of every prunable matrix, on the CPU, one at a time.

    Args:
        weights: ``model.safetensors``.
        matrices: The prunable matrices, in the model's order.
        method: ``score`` and ``scope``.
        sparsity: Fraction to remove, in [0, 1).
        seed: Of a random score.
        device: Where scores are computed and selected; the result does not depend on it.
    """
    score = SCORES[method["score"]]
    with safe_open(weights, framework="pt") as file:

        def score_of(name: str) -> Tensor:
            return score(file.get_tensor(name).to(device), name, seed)

        for name, keep in select({m.name: m.size for m in matrices}, score_of, method["scope"], sparsity):
            yield name, keep.cpu()
