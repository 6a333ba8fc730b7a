"""What a run of a study will cost, before it starts: time, memory and disk of its jobs, and what is shared."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from essential_sparsity.costs import read_costs
from essential_sparsity.job_needs import need_of
from essential_sparsity.planned_jobs import PlannedJob, is_done
from essential_sparsity.study import Study
from essential_sparsity.study_jobs import Job, study_jobs

DOWNLOADS = ("download_package", "download_repository")
# How many GPUs a job had, and what it has in common with others.
_Kind = tuple[float, tuple[str, ...]]

MEASURED, MODELLED, UNKNOWN = "measured", "modelled", "unknown"


@dataclass(frozen=True)
class Estimate:
    """What one job will cost.

    Attributes:
        seconds: Wall time; NaN if it depends on the size of a model that nothing says.
        output_mb: What it writes, MB.
        basis: ``measured`` on jobs like it in this folder, ``modelled`` from the sizes of model and task, ``unknown``.
    """

    seconds: float
    output_mb: float
    basis: str


def likeness(rule: str, name: str) -> tuple[str, ...]:
    """Return what jobs of a rule have in common that cost about the same: all but levels, seeds and checkpoints."""
    parts = name.split("/")
    if rule.startswith("evaluate_") or rule == "finetune_model":
        return rule, parts[0], parts[4]
    if rule.startswith(("plan_", "prune_")):
        return rule, parts[0], parts[2]
    if rule == "calibrate_model":
        return rule, parts[0], *parts[2:]
    return rule, *(parts[:1] if rule in ("extract_checkpoint", "measure_weights") else parts)


class Measured:
    """What finished jobs of a folder have cost, by what they have in common.

    Args:
        costs: Rows of the table of costs.
    """

    def __init__(self, costs: pd.DataFrame) -> None:
        found: dict[_Kind, list[tuple[float, float]]] = {}
        for job in costs.to_dict("records"):
            gpus = 0.0 if math.isnan(job["gpus"]) else float(job["gpus"])
            found.setdefault((gpus, likeness(job["rule"], job["job"])), []).append((job["seconds"], job["written_mb"]))
        self._means = {
            kind: Estimate(fmean(seconds for seconds, _ in values), fmean(mb for _, mb in values), MEASURED)
            for kind, values in found.items()
        }

    def like(self, job: PlannedJob) -> Estimate | None:
        """Return what jobs like this one have cost on as many GPUs, on average; None if there are none."""
        return self._means.get((job.gpus, likeness(job.rule, job.name)))


def measured_costs(results: Path) -> Measured:
    """Return what finished jobs have cost."""
    folder = results / "costs"
    return Measured(read_costs(folder, sorted(folder.rglob("*.json"))))


def estimated(study: Study, job: PlannedJob, measured: Measured) -> Estimate:
    """Return what a job will cost: what jobs like it have, or what its needs say."""
    if found := measured.like(job):
        return found
    try:
        need = need_of(study, job.rule, job.wildcards)
    except FileNotFoundError:
        return Estimate(math.nan, math.nan, UNKNOWN)
    return Estimate(need.duration(math.ceil(job.gpus), job.threads), need.output_mb, MODELLED)


def shared_results(study: Study, planned: Collection[Job], results: Path) -> pd.DataFrame:
    """Return the finished results that the study needs, by rule, and the studies whose tables hold them.

    Returns:
        ``rule, jobs, studies``: the names of studies joined by commas; empty where none has finished with them.
    """
    holders: dict[Job, list[str]] = {}
    for table in sorted(results.glob("studies/*/tables/costs.parquet")):
        held = pd.read_parquet(table, columns=["rule", "job"])
        for job in zip(held["rule"], held["job"], strict=True):
            holders.setdefault(job, []).append(table.parts[-3])
    done = [job for job in study_jobs(study) if job not in planned and is_done(job, results)]
    rows = pd.DataFrame({"rule": [rule for rule, _ in done], "studies": [", ".join(holders.get(j, [])) for j in done]})
    counted = rows.groupby(["rule", "studies"], as_index=False).size()
    return counted.rename(columns={"size": "jobs"})[["rule", "jobs", "studies"]]


def longest_chain(jobs: Sequence[PlannedJob], seconds: Sequence[float]) -> float:
    """Return the time of the longest chain of jobs that wait for each other."""
    makers = {path: i for i, job in enumerate(jobs) for path in job.outputs}
    ends: dict[int, float] = {}
    for start in range(len(jobs)):
        pending = [start]
        while pending:
            i = pending[-1]
            before = {makers[path] for path in jobs[i].inputs if path in makers} - {i}
            if waiting := [j for j in before if j not in ends]:
                pending += waiting
                continue
            ends[i] = seconds[i] + max((ends[j] for j in before), default=0.0)
            pending.pop()
    return max(ends.values(), default=0.0)


def plan_table(study: Study, jobs: Iterable[PlannedJob], measured: Measured) -> pd.DataFrame:
    """Return the jobs of a plan with what each will cost.

    Returns:
        ``rule, job, hidden, threads, gpus, mem_mb, basis, seconds, cpu_hours, gpu_hours, output_mb, download_mb``;
        ``gpus`` are the GPUs that it takes up, in parts where it has a share of one.
    """
    rows: list[Mapping[str, Any]] = []
    for job in jobs:
        found = estimated(study, job, measured)
        rows.append(
            {
                "rule": job.rule, "job": job.name, "hidden": job.hidden, "threads": job.threads,
                "gpus": job.taken_gpus, "mem_mb": math.nan if job.mem_mb is None else job.mem_mb,
                "basis": found.basis, "seconds": found.seconds,
                "cpu_hours": job.threads * found.seconds / 3600,
                "gpu_hours": job.taken_gpus * found.seconds / 3600, "output_mb": found.output_mb,
                "download_mb": found.output_mb if job.rule in DOWNLOADS else 0.0,
            }
        )  # fmt: skip
    columns = (
        "rule", "job", "hidden", "threads", "gpus", "mem_mb", "basis", "seconds", "cpu_hours", "gpu_hours", "output_mb",
        "download_mb",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=list(columns))


def wall_seconds(table: pd.DataFrame, chain: float, cores: int, gpus: float) -> tuple[float, float]:
    """Return bounds of the wall time of a plan.

    No schedule is faster than the longest chain, or than the work of all jobs shared among all cores or GPUs. While no
    job of a chain runs, all cores or all GPUs are busy, so one that starts jobs as they come is no slower than the
    chain and those two together (Graham, Bell System Technical Journal 1966), jobs of several threads and the limit on
    memory left aside.

    Args:
        table: The jobs.
        chain: Seconds of the longest chain.
        cores: CPU threads there are.
        gpus: GPUs there are.
    """
    work = table["seconds"] * table["threads"]
    computing = (table["seconds"] * table["gpus"]).sum()
    shares = [work.sum() / cores, computing / gpus if computing else 0.0]
    return max(chain, *shares), chain + sum(shares)
