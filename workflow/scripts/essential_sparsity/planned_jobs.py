"""The jobs that a run of a study would start: those that Snakemake plans, and those that only show as it goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from essential_sparsity.files import read_json
from essential_sparsity.resources import AROUND_MB
from essential_sparsity.study import Evaluation, Study
from essential_sparsity.study_jobs import Job, evaluating_job, pruning_jobs, study_jobs
from essential_sparsity.sweeps import Sweep

COSTS = "results/costs/"
# The wildcards of jobs, in the order in which their names have them; of others, all that there are.
_WILDCARDS = {
    "download_repository": ("place",), "prepare_dataset": ("dataset",), "prepare_inputs": ("model", "task"),
    "pretrain_model": ("model",), "extract_checkpoint": ("model", "checkpoint"), "list_matrices": ("model",),
    "find_steps": ("model",), "measure_weights": ("model", "checkpoint"), "measure_pretraining": ("model",),
    "calibrate_model": ("model", "checkpoint", "calibration", "statistics"),
    "plan_pruning": ("model", "checkpoint", "method", "seed"),
    **dict.fromkeys(
        ("prune_weights", "prune_blocks", "prune_iteratively"), ("model", "checkpoint", "method", "seed", "sparsity")
    ),
    **dict.fromkeys(
        ("evaluate_language_model", "evaluate_benchmark", "evaluate_representation", "finetune_model"),
        ("model", "checkpoint", "method", "sparsity", "task", "seed"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PlannedJob:
    """A job that would run.

    Attributes:
        rule: Its rule.
        name: Its wildcards, joined by slashes, as its costs are named.
        wildcards: The wildcards by name.
        threads: CPU threads that it is given.
        gpus: GPUs that it is given.
        gpu_percent: What it takes up of all of them together, 100 for a whole one; None for all of each.
        mem_mb: Memory that it is given; None where that is not known yet.
        inputs: Files that it waits for.
        outputs: Files that it makes.
        hidden: Whether Snakemake plans it only after a checkpoint, if at all.
    """

    rule: str
    name: str
    wildcards: Mapping[str, str]
    threads: int = 1
    gpus: float = 0.0
    mem_mb: float | None = None
    inputs: tuple[str, ...] = field(default=(), repr=False)
    outputs: tuple[str, ...] = field(default=(), repr=False)
    hidden: bool = False
    gpu_percent: float | None = None

    @property
    def taken_gpus(self) -> float:
        """How many GPUs' time it takes: others may have the rest of them."""
        return self.gpus if self.gpu_percent is None else self.gpu_percent / 100


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def read_planned(lines: Iterable[str]) -> list[PlannedJob]:
    """Read what Snakemake's log handler ``planner`` wrote, a job a line; targets, which run nothing, are left out."""
    jobs = []
    for line in lines:
        record = json.loads(line)
        if not record["output"]:
            continue
        rule, resources, wildcards = record["rule"], record["resources"], record["wildcards"]
        start = f"{COSTS}{rule}/"
        costs = [path for path in record["output"] if path.startswith(start)]
        name = costs[0].removeprefix(start).removesuffix(".json") if costs else "/".join(wildcards.values())
        jobs.append(
            PlannedJob(
                rule, name, wildcards, record["threads"], _number(resources.get("gpu")) or 0.0,
                _number(resources.get("mem_mb")), tuple(record["input"]), tuple(record["output"]),
                gpu_percent=_number(resources.get("gpu_percent")),
            )
        )  # fmt: skip
    return jobs


def with_snakemakes_around(jobs: Iterable[PlannedJob], profile: Mapping[str, Any]) -> list[PlannedJob]:
    """Return the jobs with the memory of the Snakemakes that a cluster's jobs are started by: a dry run has none.

    Args:
        jobs: The jobs as a dry run says.
        profile: What it was given: ``executor``, and ``mem_mb`` in ``set-resources``, to which nothing is added.
    """
    if profile.get("executor", "local") == "local":
        return list(jobs)
    own = {rule for rule, given in profile.get("set-resources", {}).items() if "mem_mb" in given}
    return [
        job if job.mem_mb is None or job.rule in own else replace(job, mem_mb=job.mem_mb + AROUND_MB) for job in jobs
    ]


