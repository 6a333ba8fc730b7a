"""19 levels of global magnitude masks on 85 million float32 weights, against torch.nn.utils.prune."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness import measure, report, run, timed

LEVELS = [i / 20 for i in range(1, 20)]
# BERT-base: 12 blocks of four 768x768 matrices, one of 3072x768 and one of 768x3072.
SHAPES = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]


def make(folder: Path) -> None:
    """Write the weights."""
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(0)
    tensors = {
        f"block.{b:02d}.{i}": torch.randn(s, generator=draw) * 0.02 for b in range(12) for i, s in enumerate(SHAPES)
    }
    save_file(tensors, folder / "model.safetensors")


def ours(folder: Path) -> dict[str, Any]:
    """Make all masks, packed, in memory."""
    from essential_sparsity.checkpoints.tensors import open_weights
    from essential_sparsity.methods.scores import SCORES
    from essential_sparsity.pruning.bits import count_ones
    from essential_sparsity.pruning.keys import keys_of_files
    from essential_sparsity.pruning.selection import find_cuts, keep_masks

    masks: dict[str, Any] = {}

    def work() -> None:
        with open_weights(folder) as files:
            names = sorted(files.tensors)
            keys = keys_of_files(files, names, SCORES["magnitude"], 0, {})
            total = sum(keys.sizes.values())
            masks.update(keep_masks(keys, names, find_cuts(keys, names, [round(s * total) for s in LEVELS])))

    seconds = timed(work)
    return {"seconds": seconds / len(LEVELS), "kept": sum(count_ones(m[9]) for m in masks.values())}


def peer(folder: Path) -> dict[str, Any]:
    """Make one level's masks with torch."""
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn.utils import prune

    layers = []
    for _, weight in sorted(load_file(folder / "model.safetensors").items()):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layers.append((layer, "weight"))
    seconds = timed(lambda: prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=0.5))
    return {"seconds": seconds, "kept": sum(int(layer.get_buffer("weight_mask").sum()) for layer, _ in layers)}


def main() -> None:
    """Measure both sides and print the line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        found = {side: measure(Path(__file__).name, side, folder) for side in ("ours", "peer")}
        megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    if found["ours"]["kept"] != found["peer"]["kept"]:
        raise RuntimeError(f"masks of different size: {found}")
    report(
        "select-global-85m", ours_seconds=found["ours"]["seconds"], peer_seconds=found["peer"]["seconds"],
        limit_seconds=found["peer"]["seconds"] / 100, ours_peak_mb=found["ours"]["peak_mb"],
        peer_peak_mb=found["peer"]["peak_mb"], weights_mb=megabytes,
    )  # fmt: skip


if __name__ == "__main__":
    run({"ours": ours, "peer": peer}, main)
