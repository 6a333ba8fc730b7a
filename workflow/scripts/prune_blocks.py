"""Make the mask of one level of sparsity block by block, each with the inputs that the pruned blocks hand on."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.checkpoints.files import checkpoint_folder
from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.files import read_json
from essential_sparsity.methods.method import Method
from essential_sparsity.methods.statistics import Calibration
from essential_sparsity.pruning.blocks import prune_by_block
from essential_sparsity.pruning.calibration_text import calibration_batches
from essential_sparsity.pruning.masks import writing_mask
from essential_sparsity.pruning.prune import check_counts, divide, mask_header, put_matrix
from essential_sparsity.pruning.streaming import activation_folder, streamed_model
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the packed mask, and the new values of kept weights if the method changes them."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    method = record(Method, json.loads(snakemake.params.method))
    calibration = record(Calibration, json.loads(snakemake.params.calibration))
    weights, output = Path(snakemake.input.weights), Path(snakemake.output.mask)
    matrices = read_manifest(Path(snakemake.input.manifest))
    prunable = [m for m in matrices if m.pruned]
    axes = dict(snakemake.wildcards.items())
    sparsity, seed = method.sparsity(float(axes["sparsity"])), int(axes["seed"])
    planned = snakemake.input.get("plan")
    plan = read_json(planned) if planned else {}
    targets = divide(prunable, method, sparsity, plan)
    rows = pd.read_parquet(snakemake.input.rows)
    with checkpoint_folder(dict(snakemake.input.items())) as checkpoint:
        model = streamed_model(checkpoint)
        batches = calibration_batches(rows, checkpoint, model, calibration, snakemake.params.where)
    header = mask_header(axes, method, prunable, sparsity, targets)
    with (
        open_weights(weights) as files,
        activation_folder(calibration.activations, output.parent) as folder,
        writing_mask(output, header) as writer,
    ):
        for name, result in prune_by_block(
            model, files, matrices, batches, device, folder, method, targets, seed, calibration.precision
        ):
            put_matrix(writer, name, result)
        check_counts(header, method, prunable)
    logging.info("removed %d of %d weights", sum(header.removed.values()), sum(m.size for m in prunable))


if __name__ == "__main__":
    run_job(main, snakemake)
