"""Tools for masks: compare two on their packed bits, and apply one to a checkpoint."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from essential_sparsity.checkpoints.files import PROVENANCE
from essential_sparsity.checkpoints.tensors import INDEX, WEIGHTS, open_weights
from essential_sparsity.checkpoints.writer import header_room, writing_tensors
from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json, sha256_of, write_json
from essential_sparsity.pruning.bits import Packed, count_ones
from essential_sparsity.pruning.masks import MaskFile, MaskHeader, apply_to_tensor, check_shapes

ALL = "all"
# Bytes of a mask that are compared at a time: what fits a core's cache.
_BYTES = 1 << 18


def _common(a: Packed, b: Packed) -> int:
    """Return how many weights both packed masks keep."""
    parts = range(0, len(a), _BYTES)
    return sum(count_ones(np.bitwise_and(a[i : i + _BYTES], b[i : i + _BYTES])) for i in parts)


def _row(name: str, weights: int, kept_a: int, kept_b: int, common: int) -> dict[str, object]:
    either = kept_a + kept_b - common
    return {
        "matrix": name,
        "weights": weights,
        "kept_a": kept_a,
        "kept_b": kept_b,
        "kept_by_both": common,
        # Masks that keep nothing are alike.
        "jaccard": common / either if either else 1.0,
        "cosine": common / (kept_a * kept_b) ** 0.5 if kept_a and kept_b else float(kept_a == kept_b),
        "overlap": common / min(kept_a, kept_b) if min(kept_a, kept_b) else 1.0,
    }


def compare_masks(a: Path, b: Path) -> pd.DataFrame:
    """Compare the sets of kept weights A and B of two masks, matrix by matrix and in all.

    Returns:
        A row for each matrix and a last one named ``all``: ``matrix, weights, kept_a, kept_b, kept_by_both``, Jaccard
        ``|A and B| / |A or B|``, cosine ``|A and B| / sqrt(|A| |B|)`` and overlap ``|A and B| / min(|A|, |B|)``.

    Raises:
        UserError: A file is damaged, or the masks are of different models.
    """
    with MaskFile(a) as first, MaskFile(b) as second:
        check_shapes(second.header, {n: tuple(s) for n, s in first.header.shapes.items()}, b)
        rows = []
        for name, shape in first.header.shapes.items():
            packed_a, packed_b = first.packed(name), second.packed(name)
            size = int(np.prod(shape))
            kept_a, kept_b = (size - file.header.removed[name] for file in (first, second))
            rows.append(_row(name, size, kept_a, kept_b, _common(packed_a, packed_b)))
    frame = pd.DataFrame(rows)
    totals = frame[["weights", "kept_a", "kept_b", "kept_by_both"]].sum()
    return pd.concat([frame, pd.DataFrame([_row(ALL, *(int(n) for n in totals))])], ignore_index=True)


def similarity(a: Path, b: Path) -> dict[str, float]:
    """Compare what two masks keep of all prunable weights together.

    Two masks that keep shares p and q of the weights and were drawn apart have the cosine sqrt(p q) on average, which
    is 1 - s where both have the sparsity s. ``cosine_corrected`` is ``(cosine - chance) / (1 - chance)`` with that
    chance: 0 for such masks, 1 for equal ones.

    Returns:
        ``cosine, cosine_corrected, overlap, jaccard``.

    Raises:
        UserError: A file is damaged, or the masks are of different models.
    """
    row = compare_masks(a, b).iloc[-1]
    # Rounding of a square root may exceed 1.
    cosine = min(1.0, float(row["cosine"]))
    chance = (int(row["kept_a"]) * int(row["kept_b"])) ** 0.5 / int(row["weights"])
    return {
        "cosine": cosine,
        # Masks that keep everything are alike, by chance or not.
        "cosine_corrected": (cosine - chance) / (1 - chance) if chance < 1 else 1.0,
        "overlap": float(row["overlap"]),
        "jaccard": float(row["jaccard"]),
    }


def count_mask(path: Path) -> pd.DataFrame:
    """Count what a mask removes, matrix by matrix and in all: ``matrix, weights, removed, sparsity``."""
    with MaskFile(path) as file:
        rows = []
        for name, shape in file.header.shapes.items():
            size = int(np.prod(shape))
            rows.append({"matrix": name, "weights": size, "removed": size - count_ones(file.packed(name))})
    frame = pd.DataFrame(rows)
    total = {"matrix": ALL, "weights": frame["weights"].sum(), "removed": frame["removed"].sum()}
    frame = pd.concat([frame, pd.DataFrame([total])], ignore_index=True)
    return frame.assign(sparsity=frame["removed"] / frame["weights"])


def apply_mask(checkpoint: Path, mask: Path, destination: Path) -> None:
    """Write a checkpoint with a mask applied: removed weights zero, kept ones as the method left them.

    Everything else of the folder is copied, and what lies in its folder ``companions``: configuration and tokenizer.
    ``provenance.json`` names the mask besides. One tensor is in memory at a time; the destination appears whole.

    Args:
        checkpoint: The folder of the checkpoint that the mask was made of.
        mask: The mask's file.
        destination: A folder that does not exist.

    Raises:
        UserError: The destination exists, the checkpoint is no folder, or the mask is not of this checkpoint.
    """
    if destination.exists():
        raise UserError(str(destination), "a folder that exists", "a new one", "choose another name or remove it")
    if not checkpoint.is_dir():
        raise UserError(str(checkpoint), "no folder", "a checkpoint's folder", "name the folder that holds the weights")
    temporary = destination.with_name(f".{uuid.uuid4().hex[:8]}.{destination.name}")
    with open_weights(checkpoint) as weights, MaskFile(mask) as file:
        masked = {name: weights.tensors[name].shape for name in file.header.shapes if name in weights.tensors}
        check_shapes(file.header, masked, mask)
        provenance = _provenance(checkpoint, file.header, mask)
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            for path in _others(checkpoint):
                shutil.copyfile(path, temporary / path.name)
            names = list(weights.tensors)
            with writing_tensors(temporary / WEIGHTS, header_room(names, 256)) as writer:
                for name in names:
                    tensor = weights.read(name)
                    if name in masked:
                        with torch.no_grad():
                            apply_to_tensor(tensor, file.keep(name), file.values(name))
                    writer.put(name, tensor)
                writer.finish({"format": "pt"})
            if provenance:
                digest = sha256_of(temporary / WEIGHTS)
                write_json(temporary / PROVENANCE, {**provenance, "weights_sha256": digest})
            temporary.rename(destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _provenance(checkpoint: Path, header: MaskHeader, mask: Path) -> dict[str, Any]:
    """Return what a checkpoint's provenance becomes with a mask; nothing if it has none.

    Raises:
        UserError: The mask was made of another checkpoint.
    """
    path = checkpoint / PROVENANCE
    if not path.is_file():
        return {}
    found = read_json(path)
    made_of, asked = (header.model, header.checkpoint), (found.get("model"), found.get("checkpoint"))
    if made_of != asked:
        raise UserError(
            where=str(mask),
            found=f"a mask of {made_of[0]}, {made_of[1]}",
            expected=f"one of {asked[0]}, {asked[1]}, as {path} says",
            mend="name the checkpoint's own mask",
        )
    pruned = {"method": header.method, "seed": header.seed, "sparsity": header.target, "mask_sha256": sha256_of(mask)}
    return {**found, "pruning": pruned, "dense_weights_sha256": found.get("weights_sha256")}


def _others(checkpoint: Path) -> Iterator[Path]:
    """Yield the files of a checkpoint that are not weights."""
    for path in sorted([*checkpoint.iterdir(), *checkpoint.glob("companions/[!.]*")]):
        if path.is_file() and path.suffix not in {".safetensors", ".bin"} and path.name != INDEX:
            yield path
