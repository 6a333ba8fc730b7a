"""Find what all levels of a method share: the cuts of a global pool, or what an allocation reads off the model."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.files import write_json
from essential_sparsity.methods.method import Method
from essential_sparsity.pruning.prune import PrunableModel, measure
from essential_sparsity.pruning.statistics import StatisticsFile
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the plan."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    method = record(Method, json.loads(snakemake.params.method))
    matrices = [m for m in read_manifest(Path(snakemake.input.manifest)) if m.pruned]
    with ExitStack() as stack:
        files = stack.enter_context(open_weights(Path(snakemake.input.weights)))
        path = snakemake.input.get("statistics")
        statistics = stack.enter_context(StatisticsFile(Path(path))) if path else None
        plan = measure(PrunableModel(files, matrices, device, statistics), method, int(snakemake.wildcards.seed))
    write_json(snakemake.output.plan, plan)


if __name__ == "__main__":
    run_job(main, snakemake)
