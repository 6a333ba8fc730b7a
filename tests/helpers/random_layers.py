"""Made-up weights and inputs that look like those of trained layers, and the library's statistics of such inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.methods.statistics import InputStatistics

Array = np.ndarray[Any, np.dtype[Any]]


def weights(seed: int, outputs: int, inputs: int) -> Array:
    """Weights with heavy tails: rows and columns of different size."""
    draw = np.random.default_rng(seed)
    sizes = np.exp(0.4 * draw.standard_normal((outputs, 1))) * np.exp(0.4 * draw.standard_normal((1, inputs)))
    found: Array = 0.05 * sizes * draw.standard_normal((outputs, inputs))
    return found


def activations(seed: int, tokens: int, inputs: int) -> Array:
    """Inputs that are correlated, of different size and not centred, a few of them much larger than the others."""
    draw = np.random.default_rng(1000 + seed)
    mixed = draw.standard_normal((tokens, inputs)) + draw.standard_normal((tokens, max(1, inputs // 8))) @ (
        0.5 * draw.standard_normal((max(1, inputs // 8), inputs))
    )
    size = np.exp(0.5 * draw.standard_normal(inputs))
    size[:: max(8, inputs // 4)] *= 8
    found: Array = size * (mixed + 0.3 * draw.standard_normal(inputs))
    return found


def statistics(x: Array, samples: int, dtype: torch.dtype = torch.float64, with_gram: bool = True) -> InputStatistics:
    """What calibration would gather of these inputs, handed over in a type."""
    found = InputStatistics.empty(x.shape[1], with_gram, torch.empty(0, dtype=dtype))
    found.add(torch.tensor(x).to(dtype), samples)
    return found


def matrix(name: str, *shape: int, transposed: bool = False, block: int = 0) -> Matrix:
    """A prunable row of a manifest."""
    return Matrix(name, shape, True, "linear", parameter=name, transposed=transposed, block=block)
