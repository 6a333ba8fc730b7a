"""What a plan says: a table for a terminal, sentences below it, and the same as plain values."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from essential_sparsity.plan import MEASURED, UNKNOWN

_COLUMNS = ("cpu_hours", "gpu_hours", "output_mb", "download_mb")


def by_rule(table: pd.DataFrame) -> pd.DataFrame:
    """Return the sums of a plan's jobs by rule, those that cost most first.

    Returns:
        ``rule, jobs, later, measured, cpu_hours, gpu_hours, mem_mb, output_mb, download_mb``: ``jobs`` are those that
        Snakemake plans, ``later`` the most that can come once checkpoints are done; of both together ``measured`` are
        estimated by jobs like them, ``mem_mb`` is the most that one is given.
    """
    flags = table.assign(jobs=~table["hidden"], later=table["hidden"], measured=table["basis"] == MEASURED)
    groups = flags.groupby("rule")
    sums = groups[["jobs", "later", "measured", *_COLUMNS]].sum()
    sums.insert(5, "mem_mb", groups["mem_mb"].max())
    return sums.sort_values(["gpu_hours", "cpu_hours"], ascending=False, kind="stable").reset_index()


def plan_values(table: pd.DataFrame, shared: pd.DataFrame, wall: tuple[float, float], cores: int) -> dict[str, Any]:
    """Return a plan as plain values, for a file of JSON."""
    rules = by_rule(table)
    unknown = table[table["basis"] == UNKNOWN]
    totals = {name: float(rules[name].sum()) for name in ("jobs", "later", "measured", *_COLUMNS)}
    return {
        "rules": rules.astype(object).where(rules.notna(), None).to_dict("records"),
        "totals": totals,
        "unknown_jobs": len(unknown),
        "wall_hours": {"least": wall[0] / 3600, "most": wall[1] / 3600, "cores": cores},
        "shared": shared.to_dict("records"),
    }


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.0f} min" if 60 * hours >= 1 else f"{3600 * hours:.0f} s"


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:,.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def plan_text(name: str, table: pd.DataFrame, values: dict[str, Any]) -> str:
    """Return a plan as text for a terminal."""
    later = bool(table["hidden"].any())
    head = f"{'rule':<24}{'jobs':>7}" + (f"{'later':>8}" if later else "")
    head += f"{'measured':>10}{'CPU hours':>11}{'GPU hours':>11}{'memory':>10}{'disk':>10}"
    lines = [head]
    for row in [*values["rules"], {"rule": "all rules", "mem_mb": table["mem_mb"].max(), **values["totals"]}]:
        memory = row["mem_mb"]
        memory = "?" if memory is None or math.isnan(memory) else _size(memory)
        line = f"{row['rule']:<24}{row['jobs']:>7.0f}" + (f"{row['later']:>8.0f}" if later else "")
        line += f"{row['measured']:>10.0f}{row['cpu_hours']:>11.2f}{row['gpu_hours']:>11.2f}{memory:>10}"
        lines.append(f"{line}{_size(row['output_mb']):>10}")
    return "\n".join([*lines, "", *_sentences(name, values, later)])


def _sentences(name: str, values: dict[str, Any], later: bool) -> list[str]:
    totals, wall = values["totals"], values["wall_hours"]
    jobs = int(totals["jobs"] + totals["later"])
    if not jobs:
        return [f"Nothing is left to run of the study {name}.", *_sharing(values)]
    lines = [
        f"Study {name}: {int(totals['jobs'])} jobs"
        + (f", and at most {int(totals['later'])} more once checkpoints are done (`later`)." if later else "."),
        f"Time: {_hours(wall['least'])} at least and {_hours(wall['most'])} at most on {wall['cores']} cores, "
        f"if jobs take as long as estimated.",
        f"Disk: {_size(totals['output_mb'])} more at the end, which is its peak: nothing is removed. "
        f"Download: {_size(totals['download_mb'])}.",
        f"Estimates: {int(totals['measured'])} of {jobs} jobs by what jobs like them have cost in this folder, "
        "the others by the sizes of model and task, for orders of magnitude only.",
    ]
    if values["unknown_jobs"]:
        lines.append(
            f"{values['unknown_jobs']} jobs are left out of hours and sizes: nothing says how large their model is. "
            "Give its entry in config/models.yaml `parameters`."
        )
    return lines + _sharing(values)


def _sharing(values: dict[str, Any]) -> list[str]:
    lines = []
    for row in values["shared"]:
        of = f"shared with {row['studies']}" if row["studies"] else "of no finished study"
        lines.append(f"There already: {row['jobs']} of {row['rule']}, {of}.")
    return lines