def named_wildcards(rule: str, name: str) -> dict[str, str]:
    """Return the wildcards of a job by its name."""
    if rule == "download_package":
        return dict(zip(("package", "version"), name.rsplit("-", 1), strict=True))
    names = _WILDCARDS[rule]
    return dict(zip(names, name.split("/", len(names) - 1), strict=True))


def known_study(study: Study, results: Path) -> Study:
    """Return the study without the steps that the hub is already known to lack."""
    missing = set()
    for model in study.used_trajectories():
        steps = results / "sources" / "hub" / "models" / model / "steps.json"
        if steps.is_file():
            missing |= {(model, name) for name in read_json(steps)["missing"]}
    return study.without(missing) if missing else study


def hidden_jobs(
    study: Study, planned: Iterable[PlannedJob], results: Path, profile: Mapping[str, Any]
) -> list[PlannedJob]:
    """Return the most jobs that can come besides those that are planned, once checkpoints are done.

    They are those of the steps of a trajectory, of which all are taken to exist, and those of the levels that are
    placed as a curve is known, of which each budget is taken to be spent. Tables and plots are not among them: those
    are planned, or follow in seconds.

    Args:
        study: The study.
        planned: The jobs that Snakemake plans.
        results: The folder of results.
        profile: What the profile gives to rules: ``set-threads``, and ``gpu`` and ``gpu_percent`` in ``set-resources``.
    """
    there = {(job.rule, job.name) for job in planned}
    behind = [job for job in study_jobs(study) if job not in there and not is_done(job, results)]
    for sweep in study.sweeps:
        behind += _unplaced(study, sweep, results)
    threads, given = profile.get("set-threads", {}), profile.get("set-resources", {})
    return [
        PlannedJob(
            rule, name, named_wildcards(rule, name) if rule in _WILDCARDS else {}, threads.get(rule, 1),
            _number(given.get(rule, {}).get("gpu")) or 0.0, hidden=True,
            gpu_percent=_number(given.get(rule, {}).get("gpu_percent")),
        )
        for rule, name in behind
    ]  # fmt: skip


def is_done(job: Job, results: Path) -> bool:
    """Say whether a job has left its cost, as it does when it has ended well."""
    rule, name = job
    return (results / "costs" / rule / f"{name}.json").is_file()


def _unplaced(study: Study, sweep: Sweep, results: Path) -> Iterator[Job]:
    """Yield the jobs of the levels of a sweep that can still be placed; they are called ``1.001`` and so on."""
    folder = results / "studies" / study.name / "levels" / Path(*sweep.curve)
    paths = (folder / f"{number}.json" for number in count(1))
    done = []
    for path in paths:
        if not path.is_file():
            break
        done.append(read_json(path))
    if done and done[-1]["reason"]:
        return
    placed = list(chain(*done[-1]["rounds"])) if done else sweep.settings["start"]
    left = max(0, sweep.settings["budget"] - 1 - len(placed))
    for level in range(1, left + 1):
        # A name that is no level, so that it is none of those that are known.
        name = f"1.{level:03d}"
        jobs = set()
        for seed in sweep.seeds:
            e = Evaluation(sweep.model, sweep.checkpoint, sweep.method, name, sweep.task, seed)
            jobs |= {evaluating_job(study, e), *(job for job in pruning_jobs(study, e) if job[1].endswith(name))}
        yield from sorted(jobs)
    rounds = math.ceil(left / sweep.settings["per_round"])
    yield from (("place_levels", f"{'/'.join(sweep.curve)}/{len(done) + 1 + i}") for i in range(1, rounds + 1))
