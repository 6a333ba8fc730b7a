"""Fine-tune one pruned model with its mask fixed, and test it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.checkpoints.files import PROVENANCE
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import Finetuning
from essential_sparsity.evaluation.evaluate import evaluate_to_files
from essential_sparsity.evaluation.finetuned import evaluate_finetuned
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.pruning.masks import Pruning
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job
from essential_sparsity.training.loop import Training, state_key


def main(snakemake: Any) -> None:
    """Write the evaluation's row and its examples; states of a training that was cut off are in ``params.states``."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    task, method = record(Finetuning, json.loads(snakemake.params.task)), json.loads(snakemake.params.method)
    axes, inputs, outputs = (dict(part.items()) for part in (snakemake.wildcards, snakemake.input, snakemake.output))
    states = Path(snakemake.params.states)
    read = [Path(inputs["companions"]).with_name(PROVENANCE)]
    read += [Path(inputs[name]) for name in ("inputs", "mask") if name in inputs]
    key = state_key(task, [snakemake.params.code, snakemake.params.task, axes["seed"]], read)

    def protocol(checkpoint: Path, pruning: Pruning, where: str) -> tuple[Outcome, float]:
        processes = max(1, snakemake.resources.gpu)
        training = Training(task, int(axes["seed"]), device, states, key, processes)
        data = Prepared(Path(inputs["inputs"]))
        return evaluate_finetuned(checkpoint, pruning, data, lambda: pd.read_parquet(inputs["rows"]), training, where)

    evaluate_to_files(axes, inputs, outputs, method, task, protocol, device)
    shutil.rmtree(states, ignore_errors=True)


if __name__ == "__main__":
    run_job(main, snakemake)
