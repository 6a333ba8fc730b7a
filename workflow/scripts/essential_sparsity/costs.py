"""What jobs cost, from Snakemake's benchmark files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

# Column of the table: key in the benchmark file (https://snakemake.readthedocs.io, "Benchmark rules").
_KEYS = {
    "seconds": "s",
    "cpu_seconds": "cpu_time",
    "max_rss_mb": "max_rss",
    "mean_load": "mean_load",
    "read_mb": "io_in",
    "written_mb": "io_out",
}


def _number(value: Any) -> float:
    """Return a measurement; Snakemake writes ``NA`` or ``-`` for what a very short job left unmeasured."""
    return math.nan if value in {None, "NA", "-"} else float(value)


def read_costs(folder: Path, files: Iterable[Path]) -> pd.DataFrame:
    """Read benchmark files, whose path below ``folder`` is the rule and then the job's wildcards.

    Returns:
        Rows of the table of costs; of a job that ran several times, the last.
    """
    rows = []
    for file in files:
        rule, *job = file.relative_to(folder).with_suffix("").parts
        measured = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
        spent = {column: _number(measured[key]) for column, key in _KEYS.items()}
        rows.append({"rule": rule, "job": "/".join(job), **spent, **_planned(measured.get("resources", {}))})
    return pd.DataFrame(rows)


def _planned(resources: Mapping[str, Any]) -> dict[str, float]:
    """Return what a job was given: Snakemake writes it down where a profile says ``benchmark-extended``."""
    runtime, memory = (_number(resources.get(name)) for name in ("runtime", "mem_mb"))
    return {"planned_seconds": 60 * runtime, "planned_mb": memory}


def stage_times(costs: pd.DataFrame) -> str:
    """Return the time of every rule as a table for a terminal: jobs, and seconds of all of them together."""
    sums = costs.groupby("rule")["seconds"].agg(["size", "sum", "max"]).sort_values("sum", ascending=False)
    lines = [f"{'stage':<22}{'jobs':>6}{'job seconds':>13}{'longest':>9}"]
    lines += [f"{rule:<22}{row['size']:>6.0f}{row['sum']:>13.0f}{row['max']:>9.0f}" for rule, row in sums.iterrows()]
    lines.append(f"{'all stages':<22}{len(costs):>6}{costs['seconds'].sum():>13.0f}{costs['seconds'].max():>9.0f}")
    return "\n".join(lines) + "\n"
