"""Make the rows of a dataset from the files of its source."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from essential_sparsity.files import atomic_path
from essential_sparsity.job import run_job
from essential_sparsity.sources import table_splits
from essential_sparsity.texts import prepare_texts


def main(snakemake: Any) -> None:
    """Write ``id, text, label, split`` to ``output.rows``."""
    dataset, where = json.loads(snakemake.params.dataset), snakemake.params.where
    with tempfile.TemporaryDirectory() as folder:
        inputs = [Path(p) for p in snakemake.input]
        files = table_splits(dataset["source"], inputs, Path(folder) / "source", f"{where}.source")
        rows = prepare_texts(files, dataset, where)
    logging.info("%s", rows.groupby(["split", "label"], dropna=False).size().to_string())
    with atomic_path(snakemake.output.rows) as temporary:
        rows.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run_job(main, snakemake)
