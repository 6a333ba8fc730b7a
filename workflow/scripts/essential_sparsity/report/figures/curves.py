"""The figure of curves: the metric over sparsity, with knees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.knees.curves import curves, mean_curve
from essential_sparsity.knees.readings import NOT_CENSORED, Settings
from essential_sparsity.knees.rules import RULE_NAMES
from essential_sparsity.metrics.registry import metric_of
from essential_sparsity.report.figures import style

_OTHER_RULE_MARKER = "h"
# Characters of a line of a method's name beside the strip of knees.
_NAME_WIDTH = 18
# Below this share of the axis the tolerance cannot be seen, so that a second panel looks closer.
_VISIBLE_BAND = 0.03
# A close-up shows this many tolerances below the dense model.
_CLOSE_UP_TOLERANCES = 5.0


def plot_curves(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    method_labels: Mapping[str, str],
    task_label: str,
    model: str,
    settings: Settings,
    bands: pd.DataFrame | None = None,
) -> Figure:
    """Draw the metric over sparsity, a panel a checkpoint and a line a method, and the knees by every rule.

    Under each panel a strip shows the knees of the mean curves, a row a method and a marker a rule, so that rules that
    agree do not hide each other. Where the tolerance is too thin to be seen, a panel between looks closer.

    Args:
        evaluations: Rows of the table of evaluations, of one model and one task, the dense model's among them.
        knees: Rows of the table of knees, of the same model and task.
        method_labels: What a method is called, by its name in the registry.
        task_label: What the task is called.
        model: What the model is called.
        settings: The study's ``knees``: ``tolerance`` and ``loss``.
        bands: Rows of the table of curves, of the same model and task, whose intervals are drawn; None for none.
    """
    metric = str(evaluations["metric"].iloc[0])
    lines = {(axes["checkpoint"], axes["method"]): frame for axes, frame in curves(evaluations)}
    methods = style.sort_methods({method for _, method in lines}, method_labels)
    checkpoints = style.sort_checkpoints(checkpoint for checkpoint, _ in lines)
    labels = {m: method_labels.get(m, m) for m in methods}
    looks = _curve_looks(methods, method_labels, [(method, frame) for (_, method), frame in lines.items()])
    close_up = _needs_close_up(evaluations, metric, settings)
    many_seeds = any(frame["seed"].nunique() > 1 for frame in lines.values())

    # A line of a method's name takes 0.16 inches, and every method the room of the longest name.
    lines_of_names = max(style.wrapped_name(label, _NAME_WIDTH).count("\n") + 1 for label in labels.values())
    strip = max(0.45, 0.16 * lines_of_names + 0.08) * len(methods) + 0.15
    heights = [3.3, *([2.2] if close_up else []), strip]
    columns = min(len(checkpoints), 3)
    rows = -(-len(checkpoints) // columns)
    label_width = 1.3
    width = max(9.0, label_width + 3.0 * columns + style.LEGEND_WIDTH_IN)
    figure = Figure(figsize=(width, rows * (sum(heights) + 0.9) + 0.5), layout="constrained")
    grid = figure.subplots(
        rows * len(heights), columns, squeeze=False, sharex="all", gridspec_kw={"height_ratios": heights * rows}
    )
    for unused in range(len(checkpoints), rows * columns):
        for part in range(len(heights)):
            grid[unused // columns * len(heights) + part, unused % columns].remove()

    reach = _reach(evaluations, metric, bands)
    chance = float(evaluations["chance"].iloc[0])
    chance_shown = reach[0] <= chance <= reach[1]
    for i, checkpoint in enumerate(checkpoints):
        top = i // columns * len(heights)
        panels: list[Axes] = list(grid[top : top + len(heights), i % columns])
        here = {m: lines[checkpoint, m] for m in methods if (checkpoint, m) in lines}
        mean_knees = knees[(knees["checkpoint"] == checkpoint) & knees["seed"].isna()]
        dense = float(np.mean([mean_curve(frame)["value"].iloc[0] for frame in here.values()]))
        limit, edge = (
            style.tolerated_value(dense, metric, n * settings.tolerance, settings.loss, chance)
            for n in (1.0, _CLOSE_UP_TOLERANCES)
        )
        for panel in panels[:-1]:
            _draw_lines(panel, here, looks, many_seeds)
            if bands is not None:
                _draw_bands(panel, bands[bands["checkpoint"] == checkpoint], looks)
            _draw_levels(panel, dense, limit, chance if chance_shown else None)
            _scale_metric(panel, metric, reach)
        _mark_knees(panels[0], mean_knees, looks)
        panels[0].set_ylim(*reach)
        panels[0].set_title(checkpoint_label(checkpoint))
        if close_up:
            _look_closer(panels[1], dense, edge, metric)
        _draw_knees(panels[-1], mean_knees, looks, labels)
        first = i % columns == 0
        panels[-1].set_xlabel(style.SPARSITY_LABEL if columns < 3 else "Sparsity (% removed)")
        panels[-1].tick_params(labelbottom=True)
        for panel in panels[:-1]:
            panel.tick_params(labelbottom=False)
            label = metric_of(metric).label + style.AXES_OF_UNITS[metric_of(metric).unit]
            panel.set_ylabel(label if first and panel is panels[0] else "")
            if not first and panel is panels[0]:
                panel.tick_params(labelleft=False, which="both")
        if close_up and first:
            panels[1].set_ylabel("Close-up at dense")
        if not first:
            panels[-1].tick_params(labelleft=False)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    grid[0, 0].xaxis.set_major_formatter(FuncFormatter(style.percent_tick))
    style.set_title(figure, f"{metric_of(metric).label} on {task_label}: {model}", width - style.LEGEND_WIDTH_IN)
    rules = list(dict.fromkeys(knees["rule"]))
    _curves_legend(figure, looks, labels, rules, metric, settings, chance if chance_shown else None, many_seeds)
    return figure


def _curve_looks(
    methods: Sequence[str], labels: Mapping[str, str], frames: Sequence[tuple[str, pd.DataFrame]]
) -> dict[str, style.Look]:
    """Return the look of each method's curve: levels are dots, since larger shapes mark the knees.

    It goes by the method's place among all that have a label, so that it is the same in all figures of a study.

    A method with one level besides the dense model, as of N:M, has a marker of its own and no line: nothing is known in
    between, and it has no knee.
    """
    levels = {
        method: max(frame["sparsity"].nunique() for name, frame in frames if name == method) for method in methods
    }
    known = style.sort_methods({*labels, *methods}, labels)
    looks = {method: style.line_look(known.index(method), len(known)) for method in methods}
    single, several = {"linestyle": "none", "markersize": 6}, {"marker": ".", "markersize": 7}
    return {method: {**look, **(single if levels[method] <= 2 else several)} for method, look in looks.items()}


def _transform(value: float, metric: str) -> float:
    """Return where a value lies along its axis, in the axis' own scale."""
    return float(np.log(value)) if metric_of(metric).logarithmic else value


