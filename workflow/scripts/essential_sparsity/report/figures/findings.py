"""Figures of findings: the curves that a claim compares, and its estimates beside the region where it holds."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, ScalarFormatter

from essential_sparsity.findings.claims import LAST, Claim, Of, Part, Region, parts_of
from essential_sparsity.findings.tables import DOES_NOT_HOLD, HOLDS, UNDECIDED
from essential_sparsity.knees.curves import Curve as Place
from essential_sparsity.knees.readings import LEFT, RIGHT
from essential_sparsity.metrics.registry import metric_of, performance
from essential_sparsity.records import plain, record
from essential_sparsity.report.figures.style import Look, palette, percent_tick
from essential_sparsity.report.words.numbers import records
from essential_sparsity.report.words.verdicts import estimate_text, models_text, statistic_text, subject_text

LOOKS: dict[str, Look] = {
    HOLDS: {"color": "#029e73", "marker": "o"}, DOES_NOT_HOLD: {"color": "#d55e00", "marker": "X"},
    UNDECIDED: {"color": "0.4", "marker": "s"},
}  # fmt: skip
# Panels of curves that a figure has room for; further ones are counted in its title.
_PANELS, _COLUMNS = 12, 3
_LINE_STYLES = ("-", "--", "-.", ":")
_ROW_IN = 0.62
# Positive values that lie further apart than this are shown on a logarithmic axis.
_WIDE = 30.0


def plot_findings(
    findings: pd.DataFrame,
    claims: Sequence[Claim],
    curves: pd.DataFrame,
    knees: pd.DataFrame,
    last: Mapping[str, str],
    methods: Mapping[str, str],
    tasks: Mapping[str, str],
) -> Figure:
    """Draw the curves of a finding's claims, change from the dense model over sparsity, and its estimates below.

    Curves that one claim compares, and those of one model, share a panel, tasks apart; what is known at one level alone
    has none. Estimates of one statistic, of one column of the weights and one region share an axis.

    Args:
        findings: Rows of the table of findings, of one finding.
        claims: Its claims, as :func:`study.claims.checked_claims` returns them.
        curves: The table of curves.
        knees: The table of knees.
        last: The last checkpoint of every model.
        methods: What a method is called, by its name in the registry; their order gives lines their colours.
        tasks: What a task is called, by its name in the registry.
    """
    by_place: dict[Any, pd.DataFrame] = dict(list(curves.groupby(["model", "checkpoint", "method", "task"])))
    rules = {place: part.rule for c in claims for part in parts_of(c.of) for place in part.places(last)}
    panels = [[p for p in panel if p in by_place] for panel in panels_of(claims, last)]
    # Of methods at one level there is no curve to see: the estimates say it.
    panels = [panel for panel in panels if any(len(by_place[place]) > 2 for place in panel)]
    shown = panels[:_PANELS]
    groups = {
        place: _joined_name(part, methods)
        for c in claims for part in parts_of(c.of) if len(part.models) > 1 for place in part.places(last)
    }  # fmt: skip
    scales = findings["of"].map(lambda of: json.loads(of).get("column", ""))
    alike = [rows for _, rows in findings.groupby(["statistic", scales, "holds_where"], sort=False)]
    heights = [2.6] * math.ceil(len(shown) / _COLUMNS) + [_ROW_IN * len(rows) + 0.75 for rows in alike]
    figure = Figure(figsize=(9.6, sum(heights) + 1.0), layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    for start in range(0, len(shown), _COLUMNS):
        row = shown[start : start + _COLUMNS]
        inner = grid[start // _COLUMNS].subgridspec(1, min(len(shown), _COLUMNS))
        for i, panel in enumerate(row):
            axes = figure.add_subplot(inner[i])
            _draw_curves(axes, panel, by_place, knees, rules, groups, methods, tasks)
    for rows, place in zip(alike, range(len(heights) - len(alike), len(heights)), strict=True):
        _draw_estimates(figure.add_subplot(grid[place]), rows, _region(rows, claims), methods, tasks)
    left = f" ({len(panels) - len(shown)} further panels left out)" if len(panels) > len(shown) else ""
    claim = textwrap.fill(f"{findings['claim'].iloc[0]}{left}", 92)
    figure.suptitle(claim, x=0.01, ha="left")
    present = [name for name in LOOKS if name in set(findings["verdict"])]
    handles: list[Any] = [Line2D([], [], linestyle="none", markersize=8, **LOOKS[name]) for name in present]
    figure.legend(
        [*handles, Patch(color="0.87")], [*present, "where the claim holds"], loc="outside lower left", frameon=False,
        ncols=4,
    )  # fmt: skip
    return figure


def panels_of(claims: Sequence[Claim], last: Mapping[str, str]) -> list[list[Place]]:
    """Return the curves of claims by panel: those that a claim compares, and those of the same model, tasks apart."""
    panels: list[list[Place]] = []
    for claim in claims:
        places = [place for part in parts_of(claim.of) for place in part.places(last)]
        for task in dict.fromkeys(place[3] for place in places):
            own = list(dict.fromkeys(place for place in places if place[3] == task))
            models = {(model, checkpoint, task) for model, checkpoint, _, _ in own}
            touching = [panel for panel in panels if models & {(m, c, t) for m, c, _, t in panel}]
            merged = list(dict.fromkeys(place for panel in (*touching, own) for place in panel))
            at = panels.index(touching[0]) if touching else len(panels)
            panels = [panel for panel in panels if panel not in touching]
            panels.insert(at, merged)
    return panels


def _draw_curves(
    axes: Axes, panel: Sequence[Place], by_place: Mapping[Any, pd.DataFrame], knees: pd.DataFrame,
    rules: Mapping[Place, str], groups: Mapping[Place, str], methods: Mapping[str, str], tasks: Mapping[str, str],
) -> None:  # fmt: skip
    """Draw curves as change from the dense model, with bands, and the knee of each by the claim's rule.

    Of a group of models the mean is drawn, and each model as a thin line.
    """
    metric = str(by_place[panel[0]]["metric"].iloc[0])
    scale = 100.0 if metric_of(metric).unit in ("fraction", "correlation") else 1.0
    names = _names(panel, methods)
    lines: dict[str, list[Place]] = {}
    for place in panel:
        lines.setdefault(groups.get(place, names[place]), []).append(place)
    order = list(methods)
    firsts = [places[0][2] for places in lines.values()]
    # By the method where that tells lines apart, so that a method has one colour in all panels.
    by_method = len(set(firsts)) == len(lines) and all(method in order for method in firsts)
    colours = palette(max(len(order), len(lines)))
    for i, (label, places) in enumerate(lines.items()):
        look = order.index(places[0][2]) if by_method else i
        style: Look = {"color": colours[look], "linestyle": _LINE_STYLES[look % 4]}
        changes = [_changes(by_place[place], metric, scale) for place in places]
        found = [_knee_of(place, knees, rules[place]) for place in places]
        if len(places) == 1:
            _draw_curve(axes, changes[0], label, style)
            _mark_knee(axes, found[0], changes[0], colours[look])
            continue
        for change, knee in zip(changes, found, strict=True):
            axes.plot(change["sparsity"], change["value"], linewidth=0.8, alpha=0.6, zorder=2, **style)
            _mark_knee_of_one(axes, knee, change, colours[look])
        mean = pd.concat(changes).groupby("sparsity")["value"].mean()
        axes.plot(mean.index, mean.to_numpy(), linewidth=2.6, zorder=4, label=f"{label} (mean)", **style)
    axes.axhline(0.0, color="0.35", linewidth=1.0, zorder=1)
    models = list(dict.fromkeys(place[0] for place in panel))
    title = tasks.get(panel[0][3], panel[0][3]) + (f": {models[0]}" if len(models) == 1 else "")
    axes.set_title("\n".join(textwrap.wrap(title, 38)), loc="left", fontsize=9.5)
    axes.set_xlabel("Sparsity (% removed)", fontsize=9)
    unit = "points" if scale > 1 else "nats"
    axes.set_ylabel(f"Change from dense ({unit})", fontsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(percent_tick))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")


def _changes(curve: pd.DataFrame, metric: str, scale: float) -> pd.DataFrame:
    """Return ``sparsity, value, ci_low, ci_high`` of a curve as change from its dense value, ascending."""
    rows = curve.sort_values("sparsity")
    columns = ["value", "ci_low", "ci_high"]
    dense = performance(rows["value"].to_numpy(float)[:1], metric)
    scores = {name: scale * (performance(rows[name].to_numpy(float), metric) - dense) for name in columns}
    return pd.DataFrame({"sparsity": rows["sparsity"].to_numpy(float), **scores})


def _draw_curve(axes: Axes, change: pd.DataFrame, label: str, style: Look) -> None:
    """Draw one curve with its band."""
    x, y = change["sparsity"].to_numpy(), change["value"].to_numpy()
    # A method with one level, as of N:M, is a mark: the dense model is the line at 0.
    known = np.isfinite(y) & ((len(x) > 2) | (x > 0))
    marks: Look = {"marker": "o", "linestyle": "none"} if len(x) <= 2 else {"marker": "."}
    axes.plot(x[known], y[known], label=label, zorder=3, **{**style, **marks})
    if len(x) > 2:
        low, high = change["ci_low"], change["ci_high"]
        axes.fill_between(x, np.fmin(low, high), np.fmax(low, high), color=style["color"], alpha=0.16, linewidth=0)


def _names(panel: Sequence[Place], methods: Mapping[str, str]) -> dict[Place, str]:
    """Return what tells the curves of a panel apart."""
    varying = [len({place[axis] for place in panel}) > 1 for axis in range(3)]
    if not any(varying):
        varying[2] = True
    labels = {place: (place[0], place[1], methods.get(place[2], place[2])) for place in panel}
    return {
        place: ", ".join(part for part, varies in zip(label, varying, strict=True) if varies)
        for place, label in labels.items()
    }


def _joined_name(part: Part, methods: Mapping[str, str]) -> str:
    """Return what the curves of a group of models are called together."""
    stage = [] if part.checkpoint == LAST else [part.checkpoint]
    return ", ".join([models_text(part.models), *stage, methods.get(part.method, part.method)])


def _knee_of(place: Place, knees: pd.DataFrame, rule: str) -> pd.Series[Any] | None:
    mine = knees[(knees[["model", "checkpoint", "method", "task"]] == list(place)).all(axis=1)]
    found = mine[mine["seed"].isna() & (mine["rule"] == rule) & mine["knee"].notna()]
    return found.iloc[0] if len(found) else None


def _mark_knee(axes: Axes, knee: pd.Series[Any] | None, change: pd.DataFrame, colour: str) -> None:
    """Draw a stroke at a knee, its interval as a thin line through it; a hollow mark where it is only a bound."""
    if knee is None:
        return
    height = _mark_knee_of_one(axes, knee, change, colour, size=6)
    axes.axvline(float(knee["knee"]), color=colour, linewidth=1.0, alpha=0.7, zorder=2)
    if not pd.isna(knee["ci_low"]):
        axes.plot([knee["ci_low"], knee["ci_high"]], [height, height], color=colour, linewidth=1.2, zorder=4)


def _mark_knee_of_one(
    axes: Axes, knee: pd.Series[Any] | None, change: pd.DataFrame, colour: str, size: float = 4
) -> float:
    """Draw a knee as a diamond on its curve, hollow where it is only a bound; return its height."""
    if knee is None:
        return math.nan
    known = change.dropna(subset=["value"])
    place = float(knee["knee"])
    height = float(np.interp(place, known["sparsity"], known["value"]))
    face = "white" if knee["censored"] in (LEFT, RIGHT) else colour
    axes.plot(place, height, marker="D", markersize=size, markerfacecolor=face, markeredgecolor=colour, zorder=5)
    return height


def _region(rows: pd.DataFrame, claims: Sequence[Claim]) -> Region:
    """Return where the claims of some rows, which have it in common, hold."""
    first = rows.iloc[0]
    of = record(Of, json.loads(first["of"]))
    return next(c.holds for c in claims if c.statistic == first["statistic"] and c.of == of)


def _draw_estimates(
    axes: Axes, rows: pd.DataFrame, holds: Region, methods: Mapping[str, str], tasks: Mapping[str, str]
) -> None:
    """Draw estimates with their intervals, a row each, over the region where the claim holds; arrows are open ends."""
    numbers = rows[["estimate", "ci_low", "ci_high"]].to_numpy(float)
    ((side, bounds),) = plain(holds).items()
    edges = [float(v) for v in np.ravel(bounds)]
    finite = np.array([*numbers[np.isfinite(numbers)], *edges])
    wide = bool((finite > 0).all() and finite.max() / finite.min() > _WIDE)
    if wide:
        axes.set_xscale("log")
        low, high = finite.min() / 1.6, finite.max() * 1.6
    else:
        margin = 0.12 * (float(np.ptp(finite)) or abs(edges[0]) or 1.0)
        low, high = finite.min() - margin, finite.max() + margin
    start = {"above": edges[0], "within": edges[0], "below": low}[side]
    stop = {"above": high, "within": edges[-1], "below": edges[0]}[side]
    axes.axvspan(start, stop, color="0.87", linewidth=0, zorder=0)
    for edge in edges:
        axes.axvline(edge, color="0.35", linewidth=1.0, linestyle="--", zorder=1)
    labels: list[str] = []
    for i, row in enumerate(records(rows)):
        look, colour = LOOKS[row["verdict"]], LOOKS[row["verdict"]]["color"]
        if not (pd.isna(row["ci_low"]) or pd.isna(row["ci_high"])):
            ends = float(np.clip(row["ci_low"], low, high)), float(np.clip(row["ci_high"], low, high))
            axes.plot(ends, [i, i], color=colour, linewidth=2.2, zorder=3)
            for end, marker in ((row["ci_low"], "<"), (row["ci_high"], ">")):
                if math.isinf(end):
                    axes.plot(np.clip(end, low, high), i, marker=marker, color=colour, clip_on=False, zorder=4)
        if not pd.isna(row["estimate"]):
            axes.plot(np.clip(row["estimate"], low, high), i, markersize=8, zorder=5, clip_on=False, **look)
        text = estimate_text(row).replace(" (", "\n(")
        axes.annotate(
            text, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, annotation_clip=False
        )  # fmt: skip
        subject = subject_text(row["of"], methods, tasks)
        labels.append("\n".join(textwrap.wrap(subject, 36)[:4]))
    axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(low, high)
    axes.grid(axis="y", visible=False)
    if wide:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(MaxNLocator(1))
        axes.minorticks_off()
    column = json.loads(rows["of"].iloc[0]).get("column")
    named = _capital(statistic_text(rows["statistic"].iloc[0])) + (f", {column}" if column else "")
    axes.set_title(f"{named}: holds {rows['holds_where'].iloc[0]}", loc="left", fontsize=9.5)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
