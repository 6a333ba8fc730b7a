"""Plot how similar the masks of different methods are over sparsity, for one model."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.plots import apply_style, plot_similarities, save_figure
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the figure as SVG, PDF and PNG."""
    apply_style()
    rows, model = pd.read_parquet(snakemake.input.similarities), snakemake.wildcards.model
    figure = plot_similarities(rows[rows["model"] == model], json.loads(snakemake.params.methods), model)
    for path in snakemake.output:
        save_figure(figure, Path(path))


if __name__ == "__main__":
    run_job(main, snakemake)
