"""Pruning block by block: each sees what the pruned blocks before it hand on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.placement import part_of
from essential_sparsity.checkpoints.tensors import WeightFiles
from essential_sparsity.errors import UserError
from essential_sparsity.methods.method import Method
from essential_sparsity.methods.statistics import no_statistics
from essential_sparsity.pruning.masks import apply_to_tensor, unpack
from essential_sparsity.pruning.prune import PrunedMatrix, as_rows, check_groups, prune_matrix
from essential_sparsity.pruning.streaming import visit_blocks


def prune_by_block(
    model: nn.Module, files: WeightFiles, matrices: Sequence[Matrix], batches: Sequence[Tensor],
    device: torch.device, folder: Path | None, method: Method, targets: Mapping[str, float], seed: int,
    precision: str = "float32",
) -> Iterator[tuple[str, PrunedMatrix]]:  # fmt: skip
    """Yield what pruning makes of each matrix, block by block in the published order.

    A block's statistics are taken while it is dense, with the inputs that the pruned blocks before it hand on; all its
    matrices are pruned at once; then the batches run through the pruned block.

    Args:
        model: As in :func:`visit_blocks`, and so are the arguments up to ``folder``.
        files: The checkpoint.
        matrices: Its whole manifest.
        batches: Token ids.
        device: Where the model runs.
        folder: Where activations wait.
        method: Whose scope lies within a matrix.
        targets: The sparsity asked of each matrix.
        seed: Of a random score.
        precision: As in :func:`visit_blocks`.

    Raises:
        UserError: A matrix is not reached, or a block is run through twice.
    """
    rows = [m for m in matrices if m.pruned]
    check_groups(rows, method)
    done: set[str] = set()
    with_gram = method.needs == "hessians"
    for visit, observer in visit_blocks(model, files, matrices, batches, device, folder, with_gram, precision):
        visit.replay(observer.replaying)
        for m in rows:
            if m.name not in observer.statistics:
                continue
            if m.name in done:
                raise UserError(
                    where=f"matrix {m.name}",
                    found="a block that the model runs through more than once",
                    expected="blocks with weights of their own",
                    mend="use a calibration with `propagate: dense`",
                )
            done.add(m.name)
            with torch.no_grad():
                weight = part_of(model.get_parameter(m.parameter), m.part, m.shape)
                inputs = observer.statistics[m.name]
                (result,) = prune_matrix(as_rows(weight, m), m, method, [targets[m.name]], seed, inputs)
                apply_to_tensor(weight, unpack(result.packed, m.shape).to(device), result.values)
            yield m.name, result
    missed = [m.name for m in rows if m.name not in done]
    if missed:
        raise no_statistics(missed[0])
