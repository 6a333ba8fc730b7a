"""Put the statistics of the weights of a study's checkpoints into its tables."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.emergence.tables import MEASURED
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack, write_table


def main(snakemake: Any) -> None:
    """Write the tables of weights, of trajectories and of histograms."""
    wanted = pd.MultiIndex.from_tuples(map(tuple, json.loads(snakemake.params.checkpoints)), names=_AXES)
    for name, schema in MEASURED.items():
        rows = stack((pd.read_parquet(path) for path in snakemake.input[name]), schema)
        # A pre-training is measured at all its steps, whatever a study asks for.
        asked = pd.MultiIndex.from_frame(rows[_AXES]).isin(wanted)
        write_table(rows[asked], schema, Path(snakemake.output[name]))


_AXES = ["model", "checkpoint"]

if __name__ == "__main__":
    run_job(main, snakemake)
