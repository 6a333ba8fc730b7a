"""Make the mask of one level of sparsity."""

import json
import logging
from pathlib import Path
from typing import Any

from essential_sparsity.devices import choose_device
from essential_sparsity.job import run_job
from essential_sparsity.manifest import read_manifest
from essential_sparsity.masks import write_mask
from essential_sparsity.pruning import prune_checkpoint


def main(snakemake: Any) -> None:
    """Write the packed mask."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    method, target = json.loads(snakemake.params.method), float(snakemake.wildcards.sparsity)
    matrices = [m for m in read_manifest(Path(snakemake.input.manifest)) if m.pruned]
    seed = int(snakemake.wildcards.seed)
    header = write_mask(
        Path(snakemake.output.mask), snakemake.wildcards.model, snakemake.wildcards.checkpoint, method, seed, target,
        {m.name: m.shape for m in matrices},
        prune_checkpoint(Path(snakemake.input.weights), matrices, method, target, seed, device),
    )  # fmt: skip
    logging.info("removed %d weights: sparsity %.6f", sum(header.removed.values()), header.realised)


if __name__ == "__main__":
    run_job(main, snakemake)
