"""Properties of the figures: what is marked where, what is legible, and that the bytes repeat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

import frames
from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.emergence.places import matrix_places
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.knees.rules import RULES
from essential_sparsity.metrics.registry import METRICS
from essential_sparsity.pruning.tables import SIMILARITIES
from essential_sparsity.report.figures import style as plots
from essential_sparsity.report.figures.curves import plot_curves
from essential_sparsity.report.figures.layers import plot_layers
from essential_sparsity.report.figures.similarities import plot_similarities
from essential_sparsity.report.figures.weights import plot_weights

LONG_MODEL = "an-organisation-with-a-long-name-and-a-model-of-many-billion-parameters-instruct-v2"
LONG_LABELS = {
    "magnitude-global": "smallest magnitude, all matrices in one pool of weights",
    "magnitude-layer": "smallest-magnitude-each-matrix-on-its-own-without-a-space",
    "random-global": "random",
}
CURVES = [(frames.SMOLLM, frames.PLOTS), (frames.BERT, frames.GENRE)]


@pytest.fixture(autouse=True)
def _style() -> None:
    plots.apply_style()


def curves_figure(model: str, task: str, labels: dict[str, str] | None = None, name: str | None = None) -> Figure:
    evaluations, knees = frames.evaluations(), frames.knees()
    return plot_curves(
        evaluations[(evaluations["model"] == model) & (evaluations["task"] == task)],
        knees[(knees["model"] == model) & (knees["task"] == task)],
        frames.METHOD_LABELS if labels is None else labels, frames.TASK_LABELS[task], name or model,
        frames.SETTINGS,
    )  # fmt: skip


def layers_figure(model: str, task: str, labels: dict[str, str] | None = None, name: str | None = None) -> Figure:
    layers, knees = frames.layers(), frames.knees()
    return plot_layers(
        layers[layers["model"] == model], knees[(knees["model"] == model) & (knees["task"] == task)],
        frames.METHOD_LABELS if labels is None else labels, name or model, frames.TASK_LABELS[task], "tolerance",
    )  # fmt: skip


def weights_figure(model: str, name: str | None = None) -> Figure:
    weights = frames.weights()
    return plot_weights(weights[weights["model"] == model], name or model)


def many_checkpoints_figure() -> Figure:
    """Five checkpoints, which take two rows of panels, on the same scale of names as the rest."""
    rows = []
    for i, step in enumerate((0, 100, 300, 1000, 3000)):
        values = {0.3: 0.6 + 0.05 * i, 0.6: 0.55 + 0.05 * i, 0.9: 0.5 + 0.04 * i}
        for method in ("magnitude-global", "random-global"):
            curve = frames.curve_rows(frames.BERT, f"step{step:06d}", method, frames.GENRE, 0.62 + 0.05 * i, values)
            rows += curve if method == "magnitude-global" else curve[1:]
    evaluations = frames.typed(pd.DataFrame(rows), EVALUATIONS)
    return plot_curves(
        evaluations,
        frames.knees(evaluations),
        LONG_LABELS,
        "a task with a rather long name",
        LONG_MODEL,
        frames.SETTINGS,
    )


def legend_texts(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    return [" ".join(t.get_text().split()) for legend in legends for t in legend.get_texts()]


def panels_titled(figure: Figure, title: str) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title() == title]


def visible_texts(figure: Figure) -> Iterator[Text]:
    """Yield what is lettered on a figure, tick labels outside the axis' limits left out."""
    if figure.get_suptitle():
        yield figure._suptitle  # type: ignore[attr-defined]
    for legend in figure.legends:
        yield from legend.get_texts()
    for axes in figure.axes:
        yield from (t for t in (axes.title, axes._left_title) if t.get_text())  # type: ignore[attr-defined]
        if legend := axes.get_legend():
            yield from legend.get_texts()
        if not axes.axison:
            continue
        yield from (t for t in (axes.xaxis.label, axes.yaxis.label) if t.get_text())
        for axis, side in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-6 * (high - low)
            for tick in axis.get_major_ticks():
                text = tick.label2 if axes.yaxis.get_ticks_position() == "right" and side else tick.label1
                if text.get_visible() and text.get_text() and low - margin <= tick.get_loc() <= high + margin:
                    yield text


