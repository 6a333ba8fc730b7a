"""Make the mask of one level of sparsity, matrix by matrix, without building the model."""

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.files import read_json
from essential_sparsity.methods.method import Method
from essential_sparsity.pruning.masks import writing_mask
from essential_sparsity.pruning.prune import PrunableModel, check_counts, divide, mask_header, prune_levels, put_matrix
from essential_sparsity.pruning.statistics import StatisticsFile
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the packed mask, and the new values of kept weights if the method changes them."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    method = record(Method, json.loads(snakemake.params.method))
    matrices = [m for m in read_manifest(Path(snakemake.input.manifest)) if m.pruned]
    axes = dict(snakemake.wildcards.items())
    sparsity, seed = method.sparsity(float(axes["sparsity"])), int(axes["seed"])
    planned = snakemake.input.get("plan")
    plan = read_json(planned) if planned else {}
    header = mask_header(axes, method, matrices, sparsity, divide(matrices, method, sparsity, plan))
    with ExitStack() as stack:
        files = stack.enter_context(open_weights(Path(snakemake.input.weights)))
        path = snakemake.input.get("statistics")
        statistics = stack.enter_context(StatisticsFile(Path(path))) if path else None
        writer = stack.enter_context(writing_mask(Path(snakemake.output.mask), header))
        model = PrunableModel(files, matrices, device, statistics)
        for name, (result,) in prune_levels(model, method, [sparsity], seed, plan):
            put_matrix(writer, name, result)
        check_counts(header, method, matrices)
    logging.info("removed %d of %d weights", sum(header.removed.values()), sum(m.size for m in matrices))


if __name__ == "__main__":
    run_job(main, snakemake)
