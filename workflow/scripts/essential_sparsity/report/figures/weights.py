"""The figure of weights: their magnitudes, and statistics by depth."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.emergence.places import STATISTICS, matrix_places, weighted_mean
from essential_sparsity.report.figures import style


def plot_weights(weights: pd.DataFrame, model: str) -> Figure:
    """Draw statistics of the prunable matrices, a panel a statistic and a line a kind of matrix.

    They are drawn over the steps of pre-training, as means over the blocks with the whole model in black; where there
    is only one checkpoint, over the blocks.

    Args:
        weights: Rows of the table of weights, of one model.
        model: What the model is called.
    """
    rows = weights.sort_values("position")
    rows = rows.merge(matrix_places(rows["name"]), on="name")
    kinds = list(dict.fromkeys(rows["kind"]))
    stepped = rows[rows["step"].notna()].assign(step=lambda frame: frame["step"].astype(float))
    over_steps = stepped["step"].nunique() > 1
    figure = Figure(figsize=(10.0, 6.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(2, 3, sharex=False).ravel())
    if over_steps:
        along, label = "step", "Step of pre-training (symlog axis)"
        shown, title = stepped, f"Weights over pre-training: {model}"
    else:
        last = style.sort_checkpoints(rows["checkpoint"])[-1]
        along, label = "block", "Block"
        shown, title = rows[rows["checkpoint"] == last], f"Weights by block: {model}, {checkpoint_label(last)}"
    for panel, (statistic, name) in zip(panels, STATISTICS.items(), strict=False):
        scale = 100.0 if statistic.startswith("fraction") else 1.0
        for position, kind in enumerate(kinds):
            line = shown[shown["kind"] == kind].groupby(along)[statistic].mean() * scale
            panel.plot(
                line.index.to_numpy(float), line.to_numpy(float), **style.line_look(position, len(kinds)), alpha=0.9
            )
        if over_steps:
            total = weighted_mean(shown, along, statistic) * scale
            panel.plot(total.index.to_numpy(float), total.to_numpy(float), color=style.BLACK, linewidth=2.4, zorder=4)
            style.scale_steps(panel, sorted(set(shown["step"])))
        else:
            panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panel.set_title(style.wrapped_name(name, 34), loc="left", fontsize=9.5)
        panel.set_xlabel(label)
        panel.yaxis.set_major_locator(MaxNLocator(6))
    handles = [Line2D([], [], **style.line_look(i, len(kinds))) for i in range(len(kinds))]
    labels = [style.wrapped_name(kind, 30) for kind in kinds]
    if over_steps:
        handles.append(Line2D([], [], color=style.BLACK, linewidth=2.4))
        labels.append("all, weighted by size")
    panels[-1].axis("off")
    panels[-1].legend(handles, labels, loc="upper left", frameon=False, borderaxespad=0, handlelength=2.6,
                      title="Matrices (mean over blocks)" if over_steps else "Matrices", alignment="left",
                      fontsize=9 if len(kinds) <= 10 else 7)  # fmt: skip
    style.set_title(figure, title, 10.0)
    return figure
