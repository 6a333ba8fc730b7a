"""The manifest of a model: a row for each tensor, with whether its weights are pruned and why."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from essential_sparsity.files import read_json, write_json

OUTSIDE = -1


@dataclass(frozen=True)
class Matrix:
    """One tensor of a checkpoint.

    Attributes:
        name: Its name in the checkpoint's files.
        shape: Its shape as stored.
        pruned: Whether its weights are in the scope of pruning.
        reason: Why it is, or why not.
        parameter: Its name in the model that transformers builds, where another tensor may share the parameter.
        part: Start and stop in each dimension of that parameter; empty if it is the whole parameter.
        transposed: Whether it is stored as (inputs, outputs), as ``Conv1D`` does, and not as (outputs, inputs).
        block: The number of its transformer block, from 0, in the model's order; -1 outside the blocks.
    """

    name: str
    shape: tuple[int, ...]
    pruned: bool
    reason: str
    parameter: str = ""
    part: tuple[tuple[int, int], ...] = ()
    transposed: bool = False
    block: int = OUTSIDE

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def inputs(self) -> int:
        """Number of inputs, the length of a row."""
        return self.shape[-2] if self.transposed else self.shape[-1]

    @property
    def experts(self) -> int:
        """Number of matrices in the tensor: those of the experts that it holds, or one."""
        return math.prod(self.shape[:-2])

    @property
    def outputs(self) -> int:
        """Number of rows, those of all experts together."""
        return self.size // self.inputs


def write_manifest(matrices: list[Matrix], path: Path) -> None:
    """Write the list of matrices as JSON."""
    write_json(path, {"matrices": [asdict(m) for m in matrices]})


def read_manifest(path: Path) -> list[Matrix]:
    """Read what :func:`write_manifest` wrote."""
    return [
        Matrix(**{**row, "shape": tuple(row["shape"]), "part": tuple(tuple(p) for p in row["part"])})
        for row in read_json(path)["matrices"]
    ]
