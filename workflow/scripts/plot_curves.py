"""Plot performance over sparsity for one model and task, with the knees marked."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.plots import apply_style, plot_curves, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    axes = dict(snakemake.wildcards.items())
    tables = [pd.read_parquet(snakemake.input[name]) for name in ("evaluations", "knees", "levels")]
    evaluations, knees, levels = (t[(t["model"] == axes["model"]) & (t["task"] == axes["task"])] for t in tables)
    figure = plot_curves(
        evaluations, knees, json.loads(snakemake.params.methods), snakemake.params.label, axes["model"],
        json.loads(snakemake.params.knees), levels,
    )  # fmt: skip
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
