"""The README's questions to the tables run as they are printed there, and both languages give the same answers."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest

import frames
from tiny import ROOT

AXES = ["model", "checkpoint", "task", "method"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[pd.DataFrame]:
    """What the snippets print, pandas and DuckDB in turn, on made-up tables of the default study."""
    folder = tmp_path_factory.mktemp("root") / "results/studies/default/tables"
    folder.mkdir(parents=True)
    # A method without a knee is not the one with the largest.
    knees = frames.knees()
    without = knees.drop_duplicates(["model", "seed", "rule"]).assign(method="zzz", knee=math.nan)
    tables = {
        "evaluations": frames.evaluations(), "knees": pd.concat([knees, without]), "curves": frames.levels(),
        "layers": frames.layers(),
    }  # fmt: skip
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    section = (
        (ROOT / "docs" / "tables.md").read_text(encoding="utf-8").split("\n## Ask the tables")[1].split("\n## ")[0]
    )
    snippets = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert [("duckdb" in snippet, "pandas" in snippet) for snippet in snippets] == [(False, True), (True, False)] * 3
    printed: list[pd.DataFrame] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parents[3])
        for snippet in snippets:
            exec(snippet, {"print": lambda frame: printed.append(frame.reset_index())})
    return printed


def as_records(frame: pd.DataFrame, columns: list[str], *values: str) -> dict[Any, Any]:
    rows = frame[[*columns, *values]].to_dict("records")
    return {tuple(row[c] for c in columns): tuple(row[v] for v in values) for row in rows}


def test_the_method_that_keeps_most_at_half_the_weights(answers: list[pd.DataFrame]) -> None:
    levels = frames.levels()
    expected: dict[Any, Any] = {}
    for key, part in levels.groupby(AXES):
        value = dict(zip(part["sparsity"], part["value"], strict=True))
        kept = value[0.0] / value[0.5] if part["metric"].iloc[0] == "perplexity" else value[0.5] / value[0.0]
        if kept > expected.get(key[:3], ("", -1.0))[1]:
            expected[key[:3]] = (key[3], kept)
    assert len(expected) == 3
    for frame in answers[:2]:
        found = as_records(frame, AXES[:3], "method", "kept")
        assert found.keys() == expected.keys()
        for key, (method, kept) in expected.items():
            assert found[key] == (method, pytest.approx(kept))


def test_the_highest_level_within_a_point(answers: list[pd.DataFrame]) -> None:
    levels = frames.levels()
    expected = {}
    for key, part in levels[levels["metric"] == "accuracy"].groupby(AXES):
        rows = part.sort_values("sparsity").to_dict("records")
        for row in rows:
            if rows[0]["value"] - row["value"] > 0.01:
                break
            expected[key] = (row["sparsity"], row["value"], row["ci_low"], row["ci_high"])
    assert {sparsity for sparsity, *_ in expected.values()} > {0.0}
    for frame in answers[2:4]:
        assert as_records(frame, AXES, "sparsity", "value", "ci_low", "ci_high") == expected


def test_the_matrices_that_give_most_at_the_largest_knee(answers: list[pd.DataFrame]) -> None:
    knees, layers = frames.knees(), frames.layers()
    mean = knees[knees["seed"].isna() & (knees["rule"] == "tolerance")]
    expected = []
    for model in mean["model"].unique():
        best = mean[mean["model"] == model].sort_values("knee").iloc[-1]
        own = (layers[["model", "checkpoint", "method"]] == best[["model", "checkpoint", "method"]].to_list()).all(
            axis=1
        )
        masks = layers[own & layers["pruned"]]
        level = max(s for s in masks["sparsity"] if s <= best["knee"])
        shares = masks[masks["sparsity"] == level].set_index("name")["realised"]
        names = sorted(shares.index, key=lambda name, shares=shares: (-shares[name], name))[:5]
        expected += [(model, best["method"], level, name, shares[name]) for name in names]
    assert len(expected) == 10
    columns = ["model", "method", "sparsity", "name", "realised"]
    for frame in answers[4:]:
        assert sorted(frame[columns].itertuples(index=False, name=None)) == sorted(expected)
