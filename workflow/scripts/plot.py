"""Plot one figure of a study, by the library's function for its kind."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.emergence_plots import plot_ages, plot_emergence
from essential_sparsity.finding_plots import plot_finding
from essential_sparsity.loss_plots import plot_losses
from essential_sparsity.plots import apply_style, plot_curves, plot_layers, plot_similarities, plot_weights, save_figure
from essential_sparsity.run.job import run_job

# By the names of their rules.
PLOTS = {
    "plot_ages": plot_ages, "plot_curves": plot_curves, "plot_emergence": plot_emergence, "plot_findings": plot_finding,
    "plot_layers": plot_layers, "plot_losses": plot_losses, "plot_similarities": plot_similarities,
    "plot_weights": plot_weights,
}  # fmt: skip


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    axes = dict(snakemake.wildcards.items())
    tables = {name: of_axes(pd.read_parquet(path), axes) for name, path in snakemake.input.items()}
    figure = PLOTS[snakemake.rule](**tables, **json.loads(snakemake.params.settings))
    for path in snakemake.output:
        save_figure(figure, Path(path))


def of_axes(table: pd.DataFrame, axes: dict[str, str]) -> pd.DataFrame:
    """Return the rows of a table that are the figure's, by those of its wildcards that the table has."""
    for axis in table.columns.intersection(list(axes)):
        table = table[table[axis] == axes[axis]]
    return table


if __name__ == "__main__":
    run_job(main, snakemake)
