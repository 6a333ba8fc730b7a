"""Make the rows of a dataset from the file of its source."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from essential_sparsity.errors import UserError
from essential_sparsity.files import atomic_path
from essential_sparsity.job import run_job
from essential_sparsity.sources import fetch
from essential_sparsity.texts import prepare_texts


def main(snakemake: Any) -> None:
    """Write ``id, text, label, split`` to ``output.rows``."""
    dataset, where = json.loads(snakemake.params.dataset), snakemake.params.where
    with tempfile.TemporaryDirectory() as folder:
        fetch(dataset["source"], [Path(p) for p in snakemake.input], Path(folder) / "source", f"{where}.source")
        files = sorted((Path(folder) / "source").iterdir())
        if len(files) != 1:
            raise UserError(f"{where}.source", f"{len(files)} files", "one table", "name a single file")
        rows = prepare_texts(files[0], dataset, where)
    logging.info("%s", rows.groupby(["split", "label"], dropna=False).size().to_string())
    with atomic_path(snakemake.output.rows) as temporary:
        rows.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run_job(main, snakemake)
