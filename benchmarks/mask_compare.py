"""Comparing two masks of a thousand million weights, packed, against unpacked tensors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness import measure, report, run, timed

MATRICES, SHAPE = 64, (4096, 4096)


def make(folder: Path) -> None:
    """Write two masks that keep half of the weights, most of them in common."""
    import numpy as np

    from essential_sparsity.pruning.masks import MaskHeader, writing_mask

    draw = np.random.default_rng(0)
    names = [f"blocks.{i}.weight" for i in range(MATRICES)]
    headers = [MaskHeader("model", "final", {}, 0, 0.5, shapes={n: list(SHAPE) for n in names}) for _ in "ab"]
    with (
        writing_mask(folder / "a.safetensors", headers[0]) as a,
        writing_mask(folder / "b.safetensors", headers[1]) as b,
    ):
        for name in names:
            first = draw.integers(0, 256, SHAPE[0] * SHAPE[1] // 8, dtype=np.uint8)
            second = (first ^ (draw.integers(0, 256, first.size, dtype=np.uint8) & 0b00010001)).astype(np.uint8)
            a.put(name, first)
            b.put(name, second)


def ours(folder: Path) -> dict[str, Any]:
    """Compare the files."""
    from essential_sparsity.pruning.tools import compare_masks

    rows = []
    seconds = timed(lambda: rows.append(compare_masks(folder / "a.safetensors", folder / "b.safetensors")))
    return {"seconds": seconds, "jaccard": float(rows[0]["jaccard"].iloc[-1])}


def peer(folder: Path) -> dict[str, Any]:
    """Compare boolean tensors, as they are where a mask is a tensor of the weights' shape."""
    import torch

    from essential_sparsity.pruning.masks import read_masks

    first, second = (read_masks(folder / f"{name}.safetensors") for name in "ab")
    found = []

    def work() -> None:
        common = either = kept_a = kept_b = 0
        for name in first:
            a, b = first[name], second[name]
            common += int(torch.logical_and(a, b).sum())
            either += int(torch.logical_or(a, b).sum())
            kept_a, kept_b = kept_a + int(a.sum()), kept_b + int(b.sum())
        found.append((common / either, common / (kept_a * kept_b) ** 0.5, common / min(kept_a, kept_b)))

    seconds = timed(work)
    return {"seconds": seconds, "jaccard": found[0][0]}


def main() -> None:
    """Measure both sides and print the line."""
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        found = {side: measure(Path(__file__).name, side, Path(name)) for side in ("ours", "peer")}
    if abs(found["ours"]["jaccard"] - found["peer"]["jaccard"]) > 1e-12:
        raise RuntimeError(f"different answers: {found}")
    report(
        "mask-compare", ours_seconds=found["ours"]["seconds"], peer_seconds=found["peer"]["seconds"],
        limit_seconds=found["peer"]["seconds"] / 4, ours_peak_mb=found["ours"]["peak_mb"],
        peer_peak_mb=found["peer"]["peak_mb"], weights=MATRICES * SHAPE[0] * SHAPE[1],
    )  # fmt: skip


if __name__ == "__main__":
    run({"ours": ours, "peer": peer}, main)
