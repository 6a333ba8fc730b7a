"""A plan adds up what its jobs will cost: measured where jobs like them have run, hidden jobs at their most."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from essential_sparsity.files import write_json
from essential_sparsity.plan import (
    MEASURED,
    Measured,
    likeness,
    longest_chain,
    measured_costs,
    plan_table,
    wall_seconds,
)
from essential_sparsity.plan_words import by_rule
from essential_sparsity.planned_jobs import (
    PlannedJob,
    hidden_jobs,
    known_study,
    named_wildcards,
    read_planned,
    with_snakemakes_around,
)
from essential_sparsity.resources import AROUND_MB
from essential_sparsity.study import Study
from essential_sparsity.study_jobs import study_jobs
from essential_sparsity.validation import load_yaml

ROOT = Path(__file__).resolve().parents[2]


def study(name: str) -> Study:
    file = ROOT / "config" / name
    return Study(load_yaml(file), ROOT, str(file))


@pytest.mark.parametrize("name", ["config.yaml", "studies/methods.yaml", "studies/desk/lottery-ticket.yaml"])
def test_a_job_is_known_by_its_name(name: str) -> None:
    for rule, job in study_jobs(study(name)):
        wildcards = named_wildcards(rule, job)
        assert ("-" if rule == "download_package" else "/").join(wildcards.values()) == job


def test_what_snakemake_plans_is_read() -> None:
    record = {
        "rule": "prune_weights", "wildcards": {"model": "m", "seed": "0"}, "threads": 4, "input": ["a"],
        "output": ["masks/b", "results/costs/prune_weights/m/final/g/0/0.300.json"],
        "resources": {"gpu": 2, "mem_mb": "<TBD>"}, "reason": "", "is_checkpoint": False,
    }  # fmt: skip
    target = {**record, "rule": "all", "output": []}
    (job,) = read_planned([json.dumps(record), json.dumps(target)])
    assert (job.rule, job.name, job.threads, job.gpus, job.mem_mb) == ("prune_weights", "m/final/g/0/0.300", 4, 2, None)


@pytest.mark.parametrize(("percent", "taken"), [(None, 2.0), (200, 2.0), (50, 0.5)])
def test_a_share_of_a_gpu_counts_as_that_share(percent: int | None, taken: float, tmp_path: Path) -> None:
    given = {"gpu": 2, **({} if percent is None else {"gpu_percent": percent})}
    record = {
        "rule": "find_knees", "wildcards": {}, "threads": 1, "input": [], "output": ["knees"], "resources": given,
    }  # fmt: skip
    (job,) = read_planned([json.dumps(record)])
    found = study("config.yaml")
    table = plan_table(found, [job], measured_costs(tmp_path)).iloc[0]
    assert table["gpus"] == taken
    assert table["gpu_hours"] == pytest.approx(taken * table["seconds"] / 3600)
    rule = "finetune_model"
    later = hidden_jobs(found, [], tmp_path, {"set-resources": {rule: given}})
    assert {job.taken_gpus for job in later if job.rule == rule} == {taken}


def test_a_clusters_jobs_have_the_snakemakes_around_them() -> None:
    jobs = [PlannedJob("prune_weights", "a", {}, mem_mb=500.0), PlannedJob("prune_blocks", "b", {}, mem_mb=900.0)]
    jobs.append(PlannedJob("find_knees", "", {}))
    cluster = {"executor": "slurm", "set-resources": {"prune_blocks": {"mem_mb": 900}, "find_knees": {"gpu": 0}}}
    assert [job.mem_mb for job in with_snakemakes_around(jobs, {})] == [500, 900, None]
    assert [job.mem_mb for job in with_snakemakes_around(jobs, cluster)] == [500 + AROUND_MB, 900, None]


def test_placed_levels_spend_their_budgets_at_most(tmp_path: Path) -> None:
    found = study("studies/adaptive-smollm2.yaml")
    hidden = hidden_jobs(found, [], tmp_path, {"set-threads": {"place_levels": 1, "evaluate_language_model": 4}})
    evaluations = [job for job in hidden if job.rule == "evaluate_language_model"]
    dense = len({(s.model, s.checkpoint, s.task) for s in found.sweeps})
    # No curve of this study is evaluated besides those whose levels are placed.
    assert len(evaluations) == dense + sum((s.settings["budget"] - 1) * len(s.seeds) for s in found.sweeps)
    assert f"at most {len(evaluations)} evaluations" in found.worst_case()
    assert {job.threads for job in evaluations} == {4}
    sweep = found.sweeps[0]
    ended = {"rounds": [[0.1, 0.2], [0.15]], "reason": "narrow enough"}
    write_json(tmp_path / "studies" / found.name / "levels" / Path(*sweep.curve) / "1.json", ended)
    fewer = [job for job in hidden_jobs(found, [], tmp_path, {}) if job.rule == "evaluate_language_model"]
    assert len(evaluations) - len(fewer) == (sweep.settings["budget"] - 1 - len(sweep.settings["start"])) * len(
        sweep.seeds
    )


def test_steps_that_the_hub_lacks_are_not_counted(tmp_path: Path) -> None:
    found = study("studies/paper/emergence.yaml")
    profile = {"set-resources": {"finetune_model": {"gpu": 1}}}
    every = hidden_jobs(found, [], tmp_path, profile)
    assert {job.gpus for job in every if job.rule == "finetune_model"} == {1}
    for model in found.used_trajectories():
        place = tmp_path / "sources" / "hub" / "models" / model / "steps.json"
        write_json(place, {"missing": {found.checkpoints_of(model)[0]: "it is not there"}})
    left = hidden_jobs(known_study(found, tmp_path), [], tmp_path, profile)
    lost = {(job.wildcards["model"], job.wildcards["checkpoint"]) for job in every if job.rule == "extract_checkpoint"}
    lost -= {(job.wildcards["model"], job.wildcards["checkpoint"]) for job in left if job.rule == "extract_checkpoint"}
    assert lost == {(model, found.checkpoints_of(model)[0]) for model in found.used_trajectories()}


def chain(draw: np.random.Generator) -> tuple[list[PlannedJob], list[float]]:
    """Draw jobs, each of which waits for some of those before it."""
    jobs = []
    for i in range(7):
        before = tuple(f"o{j}" for j in range(i) if draw.random() < 0.3)
        jobs.append(PlannedJob("r", str(i), {}, inputs=(*before, "there"), outputs=(f"o{i}",)))
    return jobs, draw.uniform(1, 10, size=7).tolist()


@pytest.mark.parametrize("seed", range(10))
def test_the_longest_chain_is_the_longest_of_all(seed: int) -> None:
    jobs, seconds = chain(np.random.default_rng(seed))
    best = 0.0
    for size in range(1, len(jobs) + 1):
        for places in itertools.combinations(range(len(jobs)), size):
            if all(f"o{a}" in jobs[b].inputs for a, b in itertools.pairwise(places)):
                best = max(best, sum(seconds[i] for i in places))
    shuffled = np.random.default_rng(seed).permutation(len(jobs))
    assert longest_chain([jobs[i] for i in shuffled], [seconds[i] for i in shuffled]) == pytest.approx(best)


def makespan(jobs: list[PlannedJob], seconds: list[float], cores: int) -> float:
    """Return when the last job ends if each starts as soon as a core is free and what it waits for is done."""
    now, running, done = 0.0, dict[int, float](), set[int]()
    while len(done) < len(jobs):
        for i, job in enumerate(jobs):
            ready = all(f"o{j}" not in job.inputs or j in done for j in range(len(jobs)))
            if ready and i not in done and i not in running and len(running) < cores:
                running[i] = now + seconds[i]
        now = min(running.values())
        for i in [i for i, end in running.items() if end == now]:
            del running[i]
            done.add(i)
    return now


@pytest.mark.parametrize("seed", range(10))
def test_a_run_takes_no_less_and_no_more_than_the_bounds(seed: int) -> None:
    jobs, seconds = chain(np.random.default_rng(seed))
    table = pd.DataFrame({"seconds": seconds, "threads": 1, "gpus": 0.0})
    for cores in (1, 2, 3):
        least, most = wall_seconds(table, longest_chain(jobs, seconds), cores, math.inf)
        assert least - 1e-9 <= makespan(jobs, seconds, cores) <= most + 1e-9


def test_jobs_like_others_cost_what_those_have() -> None:
    def cost(name: str, seconds: float, gpus: float) -> dict[str, Any]:
        return {"rule": "finetune_model", "job": name, "seconds": seconds, "written_mb": 1.0, "gpus": gpus}

    rows = [
        cost("m/final/a/0.100/t/0", 10, math.nan),
        cost("m/step000001/b/0.500/t/1", 20, 0),
        cost("m/f/a/0/t/0", 2, 1),
    ]
    measured = Measured(pd.DataFrame(rows))
    asked = PlannedJob("finetune_model", "m/final/a/0.900/t/3", {})
    found = measured.like(asked)
    assert found is not None
    assert (found.seconds, found.basis) == (15, MEASURED)
    on_gpu = measured.like(PlannedJob("finetune_model", asked.name, {}, gpus=1))
    assert on_gpu is not None
    assert on_gpu.seconds == 2
    assert measured.like(PlannedJob("finetune_model", "m/final/a/0.900/other/3", {})) is None
    assert Measured(pd.DataFrame()).like(asked) is None


def test_masks_of_methods_and_texts_of_tasks_are_not_alike() -> None:
    names = ["m/final/a/0/0.300", "m/final/b/0/0.300"]
    assert len({likeness("prune_weights", name) for name in names}) == 2
    assert likeness("prune_weights", "m/final/a/0/0.300") == likeness("prune_weights", "m/step000001/a/1/0.500")


def test_rules_add_up_what_their_jobs_cost() -> None:
    rows = [("a", False, 1.0), ("a", True, 2.0), ("b", False, 4.0)]
    table = pd.DataFrame(rows, columns=["rule", "hidden", "cpu_hours"]).assign(
        gpu_hours=0.0, output_mb=1.0, download_mb=0.0, mem_mb=[500.0, math.nan, 600.0], basis=MEASURED
    )
    sums = by_rule(table).set_index("rule")
    assert list(sums.index) == ["b", "a"]
    assert sums.loc["a", ["jobs", "later", "measured", "cpu_hours", "mem_mb", "output_mb"]].tolist() == [
        1,
        1,
        2,
        3,
        500,
        2,
    ]
