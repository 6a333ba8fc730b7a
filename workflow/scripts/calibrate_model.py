"""Gather statistics of the inputs of every prunable matrix in the dense model."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.checkpoints.files import checkpoint_folder
from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.methods.statistics import Calibration
from essential_sparsity.pruning.calibration_text import calibration_batches
from essential_sparsity.pruning.statistics import write_statistics
from essential_sparsity.pruning.streaming import activation_folder, dense_statistics, streamed_model
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the statistics."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    calibration = record(Calibration, json.loads(snakemake.params.calibration))
    weights, output = Path(snakemake.input.weights), Path(snakemake.output.statistics)
    matrices = read_manifest(Path(snakemake.input.manifest))
    rows = pd.read_parquet(snakemake.input.rows)
    with checkpoint_folder(dict(snakemake.input.items())) as checkpoint:
        model = streamed_model(checkpoint)
        batches = calibration_batches(rows, checkpoint, model, calibration, snakemake.params.where)
    with (
        open_weights(weights) as files,
        activation_folder(calibration.activations, output.parent) as folder,
    ):
        with_gram = snakemake.wildcards.statistics == "hessians"
        blocks = dense_statistics(model, files, matrices, batches, device, folder, with_gram, calibration.precision)
        write_statistics(output, blocks, [m.name for m in matrices if m.pruned])
    logging.info("wrote %s: %.1f MB", output, output.stat().st_size / 1e6)


if __name__ == "__main__":
    run_job(main, snakemake)
