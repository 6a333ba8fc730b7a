"""The file of a dense model's statistics, matrix by matrix."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.checkpoints.writer import header_room, writing_tensors
from essential_sparsity.methods.statistics import Damping, InputStatistics, no_statistics


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
