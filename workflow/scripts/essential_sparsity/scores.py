"""Scores: how important a weight is. The weights with the smallest scores are removed first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor, str, int], Tensor]


def magnitude(weight: Tensor, name: str, seed: int) -> Tensor:
    """Return ``|W|`` in float32, exact for every narrower float (the paper, section 3).

    Args:
        weight: A matrix, any shape.
        name: Its name; not used.
        seed: Not used.
    """
    return weight.to(torch.float32).abs()


def random(weight: Tensor, name: str, seed: int) -> Tensor:
    """Return one uniform draw from [0, 1) a weight: the same for every sparsity, so that levels are nested.

    Args:
        weight: A matrix, any shape; only the shape matters.
        name: Its name, which makes the draws of matrices independent.
        seed: The draw's seed.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # Drawn on the CPU, so that the mask is the same on every device.
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.rand(weight.shape, generator=generator, dtype=torch.float32).to(weight.device)


SCORES: dict[str, Score] = {"magnitude": magnitude, "random": random}
