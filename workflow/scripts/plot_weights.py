"""Plot the statistics of the weights of one model over its pre-training."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.plots import apply_style, plot_weights, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    weights, model = pd.read_parquet(snakemake.input.weights), snakemake.wildcards.model
    figure = plot_weights(weights[weights["model"] == model], model)
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
