"""Put what a study's jobs have spent into one table."""

from pathlib import Path
from typing import Any

from essential_sparsity.costs import read_costs
from essential_sparsity.job import run_job
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import COSTS


def main(snakemake: Any) -> None:
    """Write the table of costs."""
    write_table(read_costs(Path("results/costs"), map(Path, snakemake.input)), COSTS, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