def _reach(evaluations: pd.DataFrame, metric: str, bands: pd.DataFrame | None = None) -> tuple[float, float]:
    """Return the limits of the y axis: the finite values and bounds of intervals with a margin of 7 %."""
    bounds = [] if bands is None else [bands["ci_low"], bands["ci_high"]]
    shown = pd.concat([evaluations["value"], *bounds]).astype(float)
    finite = shown[np.isfinite(shown)]
    low, high = _transform(float(finite.min()), metric), _transform(float(finite.max()), metric)
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 0.05
    # The line at chance matters most just beside the data, where a curve ends on it.
    chance = _transform(float(evaluations["chance"].iloc[0]), metric)
    if low - 3 * margin <= chance <= high + 3 * margin:
        low, high = min(low, chance), max(high, chance)
    limits = low - margin, high + margin
    return (float(np.exp(limits[0])), float(np.exp(limits[1]))) if metric_of(metric).logarithmic else limits


def _needs_close_up(evaluations: pd.DataFrame, metric: str, settings: Settings) -> bool:
    """Say whether the tolerance is too thin to be seen on the axis that holds every value."""
    low, high = (_transform(v, metric) for v in _reach(evaluations, metric))
    dense = float(evaluations.loc[evaluations["method"] == "dense", "value"].mean())
    limit = style.tolerated_value(
        dense, metric, settings.tolerance, settings.loss, float(evaluations["chance"].iloc[0])
    )
    # Without a limit there is nothing to look at.
    return abs(_transform(limit, metric) - _transform(dense, metric)) < _VISIBLE_BAND * (high - low)


