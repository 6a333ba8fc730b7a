"""Turn the bytes of a source into a Hugging Face folder with its provenance."""

import json
import tempfile
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoint_files import CONFIG
from essential_sparsity.checkpoints import extract, log_checkpoint
from essential_sparsity.files import sha256_of, write_json
from essential_sparsity.remote_code import check_remote_code, copy_code
from essential_sparsity.run.job import run_job
from essential_sparsity.sources import describe, fetch


def main(snakemake: Any) -> None:
    """Write the checkpoint's folder; ``provenance.json`` comes last."""
    model = json.loads(snakemake.params.model)
    checkpoint = snakemake.wildcards.checkpoint
    where = f"{snakemake.params.where}.source"
    inputs = [Path(p) for p in snakemake.input]
    destination = Path(snakemake.output.weights).parent
    with tempfile.TemporaryDirectory(dir=destination, prefix=".source-") as folder:
        fetch({**model["source"], "step": checkpoint}, inputs, Path(folder) / "source", where)
        config = Path(folder) / "source" / CONFIG
        if config.is_file():
            check_remote_code(config, model["trust_remote_code"], where)
        extract(Path(folder) / "source", destination, model["dtype"], where)
        copy_code(Path(folder) / "source", destination, model["trust_remote_code"])
    log_checkpoint(destination)
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
