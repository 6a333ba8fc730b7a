"""Pre-train a model by its recipe, keeping log-spaced checkpoints."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.pretraining import pretrain
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the checkpoints beside ``output.index``, which lists them; until then all is in ``params.states``."""
    pretrain(
        corpus=pd.read_parquet(snakemake.input.corpus),
        recipe=json.loads(snakemake.params.recipe),
        folder=Path(snakemake.output.index).parent,
        states=Path(snakemake.params.states),
        device=choose_device(snakemake.resources.gpu, snakemake.threads),
        code=snakemake.params.code,
        where=f"{snakemake.params.where}.source.recipe",
    )


if __name__ == "__main__":
    run_job(main, snakemake)
