"""What the report's script draws is what the tables hold, rounded and bounded."""

from __future__ import annotations

import math

import altair
import numpy as np
import pytest
import vl_convert

import frames
from essential_sparsity.emergence.places import STATISTICS
from essential_sparsity.report import charts as report_charts
from essential_sparsity.report import data as report_data
from essential_sparsity.report.figures.style import apply_style, method_looks, palette


def test_a_metric_that_the_registry_does_not_have_is_labelled() -> None:
    levels = frames.levels().assign(metric="acc_bytes")
    labels = report_data.label_data(levels, ["tolerance"], {}, {}, {})
    assert labels["metrics"]["acc_bytes"]["kind"] == "fraction"


def test_curves_are_the_rows_of_their_table() -> None:
    levels = frames.levels()
    data = report_data.curve_data(levels, frames.knees())
    assert sum(len(curve["sparsity"]) for curve in data) == len(levels)
    for curve in data:
        key = [curve[axis] for axis in ("model", "checkpoint", "task", "method")]
        rows = levels[(levels[["model", "checkpoint", "task", "method"]] == key).all(axis=1)].sort_values("sparsity")
        scale = 100 if curve["metric"] == "accuracy" else 1
        for name, column in (("value", "value"), ("low", "ci_low"), ("high", "ci_high")):
            np.testing.assert_allclose(curve[name], rows[column] * scale, rtol=1e-4)
        np.testing.assert_allclose(curve["sparsity"], rows["sparsity"] * 100)


def test_knees_are_those_of_the_mean_curves_the_headline_first() -> None:
    knees = frames.knees()
    data = report_data.curve_data(frames.levels(), knees)
    assert {tuple(knee["rule"] for knee in curve["knees"]) for curve in data} == {tuple(frames.SETTINGS.rules)}
    found = sorted(knee["knee"] for curve in data for knee in curve["knees"] if knee["knee"] is not None)
    expected = sorted(100 * knees.loc[knees["seed"].isna(), "knee"].dropna())
    np.testing.assert_allclose(found, expected, atol=0.051)


def test_what_is_not_finite_is_null() -> None:
    levels = frames.levels()
    levels.loc[levels["sparsity"] == 0.5, ["value", "ci_high"]] = math.inf
    data = report_data.curve_data(levels, frames.knees())
    assert any(None in curve["value"] for curve in data)
    assert "Infinity" not in report_data.as_json(data) and "NaN" not in report_data.as_json(data)


def test_maps_hold_every_matrix_of_every_mask() -> None:
    layers = frames.layers()
    maps = report_data.map_data(layers)
    assert maps["left_out"] == 0
    axes = ["model", "checkpoint", "method"]
    for mask in maps["masks"]:
        rows = layers[
            (layers[axes] == [mask[axis] for axis in axes]).all(axis=1)
            & np.isclose(layers["sparsity"] * 100, mask["level"]) & layers["pruned"]
        ].sort_values("position")  # fmt: skip
        np.testing.assert_allclose(np.array(mask["shares"]) / 1000, rows["realised"], atol=5.1e-4)
        assert len(maps["matrices"][mask["model"]]["kind"]) == len(rows)


def test_maps_without_room_are_counted_early_checkpoints_first() -> None:
    layers = frames.layers()
    whole = report_data.map_data(layers)
    total = sum(len(mask["shares"]) for mask in whole["masks"])
    early = [mask for mask in whole["masks"] if mask["checkpoint"] == "step000000"]
    part = report_data.map_data(layers, cells=total - 1)
    assert part["left_out"] == 1
    left = [mask for mask in whole["masks"] if mask not in part["masks"]]
    assert left[0] in early
    assert report_data.map_data(layers, cells=0) == {**whole, "masks": [], "left_out": len(whole["masks"])}


def test_weights_are_means_over_the_blocks() -> None:
    weights = frames.weights()
    by_model = {entry["model"]: entry for entry in report_data.weight_data(weights)}
    assert {model: entry["along"] for model, entry in by_model.items()} == {frames.BERT: "step", frames.SMOLLM: "block"}
    bert = weights[weights["model"] == frames.BERT]
    (line,) = (line for line in by_model[frames.BERT]["lines"] if line["kind"] == "output.dense")
    rows = bert[
        bert["name"].str.endswith("r.0.output.dense.weight") | bert["name"].str.endswith("r.1.output.dense.weight")
    ]
    np.testing.assert_allclose(line["kurtosis"], rows.groupby("step")["kurtosis"].mean(), rtol=1e-4)
    (whole,) = (line for line in by_model[frames.BERT]["lines"] if line["kind"] == report_data.ALL_MATRICES)
    share = bert.assign(count=bert["fraction_below_0.01"] * bert["n"]).groupby("step")[["count", "n"]].sum()
    np.testing.assert_allclose(whole["fraction_below_0.01"], 100 * share["count"] / share["n"], rtol=1e-4)
    assert set(STATISTICS) < set(whole)


def test_charts_compile_with_the_library_that_the_page_carries() -> None:
    apply_style()
    specs = report_charts.chart_specs(method_looks(frames.METHOD_LABELS), palette(3))
    assert altair.VEGALITE_VERSION.rpartition(".")[0] in vl_convert.get_vegalite_versions()
    for name, spec in specs.items():
        compiled = vl_convert.vegalite_to_vega(spec, vl_version=altair.VEGALITE_VERSION.rpartition(".")[0])
        assert compiled["marks"], name
        # Data and choices come from the page.
        assert not spec.get("datasets") and {"name"} <= set(spec["params"][0])


@pytest.mark.parametrize("count", [1, 3, 12])
def test_methods_are_told_apart_by_more_than_colour(count: int) -> None:
    looks = method_looks({f"method {i}": str(i) for i in range(count)})
    told = {(look["colour"], tuple(look["dash"]), look["shape"]) for look in looks.values()}
    assert len(told) == count
    assert len({(tuple(look["dash"]), look["shape"]) for look in looks.values()}) >= min(count, 8)


def test_a_level_takes_few_bytes() -> None:
    # Ten thousand evaluations are then less than 2 MB.
    levels = frames.levels()
    data = report_data.curve_data(levels, frames.knees())
    assert len(report_data.as_json(data)) < 200 * len(levels)
