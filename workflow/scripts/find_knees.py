"""Read the knees off the curves of a study."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.analysis import find_knees
from essential_sparsity.files import atomic_path
from essential_sparsity.job import run_job
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import KNEES, stack


def main(snakemake: Any) -> None:
    """Write the table of knees."""
    knees = find_knees(pd.read_parquet(snakemake.input.evaluations), json.loads(snakemake.params.knees))
    written = write_table(stack([knees] if len(knees) else [], KNEES), KNEES, Path(snakemake.output.table))
    with atomic_path(snakemake.output.csv) as temporary:
        written.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_job(main, snakemake)
