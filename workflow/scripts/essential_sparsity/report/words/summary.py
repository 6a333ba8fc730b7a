"""What the terminal says at the end of a run."""

from __future__ import annotations

import textwrap

import pandas as pd

from essential_sparsity.knees.readings import Settings
from essential_sparsity.report.words.numbers import (
    SUMMARY_COLUMNS,
    groups_of,
    interval_text,
    knee_text,
    percent,
    range_text,
    rule_text,
    subject_of,
    value_at_knee_text,
    value_text,
)


def summary_text(rows: pd.DataFrame, settings: Settings) -> str:
    """Return the knees as a table for a terminal, in ASCII but for names, at most 110 columns wide.

    Args:
        rows: What :func:`finding_rows` returns.
        settings: The study's ``knees``: ``rules``, the headline's first, and what the first needs.
    """
    how = rule_text(settings)
    lines = [f"Knees {how[0].lower()}{how[1:]} (range: over {', '.join(settings.rules)})", ""]
    width = min(28, max([6, *rows["method"].str.len()]))
    interval = f"{percent(settings.confidence)} interval"
    columns = f"  {'method':<{width}}  {'knee':>9}  {interval:>15}  {'value there':>11}  {'range':>14}  flags"
    for group in groups_of(rows, ["model", "task_name", "checkpoint"]):
        first = group[0]
        dense = f"dense {first['metric']} {value_text(first['dense_value'], first['metric'])}"
        lines += textwrap.wrap(f"{subject_of(first)} on {first['task']}: {dense}", SUMMARY_COLUMNS)
        lines.append(columns)
        for row in group:
            bounds = interval_text(row)
            line = (
                f"  {_shortened(row['method'], width):<{width}}  {knee_text(row):>9}  {bounds:>15}  "
                f"{value_at_knee_text(row):>11}  {range_text(row['lowest'], row['highest']):>14}  {row['flags']}"
            )
            lines.append(_shortened(line.rstrip(), SUMMARY_COLUMNS))
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
