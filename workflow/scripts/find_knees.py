"""Read the knees off the curves of a study."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.files import atomic_path
from essential_sparsity.knees.analysis import analyse
from essential_sparsity.knees.readings import Settings
from essential_sparsity.knees.samples import Examples
from essential_sparsity.knees.tables import CURVES, DIFFERENCES, KNEES
from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import write_table


def main(snakemake: Any) -> None:
    """Write the tables of knees, of curves and of differences between knees."""
    drawn = frozenset(json.loads(snakemake.params.drawn))
    examples = Examples(Path(snakemake.params.examples), json.loads(snakemake.params.positive), drawn)
    settings = record(Settings, json.loads(snakemake.params.knees))
    found = analyse(pd.read_parquet(snakemake.input.evaluations), settings, examples)
    write_table(found.curves, CURVES, Path(snakemake.output.curves))
    for frame, schema, name in ((found.knees, KNEES, "knees"), (found.differences, DIFFERENCES, "differences")):
        written = write_table(frame, schema, Path(snakemake.output[name]))
        with atomic_path(snakemake.output[f"{name}_csv"]) as temporary:
            written.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_job(main, snakemake)
