"""Updates: how the kept weights of a matrix are changed to make up for the removed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from essential_sparsity.methods.statistics import Factor, Needs, Options, damped_hessian, inverse_factor

if TYPE_CHECKING:  # as in scores.py
    from torch import Tensor

    from essential_sparsity.methods.statistics import InputStatistics

BLOCK_SIZE = 128
_LARGEST_ITERATIONS = 200


def sweep_columns(
    weight: Tensor, factor: Factor, choose: Callable[[Tensor, int, int], Tensor], width: int, block_size: int
) -> tuple[Tensor, Tensor]:
    """Remove weights column by column, each time moving the error onto the columns that follow (SparseGPT, alg. 1).

    Args:
        weight: (outputs, inputs).
        factor: Of the inverse Hessian of its inputs.
        choose: Takes the updated columns, (outputs, columns), from one index to another; returns which are kept.
        width: How many columns are chosen at once; divides the block.
        block_size: Columns after which the error is moved onto all that follow.

    Returns:
        The keep mask and the updated weights, with zeros where weights are removed; both (outputs, inputs).
    """
    upper = factor.factor
    # Transposed, so that a column lies in one piece of memory.
    columns = weight.to(upper.dtype).T.contiguous()
    columns[factor.dead] = 0.0
    removed = columns.new_zeros(columns.shape, dtype=factor.dead.dtype)
    for start in range(0, len(columns), block_size):
        stop = min(start + block_size, len(columns))
        block, corner = columns[start:stop], upper[start:stop, start:stop]
        errors = block.new_empty(block.shape)
        diagonal = corner.diagonal().tolist()
        for i in range(stop - start):
            if i % width == 0:
                last = min(i + width, stop - start)
                keep = choose(block[i:last].T, start + i, start + last)
                removed[start + i : start + last] = ~keep.T
            # What is removed of this column, over the diagonal; zero where the weight is kept.
            errors[i] = block[i] * removed[start + i] / diagonal[i]
            block[i:].addr_(corner[i, i:], errors[i], alpha=-1)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    columns[removed] = 0.0
    return ~removed.T, columns.T.to(weight.dtype)


def sparsegpt(weight: Tensor, keep: Tensor, statistics: InputStatistics, name: str, options: Options) -> Tensor:
    """Return the weights after SparseGPT's update for a mask that another score has chosen."""
    factor = inverse_factor(statistics, name, options)
    block_size = int(options.get("block_size", BLOCK_SIZE))
    return sweep_columns(weight, factor, lambda _, a, b: keep[:, a:b], block_size, block_size)[1]


def reconstruct(weight: Tensor, keep: Tensor, statistics: InputStatistics, name: str, options: Options) -> Tensor:
    """Return the kept weights that minimise the layer's squared output error, for any mask.

    Row by row ``min ||(w' - w) X||^2 + damping |w' - w|^2`` over w' that are zero where the mask says so. All rows are
    solved at once by conjugate gradients on the masked normal equations, preconditioned by the diagonal: to the
    precision of the Hessian's type, or for 200 steps.
    """
    import torch

    # As much damping as makes the Hessian positive definite: conjugate gradients need that as SparseGPT does.
    hessian, _ = damped_hessian(statistics, inverse_factor(statistics, name, options).damping)
    dense, kept = weight.to(hessian.dtype), keep.to(hessian.dtype)
    diagonal = hessian.diagonal()
    solution = dense * kept
    residual = ((dense - solution) @ hessian) * kept
    direction = residual / diagonal
    progress = (residual * direction).sum(1)
    target = progress * torch.finfo(hessian.dtype).eps ** 1.5
    for _ in range(_LARGEST_ITERATIONS):
        if not bool((progress > target).any()):
            break
        image = (direction @ hessian) * kept
        curvature = (direction * image).sum(1)
        step = torch.where(progress > target, progress / curvature.clamp(min=torch.finfo(hessian.dtype).tiny), 0.0)
        solution += step[:, None] * direction
        residual -= step[:, None] * image
        scaled = residual / diagonal
        following = (residual * scaled).sum(1)
        direction = scaled + (following / progress.clamp(min=torch.finfo(hessian.dtype).tiny))[:, None] * direction
        progress = following
    return (solution * kept).to(weight.dtype)


@dataclass(frozen=True)
class Update:
    """An entry of the registry.

    Attributes:
        apply: Takes weights and keep mask, (outputs, inputs), statistics of the inputs, the matrix's name and the
            method's options; returns the new weights, zero where the mask removes them.
        needs: Which statistics it uses.
        options: Names of the method's ``options`` that it reads.
    """

    apply: Callable[[Tensor, Tensor, InputStatistics, str, Options], Tensor]
    needs: Needs = "hessians"
    options: tuple[str, ...] = ()


UPDATES: dict[str, Update] = {
    "sparsegpt": Update(sparsegpt, options=("damping", "block_size")),
    "reconstruct": Update(reconstruct, options=("damping",)),
}
