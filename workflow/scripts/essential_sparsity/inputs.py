"""Statistics of the inputs of linear layers over calibration tokens, what calibrated methods are made of."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from essential_sparsity.errors import UserError
from essential_sparsity.precision import full_precision
from essential_sparsity.tensor_writer import header_room, writing_tensors
from essential_sparsity.updates import Factor
from essential_sparsity.weights import open_weights


@dataclass
class Damping:
    """What the factor of a Hessian took: known for longer than the factor, which is large, is kept.

    Attributes:
        taken: As a fraction of the mean diagonal; None while nobody has asked for a factor.
    """

    taken: float | None = None


@dataclass
class InputStatistics:
    """Sums over the inputs X, (tokens, inputs), of one linear layer.

    Attributes:
        samples: Sequences seen.
        tokens: Tokens seen.
        squares: Sum of x_j^2 over the tokens, (inputs,), float64.
        totals: Sum of x_j, (inputs,), float64.
        gram: Sum of x x^T, (inputs, inputs), in the inputs' type but float32 at least; None if it is not needed.
        factor: The factor of the inverse Hessian, once a method has asked for it.
        damping: What a factor took, of these inputs whoever read them.
    """

    samples: int
    tokens: int
    squares: Tensor
    totals: Tensor
    gram: Tensor | None = None
    factor: Factor | None = None
    damping: Damping = field(default_factory=Damping)

    @classmethod
    def empty(cls, inputs: int, with_gram: bool, like: Tensor) -> InputStatistics:
        """Return sums over nothing, on the device of ``like``."""
        wide = torch.promote_types(like.dtype, torch.float32)
        gram = torch.zeros(inputs, inputs, dtype=wide, device=like.device) if with_gram else None
        zeros = torch.zeros(inputs, dtype=torch.float64, device=like.device)
        return cls(0, 0, zeros, zeros.clone(), gram)

    def add(self, x: Tensor, samples: int) -> None:
        """Add inputs, (..., inputs), of so many sequences."""
        rows = x.reshape(-1, x.shape[-1])
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        self.samples += samples
        self.tokens += len(rows)
        for part in wide.split(_TOKENS):
            # In the inputs' precision over a few thousand tokens, in double across them: a sum in double of single
            # inputs takes ten times as long as the sum itself.
            self.totals += part.sum(0).double()
            if self.gram is None:
                self.squares += part.square().sum(0).double()
        if self.gram is not None:
            with full_precision(wide.device):
                self.gram.addmm_(wide.T, wide)
            self.squares = self.gram.diagonal().double()

    def norm(self) -> Tensor:
        """Return ``sqrt(mean over samples of ||X_j||^2)``, (inputs,): the mean is over sequences, not tokens."""
        wide = (self.squares / max(self.samples, 1)).sqrt()
        return wide.to(torch.float32 if self.gram is None else self.gram.dtype)

    def hessian(self) -> Tensor:
        """Return ``2/n sum x x^T`` with n the number of sequences (SparseGPT; only ratios matter)."""
        if self.gram is None:
            raise RuntimeError("the Hessian was asked of statistics that do not hold it")
        return self.gram * (2.0 / max(self.samples, 1))

    def mean(self) -> Tensor:
        """Return the mean of each input over the tokens, float64."""
        return self.totals / max(self.tokens, 1)

    def variance(self) -> Tensor:
        """Return the population variance of each input over the tokens, float64."""
        return (self.squares / max(self.tokens, 1) - self.mean().square()).clamp(min=0.0)


_TOKENS = 2048


def write_statistics(path: Path, blocks: Iterable[Mapping[str, InputStatistics]], names: Sequence[str]) -> None:
    """Write statistics block by block; matrices that share some have them stored once.

    Args:
        path: The file, which appears whole at the end.
        blocks: Statistics by matrix name, a block at a time.
        names: Every matrix that may occur.
    """
    parts = ("squares", "totals", "counts", "gram")
    room = header_room([f"{name}|{part}" for name in names for part in parts], sum(2 * len(n) + 16 for n in names) * 2)
    groups: dict[str, str] = {}
    with writing_tensors(path, room) as writer:
        for block in blocks:
            leaders: dict[int, str] = {}
            for name, s in block.items():
                groups[name] = leaders.setdefault(id(s), name)
                if groups[name] != name:
                    continue
                writer.put(f"{name}|squares", s.squares)
                writer.put(f"{name}|totals", s.totals)
                writer.put(f"{name}|counts", torch.tensor([s.samples, s.tokens]))
                if s.gram is not None:
                    writer.put(f"{name}|gram", s.gram)
        writer.finish({_GROUPS: json.dumps(groups)})


_GROUPS = "groups"


class StatisticsFile:
    """Statistics in a file, read matrix by matrix; a context manager.

    Args:
        path: What :func:`write_statistics` wrote.
    """

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="numpy") as file:
            self._groups: dict[str, str] = json.loads((file.metadata() or {})[_GROUPS])
        self._files = open_weights(path)
        self._last: dict[torch.device, tuple[str, InputStatistics]] = {}
        self._damping: defaultdict[str, Damping] = defaultdict(Damping)

    def __enter__(self) -> StatisticsFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.__exit__(*exception)

    def read(self, name: str, device: torch.device) -> InputStatistics:
        """Return the statistics of a matrix's inputs: one object for consecutive matrices with the same inputs.

        Raises:
            UserError: There are none.
        """
        if name not in self._groups:
            raise no_statistics(name)
        group = self._groups[name]
        last = self._last.get(device)
        if last is None or last[0] != group:
            # So that a factor of the Hessian is found once for query, key and value.
            last = self._last[device] = (group, self._read(group, device))
        # Not what is kept by now: another thread may have read on.
        return last[1]

    def _read(self, group: str, device: torch.device) -> InputStatistics:
        samples, tokens = self._files.read(f"{group}|counts").tolist()
        gram = f"{group}|gram"
        return InputStatistics(
            samples, tokens, self._files.read(f"{group}|squares").to(device),
            self._files.read(f"{group}|totals").to(device),
            self._files.read(gram).to(device) if gram in self._files.tensors else None, damping=self._damping[group],
        )  # fmt: skip


def no_statistics(name: str) -> UserError:
    """Return the error of a matrix whose inputs calibration has not seen."""
    return UserError(
        where=f"matrix {name}",
        found="no statistics of its inputs: the calibration text did not pass through it as through a linear layer",
        expected="a linear layer that the model's forward calls, or an expert that some token is routed to",
        mend="calibrate on more text, exclude the matrix (`exclude` of the model), or use a score without calibration",
    )
