"""Wanda and SparseGPT on SmolLM2-135M, 64 sequences of 512 tokens, against the published procedures written plainly.

The folder is the workflow's own: `make bench` makes the checkpoint, the manifest and the texts in it first. Both sides
prune block by block in the published order; besides, eleven levels of Wanda from dense statistics against one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import ROOT, checkpoint_inputs, measure, report, run, timed

MODEL = "smollm2-135m-instruct"
SEQUENCES, LENGTH, BATCH = 64, 512, 1
SPARSITY = 0.5
LEVELS = [SPARSITY, *(i / 100 for i in range(10, 60, 5))]


def _checkpoint(folder: Path) -> Path:
    return folder / "results" / "checkpoints" / MODEL / "final"


def _tokens(folder: Path) -> Path:
    return folder / "results" / "bench-tokens.safetensors"


def tokens(folder: Path) -> dict[str, Any]:
    """Write the sequences that both sides read: the choice and tokenising of text are no part of what is measured."""
    import pandas as pd
    import torch
    from safetensors.torch import save_file
    from torch import nn

    from essential_sparsity.methods.statistics import Calibration
    from essential_sparsity.pruning.calibration_text import calibration_batches

    rows = pd.read_parquet(folder / "results/datasets/rotten-tomatoes-plots-by-film.parquet")
    settings = Calibration(
        dataset="", sequences=SEQUENCES, length=LENGTH, batch_size=SEQUENCES, propagate="pruned", activations="memory",
        precision="float32", seed=0,
    )  # fmt: skip
    batches = calibration_batches(rows, _checkpoint(folder) / "companions", nn.Module(), settings, "benchmark")
    save_file({"tokens": torch.cat(batches)}, _tokens(folder))
    return {}


def _batches(folder: Path, batch_size: int) -> list[Any]:
    from safetensors.torch import load_file

    return list(load_file(_tokens(folder))["tokens"].split(batch_size))


def ours(score: str, scope: str, update: str, precision: str, folder: Path) -> dict[str, Any]:
    """Prune one level block by block."""
    import torch

    from essential_sparsity.checkpoints.manifest import read_manifest
    from essential_sparsity.checkpoints.tensors import open_weights
    from essential_sparsity.methods.method import Method
    from essential_sparsity.pruning.blocks import prune_by_block
    from essential_sparsity.pruning.streaming import streamed_model

    method = Method(score, scope, update=update, calibration="bench", propagate="pruned")
    matrices = read_manifest(folder / f"results/matrices/{MODEL}.json")
    kept: dict[str, Any] = {}

    def work() -> None:
        batches = _batches(folder, BATCH)
        targets = {m.name: SPARSITY for m in matrices if m.pruned}
        with open_weights(_checkpoint(folder)) as files:
            model = streamed_model(_checkpoint(folder) / "companions")
            found = prune_by_block(
                model, files, matrices, batches, torch.device("cpu"), None, method, targets, 0, precision
            )
            kept.update((name, result.packed) for name, result in found)

    seconds = timed(work)
    return {"seconds": seconds, "masks": _save(kept)}


def ours_dense(levels: list[float], folder: Path) -> dict[str, Any]:
    """Gather dense statistics once and prune to some levels by Wanda."""
    import tempfile

    import torch

    from essential_sparsity.checkpoints.manifest import read_manifest
    from essential_sparsity.checkpoints.tensors import open_weights
    from essential_sparsity.methods.method import Method
    from essential_sparsity.pruning.prune import PrunableModel, prune_levels
    from essential_sparsity.pruning.statistics import StatisticsFile, write_statistics
    from essential_sparsity.pruning.streaming import dense_statistics, streamed_model

    method = Method("wanda", "row", calibration="bench", propagate="dense")
    matrices = read_manifest(folder / f"results/matrices/{MODEL}.json")
    prunable = [m for m in matrices if m.pruned]
    masks = []

    def work() -> None:
        batches = _batches(folder, BATCH)
        with open_weights(_checkpoint(folder)) as files, tempfile.TemporaryDirectory() as name:
            model = streamed_model(_checkpoint(folder) / "companions")
            path = Path(name) / "statistics.safetensors"
            found = dense_statistics(model, files, matrices, batches, torch.device("cpu"), None, with_gram=False)
            write_statistics(path, found, [m.name for m in prunable])
            with StatisticsFile(path) as statistics:
                pruned = PrunableModel(files, prunable, torch.device("cpu"), statistics)
                for _, results in prune_levels(pruned, method, levels, 0, {}):
                    masks.append([result.packed for result in results])

    return {"seconds": timed(work)}


def published(prune_layer: Callable[..., None], with_hessian: bool, folder: Path) -> dict[str, Any]:
    """Run the published procedure: catch the first block's inputs, then every block twice, a sequence at a time."""
    import numpy as np
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    from essential_sparsity.checkpoints.files import checkpoint_folder

    kept: dict[str, Any] = {}

    @torch.no_grad()
    def work() -> None:
        batches = _batches(folder, 1)
        with checkpoint_folder(checkpoint_inputs(_checkpoint(folder))) as checkpoint:
            model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        model.config.use_cache = False
        layers = model.model.layers
        inputs = torch.zeros(SEQUENCES, LENGTH, model.config.hidden_size)
        outputs = torch.zeros_like(inputs)
        caught: dict[str, Any] = {"count": 0}

        class CaughtError(Exception):
            pass

        def catch(_: nn.Module, args: Any, kwargs: Any) -> None:
            inputs[caught["count"]] = args[0]
            caught["count"] += 1
            caught["kwargs"] = kwargs
            raise CaughtError

        hook = layers[0].register_forward_pre_hook(catch, with_kwargs=True)
        for ids in batches:
            with contextlib.suppress(CaughtError):
                model(ids)
        hook.remove()
        for number, layer in enumerate(layers):
            linear = {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}
            sums = {name: PlainStatistics(m, with_hessian) for name, m in linear.items()}
            hooks = [m.register_forward_hook(lambda _, x, __, s=sums[name]: s.add(x[0])) for name, m in linear.items()]
            for i in range(SEQUENCES):
                outputs[i] = layer(inputs[i].unsqueeze(0), **caught["kwargs"])[0]
            for handle in hooks:
                handle.remove()
            for name, m in linear.items():
                prune_layer(m.weight.data, sums[name])
                kept[f"model.layers.{number}.{name}.weight"] = np.packbits(m.weight.data.numpy() != 0)
            for i in range(SEQUENCES):
                outputs[i] = layer(inputs[i].unsqueeze(0), **caught["kwargs"])[0]
            inputs, outputs = outputs, inputs

    return {"seconds": timed(work), "masks": _save(kept)}


