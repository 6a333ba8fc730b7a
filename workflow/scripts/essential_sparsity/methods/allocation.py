"""Allocations: how the budget of removed weights is divided over the matrices.

What an allocation reads off the model does not depend on the level: it is measured once, as plain numbers, and then
divided for every level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.methods.levels import level_index
from essential_sparsity.methods.scores import SCORES, Score, ScoreContext
from essential_sparsity.methods.statistics import Needs, Options

if TYPE_CHECKING:  # as in scores.py
    from torch import Tensor

    from essential_sparsity.methods.statistics import InputStatistics

OWL_THRESHOLD = 5.0
OWL_RANGE = 0.08
ALPHA_RANGE = 0.3
_HISTOGRAM_BINS = 100


class Model(Protocol):
    """What an allocation may read of a checkpoint."""

    def weight(self, matrix: Matrix) -> Tensor:
        """Return a matrix's weights, (outputs, inputs)."""
        ...

    def inputs(self, matrix: Matrix) -> InputStatistics:
        """Return the statistics of a matrix's inputs in the dense model."""
        ...

    def removed_by(self, score: Score, matrices: Sequence[Matrix], with_ties: bool) -> dict[str, list[int]]:
        """Return how many weights of each matrix a score removes at each of ``levels.ALL``, in one pool of all.

        ``with_ties``: ``int(s n)`` of all, and all that are as large as the last of them.
        """
        ...


Sparsities = dict[str, float]
# Plain numbers by name, whatever the level.
Measured = dict[str, Any]


@dataclass(frozen=True)
class Allocation:
    """An entry of the registry.

    Attributes:
        divide: Takes the prunable matrices, the sparsity of them all, what was measured, and the method's options with
            ``compat``; returns each matrix's sparsity.
        measure: Takes the matrices, the model and the options. None if there is nothing to measure.
        needs: Which statistics of the dense model's inputs it uses.
        options: Names of the method's ``options`` that it reads.
    """

    divide: Callable[[Sequence[Matrix], float, Measured, Options], Sparsities]
    measure: Callable[[Sequence[Matrix], Model, Options], Measured] | None = None
    needs: Needs = "nothing"
    options: tuple[str, ...] = ()


def uniform(matrices: Sequence[Matrix], sparsity: float, measured: Measured, options: Options) -> Sparsities:
    """Give every matrix the same sparsity."""
    return {m.name: sparsity for m in matrices}


