"""Plot the loss of one model over its pre-training."""

from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.loss_plots import plot_losses
from essential_sparsity.plots import apply_style, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    losses, model = pd.read_parquet(snakemake.input.losses), snakemake.wildcards.model
    figure = plot_losses(losses[losses["model"] == model], model, snakemake.params.objective)
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
