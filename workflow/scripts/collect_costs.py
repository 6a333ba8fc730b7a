"""Put what a study's jobs have spent into one table."""

from pathlib import Path
from typing import Any

from essential_sparsity.costs import read_costs
from essential_sparsity.job import run_job
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import COSTS
from essential_sparsity.tickets import results_of


def main(snakemake: Any) -> None:
    """Write the table of costs."""
    table = Path(snakemake.output.table)
    write_table(read_costs(results_of(table) / "costs", map(Path, snakemake.input)), COSTS, table)


if __name__ == "__main__":
    run_job(main, snakemake)