def assert_legible(figure: Figure) -> None:
    """No two texts overlap, and none is cut off by the figure's edge."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [(t, t.get_window_extent(renderer)) for t in visible_texts(figure)]
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, (
            f"cut off: {text.get_text()!r}"
        )
    for (one, a), (other, b) in combinations(boxes, 2):
        # The boxes of slanted neighbours overlap although the letters do not.
        if one.get_rotation() % 90 and other.get_rotation() % 90:
            continue
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 1, f"{one.get_text()!r} lies over {other.get_text()!r}"


def marked(figure: Figure, prefix: str) -> dict[str, list[float]]:
    """Return the places on the x axis of the markers whose id starts with a prefix."""
    found: dict[str, list[float]] = {}
    for axes in figure.axes:
        for collection in axes.collections:
            if (collection.get_gid() or "").startswith(prefix):
                found.setdefault(str(collection.get_gid()), []).append(float(collection.get_offsets()[0][0]))
    return found


@pytest.mark.parametrize(("model", "task"), CURVES)
def test_curves_name_every_method_and_rule_in_the_legend(model: str, task: str) -> None:
    figure = curves_figure(model, task)
    texts = legend_texts(figure)
    evaluations = frames.evaluations()
    methods = set(evaluations.loc[evaluations["model"] == model, "method"]) - {"dense"}
    assert {frames.METHOD_LABELS[m] for m in methods} <= set(texts)
    assert {"knee: tolerance", "knee: Kneedle", "knee: two segments", "dense model"} <= set(texts)
    assert model in figure.get_suptitle()


@pytest.mark.parametrize("place", ["strip", "curve"])
@pytest.mark.parametrize(("model", "task"), CURVES)
def test_curves_mark_the_knees_of_the_mean_curves_where_they_are(model: str, task: str, place: str) -> None:
    found = marked(curves_figure(model, task), f"{place}:")
    knees = frames.knees()
    knees = knees[(knees["model"] == model) & knees["seed"].isna() & knees["knee"].notna()]
    for (method, rule), rows in knees.groupby(["method", "rule"]):
        assert sorted(found.pop(f"{place}:{method}:{rule}")) == pytest.approx(sorted(rows["knee"]))
    assert not found


@pytest.mark.parametrize(("model", "task"), CURVES)
def test_bands_are_the_intervals_of_the_table_of_curves(model: str, task: str) -> None:
    levels = frames.levels()
    levels = levels[(levels["model"] == model) & (levels["task"] == task)]
    evaluations, knees = (table[table["model"] == model] for table in (frames.evaluations(), frames.knees()))
    figure = plot_curves(
        evaluations, knees, frames.METHOD_LABELS, "task", model, frames.SETTINGS, bands=levels
    )  # fmt: skip
    for title, rows in levels.groupby(levels["checkpoint"].map(checkpoint_label)):
        (panel,) = panels_titled(figure, str(title))
        bands = {c.get_gid(): c for c in panel.collections if str(c.get_gid()).startswith("band:")}
        assert set(bands) == {f"band:{method}" for method in rows["method"]}
        for method, own in rows.groupby("method"):
            drawn = {tuple(np.round(point, 6)) for point in bands[f"band:{method}"].get_paths()[0].vertices}
            for name in ("ci_low", "ci_high"):
                assert panel.get_ylim()[0] <= own[name].min() and own[name].max() <= panel.get_ylim()[1]
                assert set(zip(own["sparsity"].round(6), own[name].round(6), strict=True)) <= drawn


def test_intervals_of_knees_lie_in_the_strip() -> None:
    figure = curves_figure(frames.SMOLLM, frames.PLOTS)
    lines = {c.get_gid(): c.get_segments()[0] for a in figure.axes for c in a.collections
             if str(c.get_gid()).startswith("interval:")}  # fmt: skip
    knees = frames.knees()
    knees = knees[(knees["model"] == frames.SMOLLM) & knees["seed"].isna() & knees["ci_low"].notna()]
    assert set(lines) == {f"interval:{row.method}:{row.rule}" for row in knees.itertuples()}
    for row in knees.itertuples():
        assert lines[f"interval:{row.method}:{row.rule}"][:, 0] == pytest.approx([row.ci_low, row.ci_high])


def test_a_method_looks_the_same_in_every_figure_of_a_study() -> None:
    colours = [
        {str(c.get_gid()).split(":")[1]: tuple(c.get_edgecolor()[0]) for a in figure.axes for c in a.collections
         if str(c.get_gid()).startswith("strip:")}
        for figure in (curves_figure(*place) for place in CURVES)
    ]  # fmt: skip
    shared = set(colours[0]) & set(colours[1])
    assert shared == {"magnitude-global", "random-global"}
    looks = plots.method_looks(frames.METHOD_LABELS)
    for method in shared:
        assert colours[0][method] == colours[1][method]
        assert to_hex(colours[0][method]) == looks[method]["colour"]


def test_a_censored_knee_is_hollow_and_a_found_one_is_filled() -> None:
    figure = curves_figure(frames.SMOLLM, frames.PLOTS)
    faces = {c.get_gid(): c.get_facecolor()[0] for a in figure.axes for c in a.collections
             if str(c.get_gid()).startswith("strip:")}  # fmt: skip
    assert list(faces["strip:random-global:tolerance"][:3]) == [1, 1, 1]
    assert list(faces["strip:magnitude-global:tolerance"][:3]) != [1, 1, 1]


def test_a_method_without_any_knee_says_so() -> None:
    rows = frames.curve_rows(
        frames.BERT, "final", "random-global", frames.GENRE, 0.8, {0.3: 0.8, 0.5: 0.8, 0.7: 0.8, 0.9: 0.8}
    )
    evaluations = frames.typed(pd.DataFrame(rows), EVALUATIONS)
    knees = frames.knees(evaluations, replace(frames.SETTINGS, rules=["kneedle"]))
    figure = plot_curves(evaluations, knees, frames.METHOD_LABELS, "task", "model", frames.SETTINGS)
    assert "no knee" in [t.get_text() for a in figure.axes for t in a.texts]


def test_one_panel_a_checkpoint_shares_the_metric() -> None:
    figure = curves_figure(frames.BERT, frames.GENRE)
    first, last = panels_titled(figure, "step 0"), panels_titled(figure, "step 3,000")
    assert len(first) == len(last) == 1
    assert first[0].get_ylim() == last[0].get_ylim()


def test_perplexity_is_on_a_log_axis_and_accuracy_is_not() -> None:
    assert panels_titled(curves_figure(frames.SMOLLM, frames.PLOTS), "final")[0].get_yscale() == "log"
    assert panels_titled(curves_figure(frames.BERT, frames.GENRE), "step 0")[0].get_yscale() == "linear"


def test_curves_pass_through_the_means_over_the_seeds() -> None:
    panel = panels_titled(curves_figure(frames.BERT, frames.GENRE), "step 3,000")[0]
    lines = [line for line in panel.lines if len(line.get_xdata()) > 2]
    evaluations = frames.evaluations()
    rows = evaluations[(evaluations["checkpoint"] == "step003000")]
    for line, method in zip(lines, ["magnitude-global", "random-global"], strict=True):
        mean = rows[rows["method"].isin(["dense", method])].groupby("sparsity")["value"].mean()
        assert np.allclose(line.get_ydata(), mean.to_numpy(float))


@pytest.mark.parametrize(
    ("values", "shown"), [({0.1: 30.0, 0.2: 40.0, 0.3: 60.0}, False), ({0.1: 5e4, 0.2: 9e5}, True)]
)
def test_chance_is_shown_only_within_reach(values: dict[float, float], shown: bool) -> None:
    rows = frames.curve_rows(frames.SMOLLM, "final", "random-global", frames.PLOTS, 26.0, values)
    evaluations = frames.typed(pd.DataFrame(rows), EVALUATIONS)
    figure = plot_curves(evaluations, frames.knees(evaluations), frames.METHOD_LABELS, "task", "model", frames.SETTINGS)
    assert ("chance" in legend_texts(figure)) is shown


@pytest.mark.parametrize(
    ("dense", "metric", "chance", "expected"),
    [
        (26.0, "perplexity", 5e4, 26.0**1.02), (26.0, "word_perplexity", 5e4, 26.0**1.02),
        (0.85, "accuracy", 0.5, 0.833), (2.0, "masked_loss", 9.0, 2.04), (-0.5, "matthews", 0.0, -0.51),
    ],
)  # fmt: skip
def test_tolerance_of_perplexity_is_on_its_logarithm(dense: float, metric: str, chance: float, expected: float) -> None:
    assert plots.tolerated_value(dense, metric, 0.02, "relative", chance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "accuracy", "perplexity", "text"),
    [
        ("relative", 0.85 * 0.9, 26.0**1.1, "10 % of the dense accuracy"),
        ("absolute", 0.75, 26.0 * math.exp(0.1), "10 points of accuracy"),
        ("above_chance", 0.85 - 0.035, 26.0 * 1000**0.1, "10 % of the dense accuracy above chance"),
    ],
)
def test_the_band_is_what_the_loss_tolerates(loss: str, accuracy: float, perplexity: float, text: str) -> None:
    settings = replace(frames.SETTINGS, tolerance=0.1, loss=loss)
    assert plots.tolerated_value(0.85, "accuracy", 0.1, loss, 0.5) == pytest.approx(accuracy)
    assert plots.tolerated_value(26.0, "perplexity", 0.1, loss, 26_000.0) == pytest.approx(perplexity)
    rows = frames.curve_rows(frames.BERT, "final", "random-global", frames.GENRE, 0.85, {0.3: 0.8, 0.5: 0.7, 0.9: 0.6})
    evaluations = frames.typed(pd.DataFrame(rows).assign(chance=0.5), EVALUATIONS)
    knees = frames.knees(evaluations, settings)
    figure = plot_curves(evaluations, knees, frames.METHOD_LABELS, "task", "model", settings)
    (band,) = (p for p in figure.axes[0].patches if p.get_facecolor()[:3] == (0.85, 0.85, 0.85))
    assert band.get_extents().transformed(figure.axes[0].transData.inverted()).y0 == pytest.approx(accuracy)
    assert f"tolerance: {text}" in legend_texts(figure)


def test_where_nothing_is_tolerated_there_is_no_band() -> None:
    settings = replace(frames.SETTINGS, loss="above_chance")
    rows = frames.curve_rows(frames.BERT, "final", "random-global", frames.GENRE, 0.5, {0.3: 0.5, 0.5: 0.51, 0.9: 0.5})
    evaluations = frames.typed(pd.DataFrame(rows).assign(chance=0.5), EVALUATIONS)
    knees = frames.knees(evaluations, settings)
    figure = plot_curves(evaluations, knees, frames.METHOD_LABELS, "task", "model", settings)
    assert not figure.axes[0].patches
    assert set(knees.loc[knees["rule"] == "tolerance", "flags"]) == {"the dense model is not above chance"}


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_drawn_with_its_name_and_on_its_axis(metric: str) -> None:
    higher = METRICS[metric].higher_is_better
    dense = 0.8 if higher else 4.0
    worse = {0.1: dense * 0.99, 0.5: dense * 0.6} if higher else {0.1: dense * 1.01, 0.5: dense * 4}
    rows = frames.curve_rows(frames.BERT, "final", "random-global", frames.GENRE, dense, worse)
    evaluations = frames.typed(pd.DataFrame(rows).assign(metric=metric, chance=0.1), EVALUATIONS)
    figure = plot_curves(evaluations, frames.knees(evaluations), frames.METHOD_LABELS, "task", "model", frames.SETTINGS)
    assert_legible(figure)
    assert figure.get_suptitle().startswith(METRICS[metric].label)
    panel = figure.axes[0]
    assert panel.get_ylabel().startswith(METRICS[metric].label)
    assert (panel.get_yscale() == "log") is METRICS[metric].logarithmic
    factor = 100 if METRICS[metric].unit == "fraction" else 1
    ticks = [
        (tick.get_position()[1], tick.get_text().replace("\N{MINUS SIGN}", "-")) for tick in panel.get_yticklabels()
    ]
    shown = [(float(text), factor * at) for at, text in ticks if text]
    assert len(shown) > 2 or METRICS[metric].logarithmic
    assert all(number == pytest.approx(at) for number, at in shown)


@pytest.mark.parametrize(
    ("metric", "dense", "worse"),
    [("accuracy", 0.185, 0.178), ("word_perplexity", 47.8, 88.0), ("perplexity", 4.1, 4.3), ("perplexity", 22.0, 3e4)],
)
def test_ticks_of_a_narrow_axis_can_be_told_apart(metric: str, dense: float, worse: float) -> None:
    values = {0.1: dense, 0.2: worse, 0.3: dense}
    rows = frames.curve_rows(frames.BERT, "final", "random-global", frames.GENRE, dense, values)
    evaluations = frames.typed(pd.DataFrame(rows).assign(metric=metric, chance=1e9), EVALUATIONS)
    figure = plot_curves(evaluations, frames.knees(evaluations), frames.METHOD_LABELS, "task", "model", frames.SETTINGS)
    assert_legible(figure)
    panel = figure.axes[0]
    low, high = panel.get_ylim()
    shown = [t.get_text() for t in panel.get_yticklabels() if t.get_text() and low <= t.get_position()[1] <= high]
    assert len(shown) >= 3
    assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("levels", [(0.2,), (0.498, 0.502), (0.1, 0.9)])
def test_levels_can_be_told_apart_on_their_axis(levels: tuple[float, ...]) -> None:
    rows = frames.curve_rows(frames.BERT, "final", "random-global", frames.GENRE, 0.8, dict.fromkeys(levels, 0.7))
    evaluations = frames.typed(pd.DataFrame(rows).query("sparsity > 0"), EVALUATIONS)
    figure = plot_curves(evaluations, frames.knees(evaluations), frames.METHOD_LABELS, "task", "model", frames.SETTINGS)
    assert_legible(figure)
    (low, high), axis = figure.axes[0].get_xlim(), figure.axes[-1].xaxis
    shown = [(t.get_position()[0], t.get_text()) for t in axis.get_ticklabels()]
    texts = [text for at, text in shown if text and low <= at <= high]
    assert len(texts) >= 2 and len(set(texts)) == len(texts)


def test_a_method_that_a_checkpoint_was_not_pruned_by_has_no_missing_knee() -> None:
    values = {0.3: 0.84, 0.5: 0.7, 0.9: 0.5}
    rows = frames.curve_rows(frames.BERT, "step000000", "random-global", frames.GENRE, 0.85, values)
    rows += frames.curve_rows(frames.BERT, "step003000", "random-global", frames.GENRE, 0.85, values)
    rows += frames.curve_rows(frames.BERT, "step003000", "magnitude-global", frames.GENRE, 0.85, values)[1:]
    evaluations = frames.typed(pd.DataFrame(rows), EVALUATIONS)
    figure = plot_curves(evaluations, frames.knees(evaluations), frames.METHOD_LABELS, "task", "model", frames.SETTINGS)
    texts = [t.get_text() for a in figure.axes for t in a.texts]
    assert texts.count("not evaluated") == 1


@pytest.mark.parametrize(("name", "labels"), [(None, None), (LONG_MODEL, LONG_LABELS)])
@pytest.mark.parametrize(("model", "task"), CURVES)
def test_texts_do_not_overlap(model: str, task: str, name: str | None, labels: dict[str, str] | None) -> None:
    assert_legible(curves_figure(model, task, labels, name))
    assert_legible(layers_figure(model, task, labels, name))
    assert_legible(weights_figure(model, name))


def test_five_rules_fit_into_the_legend_and_the_strip_of_knees() -> None:
    evaluations = frames.evaluations()
    evaluations = evaluations[evaluations["model"] == frames.SMOLLM]
    settings = replace(frames.SETTINGS, rules=list(RULES))
    figure = plot_curves(
        evaluations, frames.knees(evaluations, settings), frames.METHOD_LABELS, "task", "model", settings
    )
    assert_legible(figure)
    assert {f"knee: {rule.label}" for rule in RULES.values()} <= set(legend_texts(figure))
    strip = figure.axes[-1]
    for marks in strip.collections:
        if (marks.get_gid() or "").startswith("strip:"):
            (place,) = marks.get_offsets()
            position = list(frames.METHOD_LABELS).index(marks.get_gid().split(":")[1])
            assert abs(place[1] - position) < 0.5, "in the row of its method"


def test_texts_do_not_overlap_with_many_checkpoints() -> None:
    assert_legible(many_checkpoints_figure())


def test_layers_show_the_level_at_the_knee_and_say_where_there_is_none() -> None:
    figure = layers_figure(frames.SMOLLM, frames.PLOTS)
    titles = [" ".join(a.get_title().split()) for a in figure.axes if a.get_title()]
    assert titles == [
        "global magnitude, final at 10 %, below the knee of 13.7 %",
        "layer-wise magnitude, final at 10 %, below the knee of 11.3 %",
        "global random, final knee below the levels: shown at the lowest, 5 %",
    ]


def test_layers_show_every_block_and_kind() -> None:
    figure = layers_figure(frames.SMOLLM, frames.PLOTS)
    layers = frames.layers()
    mask = layers[
        (layers["model"] == frames.SMOLLM) & (layers["method"] == "magnitude-global") & (layers["sparsity"] == 0.1)
    ]
    cells = figure.axes[0].collections[0].get_array()
    assert cells is not None and cells.shape == (30, 7)
    expected = 100 * mask.loc[mask["pruned"], "realised"].to_numpy(float)
    assert np.allclose(np.sort(cells, axis=None), np.sort(expected))


@pytest.mark.parametrize(
    ("levels", "knee", "expected"),
    [
        ([0.1, 0.2, 0.3], 0.2, (0.2, True)),
        ([0.3, 0.1, 0.2], 0.25, (0.2, True)),
        ([0.1, 0.2], 0.9, (0.2, True)),
        ([0.1, 0.2], 0.0, (0.1, False)),
        ([0.1, 0.2], float("nan"), (0.1, False)),
        ([0.1, 0.2], None, (0.1, False)),
    ],
)
def test_shown_level(levels: list[float], knee: float | None, expected: tuple[float, bool]) -> None:
    assert plots.shown_level(levels, knee) == expected


def test_places_of_matrices() -> None:
    names = ["bert.encoder.layer.11.attention.self.query.weight", "model.layers.3.mlp.gate_proj.weight", "head.weight"]
    places = matrix_places(names[:1])
    assert places.to_dict("records") == [{"name": names[0], "block": 11, "kind": "attention.self.query"}]
    assert matrix_places(names[1:2])[["block", "kind"]].to_numpy().tolist() == [[3, "mlp.gate_proj"]]
    assert matrix_places(names[2:])[["block", "kind"]].to_numpy().tolist() == [[0, "head"]]


def test_two_stacks_of_blocks_do_not_share_a_cell() -> None:
    names = [f"{stack}.block.{b}.layer.0.SelfAttention.q.weight" for stack in ("encoder", "decoder") for b in (0, 1)]
    places = matrix_places(names)
    assert len(places[["block", "kind"]].drop_duplicates()) == 4
    assert set(places["kind"]) == {"encoder: layer.0.SelfAttention.q", "decoder: layer.0.SelfAttention.q"}


def test_weights_go_over_the_steps_with_the_weighted_total_in_black() -> None:
    figure = weights_figure(frames.BERT)
    panel = figure.axes[0]
    assert panel.get_xscale() == "symlog"
    black = [line for line in panel.lines if line.get_color() == "black"]
    weights = frames.weights()
    last = weights[(weights["model"] == frames.BERT) & (weights["step"] == 3000)]
    total = 100 * np.average(last["fraction_below_0.001"], weights=last["n"].astype(float))
    assert len(black) == 1 and list(black[0].get_xdata()) == sorted(frames.STEPS)
    assert black[0].get_ydata()[-1] == pytest.approx(total)


def test_weights_of_one_checkpoint_go_over_the_blocks() -> None:
    figure = weights_figure(frames.SMOLLM)
    assert all(list(line.get_xdata()) == list(range(30)) for line in figure.axes[0].lines)
    assert "by block" in figure.get_suptitle()
    assert "all, weighted by size" not in legend_texts(figure)


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_saving_twice_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{i}" / f"figure{suffix}" for i in range(2)]
    for path in paths:
        plots.save_figure(curves_figure(frames.BERT, frames.GENRE), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert [p.name for p in paths[0].parent.iterdir()] == [f"figure{suffix}"]


def test_panels_of_what_is_saved_lie_where_no_last_bit_decides(tmp_path: Path) -> None:
    figure = curves_figure(frames.BERT, frames.GENRE)
    plots.save_figure(figure, tmp_path / "figure.svg")
    corners = np.concatenate([axes.get_position().min for axes in figure.axes])
    # The solver of the layout varies the last bits between processes, and clip paths in SVG are named by all of them.
    assert (corners.round(9) == corners).all()


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"svg or \.pdf or \.png"):
        plots.save_figure(Figure(), tmp_path / "figure.jpg")
    assert not list(tmp_path.iterdir())


def copies(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the rows of one method under as many names."""
    one = frame[(frame["model"] == frames.SMOLLM) & (frame["method"] == "magnitude-global")]
    return pd.concat([one.assign(method=f"m{i}") for i in range(count)])