class PlainStatistics:
    """Running sums of one layer, as the references keep them: each layer its own, a sequence at a time."""

    def __init__(self, layer: Any, with_hessian: bool) -> None:
        import torch

        columns = layer.weight.shape[1]
        self.samples = 0
        self.squares = torch.zeros(columns)
        self.hessian = torch.zeros(columns, columns) if with_hessian else None

    def add(self, x: Any) -> None:
        """Add the inputs of one sequence, (1, tokens, inputs)."""
        import math

        import torch

        columns = x.reshape(-1, x.shape[-1]).t().float()
        old, self.samples = self.samples, self.samples + 1
        if self.hessian is None:
            self.squares *= old / self.samples
            self.squares += torch.norm(columns, p=2, dim=1) ** 2 / self.samples
        else:
            self.hessian *= old / self.samples
            scaled = math.sqrt(2 / self.samples) * columns
            self.hessian += scaled.matmul(scaled.t())


def plain_wanda(weight: Any, sums: PlainStatistics) -> None:
    """Set the smallest half of each row to zero."""
    import torch

    metric = torch.abs(weight) * torch.sqrt(sums.squares.reshape(1, -1))
    order = torch.sort(metric, dim=-1, stable=True)[1]
    mask = torch.zeros_like(metric, dtype=torch.bool)
    mask.scatter_(1, order[:, : int(metric.shape[1] * SPARSITY)], True)
    weight[mask] = 0


