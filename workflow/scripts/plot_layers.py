"""Plot the sparsity of every matrix at the knees of one model and task."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.plots import apply_style, plot_layers, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    model, task = snakemake.wildcards.model, snakemake.wildcards.task
    layers, knees = pd.read_parquet(snakemake.input.layers), pd.read_parquet(snakemake.input.knees)
    figure = plot_layers(
        layers[layers["model"] == model], knees[(knees["model"] == model) & (knees["task"] == task)],
        json.loads(snakemake.params.methods), model, snakemake.params.label, snakemake.params.rule_name,
    )  # fmt: skip
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
