"""Pre-train a model by its recipe, keeping log-spaced checkpoints."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.pretraining.loop import INDEX, pretrain
from essential_sparsity.pretraining.recipe import AnyRecipe
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the checkpoints into ``output.files``, and ``output.index``, which lists them.

    Until a training has ended, what it has written is in ``params.states``.
    """
    files = Path(snakemake.output.files)
    pretrain(
        corpus=pd.read_parquet(snakemake.input.corpus),
        recipe=record(AnyRecipe, json.loads(snakemake.params.recipe)),
        folder=files,
        states=Path(snakemake.params.states),
        device=choose_device(snakemake.resources.gpu, snakemake.threads),
        code=snakemake.params.code,
        where=f"{snakemake.params.where}.source.recipe",
    )
    os.replace(files / "loss.parquet", snakemake.output.loss)
    os.replace(files / INDEX, snakemake.output.index)


if __name__ == "__main__":
    run_job(main, snakemake)
