"""List the matrices of a model and say which are pruned, and why."""

import json
import logging
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.extract import empty_model
from essential_sparsity.checkpoints.files import checkpoint_folder
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.manifest import write_manifest
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the manifest."""
    patterns = json.loads(snakemake.params.patterns)
    with open_weights(Path(snakemake.input.weights)) as files:
        shapes = {name: stored.shape for name, stored in files.tensors.items()}
    with checkpoint_folder(dict(snakemake.input.items())) as checkpoint:
        matrices = list_matrices(empty_model(checkpoint), shapes, snakemake.params.where, **patterns)
    pruned = [m for m in matrices if m.pruned]
    total, prunable = sum(m.size for m in matrices), sum(m.size for m in pruned)
    logging.info("%d of %d tensors are prunable: %d of %d weights", len(pruned), len(matrices), prunable, total)
    write_manifest(matrices, Path(snakemake.output.manifest))


if __name__ == "__main__":
    run_job(main, snakemake)
