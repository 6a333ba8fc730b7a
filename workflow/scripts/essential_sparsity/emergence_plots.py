"""Figures over pre-training: how sparsity emerges in the weights, and how the knee moves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation

from essential_sparsity.findings import records
from essential_sparsity.knee import NOT_CENSORED, RULE_NAMES
from essential_sparsity.metrics import metric_of
from essential_sparsity.plots import AXES_OF_UNITS, palette, scale_steps
from essential_sparsity.tables import ALL_WEIGHTS
from essential_sparsity.trajectory import LEAST_STEPS, even_steps, step_of
from essential_sparsity.trajectory_notes import SIGNIFICANT
from essential_sparsity.weight_places import LABELS, matrix_places

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
# No triangle: those are knees outside the levels.
_MARKERS = ("o", "s", "D", "P", "X", "p", "h", "*")
_DASHES = ("-", "--", "-.", ":")
_GREY, _BLACK, _RED = "0.35", "black", "tab:red"
_STEP = "Step of pre-training"
# Methods stand this far beside each other, so that intervals at one step can be told apart.
_DODGE_POINTS = 4.0


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
    weights, trajectories, histograms = (_stepped(frame) for frame in (weights, trajectories, histograms))
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


def _stepped(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["step"].notna()].assign(step=lambda rows: rows["step"].astype(float))


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.wrap(title, int(_WIDTH_IN * 9)))


def _scale(statistic: str) -> float:
    return 100.0 if statistic.startswith("fraction") else 1.0


def _dot(filled: bool) -> Line2D:
    return Line2D([], [], linestyle="", **_dot_look(filled))


def _dot_look(filled: bool) -> dict[str, Any]:
    return {
        "marker": "o", "markersize": 4.5, "markeredgecolor": _RED, "markeredgewidth": 1.0,
        "markerfacecolor": _RED if filled else "white",
    }  # fmt: skip


def _abrupt(change: Mapping[str, Any]) -> bool:
    return bool(pd.notna(change["p_adjusted"]) and change["p_adjusted"] < SIGNIFICANT)


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _scale_steps(panel: Axes, steps: Sequence[float], labels: int = 6) -> None:
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
    _scale_steps(panel, steps)
    panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.set_title(LABELS[statistic], loc="left", fontsize=9.5)
    for change in changes[(changes["statistic"] == statistic) & changes["change_step"].notna()].pipe(records):
        style, colour = ("-", _RED) if _abrupt(change) else ("--", _GREY)
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
    _scale_steps(panel, steps)
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
    _scale_steps(panel, steps, labels=3)
    panel.set_title(LABELS[statistic], loc="left", fontsize=9.5)
    few = len(rows) <= _NAMED_ROWS
    for place, name in enumerate(rows):
        change = changes.loc[name] if name in changes.index else None
        if change is None or pd.isna(change["change_step"]) or not (few or _abrupt(change)):
            continue
        panel.plot(float(change["change_step"]), place, gid=f"change:{statistic}:{name}", **_dot_look(_abrupt(change)))
        if few:
            panel.text(1.01, place, _p_text(float(change["p_adjusted"])), transform=panel.get_yaxis_transform(),
                       fontsize=6.5, va="center", color=_RED if _abrupt(change) else _GREY)  # fmt: skip
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


def plot_ages(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    method_labels: Mapping[str, str],
    task_label: str,
    model: str,
    rule: str,
) -> Figure:
    """Draw the knee over the steps of pre-training, a line a method, and the dense model's performance below.

    A hollow triangle is a knee outside the levels that were tried: above the last one if it points up, below the first
    one if it points down. A checkpoint whose step is not known has no place.

    Args:
        evaluations: Rows of the table of evaluations, of one model and task, the dense model's among them.
        knees: Rows of the table of knees, of the same model and task.
        method_labels: What a method is called, by its name, for all methods of the study.
        task_label: What the task is called.
        model: What the model is called.
        rule: The rule whose knee is drawn.
    """
    metric = str(evaluations["metric"].iloc[0])
    read = knees[knees["seed"].isna() & (knees["rule"] == rule)]
    read = _stepped(read.assign(step=read["checkpoint"].map(step_of))).sort_values("step")
    dense = _stepped(evaluations[evaluations["method"] == "dense"])
    steps = sorted({*read["step"], *dense["step"]})
    known = list(dict.fromkeys([*method_labels, *read["method"]]))
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    # Before anything is drawn beside its step: the room for that goes by the scale of the axis.
    _scale_steps(bottom, steps)
    handles, labels = [], []
    shown = [name for name in known if name in set(read["method"])]
    for place, method in enumerate(shown):
        look = _method_look(known.index(method), len(known))
        aside = _DODGE_POINTS * (place - (len(shown) - 1) / 2)
        _draw_knees(top, read[read["method"] == method], look, aside)
        handles.append(Line2D([], [], **look))
        labels.append("\n".join(textwrap.wrap(method_labels.get(method, method), 26)))
    for shape, text in (("^", "beyond the last level tried"), ("v", "below the first level tried")):
        handles.append(Line2D([], [], linestyle="", marker=shape, color=_GREY, markerfacecolor="white", markersize=6))
        labels.append(text)
    top.set_ylim(-0.03, 1.03)
    top.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=0))
    top.set_ylabel("Knee (% of prunable weights)")

    means = dense.groupby("step")["value"].mean()
    bottom.plot(dense["step"], dense["value"], linestyle="", marker=".", color="0.65", zorder=2, gid="dense:seeds")
    bottom.plot(means.index.to_numpy(float), means.to_numpy(float), color=_BLACK, marker="o", markersize=4, gid="dense")
    bottom.axhline(float(evaluations["chance"].iloc[0]), color=_BLACK, linewidth=1.0, linestyle=":")
    if metric_of(metric).logarithmic:
        bottom.set_yscale("log")
    elif metric_of(metric).unit == "fraction":
        bottom.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=0))
    bottom.set_ylabel(metric_of(metric).label + AXES_OF_UNITS[metric_of(metric).unit])
    handles += [Line2D([], [], color=_BLACK, marker="o", markersize=4), Line2D([], [], color=_BLACK, linestyle=":")]
    labels += ["dense model (dots: seeds)", "chance"]
    figure.legend(handles, labels, loc="outside right upper", frameon=False, alignment="left")
    title = f"Knee by {RULE_NAMES.get(rule, rule)} over pre-training, {task_label}: {model}"
    figure.suptitle("\n".join(textwrap.wrap(title, 70)), x=0.01, ha="left")
    return figure


def _method_look(place: int, count: int) -> dict[str, Any]:
    """Return colour, dashes and marker of a method by its place in the study, as in the figures of curves."""
    return {
        "color": palette(count)[place], "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)], "markersize": 5.5,
    }  # fmt: skip


def _draw_knees(panel: Axes, rows: pd.DataFrame, look: Mapping[str, Any], aside: float) -> None:
    """Draw the knees of one method, ``aside`` points from their step, with their intervals."""
    figure = panel.get_figure(root=True)
    assert figure is not None
    moved = panel.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
    panel.plot(rows["step"], rows["knee"].astype(float), transform=moved, **{**look, "marker": ""})
    for row in rows[rows["knee"].notna()].to_dict("records"):
        if pd.notna(row["ci_low"]) and pd.notna(row["ci_high"]):
            panel.plot([row["step"]] * 2, [row["ci_low"], row["ci_high"]], transform=moved, color=look["color"],
                       linewidth=1.4, gid=f"interval:{row['method']}")  # fmt: skip
        shape = {NOT_CENSORED: look["marker"], "right": "^", "left": "v"}[row["censored"]]
        inside = look["color"] if row["censored"] == NOT_CENSORED else "white"
        panel.plot(row["step"], row["knee"], transform=moved, linestyle="", marker=shape, markersize=6.5,
                   color=look["color"], markerfacecolor=inside, clip_on=False, zorder=4,
                   gid=f"knee:{row['method']}:{row['censored']}")  # fmt: skip
