"""The figure of similarities: how alike masks are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.report.figures import style


def plot_similarities(similarities: pd.DataFrame, method_labels: Mapping[str, str], model: str) -> Figure:
    """Draw the cosine similarity of masks over sparsity, a row a checkpoint and a line a pair of methods.

    The left panel shows the cosine itself with what masks drawn apart have, 1 - s; the right one the cosine corrected
    for that. Lines are means over the seeds; bands reach from the least to the largest seed.

    Args:
        similarities: Rows of the table of similarities, of one model.
        method_labels: What a method is called, by its name in the registry.
        model: What the model is called.
    """
    checkpoints = style.sort_checkpoints(similarities["checkpoint"])
    pairs = list(dict.fromkeys(zip(similarities["method"], similarities["other_method"], strict=True)))
    width = 6.4 + 1.2 * style.LEGEND_WIDTH_IN
    figure = Figure(figsize=(width, 3.1 * len(checkpoints) + 0.6), layout="constrained")
    grid = figure.subplots(len(checkpoints), 2, squeeze=False, sharex="all", sharey="col")
    highest = float(similarities["sparsity"].max())
    for row, checkpoint in zip(grid, checkpoints, strict=True):
        here = similarities[similarities["checkpoint"] == checkpoint]
        for panel, column in zip(row, ("cosine", "cosine_corrected"), strict=True):
            for i, (one, other) in enumerate(pairs):
                lines = here[(here["method"] == one) & (here["other_method"] == other)]
                # A pair that a checkpoint lacks still has its place in the legend.
                seeds = lines.groupby("sparsity")[column].agg(["mean", "min", "max"]).astype(float)
                look, gid = style.line_look(i, len(pairs)), f"{column}:{one}:{other}"
                panel.plot(seeds.index.to_numpy(float), seeds["mean"].to_numpy(), gid=gid, **look)
                panel.fill_between(
                    seeds.index.to_numpy(float), seeds["min"].to_numpy(), seeds["max"].to_numpy(),
                    color=look["color"], alpha=0.2, linewidth=0, gid=f"band:{gid}",
                )  # fmt: skip
        row[0].plot([0, highest], [1, 1 - highest], color=style.BLACK, linewidth=1.0, linestyle=":", gid="chance")
        row[1].axhline(0, color=style.BLACK, linewidth=1.0, linestyle=":", gid="chance")
        row[0].set_ylabel("Cosine of kept weights")
        row[1].set_ylabel("Corrected for chance")
        row[0].set_title(checkpoint_label(checkpoint))
    for panel in grid[-1]:
        panel.set_xlabel("Sparsity (% removed)")
    grid[0, 0].set_ylim(-0.03, 1.03)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    grid[0, 0].xaxis.set_major_formatter(FuncFormatter(style.percent_tick))
    handles: list[Any] = [Line2D([], [], **style.line_look(i, len(pairs))) for i in range(len(pairs))]
    labels = [style.wrapped_name(" / ".join(method_labels.get(m, m) for m in pair), 30) for pair in pairs]
    handles.append(Line2D([], [], color=style.BLACK, linewidth=1.0, linestyle=":"))
    labels.append("masks drawn apart")
    if similarities["seed"].nunique() > 1:
        handles.append(Patch(facecolor="0.85"))
        labels.append("least to largest seed")
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, alignment="left", handlelength=2.6, labelspacing=0.8
    )
    style.set_title(figure, f"Which weights are kept: {model}", width - 1.2 * style.LEGEND_WIDTH_IN)
    return figure