def _draw_lines(
    panel: Axes, frames: Mapping[str, pd.DataFrame], looks: Mapping[str, style.Look], many_seeds: bool
) -> None:
    """Draw the mean curve of each method and, where there are several seeds, a point for each of them."""
    for method, look in looks.items():
        if method not in frames:
            continue
        mean = mean_curve(frames[method])
        if look["linestyle"] == "none":
            # The dense model is a line of its own.
            mean = mean[mean["sparsity"] > 0]
        panel.plot(mean["sparsity"], mean["value"], zorder=3, **look)
        if many_seeds:
            rows = frames[method]
            panel.scatter(rows["sparsity"], rows["value"], s=9, color=look["color"], alpha=0.55, linewidth=0, zorder=2)


def _draw_bands(panel: Axes, bands: pd.DataFrame, looks: Mapping[str, style.Look]) -> None:
    """Draw the intervals of the mean curves."""
    known = bands[bands["ci_low"].notna() & bands["ci_high"].notna()].sort_values("sparsity")
    for method, look in looks.items():
        rows = known[known["method"] == method]
        if len(rows) and look["linestyle"] != "none":
            x, low, high = (rows[name].to_numpy(float) for name in ("sparsity", "ci_low", "ci_high"))
            panel.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0, gid=f"band:{method}")


def _draw_levels(panel: Axes, dense: float, limit: float, chance: float | None) -> None:
    """Draw the dense level, the tolerance below it, and the level of a model that knows nothing."""
    if np.isfinite(limit):
        panel.axhspan(min(dense, limit), max(dense, limit), color="0.85", linewidth=0, zorder=0)
    panel.axhline(dense, color=style.GREY, linewidth=1.0, zorder=1)
    if chance is not None:
        panel.axhline(chance, color=style.BLACK, linewidth=1.0, linestyle=":", zorder=1)


def _scale_metric(panel: Axes, metric: str, reach: tuple[float, float]) -> None:
    if metric_of(metric).logarithmic:
        panel.set_yscale("log")
        # Powers of ten, if the axis holds two of them; else plain numbers.
        decades = np.floor(np.log10(reach[1])) - np.ceil(np.log10(reach[0]))
        panel.yaxis.set_major_locator(
            LogLocator(10, numticks=8) if decades >= 1 else MaxNLocator(6, steps=[1, 2, 5, 10])
        )
        panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _perplexity_tick(v)))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    if metric_of(metric).unit == "fraction":
        # As many decimals as the step between ticks has: on a narrow axis neighbours would look alike.
        panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{round(100 * v, 6):g}"))


def _perplexity_tick(value: float) -> str:
    return f"{round(value, 6):,g}" if value < 1e5 else f"$10^{{{np.log10(value):.0f}}}$"


def _look_closer(panel: Axes, dense: float, edge: float, metric: str) -> None:
    """Set the y axis to the neighbourhood of the dense level, up to ``edge`` in the direction of loss."""
    margin = 0.15 * (edge - dense)
    low, high = sorted((dense - margin, edge))
    panel.set_ylim(low, high)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    panel.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    panel.yaxis.set_minor_locator(FixedLocator([]))
    if metric_of(metric).unit == "fraction":
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=1))
    else:
        decimals = 0 if high - low >= 4 else 1 if metric_of(metric).logarithmic else 3
        panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.{decimals}f}"))


def _mark_knees(panel: Axes, knees: pd.DataFrame, looks: Mapping[str, style.Look]) -> None:
    """Mark on the curves where each rule reads the knee, the first rule on top."""
    rules = list(dict.fromkeys(knees["rule"]))
    for row in knees[knees["knee"].notna()].to_dict("records"):
        colour = looks[row["method"]]["color"]
        panel.scatter(
            row["knee"], row["value_at_knee"], zorder=6 - 0.1 * rules.index(row["rule"]), clip_on=False,
            gid=f"curve:{row['method']}:{row['rule']}", **_knee_look(row["rule"], row["censored"], colour),
        )  # fmt: skip


def _knee_look(rule: str, censored: str, colour: Any) -> style.Look:
    """Return the look of a knee: its shape says the rule, and hollow says that the true one is outside the levels."""
    return {
        "marker": style.RULE_MARKERS.get(rule, _OTHER_RULE_MARKER), "s": 36, "edgecolor": colour, "linewidth": 1.2,
        "facecolor": colour if censored == NOT_CENSORED else "white",
    }  # fmt: skip


