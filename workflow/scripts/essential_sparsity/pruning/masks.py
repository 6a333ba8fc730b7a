"""Masks: one bit a weight, packed, with what they are and what they removed in the header; and their application."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.placement import part_of
from essential_sparsity.checkpoints.tensors import WeightFiles, open_weights
from essential_sparsity.checkpoints.writer import TensorWriter, header_room, writing_tensors
from essential_sparsity.errors import UserError, first_line
from essential_sparsity.pruning.bits import Packed, count_ones

_HEADER = "essential_sparsity"
# What stands behind a matrix's name where the method has changed its kept weights.
_VALUES = "|kept"
# Bytes kept for notes; a character, quoted twice, may take 14 of them.
_NOTES_ROOM = 1 << 15


# What a method is, as plain values: what evaluates masks does not depend on the code of slots.
Slots = Mapping[str, Any]


@dataclass(frozen=True)
class MaskHeader:
    """What a mask file says of itself.

    Attributes:
        model: The model's registry name.
        checkpoint: The checkpoint's name.
        method: The method's slots.
        seed: The seed of a random score, or of the training of rounds; 0 otherwise.
        target: The sparsity asked.
        realised: The fraction of all prunable weights that the mask removes, counted.
        shapes: Shape of each matrix.
        removed: Number of removed weights of each matrix.
        targets: The sparsity asked of each matrix; empty where one pool of all divides the budget.
        updated: Whether the file also holds the kept weights' new values.
        notes: What a reader should know, such as a raised damping.
    """

    model: str
    checkpoint: str
    method: Slots
    seed: int
    target: float
    realised: float = 0.0
    shapes: dict[str, list[int]] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    updated: bool = False
    notes: list[str] = field(default_factory=list)


def pack(keep: Tensor) -> Packed:
    """Pack a boolean mask, any shape, into ``ceil(n / 8)`` bytes, the first weight in the highest bit."""
    return np.packbits(keep.flatten().cpu().numpy())


def unpack(packed: Packed, shape: Iterable[int]) -> Tensor:
    """Return the boolean mask of a given shape, True where the weight is kept."""
    size = tuple(shape)
    return torch.from_numpy(np.unpackbits(packed, count=int(np.prod(size))).view(bool)).reshape(size)


def keep_all(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the masks of the dense model, which keep everything: its zeros are counted like those of any other."""
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}


