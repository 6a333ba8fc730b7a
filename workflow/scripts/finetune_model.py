"""Fine-tune one pruned model with its mask fixed, and test it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.devices import choose_device
from essential_sparsity.evaluation import evaluate_to_files
from essential_sparsity.finetune import evaluate_finetuned
from essential_sparsity.job import run_job
from essential_sparsity.masks import Pruning
from essential_sparsity.outcomes import Outcome


def main(snakemake: Any) -> None:
    """Write the evaluation's row and its examples."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    task, method = json.loads(snakemake.params.task), json.loads(snakemake.params.method)

    def protocol(checkpoint: Path, pruning: Pruning, where: str) -> tuple[Outcome, float]:
        rows = pd.read_parquet(snakemake.input.rows)
        return evaluate_finetuned(checkpoint, pruning, rows, task, int(snakemake.wildcards.seed), device, where)

    axes, inputs, outputs = (dict(part.items()) for part in (snakemake.wildcards, snakemake.input, snakemake.output))
    evaluate_to_files(axes, inputs, outputs, method, task, protocol, device)


if __name__ == "__main__":
    run_job(main, snakemake)
