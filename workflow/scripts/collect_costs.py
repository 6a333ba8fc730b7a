"""Put what a study's jobs have spent into one table."""

from pathlib import Path
from typing import Any

from essential_sparsity.costs import read_costs
from essential_sparsity.run.job import run_job
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import COSTS


def main(snakemake: Any) -> None:
    """Write the table of costs."""
    table = Path(snakemake.output.table)
    # Of results/studies/<study>/tables/costs.parquet.
    results = table.parents[3]
    write_table(read_costs(results / "costs", map(Path, snakemake.input)), COSTS, table)


if __name__ == "__main__":
    run_job(main, snakemake)
