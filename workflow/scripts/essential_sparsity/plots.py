"""Figures: what is drawn of which table, legible without colour vision, and the same bytes on every run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from essential_sparsity.files import atomic_path
from essential_sparsity.knee import NOT_CENSORED, RULE_NAMES
from essential_sparsity.knee_tolerance import DEFAULT_LOSS, tolerated_score
from essential_sparsity.metrics import metric_of, performance, value_of
from essential_sparsity.tables import curves, mean_curve
from essential_sparsity.trajectory import checkpoint_age, checkpoint_label
from essential_sparsity.weight_places import STATISTICS, matrix_places, weighted_mean

RULE_MARKERS = {"tolerance": "o", "kneedle": "s", "two-segment": "^", "curvature": "d", "bayes": "*"}
# How the axis of a metric is scaled, by its unit.
AXES_OF_UNITS = {
    "fraction": " (%)", "correlation": " (-1 to 1)", "perplexity": " (log axis)", "nats": " (nats a token)",
}  # fmt: skip
SPARSITY_LABEL = "Sparsity (% of prunable weights removed)"
_LINE_STYLES = ("-", "--", "-.", ":")
_LEVEL_MARKERS = ("D", "X", "P", "v", "*", "p", "<", ">")
_OTHER_RULE_MARKER = "h"
# The same line styles and about the same markers in Vega.
_DASHES = ([1, 0], [7, 3], [7, 3, 2, 3], [2, 2])
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
_GREY, _BLACK = "0.35", "black"
_LEGEND_WIDTH_IN = 2.6
# Characters of a line of a method's name beside the strip of knees.
_NAME_WIDTH = 18
# Below this share of the axis the tolerance cannot be seen, so that a second panel looks closer.
_VISIBLE_BAND = 0.03
# A close-up shows this many tolerances below the dense model.
_CLOSE_UP_TOLERANCES = 5.0
# Heat maps beside each other; further ones begin another row.
_PANELS = 5
# More rows than this leave no room for numbers in the cells of a heat map.
_ANNOTATED_BLOCKS = 8
_DETERMINISTIC: dict[Any, Any] = {"svg.hashsalt": "essential-sparsity", "svg.fonttype": "path", "pdf.fonttype": 42}


def apply_style() -> None:
    """Set the look of all figures; call it once before the first is drawn."""
    sns.set_theme(
        context="paper",
        style="ticks",
        palette="colorblind",
        font="DejaVu Sans",
        rc={
            "font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
            "legend.fontsize": 9, "figure.titlesize": 12, "figure.titleweight": "bold", "axes.grid": True,
            "grid.color": "0.9", "axes.edgecolor": "0.4", "axes.spines.top": False, "axes.spines.right": False,
            "lines.linewidth": 1.8, "savefig.dpi": 150, **_DETERMINISTIC,
        },
    )  # fmt: skip


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix, ``.svg``, ``.pdf`` or ``.png``, atomically and undated.

    Raises:
        ValueError: The suffix is another one.
    """
    metadata: dict[str, dict[str, Any]] = {
        ".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None},
    }  # fmt: skip
    if path.suffix not in metadata:
        raise ValueError(f"{path}: a figure is saved as {' or '.join(metadata)}")
    with mpl.rc_context(_DETERMINISTIC), atomic_path(path) as temporary:
        figure.savefig(temporary, metadata=metadata[path.suffix], facecolor="white")


def sort_checkpoints(names: Iterable[str]) -> list[str]:
    """Return distinct checkpoints in the order of pre-training, ``final`` last."""
    return sorted(set(names), key=checkpoint_age)


def tolerated_value(dense: float, metric: str, settings: Mapping[str, Any], chance: float, times: float = 1.0) -> float:
    """Return the worst value that the rule ``tolerance`` accepts, in the metric's unit; NaN where it accepts none.

    For perplexity and a relative loss this is ``dense ** (1 + tolerance)``, since the tolerance is on its logarithm.

    Args:
        dense: The value of the dense model.
        metric: What it is.
        settings: The study's ``knees``: ``tolerance`` and ``loss``.
        chance: The value of a model that knows nothing.
        times: How many tolerances below the dense model.
    """
    score, bottom = performance(np.array([dense, chance]), metric)
    return float(value_of(tolerated_score(np.array([score]), settings, float(bottom), times), metric)[0])


