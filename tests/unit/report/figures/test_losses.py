"""Loss curves: rows of the table for every objective, and a figure that shows them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from essential_sparsity.pretraining.loop import OBJECTIVES
from essential_sparsity.pretraining.losses import LOSSES, loss_rows
from essential_sparsity.report.figures.losses import LOSS_LABELS, plot_losses
from essential_sparsity.tables import stack, write_table


def curve(accuracy: bool, held_out: bool = True) -> pd.DataFrame:
    """Return what a training of 300 steps with four checkpoints records."""
    steps = np.array([0, 10, 25, 50, 55, 100, 200, 300])
    kept = np.isin(steps, [0, 10, 55, 300])
    losses = 2 * np.exp(-steps / 100)
    found = pd.DataFrame({"step": steps, "loss": np.where(steps > 0, losses, np.nan)})
    found["held_out_loss"] = np.where(kept & held_out, losses + 0.1, np.nan)
    if accuracy:
        found["held_out_accuracy"] = np.where(kept, 1 - losses / 2.5, np.nan)
    return found.assign(learning_rate=np.where(steps > 0, 0.001, np.nan))


def rows(accuracy: bool, held_out: bool = True) -> pd.DataFrame:
    return LOSSES.typed(loss_rows("m", curve(accuracy, held_out)))


def test_curves_of_all_objectives_are_one_table(tmp_path: Path) -> None:
    found = write_table(stack([rows(True), rows(False).assign(model="n")], LOSSES), LOSSES, tmp_path / "t.parquet")
    assert list(found) == list(LOSSES.columns)
    assert found.groupby("model").size().to_dict() == {"m": 8, "n": 8}
    assert found.loc[found["model"] == "n", "held_out_accuracy"].isna().all()
    assert len(stack([], LOSSES)) == 0


@pytest.mark.parametrize("accuracy", [False, True])
def test_the_figure_shows_every_value(accuracy: bool) -> None:
    figure = plot_losses(rows(accuracy), "m", "supervised-images")
    assert len(figure.axes) == 1 + accuracy
    training, held_out = figure.axes[0].lines
    recorded = curve(accuracy)
    np.testing.assert_array_equal(training.get_xdata(), recorded["step"][1:])
    np.testing.assert_array_equal(training.get_ydata(), recorded["loss"][1:])
    assert list(held_out.get_xdata()) == [0, 10, 55, 300], "the checkpoints are marked"
    assert held_out.get_marker() == "D"
    for axes in figure.axes:
        assert axes.get_xscale() == "symlog"
        assert axes.get_xlabel() and axes.get_ylabel()
    if accuracy:
        np.testing.assert_array_equal(
            figure.axes[1].lines[0].get_ydata(), recorded["held_out_accuracy"].dropna().to_numpy()
        )


def test_a_corpus_without_held_out_rows_has_the_training_loss_alone() -> None:
    figure = plot_losses(rows(False, held_out=False), "m", "masked-language-modelling")
    assert len(figure.axes) == 1
    assert len(figure.axes[0].lines) == 1
    assert math.isclose(max(figure.axes[0].lines[0].get_xdata()), 300)


def test_every_objective_says_what_its_loss_is() -> None:
    assert set(LOSS_LABELS) == set(OBJECTIVES)
    assert len(set(LOSS_LABELS.values())) == len(OBJECTIVES)
