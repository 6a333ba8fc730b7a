"""Put the statistics of the weights of a study's checkpoints into one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.job import run_job
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import WEIGHTS, stack


def main(snakemake: Any) -> None:
    """Write the table of weights."""
    rows = stack((pd.read_parquet(path) for path in snakemake.input), WEIGHTS)
    write_table(rows, WEIGHTS, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
