"""Figures over pre-training: what is marked where, and that all of it can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import frames
from essential_sparsity.checkpoints.steps import step_name
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.report.figures.ages import plot_ages
from essential_sparsity.report.figures.emergence import MAPPED, POOLED, plot_emergence
from essential_sparsity.report.figures.style import apply_style, save_figure

AGES = (0, 100, 1000, 3000)


@pytest.fixture(autouse=True)
def _style() -> None:
    apply_style()


@pytest.fixture(scope="module")
def emergence() -> Figure:
    apply_style()
    return emergence_figure()


@pytest.fixture(scope="module")
def ages() -> Figure:
    apply_style()
    return ages_figure()


def emergence_figure() -> Figure:
    tables = [frames.weights(), frames.trajectories(), frames.histograms(), frames.changes()]
    return plot_emergence(*(table[table["model"] == frames.BERT] for table in tables), frames.BERT)


def marked(figure: Figure, prefix: str) -> dict[str, list[float]]:
    """Return the places on the x axis of what has an id that starts with a prefix."""
    lines = [line for axes in figure.axes for line in axes.lines if (line.get_gid() or "").startswith(prefix)]
    return {str(line.get_gid()): [float(x) for x in np.atleast_1d(line.get_xdata())] for line in lines}


def test_every_change_point_is_marked_at_its_step(emergence: Figure) -> None:
    expected = {}
    for row in frames.changes().itertuples():
        if row.name == "all" and row.statistic in POOLED:
            expected[f"change:{row.statistic}"] = row.change_step
        elif row.name != "all" and row.statistic in MAPPED:
            expected[f"change:{row.statistic}:{row.name}"] = row.change_step
    found = marked(emergence, "change:")
    assert {name: places[0] for name, places in found.items()} == expected


def test_an_abrupt_change_is_told_from_others_by_its_mark(emergence: Figure) -> None:
    figure = emergence
    dots = {str(line.get_gid()): line for axes in figure.axes for line in axes.lines if line.get_gid()}
    for row in frames.changes().itertuples():
        if row.name != "all" and row.statistic in MAPPED:
            hollow = dots[f"change:{row.statistic}:{row.name}"].get_markerfacecolor() == "white"
            assert hollow == (row.p_adjusted >= 0.05)
    assert dots["change:kurtosis"].get_linestyle() == "-", "that of all weights is abrupt here"
    assert any("p = 0.020" in text.get_text() for axes in figure.axes for text in axes.texts)


def test_every_matrix_has_a_row_and_every_step_a_column(emergence: Figure) -> None:
    figure = emergence
    weights = frames.weights()
    mine = weights[weights["model"] == frames.BERT]
    (panel,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "Effective rank")
    values = np.asarray(panel.collections[0].get_array())
    assert values.shape == (mine["name"].nunique(), len(frames.STEPS))
    # Kinds below each other, blocks within a kind: the second row is the second block of the first kind.
    second = mine[mine["name"].str.contains(r"\.1\.attention\.self\.query")].sort_values("step")
    np.testing.assert_allclose(values[1], second["effective_rank"])


def test_without_change_points_or_ranks_the_figure_still_shows_the_weights() -> None:
    weights = frames.weights().assign(effective_rank=np.nan)
    tables = [weights, frames.trajectories(), frames.histograms(), frames.changes().iloc[:0]]
    bare = plot_emergence(*(table[table["model"] == frames.BERT] for table in tables), frames.BERT)
    assert not marked(bare, "change:")
    assert "Effective rank" not in {axes.get_title(loc="left") for axes in bare.axes}


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.svg" for i in range(2)]
    for path in paths:
        save_figure(ages_figure(), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def ageing() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return evaluations and knees at four steps: the knee moves from below the levels to above them."""
    rows = []
    for i, step in enumerate(AGES):
        dense = 0.6 + 0.08 * i
        losses = {0: (0.2, 0.25, 0.3), 1: (0.0, 0.2, 0.3), 2: (0.0, 0.0, 0.2), 3: (0.0, 0.0, 0.0)}[i]
        values = {s: dense - loss for s, loss in zip((0.3, 0.6, 0.9), losses, strict=True)}
        for seed in (0, 1):
            rows += frames.curve_rows(
                frames.BERT, step_name(step), "magnitude-global", frames.GENRE, dense, values, seed=seed
            )
    evaluations = frames.typed(pd.DataFrame(rows), EVALUATIONS)
    return evaluations, frames.knees(evaluations)


def ages_figure() -> Figure:
    evaluations, knees = ageing()
    return plot_ages(evaluations, knees, frames.METHOD_LABELS, "plot or review", frames.BERT, "tolerance")


def test_knees_stand_at_their_steps_and_those_outside_the_levels_are_hollow(ages: Figure) -> None:
    figure = ages
    _, knees = ageing()
    mean = knees[knees["seed"].isna() & (knees["rule"] == "tolerance")]
    assert mean["censored"].tolist() == ["left", "none", "none", "right"]
    drawn = [line for line in figure.axes[0].lines if (line.get_gid() or "").startswith("knee:")]
    assert [float(line.get_xdata()[0]) for line in drawn] == list(AGES)
    assert [float(line.get_ydata()[0]) for line in drawn] == pytest.approx(mean["knee"].tolist())
    assert [line.get_marker() for line in drawn] == ["v", "o", "o", "^"]
    assert [line.get_markerfacecolor() == "white" for line in drawn] == [True, False, False, True]
    bounds = [
        sorted(line.get_ydata()) for line in figure.axes[0].lines if line.get_gid() == "interval:magnitude-global"
    ]
    assert bounds == [pytest.approx(row) for row in mean[["ci_low", "ci_high"]].to_numpy(float).tolist()]


def test_the_dense_model_is_below_with_its_seeds_and_chance(ages: Figure) -> None:
    panel = ages.axes[1]
    lines = {line.get_gid(): line for line in panel.lines}
    assert list(lines["dense"].get_xdata()) == list(AGES)
    assert list(lines["dense"].get_ydata()) == pytest.approx([0.6, 0.68, 0.76, 0.84])
    assert len(lines["dense:seeds"].get_xdata()) == 8
    assert any(line.get_linestyle() == ":" and line.get_ydata()[0] == 0.531 for line in panel.lines)
