"""Masks: one bit a weight, packed, with what they are and what they removed in the header; and their application."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from essential_sparsity.errors import UserError
from essential_sparsity.files import atomic_path
from essential_sparsity.levels import removed_count

_HEADER = "essential_sparsity"


@dataclass(frozen=True)
class MaskHeader:
    """What a mask file says of itself.

    Attributes:
        model: The model's registry name.
        checkpoint: The checkpoint's name.
        method: Score, allocation, scope and pattern.
        seed: The seed of a random score; 0 otherwise.
        target: The sparsity asked.
        realised: The fraction of all prunable weights that the mask removes, counted.
        shapes: Shape of each matrix.
        removed: Number of removed weights of each matrix.
    """

    model: str
    checkpoint: str
    method: dict[str, str]
    seed: int
    target: float
    realised: float
    shapes: dict[str, list[int]] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)


def pack(keep: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pack a boolean mask, any shape, into ``ceil(n / 8)`` bytes, the first weight in the highest bit."""
    return np.packbits(keep.flatten().numpy())


def unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], shape: Iterable[int]) -> Tensor:
    """Return the boolean mask of a given shape, True where the weight is kept."""
    size = tuple(shape)
    return torch.from_numpy(np.unpackbits(packed, count=int(np.prod(size))).view(bool)).reshape(size)


def keep_all(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the masks of the dense model, which keep everything: its zeros are counted like those of any other."""
    return {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}


def write_mask(
    path: Path, model: str, checkpoint: str, method: dict[str, str], seed: int, target: float,
    shapes: Mapping[str, tuple[int, ...]], masks: Iterable[tuple[str, Tensor]],
) -> MaskHeader:  # fmt: skip
    """Pack the masks one by one, check that exactly the asked number is removed, and write the file atomically.

    Raises:
        RuntimeError: The count differs: a defect of the selection, never to be written.
    """
    packed, removed = {}, {}
    for name, keep in masks:
        packed[name] = pack(keep)
        removed[name] = keep.numel() - int(keep.sum())
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    total = sum(sizes.values())
    if method["scope"] == "global":
        right = sum(removed.values()) == removed_count(target, total)
    else:
        right = all(removed.get(name) == removed_count(target, n) for name, n in sizes.items())
    if not right or list(removed) != list(shapes):
        raise RuntimeError(f"{path}: {sum(removed.values())} of {total} weights removed at target sparsity {target}")
    header = MaskHeader(
        model, checkpoint, method, seed, target, sum(removed.values()) / total,
        {name: list(shape) for name, shape in shapes.items()}, removed,
    )  # fmt: skip
    with atomic_path(path) as temporary:
        save_file(packed, temporary, metadata={_HEADER: json.dumps(asdict(header), sort_keys=True)})
    return header


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
            found=f"a file that is not a mask ({type(error).__name__}: {error})",
            expected="a mask that prune_weights wrote",
            mend="delete this file and run again: it will be made afresh",
        ) from error


def read_masks(path: Path) -> dict[str, Tensor]:
    """Read all masks of a file: name to boolean tensor in the matrix's shape, True where the weight is kept.

    Raises:
        UserError: The file is damaged: a mask does not remove the number of weights that the header counts.
    """
    header = read_header(path)
    masks: dict[str, Tensor] = {}
    with safe_open(path, framework="numpy") as file:
        stored = set(file.keys())
        for name, shape in header.shapes.items():
            keep = unpack(file.get_tensor(name), shape) if name in stored else None
            removed = None if keep is None else keep.numel() - int(keep.sum())
            if keep is None or removed != header.removed[name]:
                raise UserError(
                    where=f"{path}, matrix {name}",
                    found="no mask" if keep is None else f"a mask that removes {removed} weights",
                    expected=f"{header.removed[name]} removed weights, as its header says",
                    mend="delete this file and run again: it will be made afresh",
                )
            masks[name] = keep
    return masks


class AppliedMasks:
    """Masks bound to the parameters of a live model, which they hold at zero.

    Args:
        model: Any model of the same architecture, with or without a head.
        masks: Name in the checkpoint to boolean mask; of the dense model, masks that keep everything.

    Raises:
        UserError: A matrix is missing in the model or has another shape.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self._pairs: list[tuple[str, nn.Parameter, Tensor]] = []
        for name, keep in masks.items():
            parameter = parameters.get(resolve_name(name, model, parameters))
            if parameter is None or parameter.shape != keep.shape:
                raise UserError(
                    where=f"mask of matrix {name}",
                    found="no such matrix in the model" if parameter is None else f"shape {tuple(keep.shape)}",
                    expected=f"a matrix of {type(model).__name__}"
                    + ("" if parameter is None else f" with shape {tuple(parameter.shape)}"),
                    mend="make the mask from this model's own checkpoint",
                )
            self._pairs.append((name, parameter, (~keep).to(parameter.device)))
        self.size = sum(parameter.numel() for _, parameter, _ in self._pairs)
        self.removed = sum(int(removed.sum()) for _, _, removed in self._pairs)
        # Zeros that the checkpoint has of its own and the masks leave in place.
        self._kept_zeros = sum(int(((p.detach() == 0) & ~removed).sum()) for _, p, removed in self._pairs)

    @torch.no_grad()
    def hold(self) -> None:
        """Set the removed weights to zero; call it after loading and after each optimiser step."""
        for _, parameter, removed in self._pairs:
            parameter.masked_fill_(removed, 0.0)

    @torch.no_grad()
    def hold_gradients(self) -> None:
        """Set the gradients of the removed weights to zero; call it before gradients are clipped or used."""
        for _, parameter, removed in self._pairs:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(removed, 0.0)

    def realised_sparsity(self) -> float:
        """Count the zeros of the live model and assert that they are what the masks ask for.

        Returns:
            The fraction of the masked matrices' weights that are zero; 0.0 for a dense model.

        Raises:
            RuntimeError: A removed weight is not zero, or there are more zeros than the masks and the checkpoint's own
                explain (beyond one in ten thousand, which training may reach by rounding).
        """
        zeros = 0
        for name, parameter, removed in self._pairs:
            # A product instead of an index: no copy of the removed weights, and NaN counts as not zero.
            if int(torch.count_nonzero(parameter.detach() * removed)):
                raise RuntimeError(f"{name}: removed weights are not zero in the model that is evaluated")
            zeros += parameter.numel() - int(torch.count_nonzero(parameter.detach()))
        if zeros > self.removed + self._kept_zeros + self.size / 10_000:
            raise RuntimeError(f"{zeros} of {self.size} weights are zero, but the masks remove {self.removed}")
        return zeros / self.size if self.size else 0.0


def resolve_name(name: str, model: nn.Module, parameters: Mapping[str, Tensor]) -> str:
    """Return what a checkpoint's matrix is called in a model that may carry another head, or none.

    transformers prefixes the encoder with ``base_model_prefix`` in a model with a head and not in one without.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        if candidate in parameters:
            return candidate
    return name
