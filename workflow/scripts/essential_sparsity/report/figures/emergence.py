"""Figures over pre-training: how sparsity emerges in the weights, and how the knee moves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from essential_sparsity.checkpoints.steps import LEAST_STEPS, even_steps
from essential_sparsity.emergence.places import LABELS, matrix_places
from essential_sparsity.emergence.tables import ALL_WEIGHTS
from essential_sparsity.report.figures.style import GREY, Look, palette, scale_steps
from essential_sparsity.report.words.numbers import records
from essential_sparsity.report.words.trajectory import SIGNIFICANT
from essential_sparsity.tables import Row

# Statistics of all prunable weights together, a panel each.
POOLED = (
    "fraction_below_0.001", "fraction_below_0.01", "fraction_below_0.1_std", "fraction_below_0.1_median", "kurtosis",
    "hoyer",
)  # fmt: skip
# Statistics of every matrix, a heat map each.
MAPPED = ("fraction_below_0.01", "fraction_below_0.1_median", "effective_rank")

_WIDTH_IN = 11.0
_ROW_IN = 0.17
# More rows than this leave no room for their names and p-values.
_NAMED_ROWS = 48
_TALLEST_MAP_IN = 9.0
_RED = "tab:red"
_STEP = "Step of pre-training"


def plot_emergence(
    weights: pd.DataFrame, trajectories: pd.DataFrame, histograms: pd.DataFrame, changes: pd.DataFrame, model: str
) -> Figure:
    """Draw statistics of the weights over pre-training, with the change points.

    Above, a panel a statistic of all prunable weights together, and the distribution of their magnitudes; below, heat
    maps of the matrices. A change point is a dashed line or a dot; it is filled where it is more abrupt than smooth
    drift, and hollow where it is not.

    Args:
        weights: Rows of the table of weights, of one model.
        trajectories: Rows of the table of trajectories, of the same model.
        histograms: Rows of the table of histograms, of the same model.
        changes: Rows of the table of changes, of the same model.
        model: What the model is called.
    """
    weights, trajectories, histograms = (stepped(frame) for frame in (weights, trajectories, histograms))
    steps = sorted(set(trajectories["step"]))
    places = matrix_places(weights.sort_values("position")["name"])
    mapped = [name for name in MAPPED if weights[name].notna().any()]
    map_height = min(_TALLEST_MAP_IN, max(1.6, _ROW_IN * len(places)))
    figure = Figure(figsize=(_WIDTH_IN, 4.6 + 2.6 + map_height + 0.9), layout="constrained")
    above, middle, below = figure.subfigures(3, 1, squeeze=False, height_ratios=[4.6, 2.6, map_height + 0.9])[:, 0]

    for panel, statistic in zip(above.subplots(2, 3).ravel(), POOLED, strict=True):
        _draw_trajectory(panel, trajectories, changes[changes["name"] == ALL_WEIGHTS], statistic, steps)
    _draw_magnitudes(middle.subplots(1, 1), histograms, steps)
    below.suptitle("Every matrix, with its change point", x=0.01, ha="left", fontsize=10.5, fontweight="normal")
    panels = below.subplots(1, len(mapped), squeeze=False, sharey=True)[0]
    for i, (panel, statistic) in enumerate(zip(panels, mapped, strict=True)):
        found = changes[changes["statistic"] == statistic].set_index("name")
        image = _draw_matrices(panel, weights, found, places, statistic, steps)
        below.colorbar(
            image, ax=panel, pad=0.22 if len(places) <= _NAMED_ROWS else 0.02, aspect=40
        ).outline.set_visible(False)
        if i == 0:
            _name_rows(panel, places)
    handles = [_dot(True), _dot(False)]
    below.legend(
        handles, [f"more abrupt than smooth drift (adjusted p < {SIGNIFICANT:g})", "not"], loc="outside lower right",
        ncols=2, frameon=False,
    )  # fmt: skip
    figure.suptitle(_wrapped(f"Emergence of sparsity over pre-training: {model}"), x=0.01, ha="left")
    return figure


def stepped(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a step, which is a number to draw."""
    return frame[frame["step"].notna()].assign(step=lambda rows: rows["step"].astype(float))


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, int(_WIDTH_IN * 9)))


def _scale(statistic: str) -> float:
    return 100.0 if statistic.startswith("fraction") else 1.0


def _dot(filled: bool) -> Line2D:
    return Line2D([], [], linestyle="", **_dot_look(filled))


def _dot_look(filled: bool) -> Look:
    return {
        "marker": "o", "markersize": 4.5, "markeredgecolor": _RED, "markeredgewidth": 1.0,
        "markerfacecolor": _RED if filled else "white",
    }  # fmt: skip


