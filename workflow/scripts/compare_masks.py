"""Put the similarity of every pair of masks that a study compares into one table."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.pruning.masks import read_header
from essential_sparsity.pruning.tables import SIMILARITIES
from essential_sparsity.pruning.tools import similarity
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import write_table


def main(snakemake: Any) -> None:
    """Write the table of similarities."""
    rows = []
    pairs, first, second = json.loads(snakemake.params.pairs), snakemake.input.first, snakemake.input.second
    for pair, a, b in zip(pairs, map(Path, first), map(Path, second), strict=True):
        rows.append({**pair, "sparsity": read_header(a).target, **similarity(a, b)})
    write_table(pd.DataFrame(rows), SIMILARITIES, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
