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
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.fetch import describe, fetch


def main(snakemake: Any) -> None:
    """Write the weights, what belongs to them and, last, where they came from."""
    model = json.loads(snakemake.params.model)
    checkpoint = snakemake.wildcards.checkpoint
    where = f"{snakemake.params.where}.source"
    inputs = [Path(p) for p in snakemake.input]
    weights, companions = Path(snakemake.output.weights), Path(snakemake.output.companions)
    with tempfile.TemporaryDirectory(dir=weights.parent, prefix=".source-") as folder:
        fetch({**model["source"], "step": checkpoint}, inputs, Path(folder) / "source", where)
        config = Path(folder) / "source" / CONFIG
        if config.is_file():
            check_remote_code(config, model["trust_remote_code"], where)
        extract(Path(folder) / "source", companions, model["dtype"], where)
        copy_code(Path(folder) / "source", companions, model["trust_remote_code"])
    os.replace(companions / WEIGHTS, weights)
    logging.info("wrote %s: %.1f MB", weights, weights.stat().st_size / 1e6)
    write_json(
        snakemake.output.provenance,
        {
            "model": snakemake.wildcards.model,
            "checkpoint": checkpoint,
            "licence": model["licence"],
            "dtype": model["dtype"],
            "trust_remote_code": model["trust_remote_code"],
            "weights_sha256": sha256_of(snakemake.output.weights),
            **describe(model["source"], inputs),
        },
    )


if __name__ == "__main__":
    run_job(main, snakemake)
