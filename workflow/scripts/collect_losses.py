"""Put the loss curves of the models that a study trains into one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.pretraining.losses import LOSSES, loss_rows
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack, write_table


def main(snakemake: Any) -> None:
    """Write the table of losses."""
    curves = {Path(path).parent.name: pd.read_parquet(path) for path in snakemake.input}
    rows = stack((loss_rows(model, curve) for model, curve in curves.items()), LOSSES)
    write_table(rows, LOSSES, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
