"""Put the evaluations of a study into one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.run.job import run_job
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import EVALUATIONS, stack


def main(snakemake: Any) -> None:
    """Write the table of evaluations."""
    paths = [*snakemake.input.known, *snakemake.input.placed]
    rows = stack((pd.read_parquet(path) for path in paths), EVALUATIONS)
    write_table(rows.assign(study=snakemake.wildcards.study), EVALUATIONS, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
