"""Plot one figure of a study, by the library's function for its kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
from matplotlib.figure import Figure

from essential_sparsity.records import record
from essential_sparsity.report.figures.ages import plot_ages
from essential_sparsity.report.figures.curves import plot_curves
from essential_sparsity.report.figures.emergence import plot_emergence
from essential_sparsity.report.figures.findings import plot_findings
from essential_sparsity.report.figures.layers import plot_layers
from essential_sparsity.report.figures.losses import plot_losses
from essential_sparsity.report.figures.similarities import plot_similarities
from essential_sparsity.report.figures.style import apply_style, save_figure
from essential_sparsity.report.figures.weights import plot_weights
from essential_sparsity.run.job import run_job

# By the names of their rules.
PLOTS: dict[str, Callable[..., Figure]] = {
    plot.__name__: plot for plot in
    (plot_ages, plot_curves, plot_emergence, plot_findings, plot_layers, plot_losses, plot_similarities, plot_weights)
}  # fmt: skip


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    axes = dict(snakemake.wildcards.items())
    tables = {name: of_axes(pd.read_parquet(path), axes) for name, path in snakemake.input.items()}
    plot = PLOTS[snakemake.rule]
    hints = get_type_hints(plot)
    settings = {key: record(hints[key], value) for key, value in json.loads(snakemake.params.settings).items()}
    figure = plot(**tables, **settings)
    for path in snakemake.output:
        save_figure(figure, Path(path))


def of_axes(table: pd.DataFrame, axes: dict[str, str]) -> pd.DataFrame:
    """Return the rows of a table that are the figure's, by those of its wildcards that the table has."""
    for axis in table.columns.intersection(list(axes)):
        table = table[table[axis] == axes[axis]]
    return table


if __name__ == "__main__":
    run_job(main, snakemake)
