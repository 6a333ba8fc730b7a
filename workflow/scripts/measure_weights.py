"""Describe the weights of a checkpoint by statistics, matrix by matrix."""

from pathlib import Path
from typing import Any

from essential_sparsity.devices import choose_device
from essential_sparsity.emergence import checkpoint_statistics
from essential_sparsity.job import run_job
from essential_sparsity.manifest import read_manifest
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import WEIGHTS
from essential_sparsity.trajectory import step_of


def main(snakemake: Any) -> None:
    """Write a row for each prunable matrix."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    names = [m.name for m in read_manifest(Path(snakemake.input.manifest)) if m.pruned]
    statistics = checkpoint_statistics(Path(snakemake.input.weights), names, device)
    checkpoint = snakemake.wildcards.checkpoint
    axes = {"model": snakemake.wildcards.model, "checkpoint": checkpoint, "step": step_of(checkpoint)}
    frame = statistics.assign(**axes).reset_index(names="position")
    write_table(frame, WEIGHTS, Path(snakemake.output.statistics))


if __name__ == "__main__":
    run_job(main, snakemake)
