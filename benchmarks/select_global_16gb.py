"""19 levels of global magnitude masks from a bfloat16 checkpoint of 16 GB in shards, against reading its files.

Both sides start with files that are not cached and go through them twice. ``BENCH_GB`` sets another size.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import measure, report, run, timed

LEVELS = [i / 20 for i in range(1, 20)]
# A block of Llama-3-8B.
SHAPES = [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096), (14336, 4096), (14336, 4096), (4096, 14336)]
GIGABYTES = float(os.environ.get("BENCH_GB", "16"))


def make(folder: Path) -> None:
    """Write the shards, four blocks each, and their index."""
    import json

    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(0)
    block = [torch.randn(s, generator=draw, dtype=torch.float32).mul_(0.02).bfloat16() for s in SHAPES]
    size = sum(w.numel() * 2 for w in block)
    count = max(1, round(GIGABYTES * 1e9 / size))
    index = {}
    for first in range(0, count, 4):
        # Another scale for each block, so that the budget is not divided evenly.
        tensors = {
            f"blocks.{b:02d}.{i}": w * (1 + b / count)
            for b in range(first, min(first + 4, count)) for i, w in enumerate(block)
        }  # fmt: skip
        file = f"model-{first // 4:05d}.safetensors"
        save_file(tensors, folder / file)
        index.update(dict.fromkeys(tensors, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def forget(folder: Path) -> None:
    """Ask the kernel to drop the files from its cache."""
    os.sync()
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def ours(folder: Path) -> dict[str, Any]:
    """Make all masks, packed; a matrix's masks are dropped when the next one comes. Then check them, untimed."""
    from essential_sparsity.checkpoints.tensors import open_weights
    from essential_sparsity.methods.scores import SCORES
    from essential_sparsity.pruning.bits import count_ones
    from essential_sparsity.pruning.keys import keys_of_files
    from essential_sparsity.pruning.selection import find_cuts, keep_masks

    with open_weights(folder) as files:
        names = sorted(files.tensors)
        keys = keys_of_files(files, names, SCORES["magnitude"], 0, {})
        total = sum(keys.sizes.values())
        began = time.perf_counter()
        cuts = find_cuts(keys, names, [round(s * total) for s in LEVELS])
        counted = time.perf_counter()
        for _ in keep_masks(keys, names, cuts):
            pass
        ended = time.perf_counter()
        kept = [0] * len(LEVELS)
        for _, masks in keep_masks(keys, names, cuts):
            kept = [count + count_ones(mask) for count, mask in zip(kept, masks, strict=True)]
    if kept != [total - round(s * total) for s in LEVELS]:
        raise RuntimeError(f"kept {kept} of {total}")
    return {"seconds": (ended - began) / 2, "count_seconds": counted - began, "mask_seconds": ended - counted}


def peer(folder: Path) -> dict[str, Any]:
    """Read the files twice into one buffer."""
    buffer = memoryview(bytearray(1 << 24))

    def read() -> None:
        for path in sorted(folder.glob("*.safetensors")):
            with open(path, "rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass

    first, second = timed(read), timed(read)
    return {"seconds": (first + second) / 2, "first_seconds": first, "second_seconds": second}


def main() -> None:
    """Measure both sides and print the line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        found = {}
        for side in ("peer", "ours"):
            forget(folder)
            found[side] = measure(Path(__file__).name, side, folder)
        megabytes = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e6
    report(
        "select-global-16gb", ours_seconds_per_pass=found["ours"]["seconds"], peer_seconds=found["peer"]["seconds"],
        limit_seconds=2 * found["peer"]["seconds"], ours_peak_mb=found["ours"]["peak_mb"], weights_mb=megabytes,
        count_seconds=found["ours"]["count_seconds"], mask_seconds=found["ours"]["mask_seconds"],
        first_read_seconds=found["peer"]["first_seconds"], second_read_seconds=found["peer"]["second_seconds"],
    )  # fmt: skip


if __name__ == "__main__":
    run({"ours": ours, "peer": peer}, main)
