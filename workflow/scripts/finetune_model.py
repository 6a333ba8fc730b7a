"""Fine-tune one pruned model with its mask fixed, and test it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from essential_sparsity.devices import choose_device
from essential_sparsity.evaluation import run_evaluation, write_evaluation
from essential_sparsity.finetune import evaluate_finetuned
from essential_sparsity.job import run_job
from essential_sparsity.outcomes import Outcome


def main(snakemake: Any) -> None:
    """Write the evaluation's row and its examples."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    task, method = json.loads(snakemake.params.task), json.loads(snakemake.params.method)
    mask = snakemake.input.get("mask")

    def protocol(checkpoint: Path, masks: Mapping[str, Tensor], where: str) -> tuple[Outcome, float]:
        rows = pd.read_parquet(snakemake.input.rows)
        return evaluate_finetuned(checkpoint, masks, rows, task, int(snakemake.wildcards.seed), device, where)

    row, outcome = run_evaluation(
        axes=dict(snakemake.wildcards.items()),
        checkpoint=Path(snakemake.input.weights).parent,
        manifest=Path(snakemake.input.manifest),
        mask=Path(mask) if mask else None,
        method=method,
        task=task,
        protocol=protocol,
        device=device,
    )
    write_evaluation(row, outcome, Path(snakemake.output.row), Path(snakemake.output.examples))


if __name__ == "__main__":
    run_job(main, snakemake)
