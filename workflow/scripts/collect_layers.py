"""Put the sparsity of every matrix under every mask of a study into one table."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.pruning.masks import read_header
from essential_sparsity.pruning.tables import LAYERS, layer_rows
from essential_sparsity.run.job import run_job
from essential_sparsity.tables import stack, write_table


def main(snakemake: Any) -> None:
    """Write the table of layers."""
    models = json.loads(snakemake.params.models)
    manifests = dict(zip(models, (read_manifest(Path(p)) for p in snakemake.input.manifests), strict=True))
    frames = []
    for axes, path in zip(json.loads(snakemake.params.masks), snakemake.input.masks, strict=True):
        model, checkpoint, method, seed, _ = axes
        header = read_header(Path(path))
        rows = layer_rows(manifests[model], header.removed, header.targets)
        names = {"model": model, "checkpoint": checkpoint, "method": method, "seed": seed, "sparsity": header.target}
        frames.append(pd.DataFrame(rows).assign(**names))
    write_table(stack(frames, LAYERS), LAYERS, Path(snakemake.output.table))


if __name__ == "__main__":
    run_job(main, snakemake)
