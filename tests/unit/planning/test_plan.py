"""A plan multiplies the jobs of a dry run by what jobs like them have cost, and says where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.files import write_json
from essential_sparsity.planning.plan import (
    downloads,
    finished_costs,
    plan_table,
    plan_text,
    planned_jobs,
    shared_results,
)
from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.study import Study
from essential_sparsity.study.validation import load_yaml

ROOT = Path(__file__).resolve().parents[3]


def study(name: str) -> Study:
    file = ROOT / "config" / name
    return resolve(load_yaml(file), ROOT, str(file))


def record(rule: str, cost: str = "", threads: int = 1, **resources: Any) -> str:
    output = ["a", f"results/costs/{cost}.json"] if cost else ["a"]
    return json.dumps({"rule": rule, "threads": threads, "output": output, "resources": resources})


def spent(place: Path, rule: str, seconds: float, gpus: float = 0) -> None:
    cost = {"rule": rule, "seconds": seconds, "cpu_seconds": 1, "written_mb": 2, "gpus": gpus}
    write_json(place, cost)


def test_what_snakemake_plans_is_read() -> None:
    target = json.dumps({"rule": "all", "threads": 1, "output": [], "resources": {}})
    jobs = planned_jobs([record("prune", "masks/m/0.3", 4, gpu=2, mem_mb="<TBD>"), record("plot", mem_mb=5), target])
    assert jobs["rule"].tolist() == ["prune", "plot"]
    assert jobs["cost"].tolist() == ["results/costs/masks/m/0.3.json", ""]
    assert jobs[["gpus", "taken", "threads"]].to_numpy().tolist() == [[2, 2, 4], [0, 0, 1]]
    assert jobs["mem_mb"].isna().tolist() == [True, False]


def test_jobs_cost_what_those_of_their_rule_and_model_have_on_as_many_gpus(tmp_path: Path) -> None:
    folder = tmp_path / "costs" / "evaluations"
    for name, seconds, gpus in [("m/a/0.1", 10, 0), ("m/b/0.5", 20, 0), ("m/c/0.1", 2, 1), ("n/a/0.1", 99, 0)]:
        spent(folder / f"{name}.json", "tune", seconds, gpus)
    spent(folder / "m/d/0.1.json", "score", 1000)
    lines = [record("tune", f"evaluations/m/z/{level}", 2, mem_mb=700 + level) for level in (1, 2)]
    lines += [record("tune", "evaluations/new/z/1"), record("tune", "evaluations/m/z/3", gpu=1, gpu_percent=25)]
    table = plan_table(planned_jobs([*lines, record("plot")]), finished_costs(tmp_path))
    row = table.loc["tune"]
    assert row[["jobs", "measured", "mem_mb", "disk_mb"]].tolist() == [4, 3, 702, 6]
    assert row["core_hours"] * 3600 == pytest.approx(2 * 2 * 15 + 2)
    assert row["gpu_hours"] * 3600 == pytest.approx(0.25 * 2)
    assert table.loc["plot", ["jobs", "measured"]].tolist() == [1, 0]


def test_nothing_is_measured_in_an_empty_folder(tmp_path: Path) -> None:
    jobs = planned_jobs([record("tune", "evaluations/m/z/1"), record("plot")])
    table = plan_table(jobs, finished_costs(tmp_path))
    assert table["measured"].sum() == 0
    text = plan_text(study("config.yaml"), table, (1500.0, 2), shared_results(study("config.yaml"), jobs, tmp_path))
    assert text.count("not measured yet") == 2
    assert "2 jobs" in text and "1.5 GB" in text and "2 of unknown size" in text


def test_what_finished_studies_share_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = Path("results")
    names = [f"matrices/{name}" for name in ("bert-mini-reviews", "smollm2-135m-instruct")]
    for name in [*names, "pretraining/bert-mini-reviews", "matrices/of-no-study"]:
        spent(results / "costs" / f"{name}.json", name.split("/")[0], 1)
    tables = results / "studies" / "first" / "tables"
    tables.mkdir(parents=True)
    held = pd.DataFrame({"rule": ["matrices", "matrices"], "job": ["bert-mini-reviews", "another"]})
    held.to_parquet(tables / "costs.parquet")
    planned = planned_jobs([record("pretraining", "pretraining/bert-mini-reviews")])
    shared = shared_results(study("config.yaml"), planned, results)
    assert shared.to_numpy().tolist() == [["matrices", "", 1], ["matrices", "first", 1]]


def test_what_will_be_downloaded_is_known_by_the_registry() -> None:
    found = study("studies/methods.yaml")
    place = next(place for place, (name, step) in found.downloads().items() if step and found.models[name].parameters)
    model = found.models[found.downloads()[place][0]]
    jobs = planned_jobs([record("a", f"downloads/{place}"), record("b", "sources/p-1.0"), record("c", "masks/m")])
    assert downloads(found, jobs) == (model.parameters * {"float32": 4, "bfloat16": 2}[model.dtype] / 1e6, 1)
