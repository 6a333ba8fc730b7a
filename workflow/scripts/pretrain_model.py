"""Pre-train a model by its recipe, keeping log-spaced checkpoints."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.pretraining import INDEX, pretrain
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the checkpoints into ``output.files``, and ``output.index``, which lists them.

    What a training that was cut off has written is in ``params.states``.
    """
    states = Path(snakemake.params.states)
    pretrain(
        corpus=pd.read_parquet(snakemake.input.corpus),
        recipe=json.loads(snakemake.params.recipe),
        folder=states,
        device=choose_device(snakemake.resources.gpu, snakemake.threads),
        code=snakemake.params.code,
        where=f"{snakemake.params.where}.source.recipe",
    )
    os.replace(states / "loss.parquet", snakemake.output.loss)
    os.replace(states / INDEX, snakemake.output.index)
    os.replace(states, snakemake.output.files)


if __name__ == "__main__":
    run_job(main, snakemake)
