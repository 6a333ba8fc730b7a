"""The report's tables say what the study's tables say, bounded, and name what they leave out."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

import frames
from essential_sparsity.report import tables as report_tables
from essential_sparsity.report.words import numbers
from essential_sparsity.report.words.headline import finding_rows
from essential_sparsity.report.words.knees import model_sizes

LABELS = (frames.METHOD_LABELS, frames.TASK_LABELS)


def headline_rows() -> pd.DataFrame:
    rows = finding_rows(frames.evaluations(), frames.knees(), "tolerance", *LABELS)
    return rows.assign(flags="")


def test_the_first_table_holds_the_last_checkpoints_and_the_second_the_rest() -> None:
    rows = headline_rows()
    first, others = report_tables.headline_tables(rows, model_sizes(frames.layers()), 0.95)
    assert len(first.rows) + len(others.rows) == len(rows)
    assert all("step 0" in row[0] for row in others.rows)
    assert not any("step 0" in row[0] for row in first.rows)
    assert first.columns == ("Model", "Task", "Method", "Knee", "Saved", "Lost")


def test_the_first_table_is_bounded_and_no_task_is_missing_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_tables, "FIRST_ROWS", 2)
    first, others = report_tables.headline_tables(headline_rows(), {}, 0.95)
    assert [row[1:3] for row in first.rows] == [
        ("film plots", "global magnitude"),
        ("plot or review", "global magnitude"),
    ]
    assert len(others.rows) == 5


def test_flags_that_all_curves_share_are_said_once() -> None:
    rows = headline_rows().assign(flags="one seed")
    rows.loc[0, "flags"] = "one seed; dense at chance"
    first, _ = report_tables.headline_tables(rows, {}, 0.95)
    assert first.note == "Of every curve: one seed."
    assert [row[-1] for row in first.rows] == ["dense at chance", *[""] * 4]
    assert report_tables.common_flags(["a; b", "b", "c; b"]) == ("b",)
    assert report_tables.common_flags(["a"]) == ()


def test_a_missing_knee_has_its_reason_beside_it() -> None:
    rows = headline_rows()
    rows.loc[0, ["knee", "flags"]] = (math.nan, "no dense value")
    first, _ = report_tables.headline_tables(rows, model_sizes(frames.layers()), 0.95)
    (row,) = (row for row in first.rows if row[3].startswith("none"))
    assert row[3:] == ("none\nno dense value", "-", "-")


def test_knees_by_every_rule_have_intervals_and_levels() -> None:
    knees = frames.knees()
    table = report_tables.knees_table(knees, frames.SETTINGS.rules, *LABELS)
    assert len(table.rows) == 7
    mean = knees[knees["seed"].isna() & (knees["rule"] == "tolerance") & (knees["task"] == frames.PLOTS)]
    one = mean[mean["method"] == "magnitude-global"].iloc[0]
    (cell,) = (row[4] for row in table.rows if row[2:4] == ("film plots", "global magnitude"))
    knee, low, high = (numbers.percent(one[name]) for name in ("knee", "ci_low", "ci_high"))
    assert cell == f"{knee}\n{low.removesuffix(' %')} to {high}; levels 10 to 15 %"


def test_more_curves_than_a_page_shows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_tables, "SHOWN_CURVES", 3)
    table = report_tables.knees_table(frames.knees(), frames.SETTINGS.rules, *LABELS)
    assert len(table.rows) == 3 and table.note.startswith("4 further curves")


def verdict(**change: Any) -> str:
    row = {"difference": 0.05, "p_adjusted": 0.01, "flags": "", **change}
    return report_tables.verdict_text(row, 0.95, "one", "other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "one keeps more than other"),
        ({"difference": -0.05}, "other keeps more than one"),
        ({"p_adjusted": 0.2}, "undecided"),
        ({"difference": 0.0, "p_adjusted": 1.0}, "undecided"),
        ({"p_adjusted": math.nan}, "not tested"),
        ({"difference": math.nan, "flags": "no dense value"}, "cannot be said: no dense value"),
        ({"difference": math.nan}, "cannot be said: one of the two has no knee"),
        ({"flags": "one seed"}, "one keeps more than other (one seed)"),
    ],
)
def test_verdicts(change: dict[str, Any], words: str) -> None:
    assert verdict(**change) == words


def test_differences_come_with_their_intervals_the_surest_first() -> None:
    table = report_tables.differences_table(frames.differences(), "tolerance", 0.95, *LABELS)
    assert [row[4] for row in table.rows] == ["+8.0\n+5.0 to +11.0", "-3.0\n-9.0 to +4.0", "-"]
    assert [row[5] for row in table.rows] == ["< 0.001", "0.600", "-"]
    assert table.rows[0][6] == "global magnitude keeps more than global random"
    assert table.rows[1][2:4] == ("step 3,000", "step 0") and table.rows[1][6] == "undecided"
    assert report_tables.differences_table(frames.differences(), "kneedle", 0.95, *LABELS).rows == ()


def test_more_differences_than_a_page_shows_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_tables, "SHOWN_DIFFERENCES", 1)
    table = report_tables.differences_table(frames.differences(), "tolerance", 0.95, *LABELS)
    assert len(table.rows) == 1 and table.note.startswith("2 further comparisons")


def test_costs_are_added_up_by_rule() -> None:
    table = report_tables.costs_table(frames.costs())
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["prune_weights"] == ("2", "8.4", "4.2", "4.3", "720", "910", "2,500")
    assert rows["collect_tables"] == ("1", "0.4", "0.4", "0.4", "840", "-", "1,000")
    assert rows["all"] == ("5", "302.8", "60.6", "262.8", "840", "1,450", "4,000")
