"""Tokenise, or resize, what a model reads in a task: once for all of its sparsities."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.checkpoints.files import checkpoint_folder
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import write_prepared
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the columns to ``output.inputs``."""
    rows, keys = pd.read_parquet(snakemake.input.rows), json.loads(snakemake.params.task)
    with checkpoint_folder(dict(snakemake.input.items())) as checkpoint:
        columns, about = prepare_inputs(rows, checkpoint, snakemake.params.where, **keys)
    logging.info("%s", {key: value for key, value in about.items() if key != "classes"})
    write_prepared(columns, about, Path(snakemake.output.inputs))


if __name__ == "__main__":
    run_job(main, snakemake)
