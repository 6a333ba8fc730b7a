"""Plot how sparsity emerges in the weights of one model over its pre-training, with the change points."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.emergence_plots import plot_emergence
from essential_sparsity.plots import apply_style, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    model = snakemake.wildcards.model
    tables = [pd.read_parquet(path) for path in snakemake.input]
    figure = plot_emergence(*(table[table["model"] == model] for table in tables), model)
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