class MaskWriter:
    """A mask file in the making; matrices may come in any order.

    Args:
        writer: Where tensors go.
        header: What is known beforehand: everything but what is counted.
    """

    def __init__(self, writer: TensorWriter, header: MaskHeader) -> None:
        self._writer = writer
        self.header = header

    def put(self, name: str, packed: Packed, kept_values: Tensor | None = None) -> None:
        """Append the mask of a matrix and, if the method has changed them, its kept weights in flat order."""
        size = int(np.prod(self.header.shapes[name]))
        if len(packed) != -(-size // 8):
            raise RuntimeError(f"{name}: {len(packed)} bytes for a mask of {size} weights")
        kept = count_ones(packed)
        if self.header.updated != (kept_values is not None):
            raise RuntimeError(f"{name}: new values, or none, where the header says otherwise")
        if kept_values is not None and kept_values.numel() != kept:
            raise RuntimeError(f"{name}: {kept_values.numel()} values for {kept} kept weights")
        self.header.removed[name] = size - kept
        self._writer.put(name, torch.from_numpy(packed))
        if kept_values is not None:
            self._writer.put(name + _VALUES, kept_values)


@contextmanager
def writing_mask(path: Path, header: MaskHeader) -> Iterator[MaskWriter]:
    """Yield a writer; at the end of the block the file appears whole, if every matrix was put.

    Raises:
        RuntimeError: A matrix was left out: a defect of the selection, never to be written.
    """
    names = [f"{name}{end}" for name in header.shapes for end in ("", _VALUES)]
    # Names and counts stand three times in the header's own text, which is quoted once more.
    room = 4 * len(json.dumps(asdict(header))) + sum(2 * len(name) + 64 for name in names) + _NOTES_ROOM
    with writing_tensors(path, header_room(names, room)) as tensors:
        writer = MaskWriter(tensors, header)
        yield writer
        if header.removed.keys() != header.shapes.keys():
            raise RuntimeError(f"{path}: no mask of {sorted(header.shapes.keys() - header.removed.keys())}")
        total = sum(int(np.prod(shape)) for shape in header.shapes.values())
        written = {**asdict(header), "realised": sum(header.removed.values()) / total}
        notes = " ".join(header.notes)[: _NOTES_ROOM // 16]
        tensors.finish({_HEADER: json.dumps({**written, "notes": [notes] if notes else []}, sort_keys=True)})


def read_header(path: Path) -> MaskHeader:
    """Read the header of a mask file alone.

    Raises:
        UserError: The file is damaged or not a mask.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return MaskHeader(**json.loads((file.metadata() or {})[_HEADER]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            where=str(path),
            found=f"a file that is not a mask ({type(error).__name__}: {first_line(error)})",
            expected="a mask that prune_weights wrote",
            mend="delete this file and run again: it will be made afresh",
        ) from error


class MaskFile:
    """A mask file, read matrix by matrix; a context manager.

    Args:
        path: The file.

    Raises:
        UserError: The file is damaged or not a mask.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_header(path)
        self._files: WeightFiles = open_weights(path)

    def __enter__(self) -> MaskFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.__exit__(*exception)

    def packed(self, name: str) -> Packed:
        """Return a matrix's packed mask.

        Raises:
            UserError: It does not remove the number of weights that the header counts.
        """
        stored = name in self._files.tensors
        packed: Packed = self._files.read(name).numpy() if stored else np.zeros(0, np.uint8)
        size = int(np.prod(self.header.shapes[name]))
        removed = size - count_ones(packed)
        if not stored or removed != self.header.removed[name]:
            raise UserError(
                where=f"{self.path}, matrix {name}",
                found=f"a mask that removes {removed} weights" if stored else "no mask",
                expected=f"{self.header.removed[name]} removed weights, as its header says",
                mend="delete this file and run again: it will be made afresh",
            )
        return packed

    def keep(self, name: str) -> Tensor:
        """Return a matrix's boolean mask in its shape, True where the weight is kept."""
        return unpack(self.packed(name), self.header.shapes[name])

    def values(self, name: str) -> Tensor | None:
        """Return a matrix's new weights where it keeps them, flat; None if the method changes none."""
        return self._files.read(name + _VALUES) if self.header.updated else None


def read_masks(path: Path) -> dict[str, Tensor]:
    """Read all masks of a file: name to boolean tensor in the matrix's shape, True where the weight is kept.

    Raises:
        UserError: The file is damaged.
    """
    with MaskFile(path) as file:
        return {name: file.keep(name) for name in file.header.shapes}


def apply_to_tensor(weight: Tensor, keep: Tensor, values: Tensor | None) -> None:
    """Set, in place, the removed weights to zero and the kept ones to their new values, if there are any."""
    if values is not None:
        weight.masked_scatter_(keep, values.to(weight.dtype).to(weight.device))
    weight.masked_fill_(~keep, 0.0)


@dataclass(frozen=True)
class Pruning:
    """What pruning has decided for a model.

    Attributes:
        masks: Matrix name to boolean mask, True where the weight is kept; of the dense model, masks that keep all.
        matrices: The manifest's rows of these matrices.
        values: New values of the kept weights, flat, of the matrices that have them.
    """

    masks: Mapping[str, Tensor]
    matrices: Mapping[str, Matrix]
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> AppliedMasks:
        """Write the new values into a model, set the removed weights to zero and return what holds them there."""
        applied = AppliedMasks(model, self.masks, self.matrices)
        applied.set_values(self.values)
        applied.hold()
        return applied


def no_pruning(matrices: Iterable[Matrix]) -> Pruning:
    """Return what removes nothing of a model with these matrices: the dense model."""
    rows = {m.name: m for m in matrices if m.pruned}
    return Pruning(keep_all({name: m.shape for name, m in rows.items()}), rows)


def read_pruning(path: Path, matrices: Iterable[Matrix]) -> Pruning:
    """Read a mask file for a model with these matrices.

    Raises:
        UserError: The file is damaged, or of a model with other matrices.
    """
    rows = {m.name: m for m in matrices if m.pruned}
    with MaskFile(path) as file:
        check_shapes(file.header, {name: m.shape for name, m in rows.items()}, path)
        masks = {name: file.keep(name) for name in rows}
        found = {name: file.values(name) for name in rows}
    return Pruning(masks, rows, {name: values for name, values in found.items() if values is not None})


def check_shapes(header: MaskHeader, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Check that a mask covers exactly the matrices of a model.

    Raises:
        UserError: Names the first matrix that differs.
    """
    for name in sorted(header.shapes.keys() | shapes.keys()):
        said, asked = header.shapes.get(name), shapes.get(name)
        if said is None or asked is None or tuple(said) != tuple(asked):
            raise UserError(
                where=f"{path}, matrix {name}",
                found="no mask" if said is None else f"a mask of shape {tuple(said)}",
                expected="no such matrix" if asked is None else f"shape {tuple(asked)}",
                mend="use a mask of this model, made with the same `include` and `exclude`",
            )


class AppliedMasks:
    """Masks bound to the parameters of a live model, which they hold at zero.

    Args:
        model: Any model of the same architecture, with or without a head.
        masks: Name in the checkpoint to boolean mask; of the dense model, masks that keep everything.
        matrices: The manifest's rows of these matrices, which say where in the model they lie.

    Raises:
        UserError: A matrix is missing in the model or has another shape.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor], matrices: Mapping[str, Matrix]) -> None:
        parameters = dict(model.named_parameters())
        # Name, the whole parameter, the part of it that the matrix fills, and what is kept of that.
        self._pairs: list[tuple[str, nn.Parameter, Matrix, Tensor]] = []
        for name, keep in masks.items():
            matrix = matrices.get(name, Matrix(name, tuple(keep.shape), True, ""))
            parameter = parameters.get(resolve_name(matrix.parameter or name, model, parameters))
            shape = None if parameter is None else _shape(parameter, matrix)
            if parameter is None or shape != keep.shape:
                raise UserError(
                    where=f"mask of matrix {name}",
                    found="no such matrix in the model" if parameter is None else f"shape {tuple(keep.shape)}",
                    expected=f"a matrix of {type(model).__name__}"
                    + ("" if shape is None else f" with shape {tuple(shape)}"),
                    mend="make the mask from this model's own checkpoint",
                )
            self._pairs.append((name, parameter, matrix, keep.to(parameter.device)))
        self.size = sum(keep.numel() for *_, keep in self._pairs)
        # Counted, not summed: that takes a hundredth of the time on booleans.
        self.removed = self.size - sum(int(torch.count_nonzero(keep)) for *_, keep in self._pairs)
        self._kept_zeros = self._count_kept_zeros()

    def _count_kept_zeros(self) -> int:
        """Count the zeros among the kept weights: the checkpoint's own, or those that an update of weights makes."""
        weights = ((_part(parameter.detach(), matrix), keep) for _, parameter, matrix, keep in self._pairs)
        return sum(int(torch.count_nonzero(keep) - torch.count_nonzero(w * keep)) for w, keep in weights)

    def _weights(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, parameter, matrix, keep in self._pairs:
            yield name, _part(parameter.detach(), matrix), ~keep

    def trained(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield each matrix's name, its live weights and its boolean keep mask, in the stored tensor's shape."""
        for name, parameter, matrix, keep in self._pairs:
            yield name, _part(parameter.detach(), matrix), keep

    @torch.no_grad()
    def set_values(self, values: Mapping[str, Tensor]) -> None:
        """Write new values into the kept weights of the matrices that have some."""
        if not values:
            return
        for name, weight, removed in self._weights():
            if name in values:
                apply_to_tensor(weight, ~removed, values[name])
        self._kept_zeros = self._count_kept_zeros()

    @torch.no_grad()
    def hold(self) -> None:
        """Set the removed weights to zero; call it after loading."""
        for _, weight, removed in self._weights():
            weight.masked_fill_(removed, 0.0)

    @torch.no_grad()
    def hold_gradients(self) -> None:
        """Set the gradients of the removed weights to zero; call it before gradients are clipped or used."""
        for _, parameter, matrix, keep in self._pairs:
            if parameter.grad is not None:
                # A product takes a fifth of the time of a masked fill. It keeps what is not finite, as no step may use.
                _part(parameter.grad, matrix).mul_(keep)

    def realised_sparsity(self) -> float:
        """Count the zeros of the live model and assert that they are what the masks ask for.

        Returns:
            The fraction of the masked matrices' weights that are zero; 0.0 for a dense model.

        Raises:
            RuntimeError: A removed weight is not zero, or there are more zeros than the masks and those of kept
                weights explain (beyond one in ten thousand, which training may reach by rounding).
        """
        zeros = 0
        for name, weight, removed in self._weights():
            # A product instead of an index: no copy of the removed weights, and NaN counts as not zero.
            if int(torch.count_nonzero(weight * removed)):
                raise RuntimeError(f"{name}: removed weights are not zero in the model that is evaluated")
            zeros += weight.numel() - int(torch.count_nonzero(weight))
        if zeros > self.removed + self._kept_zeros + self.size / 10_000:
            raise RuntimeError(f"{zeros} of {self.size} weights are zero, but the masks remove {self.removed}")
        return zeros / self.size if self.size else 0.0


def _part(parameter: Tensor, matrix: Matrix) -> Tensor:
    """Return the view of a parameter that a matrix of the checkpoint fills."""
    return part_of(parameter, matrix.part, matrix.shape)


def _shape(parameter: Tensor, matrix: Matrix) -> torch.Size:
    """Return the shape of a matrix's part; of another model's parameter, which has no such part, the whole shape."""
    try:
        return _part(parameter, matrix).shape
    except (RuntimeError, IndexError):
        return parameter.shape


def resolve_name(name: str, model: nn.Module, parameters: Mapping[str, Tensor]) -> str:
    """Return what a checkpoint's matrix is called in a model that may carry another head, or none.

    transformers prefixes the encoder with ``base_model_prefix`` in a model with a head and not in one without.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        if candidate in parameters:
            return candidate
    return name