def test_heat_maps_of_many_methods_take_several_rows() -> None:
    knees = frames.knees()
    figure = plot_layers(
        copies(frames.layers(), 7),
        copies(knees[knees["task"] == frames.PLOTS], 7),
        {},
        "a model",
        "a task",
        "tolerance",
    )
    figure.canvas.draw()
    maps = [panel.get_position() for panel in figure.axes if panel.get_title()]
    assert len(maps) == 7
    tops = sorted({round(place.y1, 3) for place in maps}, reverse=True)
    assert [sum(round(place.y1, 3) == top for place in maps) for top in tops] == [5, 2]


def test_a_method_of_one_level_is_a_marker_without_a_line() -> None:
    evaluations = frames.evaluations()
    evaluations = evaluations[(evaluations["model"] == frames.SMOLLM) & (evaluations["task"] == frames.PLOTS)]
    of_one = evaluations["method"].isin(["dense", "magnitude-global"]) | (evaluations["sparsity"] == 0.2)
    shown = evaluations[of_one]
    figure = plot_curves(shown, frames.knees(shown), frames.METHOD_LABELS, "a task", "a model", frames.SETTINGS)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) and line.get_marker() not in {"None", ""}]
    singles = [line for line in lines if line.get_linestyle() == "None" and list(line.get_xdata()) == [0.2]]
    others = set(shown["method"]) - {"dense", "magnitude-global"}
    assert len(singles) >= len(others) > 0
    joined = [line for line in lines if line.get_linestyle() not in {"None", ""}]
    assert len(joined) == 1, "the curve of global magnitude alone is a line"


