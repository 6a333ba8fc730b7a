"""Plot the knees of one model on one task over the steps of its pre-training."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.emergence_plots import plot_ages
from essential_sparsity.plots import apply_style, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    model, task = snakemake.wildcards.model, snakemake.wildcards.task
    tables = [pd.read_parquet(snakemake.input[name]) for name in ("evaluations", "knees")]
    evaluations, knees = (t[(t["model"] == model) & (t["task"] == task)] for t in tables)
    figure = plot_ages(
        evaluations, knees, json.loads(snakemake.params.methods), snakemake.params.label, model,
        snakemake.params.rule_name,
    )  # fmt: skip
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
