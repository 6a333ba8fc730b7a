"""The figure of ages: knees over the course of pre-training."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from essential_sparsity.checkpoints.steps import step_of
from essential_sparsity.knees.readings import NOT_CENSORED
from essential_sparsity.knees.rules import RULE_NAMES
from essential_sparsity.metrics.registry import metric_of
from essential_sparsity.report.figures.emergence import scale_shown_steps, stepped
from essential_sparsity.report.figures.style import AXES_OF_UNITS, BLACK, GREY, Look, palette

# No triangle: those are knees outside the levels.
_MARKERS = ("o", "s", "D", "P", "X", "p", "h", "*")
_DASHES = ("-", "--", "-.", ":")
# Methods stand this far beside each other, so that intervals at one step can be told apart.
_DODGE_POINTS = 4.0


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
    read = stepped(read.assign(step=read["checkpoint"].map(step_of))).sort_values("step")
    dense = stepped(evaluations[evaluations["method"] == "dense"])
    steps = sorted({*read["step"], *dense["step"]})
    known = list(dict.fromkeys([*method_labels, *read["method"]]))
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    # Before anything is drawn beside its step: the room for that goes by the scale of the axis.
    scale_shown_steps(bottom, steps)
    handles, labels = [], []
    shown = [name for name in known if name in set(read["method"])]
    for place, method in enumerate(shown):
        look = _method_look(known.index(method), len(known))
        aside = _DODGE_POINTS * (place - (len(shown) - 1) / 2)
        _draw_knees(top, read[read["method"] == method], look, aside)
        handles.append(Line2D([], [], **look))
        labels.append("\n".join(textwrap.wrap(method_labels.get(method, method), 26)))
    for shape, text in (("^", "beyond the last level tried"), ("v", "below the first level tried")):
        handles.append(Line2D([], [], linestyle="", marker=shape, color=GREY, markerfacecolor="white", markersize=6))
        labels.append(text)
    top.set_ylim(-0.03, 1.03)
    top.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=0))
    top.set_ylabel("Knee (% of prunable weights)")

    means = dense.groupby("step")["value"].mean()
    bottom.plot(dense["step"], dense["value"], linestyle="", marker=".", color="0.65", zorder=2, gid="dense:seeds")
    bottom.plot(means.index.to_numpy(float), means.to_numpy(float), color=BLACK, marker="o", markersize=4, gid="dense")
    bottom.axhline(float(evaluations["chance"].iloc[0]), color=BLACK, linewidth=1.0, linestyle=":")
    if metric_of(metric).logarithmic:
        bottom.set_yscale("log")
    elif metric_of(metric).unit == "fraction":
        bottom.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=0))
    bottom.set_ylabel(metric_of(metric).label + AXES_OF_UNITS[metric_of(metric).unit])
    handles += [Line2D([], [], color=BLACK, marker="o", markersize=4), Line2D([], [], color=BLACK, linestyle=":")]
    labels += ["dense model (dots: seeds)", "chance"]
    figure.legend(handles, labels, loc="outside right upper", frameon=False, alignment="left")
    title = f"Knee by {RULE_NAMES.get(rule, rule)} over pre-training, {task_label}: {model}"
    figure.suptitle("\n".join(textwrap.wrap(title, 70)), x=0.01, ha="left")
    return figure


def _method_look(place: int, count: int) -> Look:
    """Return colour, dashes and marker of a method by its place in the study, as in the figures of curves."""
    return {
        "color": palette(count)[place], "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)], "markersize": 5.5,
    }  # fmt: skip


def _draw_knees(panel: Axes, rows: pd.DataFrame, look: Look, aside: float) -> None:
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
