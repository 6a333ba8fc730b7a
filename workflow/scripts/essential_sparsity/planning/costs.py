"""What the jobs of a study cost, from the file that each leaves as it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from essential_sparsity.tables import Schema, number, text


def read_costs(folder: Path, files: Iterable[Path]) -> pd.DataFrame:
    """Read the files of jobs, whose path below ``folder`` is the kind of result and then the job's wildcards.

    Returns:
        Rows of the table of costs.
    """
    rows = []
    for file in files:
        job = file.relative_to(folder).with_suffix("").parts[1:]
        cost = json.loads(file.read_text(encoding="utf-8"))
        rule = cost.pop("rule")
        cost = {name: math.nan if value is None else float(value) for name, value in cost.items()}
        load = 100 * cost["cpu_seconds"] / cost["seconds"] if cost["seconds"] > 0 else math.nan
        rows.append({"rule": rule, "job": "/".join(job), **cost, "mean_load": load})
    return pd.DataFrame(rows)


def stage_times(costs: pd.DataFrame) -> str:
    """Return the time of every rule as a table for a terminal: jobs, and seconds of all of them together."""
    sums = costs.groupby("rule")["seconds"].agg(["size", "sum", "max"]).sort_values("sum", ascending=False)
    lines = [f"{'stage':<22}{'jobs':>6}{'job seconds':>13}{'longest':>9}"]
    lines += [f"{rule:<22}{row['size']:>6.0f}{row['sum']:>13.0f}{row['max']:>9.0f}" for rule, row in sums.iterrows()]
    lines.append(f"{'all stages':<22}{len(costs):>6}{costs['seconds'].sum():>13.0f}{costs['seconds'].max():>9.0f}")
    return "\n".join(lines) + "\n"


COSTS = Schema(
    "costs",
    {
        "rule": text(description="The rule of the job."),
        "job": text(description="The job's wildcards, joined by slashes."),
        "seconds": number(description="Wall time of the whole job, start-up included."),
        "cpu_seconds": number(nullable=True, description="CPU time of the job's processes."),
        "max_rss_mb": number(nullable=True, description="Peak resident memory, MB (10^6 bytes)."),
        "mean_load": number(nullable=True, description="CPU use, per cent of one core."),
        "read_mb": number(nullable=True, description="Read from disk, MB."),
        "written_mb": number(nullable=True, description="Written to disk, MB."),
        "planned_seconds": number(nullable=True, description="Wall time that the job was given (`runtime`)."),
        "planned_mb": number(nullable=True, description="Memory that the job was given (`mem_mb`), MB."),
        "gpus": number(nullable=True, description="GPUs that the job was given."),
    },
    unique=["rule", "job"],
)