def erk(matrices: Sequence[Matrix], sparsity: float, measured: Measured, options: Options) -> Sparsities:
    """Make a matrix's density proportional to ``(in + out) / (in * out)`` (Erdos-Renyi kernel, arXiv 1911.11134).

    Matrices whose density would pass 1 stay dense, and the others share what is left.
    """
    # Experts that one tensor holds are matrices of their own.
    shapes = [(m.inputs, m.outputs // m.experts) for m in matrices]
    ratios = [(columns + rows) / (columns * rows) for columns, rows in shapes]
    sizes = [m.size for m in matrices]
    densities = scaled_to_budget(ratios, sizes, (1 - sparsity) * sum(sizes))
    return {m.name: 1 - d for m, d in zip(matrices, densities, strict=True)}


def measure_magnitudes(matrices: Sequence[Matrix], model: Model, options: Options) -> Measured:
    """Return how many weights of each matrix global magnitude removes at every level that there is."""
    return {"removed": model.removed_by(SCORES["magnitude"], matrices, options.get("compat") == "published")}


def magnitude(matrices: Sequence[Matrix], sparsity: float, measured: Measured, options: Options) -> Sparsities:
    """Give each matrix the sparsity that global magnitude would give it (as MULTIFLOW does, arXiv 2404.05621)."""
    if sparsity == 0:
        return {m.name: 0.0 for m in matrices}
    at = level_index(sparsity)
    # As MULTIFLOW's reference writes it: what int() makes of it times the size may be one less than was counted.
    return {m.name: 1 - (m.size - measured["removed"][m.name][at]) / m.size for m in matrices}


def scaled_to_budget(ratios: Sequence[float], sizes: Sequence[int], budget: float) -> list[float]:
    """Return ``min(1, c * ratio)`` with the c for which the sum of size times that is the budget."""
    capped: set[int] = set()
    while True:
        free = [i for i in range(len(ratios)) if i not in capped]
        rest = budget - sum(sizes[i] for i in capped)
        weight = sum(sizes[i] * ratios[i] for i in free)
        scale = rest / weight if weight > 0 else 0.0
        over = {i for i in free if scale * ratios[i] > 1}
        if not over:
            return [1.0 if i in capped else scale * ratio for i, ratio in enumerate(ratios)]
        capped |= over


def shifted_to_budget(values: Sequence[float], sizes: Sequence[int], budget: float) -> list[float]:
    """Return ``values + c``, clipped to [0, 1], with the c for which the sum of size times that is the budget."""
    low, high = -1.0 - max(values), 2.0 - min(values)
    for _ in range(200):
        middle = (low + high) / 2
        total = sum(n * min(1.0, max(0.0, v + middle)) for v, n in zip(values, sizes, strict=True))
        low, high = (middle, high) if total < budget else (low, middle)
    return [min(1.0, max(0.0, v + high)) for v in values]


def blocks_of(matrices: Sequence[Matrix]) -> dict[int, list[Matrix]]:
    """Return the prunable matrices of each transformer block; those that a pattern included from outside are -1's."""
    blocks: dict[int, list[Matrix]] = {}
    for m in matrices:
        blocks.setdefault(m.block, []).append(m)
    return dict(sorted(blocks.items()))


def _spread(values: Sequence[float]) -> list[float]:
    """Map values linearly to [0, 1]; the middle where all are the same."""
    lowest, highest = min(values), max(values)
    return [(v - lowest) / (highest - lowest) if highest > lowest else 0.5 for v in values]


def measure_outliers(matrices: Sequence[Matrix], model: Model, options: Options) -> Measured:
    """Return each block's share of outliers: per cent of its Wanda scores above M times their mean (OWL, eq. 2).

    The mean is over all weights of the block's matrices together, in the dense model. M is ``owl_threshold``.
    """
    shares = {}
    for block, members in blocks_of(matrices).items():

        def score(m: Matrix) -> Tensor:
            return SCORES["wanda"].compute(model.weight(m), ScoreContext(m.name, inputs=model.inputs(m)))

        size = sum(m.size for m in members)
        mean = sum(float(score(m).double().sum()) for m in members) / size
        limit = float(options.get("owl_threshold", OWL_THRESHOLD)) * mean
        shares[str(block)] = 100.0 * sum(int((score(m) > limit).sum()) for m in members) / size
    return {"outliers": shares}


def owl(matrices: Sequence[Matrix], sparsity: float, measured: Measured, options: Options) -> Sparsities:
    """Remove less where there are more outliers (OWL: Yin et al., arXiv 2310.05175).

    Densities are linear in a block's share of outliers, with a range of ``2 * owl_range`` (lambda, 0.08) around
    ``1 - s``; clipped to [0, 1], and shifted so that the whole model has the sparsity asked. ``compat: published``
    takes the mean over blocks without their sizes and lets sparsities of 0 and less be 0.01.
    """
    blocks = blocks_of(matrices)
    spread = _spread([measured["outliers"][str(block)] for block in blocks])
    densities = [2 * float(options.get("owl_range", OWL_RANGE)) * value for value in spread]
    if options.get("compat") == "published":
        mean = sum(densities) / len(densities)
        found = [1 - (d - mean + 1 - sparsity) for d in densities]
        sparsities = [0.01 if s <= 0 else min(s, 1.0) for s in found]
    else:
        sizes = [sum(m.size for m in members) for members in blocks.values()]
        sparsities = shifted_to_budget([-d for d in densities], sizes, sparsity * sum(sizes))
    return {m.name: s for s, members in zip(sparsities, blocks.values(), strict=True) for m in members}


def power_law_exponent(eigenvalues: Sequence[float], lowest_at_logarithm: bool = False) -> float:
    """Return the exponent of the power law in the tail of a spectrum (AlphaPruning's ``alpha_peak``, 2410.10912).

    The tail starts near the peak of the histogram of ``log10(eigenvalue)`` over 100 bins: of the eigenvalues between
    0.95 and 1.5 times the left edge of the fullest bin, the one is taken whose power law has the smallest
    Kolmogorov-Smirnov distance to the tail; the exponent is Hill's ``1 + n / sum(ln(x / xmin))``.

    Args:
        eigenvalues: In ascending order, the squared singular values.
        lowest_at_logarithm: Compare with log10 of the lower bound instead, as the reference does.
    """
    import numpy as np

    values = np.asarray(eigenvalues, dtype=np.float64)
    values = values[values > 0]
    if len(values) < 2:
        return 1.0
    logs = np.log(values)
    counts, edges = np.histogram(logs / math.log(10), bins=_HISTOGRAM_BINS)
    peak = 10 ** edges[int(counts.argmax())]
    lowest = math.log10(0.95 * peak) if lowest_at_logarithm else 0.95 * peak
    best, exponent = math.inf, 1.0
    for i in range(len(values) - 1):
        if not lowest <= values[i] <= 1.5 * peak:
            continue
        n = len(values) - i
        total = logs[i:].sum() - n * logs[i]
        if total <= 0:
            continue
        alpha = 1 + n / total
        ranks = np.arange(n) / n
        distance = float(np.abs(1 - (values[i:] / values[i]) ** (1 - alpha) - ranks).max())
        if distance < best:
            best, exponent = distance, alpha
    return float(exponent)


def measure_exponents(matrices: Sequence[Matrix], model: Model, options: Options) -> Measured:
    """Return the mean over each block's matrices of the exponents of their spectra."""
    import torch

    slip = options.get("compat") == "published"
    means = {}
    for block, members in blocks_of(matrices).items():
        found = []
        for m in members:
            weight = model.weight(m)
            wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
            for expert in wide.chunk(m.experts):
                squares = torch.linalg.svdvals(expert).square().flip(0)
                found.append(power_law_exponent(squares.tolist(), slip))
        means[str(block)] = sum(found) / len(found)
    return {"exponents": means}


def alpha_pruning(matrices: Sequence[Matrix], sparsity: float, measured: Measured, options: Options) -> Sparsities:
    """Remove more where spectra have lighter tails (AlphaPruning: Lu et al., arXiv 2410.10912).

    A block's exponent maps linearly to [1 - eps, 1 + eps], ``alpha_range`` 0.3, and is scaled so that the whole model
    has the sparsity asked; blocks that would pass 1 are removed wholly and the others share what is left.
    ``compat: published`` scales once: blocks that would pass 1 are removed wholly, and the target is missed.
    """
    blocks = blocks_of(matrices)
    eps = float(options.get("alpha_range", ALPHA_RANGE))
    ratios = [1 - eps + 2 * eps * value for value in _spread([measured["exponents"][str(block)] for block in blocks])]
    sizes = [sum(m.size for m in members) for members in blocks.values()]
    if options.get("compat") == "published":
        scale = sparsity * sum(sizes) / sum(n * r for n, r in zip(sizes, ratios, strict=True))
        sparsities = [min(scale * r, 1.0) for r in ratios]
    else:
        sparsities = scaled_to_budget(ratios, sizes, sparsity * sum(sizes))
    return {m.name: s for s, members in zip(sparsities, blocks.values(), strict=True) for m in members}


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": Allocation(uniform),
    "erk": Allocation(erk),
    "magnitude": Allocation(magnitude, measure_magnitudes),
    "owl": Allocation(owl, measure_outliers, needs="moments", options=("owl_threshold", "owl_range")),
    "alpha-pruning": Allocation(alpha_pruning, measure_exponents, options=("alpha_range",)),
}
