"""The figure of layers: the sparsity of every matrix."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.emergence.places import matrix_places
from essential_sparsity.report.figures.style import (
    Look,
    set_title,
    shown_level,
    sort_checkpoints,
    sort_methods,
    wrapped_name,
)

# Heat maps beside each other; further ones begin another row.
_PANELS = 5
# More rows than this leave no room for numbers in the cells of a heat map.
_ANNOTATED_BLOCKS = 8


def plot_layers(
    layers: pd.DataFrame,
    knees: pd.DataFrame,
    method_labels: Mapping[str, str],
    model: str,
    task_label: str,
    rule: str,
) -> Figure:
    """Draw the realised sparsity of every matrix at the knee as heat maps, a panel a checkpoint and method.

    Args:
        layers: Rows of the table of layers, of one model.
        knees: Rows of the table of knees, of the same model and of one task.
        method_labels: What a method is called, by its name in the registry.
        model: What the model is called.
        task_label: What the task is called, whose knee is used.
        rule: The rule whose knee is used, the headline's.
    """
    mean = knees[knees["seed"].isna() & (knees["rule"] == rule)].set_index(["checkpoint", "method"])["knee"]
    pruned = layers[layers["pruned"]].sort_values("position")
    pruned = pruned.merge(matrix_places(pruned["name"]), on="name")
    available = set(zip(pruned["checkpoint"], pruned["method"], strict=True))
    keys = [key for key in mean.index if key in available]
    checkpoints = sort_checkpoints(checkpoint for checkpoint, _ in keys)
    methods = sort_methods({method for _, method in keys}, method_labels)
    kinds = list(dict.fromkeys(pruned["kind"]))
    tables: dict[tuple[str, str], tuple[pd.DataFrame, str]] = {}
    for checkpoint, method in keys:
        part = pruned[(pruned["checkpoint"] == checkpoint) & (pruned["method"] == method)]
        knee = float(mean[checkpoint, method])
        level, within = shown_level(part["sparsity"], knee)
        cells = part[np.isclose(part["sparsity"].astype(float), level)]
        table = cells.pivot_table(index="block", columns="kind", values="realised", aggfunc="mean")
        title = _layers_title(method_labels.get(method, method), checkpoint, level, knee, within)
        tables[checkpoint, method] = 100 * table.reindex(columns=kinds), title

    blocks = max(len(table) for table, _ in tables.values())
    panel_width = max(2.6, 0.46 * len(kinds))
    panel_height = max(1.1, 0.17 * blocks if blocks > _ANNOTATED_BLOCKS else 0.34 * blocks)
    columns = min(len(methods), _PANELS)
    rows = [(c, methods[k : k + _PANELS]) for c in checkpoints for k in range(0, len(methods), _PANELS)]
    width = max(7.5, panel_width * columns + 1.9)
    height = len(rows) * (panel_height + 0.75) + 0.9 + 0.068 * max(map(len, kinds))
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    low = min(float(table.min().min()) for table, _ in tables.values())
    high = max(float(table.max().max()) for table, _ in tables.values())
    if high - low < 1.0:
        # Rounding of the counts is not a pattern: a scale of one point at least does not blow it up.
        low, high = max(0.0, (low + high) / 2 - 0.5), min(100.0, (low + high) / 2 + 0.5)
    image = None
    filled = [[(checkpoint, method) in tables for method in shown] for checkpoint, shown in rows]
    for i, (checkpoint, shown) in enumerate(rows):
        for j in range(columns):
            panel: Axes = grid[i, j]
            if not any(filled[i][j : j + 1]):
                panel.remove()
                continue
            table, title = tables[checkpoint, shown[j]]
            last_row = not any(any(later[j : j + 1]) for later in filled[i + 1 :])
            _draw_heat_map(panel, table, low, high, first=j == 0, last=last_row)
            panel.set_title(_wrapped_lines(title, int(panel_width * 11)), fontsize=9.5)
            image = panel.collections[0]
    if image is None:
        raise ValueError(f"plot_layers: no mask of {model} belongs to a knee by {rule}")
    bar = figure.colorbar(image, ax=figure.axes, pad=0.02, aspect=30, fraction=0.05)
    bar.set_label("Realised sparsity (% of a matrix's weights)" if height > 4 else "Realised\nsparsity (%)")
    bar.outline.set_visible(False)
    set_title(figure, f"Where the weights go: {model}, at the knee on {task_label}", width)
    return figure


def _layers_title(label: str, checkpoint: str, level: float, knee: float, within: bool) -> str:
    """Return a panel's title: whose mask, at which level, and what that level has to do with the knee."""
    if within:
        state = f"at the knee, {100 * level:g} %"
        if not np.isclose(level, knee):
            state = f"at {100 * level:g} %, below the knee of {100 * knee:.1f} %"
    elif np.isnan(knee):
        state = f"no knee: shown at the lowest level, {100 * level:g} %"
    else:
        state = f"knee below the levels: shown at the lowest, {100 * level:g} %"
    return f"{label}, {checkpoint_label(checkpoint)}\n{state}"


def _wrapped_lines(text: str, width: int) -> str:
    return "\n".join(wrapped_name(line, width) for line in text.split("\n"))


def _draw_heat_map(panel: Axes, table: pd.DataFrame, low: float, high: float, first: bool, last: bool) -> None:
    """Draw blocks by kinds of matrix, in per cent; few blocks carry their numbers."""
    few = len(table) <= _ANNOTATED_BLOCKS
    sns.heatmap(
        table, ax=panel, vmin=low, vmax=high, cmap="viridis", cbar=False, linewidths=0.5 if few else 0.25,
        linecolor="white", annot=few, fmt=".0f", annot_kws={"fontsize": 8}, xticklabels=True, yticklabels=False,
    )  # fmt: skip
    spacing = next(s for s in (1, 2, 5, 10, 20, 50) if len(table) / s <= 16)
    places = np.arange(0, len(table), spacing)
    panel.set_yticks(places + 0.5, [str(table.index[int(p)]) for p in places], rotation=0)
    panel.set_ylabel("Block" if first else "")
    panel.set_xlabel("")
    panel.grid(visible=False)
    panel.tick_params(length=0, labelleft=first, labelbottom=last)
    if last:
        look: Look = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 8.5}
        panel.set_xticks(panel.get_xticks(), list(table.columns), **look)