def _draw_knees(panel: Axes, knees: pd.DataFrame, looks: Mapping[str, style.Look], labels: Mapping[str, str]) -> None:
    """Draw a row a method with the knees of its mean curve, a marker a rule; hollow where the true one is outside.

    A thin line through a marker is the knee's interval.
    """
    rules = list(dict.fromkeys(knees["rule"]))
    methods = list(looks)
    for position, (method, look) in enumerate(looks.items()):
        read = knees[knees["method"] == method]
        rows = read[read["knee"].notna()]
        colour = look["color"]
        if len(rows) > 1:
            ends = rows["knee"].min(), rows["knee"].max()
            panel.hlines(position, *ends, color=colour, linewidth=5, alpha=0.25, zorder=1)
        for row in rows.to_dict("records"):
            offset = min(0.27, 0.8 / len(rules)) * (rules.index(row["rule"]) - (len(rules) - 1) / 2)
            if not (pd.isna(row["ci_low"]) or pd.isna(row["ci_high"])):
                panel.hlines(
                    position + offset, row["ci_low"], row["ci_high"], color=colour, linewidth=1.2,
                    gid=f"interval:{method}:{row['rule']}",
                )  # fmt: skip
            panel.scatter(
                row["knee"], position + offset, zorder=3, clip_on=False, gid=f"strip:{method}:{row['rule']}",
                **_knee_look(row["rule"], row["censored"], colour),
            )  # fmt: skip
        if rows.empty:
            nothing = "not evaluated" if read.empty else "no knee"
            panel.text(0.5, position, nothing, transform=panel.get_yaxis_transform(), ha="center", va="center",
                       fontsize=8, color=style.GREY)  # fmt: skip
    panel.set_title("Knees of the mean curves", loc="left", fontsize=8.5, color=style.GREY, pad=3)
    panel.set_yticks(range(len(methods)), [style.wrapped_name(labels[m], _NAME_WIDTH) for m in methods], fontsize=8)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)


def _curves_legend(
    figure: Figure,
    looks: Mapping[str, style.Look],
    labels: Mapping[str, str],
    rules: Sequence[str],
    metric: str,
    settings: Settings,
    chance: float | None,
    many_seeds: bool,
) -> None:
    """Put one legend beside the panels: methods, levels, rules."""
    entries: list[tuple[Any, str]] = []
    for method, look in looks.items():
        entries.append((Line2D([], [], **look), style.wrapped_name(labels[method], 26)))
    if many_seeds:
        entries.append((_marker(".", style.GREY, True), "one seed (line: mean)"))
    entries.append((Line2D([], [], color=style.GREY, linewidth=1.0), "dense model"))
    entries.append((Patch(facecolor="0.85"), style.wrapped_name(f"tolerance: {_tolerance_text(metric, settings)}", 26)))
    if chance is not None:
        entries.append((Line2D([], [], color=style.BLACK, linewidth=1.0, linestyle=":"), "chance"))
    for rule in rules:
        marker = style.RULE_MARKERS.get(rule, _OTHER_RULE_MARKER)
        entries.append((_marker(marker, style.GREY, True), f"knee: {RULE_NAMES.get(rule, rule)}"))
    entries.append(
        (_marker("o", style.GREY, False), style.wrapped_name("hollow: the true knee lies outside the levels tried", 26))
    )
    figure.legend(
        [handle for handle, _ in entries], [label for _, label in entries], loc="outside right upper", frameon=False,
        alignment="left", handlelength=2.4, labelspacing=0.7,
    )  # fmt: skip


def _tolerance_text(metric: str, settings: Settings) -> str:
    """Say how much of a metric is tolerated: ``2 % of the dense accuracy``."""
    tolerance, loss = settings.tolerance, settings.loss
    of = f"{'log ' if metric_of(metric).logarithmic else ''}{metric.replace('_', ' ')}"
    if loss == "absolute":
        points = metric_of(metric).unit == "fraction"
        return f"{100 * tolerance:g} points of {of}" if points else f"{tolerance:g} of {of}"
    return f"{100 * tolerance:g} % of the dense {of}" + (" above chance" if loss == "above_chance" else "")


def _marker(marker: str, colour: str, filled: bool) -> Line2D:
    return Line2D(
        [], [], linestyle="", marker=marker, markersize=6.5, color=colour, markerfacecolor=colour if filled else "white"
    )
