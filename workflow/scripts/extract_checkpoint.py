"""Turn the bytes of a source into a Hugging Face folder with its provenance."""

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.extract import extract
from essential_sparsity.checkpoints.files import CONFIG
from essential_sparsity.checkpoints.remote_code import check_remote_code, copy_code
from essential_sparsity.checkpoints.tensors import WEIGHTS
from essential_sparsity.files import sha256_of, write_json
from essential_sparsity.records import record
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.fetch import describe, fetch
from essential_sparsity.sources.kinds import Source


def main(snakemake: Any) -> None:
    """Write the weights, what belongs to them and, last, where they came from."""
    told, where = snakemake.params, f"{snakemake.params.where}.source"
    source = record(Source, json.loads(told.source))
    inputs = [Path(p) for p in snakemake.input]
    weights, companions = Path(snakemake.output.weights), Path(snakemake.output.companions)
    with tempfile.TemporaryDirectory(dir=weights.parent, prefix=".source-") as folder:
        fetch(source, inputs, Path(folder) / "source", where)
        config = Path(folder) / "source" / CONFIG
        if config.is_file():
            check_remote_code(config, told.trusted, where)
        extract(Path(folder) / "source", companions, told.dtype, where)
        copy_code(Path(folder) / "source", companions, told.trusted)
    os.replace(companions / WEIGHTS, weights)
    logging.info("wrote %s: %.1f MB", weights, weights.stat().st_size / 1e6)
    write_json(
        snakemake.output.provenance,
        {
            "model": snakemake.wildcards.model,
            "checkpoint": snakemake.wildcards.checkpoint,
            "licence": told.licence,
            "dtype": told.dtype,
            "trust_remote_code": told.trusted,
            "weights_sha256": sha256_of(snakemake.output.weights),
            **describe(source, inputs),
        },
    )


if __name__ == "__main__":
    run_job(main, snakemake)