def similarities(methods: tuple[str, ...] = tuple(frames.METHOD_LABELS), seeds: int = 2) -> pd.DataFrame:
    """Return made-up similarities of every pair of methods, at two checkpoints."""
    draw = np.random.default_rng(0)
    axes = product(("step000000", "step003000"), combinations(methods, 2), (0.3, 0.6, 0.9), range(seeds))
    rows = []
    for checkpoint, (one, other), level, seed in axes:
        corrected = float(draw.uniform(0, 0.6))
        rows.append({
            "model": frames.BERT, "checkpoint": checkpoint, "sparsity": level, "method": one, "other_method": other,
            "seed": seed, "cosine": 1 - level + level * corrected, "cosine_corrected": corrected, "overlap": 0.5,
            "jaccard": 0.4,
        })  # fmt: skip
    return frames.typed(pd.DataFrame(rows), SIMILARITIES)


def test_similarities_are_means_over_the_seeds_with_bands_that_hold_them() -> None:
    rows = similarities()
    figure = plot_similarities(rows, frames.METHOD_LABELS, frames.BERT)
    assert [panel.get_xlabel() for panel in figure.axes] == ["", "", *["Sparsity (% removed)"] * 2]
    for i, checkpoint in enumerate(("step000000", "step003000")):
        for panel, column in zip(figure.axes[2 * i : 2 * i + 2], ("cosine", "cosine_corrected"), strict=True):
            lines = {line.get_gid(): line for line in panel.lines}
            bands = {band.get_gid(): band for band in panel.collections}
            for one, other in combinations(frames.METHOD_LABELS, 2):
                own = rows[(rows["checkpoint"] == checkpoint) & (rows["method"] == one)]
                seeds = own[own["other_method"] == other].groupby("sparsity")[column]
                line = lines[f"{column}:{one}:{other}"]
                assert line.get_xdata() == pytest.approx([0.3, 0.6, 0.9])
                assert line.get_ydata() == pytest.approx(seeds.mean().to_numpy())
                drawn = bands[f"band:{column}:{one}:{other}"].get_paths()[0].vertices[:, 1]
                assert (drawn.min(), drawn.max()) == pytest.approx((seeds.min().min(), seeds.max().max()))
    x, y = figure.axes[0].lines[-1].get_data()
    assert np.asarray(y) == pytest.approx(1 - np.asarray(x)), "masks drawn apart have 1 - s"
    assert {"masks drawn apart", "least to largest seed"} <= set(legend_texts(figure))
    assert "least to largest seed" not in legend_texts(
        plot_similarities(similarities(seeds=1), frames.METHOD_LABELS, frames.BERT)
    )


@pytest.mark.parametrize("labels", [frames.METHOD_LABELS, LONG_LABELS])
def test_similarities_are_legible(labels: dict[str, str]) -> None:
    assert_legible(plot_similarities(similarities(), labels, LONG_MODEL))
    few = tuple(labels)[:2]
    assert_legible(plot_similarities(similarities(few), labels, frames.BERT))
