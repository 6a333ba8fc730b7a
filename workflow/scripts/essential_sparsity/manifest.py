"""The manifest of a model: a row for each tensor, with whether its weights are pruned and why."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from essential_sparsity.files import read_json, write_json


@dataclass(frozen=True)
class Matrix:
    """One tensor of a checkpoint.

    Attributes:
        name: Its name in ``model.safetensors``.
        shape: Its shape as stored.
        pruned: Whether its weights are in the scope of pruning.
        reason: Why it is, or why not.
    """

    name: str
    shape: tuple[int, ...]
    pruned: bool
    reason: str

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


def write_manifest(matrices: list[Matrix], path: Path) -> None:
    """Write the list of matrices as JSON."""
    write_json(path, {"matrices": [asdict(m) for m in matrices]})


def read_manifest(path: Path) -> list[Matrix]:
    """Read what :func:`write_manifest` wrote."""
    rows: list[dict[str, Any]] = read_json(path)["matrices"]
    return [Matrix(row["name"], tuple(row["shape"]), row["pruned"], row["reason"]) for row in rows]
