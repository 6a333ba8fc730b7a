"""What a run of a study will cost: the jobs of a dry run, and what jobs like them have cost in this folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from essential_sparsity.planning.costs import read_costs
from essential_sparsity.planning.jobs import evaluation_costs, other_costs
from essential_sparsity.study.study import Study

_LIKE = ["rule", "first", "gpus"]
_BYTES = {"float32": 4, "bfloat16": 2}


def planned_jobs(lines: Iterable[str]) -> pd.DataFrame:
    """Read what Snakemake's log handler ``planner`` wrote, a job a line; targets, which run nothing, are left out.

    Returns:
        ``rule, cost, gpus, taken, threads, mem_mb``: the file that a job's cost will be, empty of tables and plots; its
        GPUs, and how many of them it takes, less than one for a share; MB, NaN where its inputs are not there yet.
    """
    rows = []
    for record in filter(lambda record: record["output"], map(json.loads, lines)):
        costs = [path for path in record["output"] if path.startswith("results/costs/")]
        gpus = float(record["resources"].get("gpu", 0))
        taken = record["resources"].get("gpu_percent", 100 * gpus) / 100
        memory = pd.to_numeric(record["resources"].get("mem_mb"), errors="coerce")
        rows.append((record["rule"], *(costs or [""]), gpus, taken, record["threads"], memory))
    return pd.DataFrame(rows, columns=["rule", "cost", "gpus", "taken", "threads", "mem_mb"])


def plan_table(jobs: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Return the jobs by rule, with what they will cost if they cost what finished jobs have.

    Args:
        jobs: As :func:`planned_jobs` returns them.
        costs: Of the finished jobs of this folder. Alike are those of a rule and a model or dataset, which their names
            begin with, on as many GPUs.

    Returns:
        Rows by ``rule``: ``jobs``, of which ``measured`` have others like them, and of those ``core_hours``,
        ``gpu_hours`` and ``disk_mb``; and ``mem_mb``, the most that one is given as far as that is known.
    """
    done = costs.assign(first=costs["job"].str.split("/").str[0])
    means = done.groupby(_LIKE)[["seconds", "written_mb"]].mean().reset_index()
    like = jobs.assign(first=jobs["cost"].str.removesuffix(".json").str.split("/").str[3]).merge(
        means, "left", on=_LIKE
    )
    hours = like["seconds"] / 3600
    like = like.assign(core_hours=hours * like["threads"], gpu_hours=hours * like["taken"])
    groups = like.groupby("rule")
    sums = groups[["core_hours", "gpu_hours", "written_mb"]].sum().rename(columns={"written_mb": "disk_mb"})
    counts = groups.agg(jobs=("seconds", "size"), measured=("seconds", "count"), mem_mb=("mem_mb", "max"))
    return counts.join(sums).sort_values(["gpu_hours", "core_hours", "jobs"], ascending=False, kind="stable")


def finished_costs(results: Path) -> pd.DataFrame:
    """Return what the finished jobs of a folder have cost; no rows in an empty one."""
    folder = results / "costs"
    found = read_costs(folder, sorted(folder.rglob("*.json")))
    return found if len(found) else pd.DataFrame(columns=["rule", "job", "seconds", "written_mb", "gpus"], dtype=object)


def shared_results(study: Study, jobs: pd.DataFrame, results: Path) -> pd.DataFrame:
    """Return the finished results that the study needs, by rule, and the studies whose tables hold them.

    Returns:
        ``rule, studies, jobs``: the names of studies joined by commas; empty where none has finished with them.
    """
    files = [
        Path(path)
        for path in sorted({*evaluation_costs(study), *other_costs(study)} - {*jobs["cost"]})
        if Path(path).is_file()
    ]
    if not files:
        return pd.DataFrame(columns=["rule", "studies", "jobs"])
    done = read_costs(results / "costs", files)
    held = [done[["rule", "job"]].assign(studies="")[:0]]
    for table in sorted(results.glob("studies/*/tables/costs.parquet")):
        held.append(pd.read_parquet(table, columns=["rule", "job"]).assign(studies=table.parts[-3]))
    names = pd.concat(held).groupby(["rule", "job"])["studies"].agg(", ".join).reset_index()
    counted = done.merge(names, "left", on=["rule", "job"]).fillna({"studies": ""})
    return counted.groupby(["rule", "studies"]).size().rename("jobs").reset_index()


def downloads(study: Study, jobs: pd.DataFrame) -> tuple[float, int]:
    """Return what models to be downloaded take by their registry entries, MB, and the number of other downloads."""
    kinds = jobs["cost"].str.split("/").str[2]
    places = jobs["cost"].str.removeprefix("results/costs/downloads/").str.removesuffix(".json")
    known = 0.0
    unknown = int((kinds == "sources").sum())
    for place in places[kinds == "downloads"]:
        name, checkpoint = study.downloads()[place]
        weights = study.models[name].parameters if checkpoint else None
        if weights is None:
            unknown += 1
        else:
            known += weights * _BYTES[study.models[name].dtype] / 1e6
    return known, unknown


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:,.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.0f} min" if 60 * hours >= 1 else f"{3600 * hours:.0f} s"


def plan_text(study: Study, table: pd.DataFrame, download: tuple[float, int], shared: pd.DataFrame) -> str:
    """Return a plan as text for a terminal: a row for each rule, and what is to be said besides."""
    lines = [f"{'rule':<26}{'jobs':>7}{'core time':>11}{'GPU time':>10}{'disk':>10}{'memory each':>13}"]
    for rule, row in table.iterrows():
        spent = f"{_time(row['core_hours']):>11}{_time(row['gpu_hours']):>10}{_size(row['disk_mb']):>10}"
        memory = "" if pd.isna(row["mem_mb"]) else _size(row["mem_mb"])
        spent = spent if row["measured"] else f"{'not measured yet':>31}"
        lines.append(f"{rule:<26}{row['jobs']:>7.0f}{spent}{memory:>13}")
    sums = table[["jobs", "measured", "core_hours", "gpu_hours", "disk_mb"]].sum()
    spent = (
        f"{_time(sums['core_hours'])} of cores, {_time(sums['gpu_hours'])} of GPUs, {_size(sums['disk_mb'])} on disk"
    )
    like = f"Of {sums['measured']:.0f} the like has run in this folder: {spent}."
    lines += [
        "",
        f"Study {study.name}: {sums['jobs']:.0f} jobs. {like if sums['measured'] else 'None like them has run here.'}",
        f"Download: {_size(download[0])} by `parameters` of config/models.yaml, and {download[1]} of unknown size.",
    ]
    lines += [study.worst_case()] if study.sweeps else []
    for _, held in shared.iterrows():
        of = f"shared with {held['studies']}" if held["studies"] else "of no finished study"
        lines.append(f"There already: {held['jobs']} of {held['rule']}, {of}.")
    return "\n".join(lines)
