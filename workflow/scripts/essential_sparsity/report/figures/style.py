"""What all figures look like: legible without colour vision, and the same bytes on every run."""

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
from matplotlib.ticker import FixedLocator, FuncFormatter
from matplotlib.transforms import Bbox

from essential_sparsity.checkpoints.steps import checkpoint_age
from essential_sparsity.files import atomic_path
from essential_sparsity.knees.tolerance import tolerated_score
from essential_sparsity.metrics.registry import performance, value_of

RULE_MARKERS = {"tolerance": "o", "kneedle": "s", "two-segment": "^", "curvature": "d", "bayes": "*"}
# How the axis of a metric is scaled, by its unit.
AXES_OF_UNITS = {
    "fraction": " (%)", "correlation": " (-1 to 1)", "perplexity": " (log axis)", "nats": " (nats a token)",
}  # fmt: skip
SPARSITY_LABEL = "Sparsity (% of prunable weights removed)"
_LINE_STYLES = ("-", "--", "-.", ":")
_LEVEL_MARKERS = ("D", "X", "P", "v", "*", "p", "<", ">")
# The same line styles and about the same markers in Vega.
_DASHES = ([1, 0], [7, 3], [7, 3, 2, 3], [2, 2])
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
GREY, BLACK = "0.35", "black"
LEGEND_WIDTH_IN = 2.6
# What an artist of matplotlib is told of how it looks.
Look = dict[str, Any]
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
    # The solver of the layout returns other last bits from run to run, which the names of clip paths are made of.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position().get_points().round(9)))
    with mpl.rc_context(_DETERMINISTIC), atomic_path(path) as temporary:
        figure.savefig(temporary, metadata=metadata[path.suffix], facecolor="white")


def sort_checkpoints(names: Iterable[str]) -> list[str]:
    """Return distinct checkpoints in the order of pre-training, ``final`` last."""
    return sorted(set(names), key=checkpoint_age)


def tolerated_value(dense: float, metric: str, tolerance: float, loss: str, chance: float) -> float:
    """Return the worst value that the rule ``tolerance`` accepts, in the metric's unit; NaN where it accepts none.

    For perplexity and a relative loss this is ``dense ** (1 + tolerance)``, since the tolerance is on its logarithm.

    Args:
        dense: The value of the dense model.
        metric: What it is.
        tolerance: Largest loss that counts as none.
        loss: What it is a fraction of.
        chance: The value of a model that knows nothing.
    """
    score, bottom = performance(np.array([dense, chance]), metric)
    return float(value_of(tolerated_score(np.array([score]), tolerance, loss, float(bottom)), metric)[0])


def sort_methods(names: Iterable[str], labels: Mapping[str, str]) -> list[str]:
    """Return methods in the registry's order, which keeps colours the same in all figures of a study; others last."""
    known = list(labels)
    return sorted(names, key=lambda m: (known.index(m) if m in known else len(known), m))


def _colours(count: int) -> list[Any]:
    """Return distinct colours; the palette has ten, and line styles and markers tell apart what repeats."""
    palette: list[Any] = sns.color_palette("colorblind", 10)
    # The seventh to tenth colours of the palette are a grey and pale ones: the strong ones come first.
    order = [0, 1, 2, 4, 3, 5, 9, 6, 8, 7]
    return [palette[order[i % 10]] for i in range(count)]


def line_look(position: int, count: int) -> Look:
    """Return colour, dashes and marker of the line at a position among ``count``."""
    return {
        "color": _colours(count)[position],
        "linestyle": _LINE_STYLES[position % len(_LINE_STYLES)],
        "marker": _LEVEL_MARKERS[position % len(_LEVEL_MARKERS)],
        "markersize": 5,
        "markeredgewidth": 0,
    }


def method_looks(labels: Mapping[str, str]) -> dict[str, Look]:
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


def wrapped_name(label: str, width: int) -> str:
    """Return a label in lines of a width."""
    return "\n".join(textwrap.wrap(label, width, break_long_words=True, break_on_hyphens=True)) or label


def set_title(figure: Figure, title: str, width_in: float) -> None:
    """Set the title of a figure, wrapped to its width: 12 points bold take a tenth of an inch a character."""
    figure.suptitle(wrapped_name(title, int(width_in * 9)), x=0.01, ha="left")


def shown_level(levels: Iterable[float], knee: float | None) -> tuple[float, bool]:
    """Return the level whose mask is shown for a knee, and whether it lies within the knee.

    It is the highest level up to the knee; where there is none, the lowest level, which lies beyond the knee.
    """
    ordered = sorted(set(levels))
    within = [] if knee is None or pd.isna(knee) else [level for level in ordered if level <= knee + 1e-9]
    return (within[-1], True) if within else (ordered[0], False)


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
