"""What holding a mask costs in a step of fine-tuning: against the same step of the same model without one."""

from __future__ import annotations

import statistics
import time

from harness import ROOT, checkpoint_inputs, report

MODEL, TASK = "all-minilm-l6-v2", "plot-or-review"
PAIRS, BATCH = 24, 32


def main() -> None:
    """Print the JSON line: medians of steps that alternate, so that the machine's changes of speed meet both alike."""
    import numpy as np
    import torch

    from essential_sparsity.checkpoints.files import checkpoint_folder
    from essential_sparsity.checkpoints.manifest import read_manifest
    from essential_sparsity.data.prepared import Prepared
    from essential_sparsity.data.tasks import Finetuning
    from essential_sparsity.pruning.masks import Pruning, read_pruning
    from essential_sparsity.study.resolve import resolve
    from essential_sparsity.study.validation import load_yaml
    from essential_sparsity.training.fit import HEADS
    from essential_sparsity.training.kinds import TASK_KINDS
    from essential_sparsity.training.loop import adamw, hold_in_step

    torch.set_num_threads(2)
    results = ROOT / "results"
    data = Prepared(results / f"inputs/{MODEL}/{TASK}.arrow")
    kind, rows = TASK_KINDS[data.about["kind"]], data.split("train")
    task = resolve(load_yaml(ROOT / "config" / "config.yaml"), ROOT, "config/config.yaml").tasks[TASK]
    assert isinstance(task, Finetuning)
    matrices = read_manifest(results / f"matrices/{MODEL}.json")
    half = read_pruning(results / f"masks/{MODEL}/final/magnitude-global/0/0.500.safetensors", matrices)
    sides = {}
    for side, pruning in (("ours", half), ("peer", Pruning({}, {}))):
        torch.manual_seed(0)
        options = kind.model_options(data.about)
        with checkpoint_folder(checkpoint_inputs(results / f"checkpoints/{MODEL}/final")) as checkpoint:
            model, encoder = HEADS["sequence_classification"](checkpoint, options, "benchmark")
        optimiser = adamw(model, task)
        if side == "ours":
            hold_in_step(optimiser, pruning.apply(encoder), 1.0)
        sides[side] = (model.train(), optimiser)

    def step(side: str, batch: dict[str, torch.Tensor]) -> float:
        model, optimiser = sides[side]
        began = time.perf_counter()
        labels = batch["labels"]
        loss = kind.loss(model(**{k: v for k, v in batch.items() if k != "labels"}), labels, len(labels))
        loss.backward()
        if side == "peer":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - began

    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for i in range(PAIRS + 2):
        batch = kind.batch(data, rows[np.arange(i * BATCH, (i + 1) * BATCH) % len(rows)])
        for side in ("ours", "peer") if i % 2 else ("peer", "ours"):
            seconds[side].append(step(side, batch))
    # The first ones make the optimiser's state.
    ours, peer = (statistics.median(seconds[side][2:]) for side in ("ours", "peer"))
    paired = statistics.median(a / b for a, b in zip(seconds["ours"][2:], seconds["peer"][2:], strict=True))
    report("masked-step", ours_seconds=ours, peer_seconds=peer, ratio=paired, limit_ratio=1.03)


if __name__ == "__main__":
    main()
