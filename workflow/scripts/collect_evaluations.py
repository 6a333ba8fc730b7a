"""Put the evaluations of a study into one table."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.checkpoints.steps import listed_checkpoints, same_weights
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.files import read_json
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack, write_table


def main(snakemake: Any) -> None:
    """Write the table of evaluations; checkpoints whose weights are those of another are flagged."""
    paths = [*snakemake.input.known, *snakemake.input.placed]
    rows = stack((pd.read_parquet(path) for path in paths), EVALUATIONS)
    for (model, _), names in same_weights(map(read_json, snakemake.input.provenance)).items():
        for name in names:
            flag = f"same weights as {listed_checkpoints({*names} - {name})}"
            alike = (rows["model"] == model) & (rows["checkpoint"] == name)
            rows.loc[alike, "flags"] = [f"{flags}; {flag}" if flags else flag for flags in rows.loc[alike, "flags"]]
    write_table(rows.assign(study=snakemake.wildcards.study), EVALUATIONS, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
