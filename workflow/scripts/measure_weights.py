"""Describe the weights of a checkpoint by statistics, matrix by matrix and together."""

from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.steps import step_of
from essential_sparsity.emergence.statistics import SPECTRA, measure_checkpoint, write_measured
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write a row for each prunable matrix, one for all together, and their histogram."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    names = [m.name for m in read_manifest(Path(snakemake.input.manifest)) if m.pruned]
    measured = measure_checkpoint(Path(snakemake.input.weights), names, device, SPECTRA[snakemake.params.spectra])
    model, checkpoint = snakemake.wildcards.model, snakemake.wildcards.checkpoint
    written = measured.assign(model=model, checkpoint=checkpoint, step=step_of(checkpoint))
    write_measured([written], {name: Path(path) for name, path in snakemake.output.items()})


if __name__ == "__main__":
    run_job(main, snakemake)
