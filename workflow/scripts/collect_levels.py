"""Put the levels that were placed for a study's curves into one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.files import read_json
from essential_sparsity.knees.tables import LEVELS, level_rows
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack, write_table


def main(snakemake: Any) -> None:
    """Write the table of levels."""
    rows = stack((pd.DataFrame(level_rows(read_json(path))) for path in snakemake.input), LEVELS)
    write_table(rows, LEVELS, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