def plain_sparsegpt(weight: Any, sums: PlainStatistics) -> None:
    """Choose and update by blocks of 128 columns."""
    import torch

    work, hessian = weight.clone(), sums.hessian
    assert hessian is not None
    dead = torch.diag(hessian) == 0
    hessian[dead, dead] = 1
    work[:, dead] = 0
    every = torch.arange(len(hessian))
    hessian[every, every] += 0.01 * torch.mean(torch.diag(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, work.shape[1], 128):
        stop = min(start + 128, work.shape[1])
        block, corner = work[:, start:stop].clone(), upper[start:stop, start:stop]
        result, errors = torch.zeros_like(block), torch.zeros_like(block)
        scores = block**2 / torch.diag(corner).reshape(1, -1) ** 2
        removed = torch.zeros(scores.numel(), dtype=torch.bool)
        # By count, not by threshold, so that the masks of both sides can be compared.
        removed[torch.sort(scores.flatten(), stable=True)[1][: round(scores.numel() * SPARSITY)]] = True
        removed = removed.reshape(scores.shape)
        for i in range(stop - start):
            column = block[:, i]
            kept = column.clone()
            kept[removed[:, i]] = 0
            error = (column - kept) / corner[i, i]
            block[:, i:] -= error.unsqueeze(1).matmul(corner[i, i:].unsqueeze(0))
            result[:, i], errors[:, i] = kept, error
        work[:, start:stop] = result
        work[:, stop:] -= errors.matmul(upper[start:stop, stop:])
    weight.copy_(work)


def _save(kept: dict[str, Any]) -> str:
    """Write packed masks to a temporary file, which :func:`agreement` is given."""
    import tempfile

    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
        np.savez(file, **kept)
    return file.name


def agreement(first: str, second: str) -> float:
    """Return the share of weights that two sides decide alike."""
    import numpy as np

    from essential_sparsity.pruning.bits import count_ones

    a, b = np.load(first), np.load(second)
    different: int = sum(count_ones(a[n] ^ b[n]) for n in a.files)
    return 1 - different / int(sum(8 * a[n].size for n in a.files))


SIDES = {
    "tokens": tokens,
    "ours-wanda": lambda folder: ours("wanda", "row", "none", "bfloat16", folder),
    "ours-wanda-float32": lambda folder: ours("wanda", "row", "none", "float32", folder),
    "peer-wanda": lambda folder: published(plain_wanda, False, folder),
    "ours-dense-1": lambda folder: ours_dense(LEVELS[:1], folder),
    "ours-dense-11": lambda folder: ours_dense(LEVELS, folder),
    "ours-sparsegpt": lambda folder: ours("sparsegpt", "column-block", "sparsegpt", "bfloat16", folder),
    "ours-sparsegpt-float32": lambda folder: ours("sparsegpt", "column-block", "sparsegpt", "float32", folder),
    "peer-sparsegpt": lambda folder: published(plain_sparsegpt, True, folder),
}


def measured(sides: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the measurements of each side."""
    for side in sides:
        yield measure(Path(__file__).name, side, folder)


def compared(score: str, limit: float, folder: Path) -> dict[str, Any]:
    """Measure one method on both sides, ours with both precisions of the forward."""
    ours_side, exact, peer_side = measured([f"ours-{score}", f"ours-{score}-float32", f"peer-{score}"], folder)
    same, same_exact = (agreement(side["masks"], peer_side["masks"]) for side in (ours_side, exact))
    for side in (ours_side, exact, peer_side):
        Path(side["masks"]).unlink()
    return {
        "ours_seconds": ours_side["seconds"], "peer_seconds": peer_side["seconds"],
        "limit_seconds": limit * peer_side["seconds"], "ours_peak_mb": ours_side["peak_mb"],
        "peer_peak_mb": peer_side["peak_mb"], "same_decisions": same,
        "ours_float32_seconds": exact["seconds"], "ours_float32_peak_mb": exact["peak_mb"], "same_float32": same_exact,
    }  # fmt: skip


def main(folder: Path) -> None:
    """Measure all sides and print the lines."""
    measure(Path(__file__).name, "tokens", folder)
    wanda = compared("wanda", 0.7, folder)
    one, eleven = measured(["ours-dense-1", "ours-dense-11"], folder)
    report(
        "wanda-smollm2", **wanda, dense_one_level_seconds=one["seconds"],
        dense_eleven_levels_seconds=eleven["seconds"],
    )  # fmt: skip
    report("sparsegpt-smollm2", **compared("sparsegpt", 0.8, folder))
    _tokens(folder).unlink()


if __name__ == "__main__":
    run(SIDES, lambda: main(ROOT))
