"""The report's interactive figures as Vega-Lite specifications, built with Altair; the page's script fills in the data.

Every specification names its data instead of holding them, and has a parameter for each choice that a reader has. None
has a legend of methods: the page's check boxes show the same colours, dashes and symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

# The ends of an axis that shows only what is near the dense model are parameters, too.
AXES_OF_VALUES = ("linear", "logarithmic", "close-up")

_SPARSITY = "Sparsity (% of prunable weights removed)"
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif"
_INK, _GRID = "#1b1f24", "#d5dae0"
_KNEE_SIZE = 900

Spec = dict[str, Any]
Looks = Mapping[str, Spec]


def chart_specs(looks: Looks, palette: list[str]) -> dict[str, Spec]:
    """Return all specifications by their name.

    Args:
        looks: For each method its ``colour``, ``dash`` and ``shape``.
        palette: Colours of the kinds of matrices.
    """
    curves = {f"curves {axis}": curves_chart(looks, axis) for axis in AXES_OF_VALUES}
    return {**curves, "map": map_chart(), "weights": weights_chart(palette, "step"),
            "blocks": weights_chart(palette, "block"), "emergence": emergence_chart(looks)}  # fmt: skip


def curves_chart(looks: Looks, axis: str) -> Spec:
    """Return the metric over sparsity, with bands, and the knees by the chosen rule with their intervals.

    Args:
        looks: For each method its ``colour``, ``dash`` and ``shape``.
        axis: One of :data:`AXES_OF_VALUES`.
    """
    scale = {
        "linear": alt.Scale(zero=False, nice=True),
        "logarithmic": alt.Scale(type="log", nice=False),
        "close-up": alt.Scale(domain=_between("low", "high"), nice=False),
    }[axis]
    clip = axis == "close-up"

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=_SPARSITY, scale=alt.Scale(domain=[0, alt.ExprRef("last")], nice=False))

    def y(field: str) -> alt.Y:
        marks = alt.Axis(format="~s", tickCount=4) if axis == "logarithmic" else alt.Axis(format=",~r")
        return alt.Y(f"{field}:Q", title=None, scale=scale, axis=marks)

    colour, dash, shape = _look_encodings(looks)
    levels = alt.Chart(alt.NamedData("levels"))
    band = levels.mark_area(opacity=0.18, clip=clip, aria=False).encode(
        x=x("sparsity"), y=y("low"), y2="high:Q", color=colour, detail="method:N"
    )
    dense = alt.Chart(alt.NamedData("dense")).mark_rule(color="#57606a", strokeDash=[2, 2], aria=False, clip=clip)
    line = levels.mark_line(strokeWidth=2, clip=clip, aria=False).encode(
        x=x("sparsity"), y=y("value"), color=colour, strokeDash=dash
    )
    tooltip = ["Method:N", "Sparsity:N", "Value:N", "Interval:N", "Seeds:N", "Predictions:N"]
    points = levels.mark_point(size=45, filled=True, opacity=1, clip=clip, aria=False).encode(
        x=x("sparsity"), y=y("value"), color=colour, shape=shape, tooltip=tooltip
    )
    knees = alt.Chart(alt.NamedData("knees"))
    bar = knees.mark_rule(strokeWidth=5, opacity=0.45, clip=clip, aria=False).encode(
        x=x("low"), x2="high:Q", y=y("value"), color=colour
    )
    knee = knees.mark_point(
        size=_KNEE_SIZE, shape="stroke", angle=90, strokeWidth=4, opacity=1, clip=clip, aria=False
    ).encode(x=x("knee"), y=y("value"), color=colour, tooltip=["Method:N", "Knee:N", "Interval:N", "Rule:N"])
    chart = alt.layer(band, dense.encode(y=y("value")), line, bar, points, knee).properties(
        width="container", height=360, title=alt.Title(text=alt.ExprRef("heading"), anchor="start", frame="group")
    )
    params = {"last": 100, "low": 0, "high": 1, "heading": ""}
    return _finished(chart, params, "Performance over sparsity; the table below holds the same values.")


def map_chart() -> Spec:
    """Return the share that every matrix gives: a row a kind of matrix, a column a block."""
    chart = (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(aria=False, stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("block:O", title="Block", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("kind:N", title=None, sort=None, axis=alt.Axis(labelLimit=170)),
            color=alt.Color(
                "share:Q",
                scale=alt.Scale(scheme="viridis", domain=_between("low", "high"), nice=False),
                legend=alt.Legend(title="Removed (% of a matrix)", orient="top", gradientLength=220, titleLimit=300),
            ),
            tooltip=["Matrix:N", "Block:N", "Removed:N"],
        )
        .properties(width="container", height=200)
    )
    return _finished(chart, {"low": 0, "high": 100}, "Share of its weights that each matrix gives, by kind and block.")


def weights_chart(palette: list[str], along: str) -> Spec:
    """Return a statistic of the weights, a line a kind of matrix, black for all of them.

    Args:
        palette: Colours of the kinds.
        along: ``step`` of pre-training, on an axis that is logarithmic from the first step on, or ``block``.
    """
    x = _along(along)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format="~r"))
    tooltip = ["Matrices:N", "At:N", "Value:N"]
    legend = alt.Legend(
        title="Matrices (black: all, weighted by size)", orient="bottom", columns=2, labelLimit=260, titleLimit=400
    )
    kinds = (
        alt.Chart(alt.NamedData("lines"))
        .mark_line(point=alt.OverlayMarkDef(size=40, filled=True), aria=False)
        .encode(
            x=x,
            y=y,
            tooltip=tooltip,
            color=alt.Color("kind:N", sort=None, scale=alt.Scale(range=palette), legend=legend),
        )
    )
    whole = (
        alt.Chart(alt.NamedData("whole"))
        .mark_line(point=alt.OverlayMarkDef(size=40, color="black"), color="black", strokeWidth=3, aria=False)
        .encode(x=x, y=y, tooltip=tooltip)
    )
    chart = alt.layer(kinds, whole).properties(
        width="container", height=300, title=alt.Title(text=alt.ExprRef("heading"), anchor="start", frame="group")
    )
    return _finished(chart, {"first": 1, "ticks": [], "heading": ""}, f"A statistic of the weights over the {along}.")


def emergence_chart(looks: Looks) -> Spec:
    """Return the knee by the chosen rule over the steps of pre-training, with its interval, a line a method.

    Args:
        looks: For each method its ``colour``, ``dash`` and ``shape``.
    """
    colour, dash, shape = _look_encodings(looks)
    base = alt.Chart(alt.NamedData("steps"))
    x = _along("step")

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(format="~r"))

    bar = base.mark_rule(strokeWidth=3, opacity=0.45, aria=False).encode(x=x, y=y("low"), y2="high:Q", color=colour)
    line = base.mark_line(strokeWidth=2, aria=False).encode(x=x, y=y("knee"), color=colour, strokeDash=dash)
    points = base.mark_point(size=60, filled=True, opacity=1, aria=False).encode(
        x=x, y=y("knee"), color=colour, shape=shape, tooltip=["Method:N", "Checkpoint:N", "Knee:N", "Interval:N"]
    )
    chart = alt.layer(bar, line, points).properties(
        width="container", height=280, title=alt.Title(text=alt.ExprRef("heading"), anchor="start", frame="group")
    )
    return _finished(chart, {"first": 1, "ticks": [], "heading": ""}, "The knee over the steps of pre-training.")


def _between(low: str, high: str) -> list[Any]:
    return [alt.ExprRef(low), alt.ExprRef(high)]


def _along(name: str) -> alt.X:
    if name == "block":
        return alt.X("x:Q", title="Block", axis=alt.Axis(tickMinStep=1, format="d"))
    scale = alt.Scale(type="symlog", constant=alt.ExprRef("first"), nice=False)
    axis = alt.Axis(format=",d", values=alt.ExprRef("ticks"), labelOverlap=True)
    return alt.X("x:Q", title="Step of pre-training (logarithmic from the first one on)", scale=scale, axis=axis)


def _look_encodings(looks: Looks) -> tuple[alt.Color, alt.StrokeDash, alt.Shape]:
    """Return how methods are told apart: by colour, by dashes and by symbol."""
    names = list(looks)

    def scale(key: str) -> alt.Scale:
        return alt.Scale(domain=names, range=[look[key] for look in looks.values()])

    return (
        alt.Color("method:N", scale=scale("colour"), legend=None),
        alt.StrokeDash("method:N", scale=scale("dash"), legend=None),
        alt.Shape("method:N", scale=scale("shape"), legend=None),
    )


def _finished(chart: Any, params: Spec, description: str) -> Spec:
    styled = (
        chart.add_params(*(alt.param(name=name, value=value) for name, value in params.items()))
        .properties(description=description, background="white", padding=4,
                    autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure(font=_FONT)
        .configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=_INK,
                        titleColor=_INK, gridColor=_GRID)
        .configure_title(fontSize=13, fontWeight="normal", color=_INK)
        .configure_legend(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", labelColor=_INK)
        .configure_view(stroke=None)
    )  # fmt: skip
    spec: Spec = styled.to_dict()
    # Told by the page, which has no network to look the schema up.
    del spec["$schema"]
    return spec