# --- curves ---------------------------------------------------------------------------------------------------------


def plot_curves(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    method_labels: Mapping[str, str],
    task_label: str,
    model: str,
    settings: Mapping[str, Any],
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
    methods = _sort_methods({method for _, method in lines}, method_labels)
    checkpoints = sort_checkpoints(checkpoint for checkpoint, _ in lines)
    labels = {m: method_labels.get(m, m) for m in methods}
    looks = _curve_looks(methods, method_labels, [(method, frame) for (_, method), frame in lines.items()])
    close_up = _needs_close_up(evaluations, metric, settings)
    many_seeds = any(frame["seed"].nunique() > 1 for frame in lines.values())

    # A line of a method's name takes 0.16 inches, and every method the room of the longest name.
    lines_of_names = max(_wrapped(label, _NAME_WIDTH).count("\n") + 1 for label in labels.values())
    strip = max(0.45, 0.16 * lines_of_names + 0.08) * len(methods) + 0.15
    heights = [3.3, *([2.2] if close_up else []), strip]
    columns = min(len(checkpoints), 3)
    rows = -(-len(checkpoints) // columns)
    label_width = 1.3
    width = max(9.0, label_width + 3.0 * columns + _LEGEND_WIDTH_IN)
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
        limit, edge = (tolerated_value(dense, metric, settings, chance, n) for n in (1.0, _CLOSE_UP_TOLERANCES))
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
        panels[-1].set_xlabel(SPARSITY_LABEL if columns < 3 else "Sparsity (% removed)")
        panels[-1].tick_params(labelbottom=True)
        for panel in panels[:-1]:
            panel.tick_params(labelbottom=False)
            label = metric_of(metric).label + AXES_OF_UNITS[metric_of(metric).unit]
            panel.set_ylabel(label if first and panel is panels[0] else "")
            if not first and panel is panels[0]:
                panel.tick_params(labelleft=False, which="both")
        if close_up and first:
            panels[1].set_ylabel("Close-up at dense")
        if not first:
            panels[-1].tick_params(labelleft=False)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    grid[0, 0].xaxis.set_major_formatter(FuncFormatter(percent_tick))
    set_title(figure, f"{metric_of(metric).label} on {task_label}: {model}", width - _LEGEND_WIDTH_IN)
    rules = list(dict.fromkeys(knees["rule"]))
    _curves_legend(figure, looks, labels, rules, metric, settings, chance if chance_shown else None, many_seeds)
    return figure


def _sort_methods(names: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """Return methods in the registry's order, which keeps colours the same in all figures of a study; others last."""
    known = list(labels)
    return sorted(names, key=lambda m: (known.index(m) if m in known else len(known), m))


def _colours(count: int) -> list[Any]:
    """Return distinct colours; the palette has ten, and line styles and markers tell apart what repeats."""
    palette: list[Any] = sns.color_palette("colorblind", 10)
    # The seventh to tenth colours of the palette are a grey and pale ones: the strong ones come first.
    order = [0, 1, 2, 4, 3, 5, 9, 6, 8, 7]
    return [palette[order[i % 10]] for i in range(count)]


def _line_look(position: int, count: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the line at a position among ``count``."""
    return {
        "color": _colours(count)[position],
        "linestyle": _LINE_STYLES[position % len(_LINE_STYLES)],
        "marker": _LEVEL_MARKERS[position % len(_LEVEL_MARKERS)],
        "markersize": 5,
        "markeredgewidth": 0,
    }


def method_looks(labels: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return how an interactive figure tells methods apart: as drawn figures do, in the words of Vega.

    Args:
        labels: What a method is called, by its name in the registry, for the study's methods.

    Returns:
        For each method its ``colour``, ``dash`` and ``shape``.
    """
    return {
        name: {"colour": colour, "dash": _DASHES[i % len(_DASHES)], "shape": _SHAPES[i % len(_SHAPES)]}
        for i, (name, colour) in enumerate(zip(labels, palette(len(labels)), strict=True))
    }


def percent_tick(share: float, _: object = None) -> str:
    """Return a share in per cent, with as many decimals as a narrow axis needs to tell its ticks apart."""
    return f"{round(100 * share, 6):g}"


def palette(count: int) -> list[str]:
    """Return the colours of lines as ``#rrggbb``."""
    return [to_hex(colour) for colour in _colours(count)]


def _curve_looks(
    methods: Sequence[str], labels: Mapping[str, str], frames: Sequence[tuple[str, pd.DataFrame]]
) -> dict[str, dict[str, Any]]:
    """Return the look of each method's curve: levels are dots, since larger shapes mark the knees.

    It goes by the method's place among all that have a label, so that it is the same in all figures of a study.

    A method with one level besides the dense model, as of N:M, has a marker of its own and no line: nothing is known in
    between, and it has no knee.
    """
    levels = {
        method: max(frame["sparsity"].nunique() for name, frame in frames if name == method) for method in methods
    }
    known = _sort_methods({*labels, *methods}, labels)
    looks = {method: _line_look(known.index(method), len(known)) for method in methods}
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


def _needs_close_up(evaluations: pd.DataFrame, metric: str, settings: Mapping[str, Any]) -> bool:
    """Say whether the tolerance is too thin to be seen on the axis that holds every value."""
    low, high = (_transform(v, metric) for v in _reach(evaluations, metric))
    dense = float(evaluations.loc[evaluations["method"] == "dense", "value"].mean())
    limit = tolerated_value(dense, metric, settings, float(evaluations["chance"].iloc[0]))
    # Without a limit there is nothing to look at.
    return abs(_transform(limit, metric) - _transform(dense, metric)) < _VISIBLE_BAND * (high - low)


def _draw_lines(
    panel: Axes, frames: Mapping[str, pd.DataFrame], looks: Mapping[str, dict[str, Any]], many_seeds: bool
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


def _draw_bands(panel: Axes, bands: pd.DataFrame, looks: Mapping[str, dict[str, Any]]) -> None:
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
    panel.axhline(dense, color=_GREY, linewidth=1.0, zorder=1)
    if chance is not None:
        panel.axhline(chance, color=_BLACK, linewidth=1.0, linestyle=":", zorder=1)


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


def _mark_knees(panel: Axes, knees: pd.DataFrame, looks: Mapping[str, dict[str, Any]]) -> None:
    """Mark on the curves where each rule reads the knee, the first rule on top."""
    rules = list(dict.fromkeys(knees["rule"]))
    for row in knees[knees["knee"].notna()].to_dict("records"):
        colour = looks[row["method"]]["color"]
        panel.scatter(
            row["knee"], row["value_at_knee"], zorder=6 - 0.1 * rules.index(row["rule"]), clip_on=False,
            gid=f"curve:{row['method']}:{row['rule']}", **_knee_look(row["rule"], row["censored"], colour),
        )  # fmt: skip


def _knee_look(rule: str, censored: str, colour: Any) -> dict[str, Any]:
    """Return the look of a knee: its shape says the rule, and hollow says that the true one is outside the levels."""
    return {
        "marker": RULE_MARKERS.get(rule, _OTHER_RULE_MARKER), "s": 36, "edgecolor": colour, "linewidth": 1.2,
        "facecolor": colour if censored == NOT_CENSORED else "white",
    }  # fmt: skip


def _draw_knees(
    panel: Axes, knees: pd.DataFrame, looks: Mapping[str, dict[str, Any]], labels: Mapping[str, str]
) -> None:
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
                       fontsize=8, color=_GREY)  # fmt: skip
    panel.set_title("Knees of the mean curves", loc="left", fontsize=8.5, color=_GREY, pad=3)
    panel.set_yticks(range(len(methods)), [_wrapped(labels[m], _NAME_WIDTH) for m in methods], fontsize=8)
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.grid(axis="y", visible=False)
    panel.tick_params(axis="y", length=0)


def _curves_legend(
    figure: Figure,
    looks: Mapping[str, dict[str, Any]],
    labels: Mapping[str, str],
    rules: Sequence[str],
    metric: str,
    settings: Mapping[str, Any],
    chance: float | None,
    many_seeds: bool,
) -> None:
    """Put one legend beside the panels: methods, levels, rules."""
    entries: list[tuple[Any, str]] = []
    for method, look in looks.items():
        entries.append((Line2D([], [], **look), _wrapped(labels[method], 26)))
    if many_seeds:
        entries.append((_marker(".", _GREY, True), "one seed (line: mean)"))
    entries.append((Line2D([], [], color=_GREY, linewidth=1.0), "dense model"))
    entries.append((Patch(facecolor="0.85"), _wrapped(f"tolerance: {_tolerance_text(metric, settings)}", 26)))
    if chance is not None:
        entries.append((Line2D([], [], color=_BLACK, linewidth=1.0, linestyle=":"), "chance"))
    for rule in rules:
        marker = RULE_MARKERS.get(rule, _OTHER_RULE_MARKER)
        entries.append((_marker(marker, _GREY, True), f"knee: {RULE_NAMES.get(rule, rule)}"))
    entries.append((_marker("o", _GREY, False), _wrapped("hollow: the true knee lies outside the levels tried", 26)))
    figure.legend(
        [handle for handle, _ in entries], [label for _, label in entries], loc="outside right upper", frameon=False,
        alignment="left", handlelength=2.4, labelspacing=0.7,
    )  # fmt: skip


def _tolerance_text(metric: str, settings: Mapping[str, Any]) -> str:
    """Say how much of a metric is tolerated: ``2 % of the dense accuracy``."""
    tolerance, loss = settings["tolerance"], settings.get("loss", DEFAULT_LOSS)
    of = f"{'log ' if metric_of(metric).logarithmic else ''}{metric.replace('_', ' ')}"
    if loss == "absolute":
        points = metric_of(metric).unit == "fraction"
        return f"{100 * tolerance:g} points of {of}" if points else f"{tolerance:g} of {of}"
    return f"{100 * tolerance:g} % of the dense {of}" + (" above chance" if loss == "above_chance" else "")


def _marker(marker: str, colour: str, filled: bool) -> Line2D:
    return Line2D(
        [], [], linestyle="", marker=marker, markersize=6.5, color=colour, markerfacecolor=colour if filled else "white"
    )


def _wrapped(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(label, width, break_long_words=True, break_on_hyphens=True)) or label


def set_title(figure: Figure, title: str, width_in: float) -> None:
    """Set the title of a figure, wrapped to its width: 12 points bold take a tenth of an inch a character."""
    figure.suptitle(_wrapped(title, int(width_in * 9)), x=0.01, ha="left")


# --- layers ---------------------------------------------------------------------------------------------------------


def shown_level(levels: Iterable[float], knee: float | None) -> tuple[float, bool]:
    """Return the level whose mask is shown for a knee, and whether it lies within the knee.

    It is the highest level up to the knee; where there is none, the lowest level, which lies beyond the knee.
    """
    ordered = sorted(set(levels))
    within = [] if knee is None or pd.isna(knee) else [level for level in ordered if level <= knee + 1e-9]
    return (within[-1], True) if within else (ordered[0], False)


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
    methods = _sort_methods({method for _, method in keys}, method_labels)
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
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


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
        look: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor", "fontsize": 8.5}
        panel.set_xticks(panel.get_xticks(), list(table.columns), **look)


# --- similarities ---------------------------------------------------------------------------------------------------


def plot_similarities(similarities: pd.DataFrame, method_labels: Mapping[str, str], model: str) -> Figure:
    """Draw the cosine similarity of masks over sparsity, a row a checkpoint and a line a pair of methods.

    The left panel shows the cosine itself with what masks drawn apart have, 1 - s; the right one the cosine corrected
    for that. Lines are means over the seeds; bands reach from the least to the largest seed.

    Args:
        similarities: Rows of the table of similarities, of one model.
        method_labels: What a method is called, by its name in the registry.
        model: What the model is called.
    """
    checkpoints = sort_checkpoints(similarities["checkpoint"])
    pairs = list(dict.fromkeys(zip(similarities["method"], similarities["other_method"], strict=True)))
    width = 6.4 + 1.2 * _LEGEND_WIDTH_IN
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
                look, gid = _line_look(i, len(pairs)), f"{column}:{one}:{other}"
                panel.plot(seeds.index.to_numpy(float), seeds["mean"].to_numpy(), gid=gid, **look)
                panel.fill_between(
                    seeds.index.to_numpy(float), seeds["min"].to_numpy(), seeds["max"].to_numpy(),
                    color=look["color"], alpha=0.2, linewidth=0, gid=f"band:{gid}",
                )  # fmt: skip
        row[0].plot([0, highest], [1, 1 - highest], color=_BLACK, linewidth=1.0, linestyle=":", gid="chance")
        row[1].axhline(0, color=_BLACK, linewidth=1.0, linestyle=":", gid="chance")
        row[0].set_ylabel("Cosine of kept weights")
        row[1].set_ylabel("Corrected for chance")
        row[0].set_title(checkpoint_label(checkpoint))
    for panel in grid[-1]:
        panel.set_xlabel("Sparsity (% removed)")
    grid[0, 0].set_ylim(-0.03, 1.03)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    grid[0, 0].xaxis.set_major_formatter(FuncFormatter(percent_tick))
    handles: list[Any] = [Line2D([], [], **_line_look(i, len(pairs))) for i in range(len(pairs))]
    labels = [_wrapped(" / ".join(method_labels.get(m, m) for m in pair), 30) for pair in pairs]
    handles.append(Line2D([], [], color=_BLACK, linewidth=1.0, linestyle=":"))
    labels.append("masks drawn apart")
    if similarities["seed"].nunique() > 1:
        handles.append(Patch(facecolor="0.85"))
        labels.append("least to largest seed")
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, alignment="left", handlelength=2.6, labelspacing=0.8
    )
    set_title(figure, f"Which weights are kept: {model}", width - 1.2 * _LEGEND_WIDTH_IN)
    return figure


# --- weights --------------------------------------------------------------------------------------------------------


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
        last = sort_checkpoints(rows["checkpoint"])[-1]
        along, label = "block", "Block"
        shown, title = rows[rows["checkpoint"] == last], f"Weights by block: {model}, {checkpoint_label(last)}"
    for panel, (statistic, name) in zip(panels, STATISTICS.items(), strict=False):
        scale = 100.0 if statistic.startswith("fraction") else 1.0
        for position, kind in enumerate(kinds):
            line = shown[shown["kind"] == kind].groupby(along)[statistic].mean() * scale
            panel.plot(line.index.to_numpy(float), line.to_numpy(float), **_line_look(position, len(kinds)), alpha=0.9)
        if over_steps:
            total = weighted_mean(shown, along, statistic) * scale
            panel.plot(total.index.to_numpy(float), total.to_numpy(float), color=_BLACK, linewidth=2.4, zorder=4)
            scale_steps(panel, sorted(set(shown["step"])))
        else:
            panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panel.set_title(_wrapped(name, 34), loc="left", fontsize=9.5)
        panel.set_xlabel(label)
        panel.yaxis.set_major_locator(MaxNLocator(6))
    handles = [Line2D([], [], **_line_look(i, len(kinds))) for i in range(len(kinds))]
    labels = [_wrapped(kind, 30) for kind in kinds]
    if over_steps:
        handles.append(Line2D([], [], color=_BLACK, linewidth=2.4))
        labels.append("all, weighted by size")
    panels[-1].axis("off")
    panels[-1].legend(handles, labels, loc="upper left", frameon=False, borderaxespad=0, handlelength=2.6,
                      title="Matrices (mean over blocks)" if over_steps else "Matrices", alignment="left",
                      fontsize=9 if len(kinds) <= 10 else 7)  # fmt: skip
    set_title(figure, title, 10.0)
    return figure


def scale_steps(panel: Axes, steps: Sequence[float]) -> None:
    """Set an axis that is logarithmic from the first step after 0, so that step 0 has a place on it."""
    first = min(step for step in steps if step > 0)
    panel.set_xscale("symlog", linthresh=first, linscale=0.6)
    powers = [10.0**p for p in range(12) if first <= 10.0**p <= max(steps)]
    ticks = sorted({0.0, first, *powers, max(steps)})
    kept = [ticks[0]]
    for tick in ticks[1:]:
        # Labels closer than a third of a decade would touch.
        if kept[-1] == 0 or tick / kept[-1] >= 2.2:
            kept.append(tick)
    panel.xaxis.set_major_locator(FixedLocator(kept))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    panel.xaxis.set_minor_locator(FixedLocator([]))
