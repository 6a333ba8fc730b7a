"""Costs are what jobs have spent and were given, with their units."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.planning.costs import COSTS, read_costs
from essential_sparsity.tables import write_table

LIBRARY = str(Path(__file__).resolve().parents[3] / "workflow" / "scripts")
COST: dict[str, Any] = {
    "seconds": 2.0, "cpu_seconds": 1.5, "max_rss_mb": 300.5, "read_mb": 0.25, "written_mb": 0.5,
    "planned_seconds": 900.0, "planned_mb": 2000, "gpus": 1.0, "rule": "prune_weights",
}  # fmt: skip


def write(folder: Path, name: str, cost: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cost), encoding="utf-8")
    return path


def test_a_file_becomes_a_row(tmp_path: Path) -> None:
    file = write(tmp_path, "masks/m/final/magnitude/0/0.300.json", COST)
    assert read_costs(tmp_path, [file]).to_dict("records") == [
        {"job": "m/final/magnitude/0/0.300", **COST, "mean_load": 75.0}
    ]


@pytest.mark.parametrize("absent", ["read_mb", "planned_seconds", "planned_mb"])
def test_what_is_not_known_is_missing(tmp_path: Path, absent: str) -> None:
    row = read_costs(tmp_path, [write(tmp_path, "a/b.json", {**COST, absent: None})]).iloc[0]
    assert pd.isna(row[absent])
    assert row["seconds"] == 2.0


def test_the_rows_fit_the_schema(tmp_path: Path) -> None:
    files = [write(tmp_path, f"rule/{i}.json", {**COST, "read_mb": None}) for i in range(3)]
    written = write_table(read_costs(tmp_path, files), COSTS, tmp_path / "costs.parquet")
    assert len(written) == 3
    assert list(pd.read_parquet(tmp_path / "costs.parquet").columns) == list(COSTS.columns)


def test_a_job_counts_its_own_time_and_memory_and_that_of_its_processes(tmp_path: Path) -> None:
    work = 't = time.process_time()\nwhile time.process_time() < t + 0.3: pass\nkept = b"x" * 150_000_000\n'
    script = (
        "import subprocess, sys, time\nfrom pathlib import Path\nfrom essential_sparsity.run.usage import write_cost\n"
        f"{work}"
        f"subprocess.run([sys.executable, '-c', {'import time' + chr(10) + work!r}], check=True)\n"
        "write_cost(Path(sys.argv[1]), 'a', {'runtime': 15, 'mem_mb': 2000, 'gpu': 2})\n"
    )
    path = tmp_path / "rule" / "job.json"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", script, str(path)], env={"PYTHONPATH": LIBRARY}, check=True)
    wall = time.perf_counter() - began
    cost = json.loads(path.read_text())
    assert 0.6 < cost["cpu_seconds"] < 3
    # Processes' beginnings are known to a hundredth of a second.
    assert 0.55 < cost["seconds"] < wall + 0.02
    assert 150 < cost["max_rss_mb"] < 400
    assert (cost["rule"], cost["planned_seconds"], cost["planned_mb"], cost["gpus"]) == ("a", 900.0, 2000, 2.0)
