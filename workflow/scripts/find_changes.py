"""Find the largest change point of every statistic of the weights over pre-training, and test it."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.emergence.changes import find_changes
from essential_sparsity.emergence.tables import CHANGES
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import write_table


def main(snakemake: Any) -> None:
    """Write the table of changes."""
    weights, trajectories = (pd.read_parquet(snakemake.input[name]) for name in ("weights", "trajectories"))
    write_table(find_changes(weights, trajectories), CHANGES, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
