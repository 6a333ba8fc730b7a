"""Two runs are compared by their tables: a difference is named by its table, row and size, and costs are no results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from same_tables import compare

AXES = {"model": "m", "checkpoint": "final", "method": ["dense", "x", "x"], "sparsity": [0.0, 0.5, 0.9], "task": "t"}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs with the same results, which took different times, and whose rows are in different orders."""
    rows = pd.DataFrame({**AXES, "seed": 0, "value": [0.8, np.nan, 1e-300], "flags": ["", None, "f"], "seconds": 1.0})
    for name, table in (("a", rows), ("b", rows.iloc[::-1].assign(seconds=2.0))):
        folder = tmp_path / name / "studies" / "s" / "tables"
        folder.mkdir(parents=True)
        table.to_parquet(folder / "evaluations.parquet")
        table[["seconds"]].to_parquet(folder / "costs.parquet")
    return tmp_path / "a", tmp_path / "b"


def edit(run: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = run / "studies/s/tables/evaluations.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def set_value(value: object, column: str = "value") -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{column: frame[column].where(frame["sparsity"] != 0.0, value)})


def test_the_same_results_are_the_same(runs: tuple[Path, Path]) -> None:
    assert compare(*runs) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_value(0.80000001), ["evaluations: value: 1 of 3 rows differ, by 1.25e-08", "'dense'", "0.8"]),
        (set_value(np.nan), ["value: 1 of 3 rows differ, by inf"]),
        (set_value("other", "flags"), ["flags: 1 of 3 rows differ", "'other'"]),
        (lambda f: f.iloc[:2], ["1 rows of one alone", "'dense'"]),
        (lambda f: f.assign(more=1), ["columns of one alone: more"]),
    ],
)
def test_a_difference_is_named(
    runs: tuple[Path, Path], change: Callable[[pd.DataFrame], pd.DataFrame], says: list[str]
) -> None:
    edit(runs[1], change)
    (found,) = compare(*runs)
    assert found.startswith("s/evaluations: ")
    for text in says:
        assert text in found


def test_a_tolerance_is_relative(runs: tuple[Path, Path]) -> None:
    edit(runs[1], set_value(0.80000001))
    assert compare(*runs, within=1e-7) == []
    assert compare(*runs, within=1e-9) != []
