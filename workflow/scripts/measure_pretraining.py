"""Describe the weights at every step that a pre-training kept by statistics, matrix by matrix and together."""

from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.extract import DTYPES
from essential_sparsity.checkpoints.manifest import read_manifest
from essential_sparsity.checkpoints.steps import checkpoint_age, step_of
from essential_sparsity.emergence.statistics import SPECTRA, measure_checkpoint, write_measured
from essential_sparsity.files import read_json
from essential_sparsity.progress import progress
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.fetch import pretrained_weights


def main(snakemake: Any) -> None:
    """Write the rows of all steps below each other."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    names = [m.name for m in read_manifest(Path(snakemake.input.manifest)) if m.pruned]
    index, files = Path(snakemake.input.index), Path(snakemake.input.files)
    dtype = DTYPES[snakemake.params.dtype]
    steps = sorted(read_json(index)["steps"], key=checkpoint_age)
    measured = []
    for checkpoint in progress(steps, "measuring", total=len(steps), unit="steps"):
        weights = pretrained_weights(index, files, checkpoint)
        found = measure_checkpoint(weights, names, device, SPECTRA[snakemake.params.spectra], dtype)
        axes = {"model": snakemake.wildcards.model, "checkpoint": checkpoint, "step": step_of(checkpoint)}
        measured.append(found.assign(**axes))
    write_measured(measured, {name: Path(path) for name, path in snakemake.output.items()})


if __name__ == "__main__":
    run_job(main, snakemake)
