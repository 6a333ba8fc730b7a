"""Make the rows of a dataset from the files of its source."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from essential_sparsity.data.kinds import Dataset
from essential_sparsity.data.rows import prepare_rows
from essential_sparsity.files import atomic_path
from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.fetch import table_splits
from essential_sparsity.sources.kinds import Local


def main(snakemake: Any) -> None:
    """Write the rows to ``output.rows``."""
    dataset, where = record(Dataset, json.loads(snakemake.params.dataset)), snakemake.params.where
    source, inputs = dataset.source, [Path(p) for p in snakemake.input]
    with tempfile.TemporaryDirectory() as folder:
        if dataset.format == "images" and isinstance(source, Local):
            files = {"train": [source.place]}
        else:
            files = table_splits(source, inputs, Path(folder) / "source", f"{where}.source")
        rows = prepare_rows(files, dataset, where)
    logging.info("%s", rows.groupby(["split", "label"], dropna=False).size().to_string())
    with atomic_path(snakemake.output.rows) as temporary:
        rows.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run_job(main, snakemake)
