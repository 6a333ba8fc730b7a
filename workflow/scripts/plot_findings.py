"""Plot one finding: the curves that it compares, and its estimates beside the region where it holds."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.finding_plots import plot_finding
from essential_sparsity.plots import apply_style, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    findings, curves, knees = (pd.read_parquet(snakemake.input[name]) for name in ("findings", "curves", "knees"))
    claims, last, methods, tasks = (
        json.loads(snakemake.params[name]) for name in ("claims", "last", "methods", "tasks")
    )
    rows = findings[findings["finding"] == snakemake.wildcards.finding]
    figure = plot_finding(rows, claims, curves, knees, last, methods, tasks)
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