def _abrupt(change: Row) -> bool:
    return bool(pd.notna(change["p_adjusted"]) and change["p_adjusted"] < SIGNIFICANT)


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def scale_shown_steps(panel: Axes, steps: Sequence[float], labels: int = 6) -> None:
    """Set the axis of steps: even where enough steps lie evenly, or else logarithmic from the first after 0."""
    panel.set_xlabel(_STEP)
    if len(even_steps(map(int, steps))) < LEAST_STEPS:
        scale_steps(panel, steps)
        panel.set_xlabel(f"{_STEP} (symlog axis)")
    else:
        panel.xaxis.set_major_locator(MaxNLocator(labels))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _draw_trajectory(
    panel: Axes, trajectories: pd.DataFrame, changes: pd.DataFrame, statistic: str, steps: Sequence[float]
) -> None:
    """Draw one statistic of all prunable weights, and its change point with the p-value."""
    line = trajectories.sort_values("step")
    panel.plot(line["step"], line[statistic] * _scale(statistic), color=palette(1)[0], marker=".", markersize=4)
    scale_shown_steps(panel, steps)
    panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.set_title(LABELS[statistic], loc="left", fontsize=9.5)
    for change in changes[(changes["statistic"] == statistic) & changes["change_step"].notna()].pipe(records):
        style, colour = ("-", _RED) if _abrupt(change) else ("--", GREY)
        panel.axvline(float(change["change_step"]), color=colour, linewidth=1.0, linestyle=style,
                      gid=f"change:{statistic}")  # fmt: skip
        panel.set_title(_p_text(float(change["p_adjusted"])), loc="right", fontsize=8.5, color=colour)


def _draw_magnitudes(panel: Axes, histograms: pd.DataFrame, steps: Sequence[float]) -> None:
    """Draw the distribution of |w| at each step: as a colour the share of the weights by the logarithm of |w|."""
    counts = histograms[histograms["high"] > 0].pivot_table(index="low", columns="step", values="n", aggfunc="sum")
    shares = 100 * counts.fillna(0).astype(float) / histograms.groupby("step")["n"].sum().astype(float)
    # The smallest magnitudes would fill most of the axis with shares that cannot be seen.
    first = shares.index[(shares.max(axis=1) >= 0.01).to_numpy()][0]
    shares = shares.loc[first:]
    highs = histograms[histograms["high"] > 0].drop_duplicates("low").set_index("low")["high"].sort_index().loc[first:]
    edges = np.append(shares.index.to_numpy(float), float(highs.iloc[-1]))
    # The four bins of an octave are equally wide in |w|, not in its logarithm.
    shown = shares.div(np.log2(edges[1:] / edges[:-1]), axis=0)
    image = panel.pcolormesh(_edges(shown.columns.to_numpy(float)), edges, shown.to_numpy(float), cmap="viridis")
    panel.set_yscale("log", base=10)
    panel.yaxis.set_major_locator(LogLocator(numticks=8))
    panel.grid(visible=False)
    scale_shown_steps(panel, steps)
    panel.set_ylabel("|w|")
    panel.set_title("Magnitudes of all prunable weights", loc="left", fontsize=9.5)
    bar = panel.figure.colorbar(image, ax=panel, pad=0.01)
    bar.set_label("% of weights an octave")
    bar.outline.set_visible(False)


def _edges(steps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bounds of cells around steps: halfway between neighbours."""
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([steps[:1], middle, steps[-1:]])


def _draw_matrices(
    panel: Axes, weights: pd.DataFrame, changes: pd.DataFrame, places: pd.DataFrame, statistic: str,
    steps: Sequence[float],
) -> Any:  # fmt: skip
    """Draw one statistic of every matrix over the steps, kinds below each other, blocks within a kind."""
    rows = _row_order(places)
    cells = weights.pivot_table(index="name", columns="step", values=statistic).reindex(rows) * _scale(statistic)
    bounds = np.arange(len(rows) + 1) - 0.5
    image = panel.pcolormesh(_edges(cells.columns.to_numpy(float)), bounds, cells.to_numpy(float), cmap="viridis")
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(visible=False)
    scale_shown_steps(panel, steps, labels=3)
    panel.set_title(LABELS[statistic], loc="left", fontsize=9.5)
    few = len(rows) <= _NAMED_ROWS
    for place, name in enumerate(rows):
        change = changes.loc[name] if name in changes.index else None
        if change is None or pd.isna(change["change_step"]) or not (few or _abrupt(change)):
            continue
        panel.plot(float(change["change_step"]), place, gid=f"change:{statistic}:{name}", **_dot_look(_abrupt(change)))
        if few:
            panel.text(1.01, place, _p_text(float(change["p_adjusted"])), transform=panel.get_yaxis_transform(),
                       fontsize=6.5, va="center", color=_RED if _abrupt(change) else GREY)  # fmt: skip
    return image


def _row_order(places: pd.DataFrame) -> list[str]:
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys(places["kind"]))}
    ordered = places.assign(order=places["kind"].map(kinds)).sort_values(["order", "block"], kind="stable")
    return [str(name) for name in ordered["name"]]


def _name_rows(panel: Axes, places: pd.DataFrame) -> None:
    """Name the rows of the first heat map: each matrix if there are few, or else the kinds."""
    named = places.set_index("name").loc[_row_order(places)]
    if len(named) <= _NAMED_ROWS:
        labels = [f"{kind} {block}" for kind, block in zip(named["kind"], named["block"], strict=True)]
        panel.set_yticks(range(len(named)), labels, fontsize=7)
        return
    centres = named.assign(place=range(len(named))).groupby("kind", sort=False)["place"].mean()
    panel.set_yticks(list(centres), list(centres.index), fontsize=7)
