"""Put what a study's jobs have spent into one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.evaluation.tables import evaluation_places
from essential_sparsity.planning.costs import COSTS, read_costs
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import write_table


def main(snakemake: Any) -> None:
    """Write the table of costs."""
    table = Path(snakemake.output.table)
    # Of results/studies/<study>/tables/costs.parquet.
    results = table.parents[3]
    costs = results / "costs"
    places = evaluation_places(pd.read_parquet(snakemake.input.evaluations))
    files = [costs / "evaluations" / f"{place}.json" for place in places]
    write_table(read_costs(costs, sorted([*files, *map(Path, snakemake.input.others)])), COSTS, table)


if __name__ == "__main__":
    run_job(main, snakemake)
