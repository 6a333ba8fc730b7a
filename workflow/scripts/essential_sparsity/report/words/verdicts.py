"""Verdicts in words: what a statistic is of, what it is, and what a study's claims come to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from essential_sparsity.findings.claims import (
    LAST,
    AbruptChange,
    Group,
    KneeDifference,
    MaskSimilarity,
    Of,
    Part,
    RankCorrelation,
    ValueDifference,
    VarianceShare,
    WeightDifference,
)
from essential_sparsity.findings.tables import DOES_NOT_HOLD, HOLDS, UNDECIDED
from essential_sparsity.records import record
from essential_sparsity.report.words.numbers import records
from essential_sparsity.tables import Row

_LABELS = {
    "knee": "knee",
    "slope-ratio": "slope of the loss beyond the knee over that before it",
    "value-difference": "difference of performance",
    "knee-difference": "difference of knees",
    "mask-similarity": "similarity of masks",
    "abrupt-change": "share of the largest jump",
    "weight-statistic-difference": "difference of a statistic of the weights",
    "rank-correlation": "Kendall's tau of difficulty and knee",
    "variance-share": "share in the variance of knees",
}
# Names that a line of a table or a plot has room for; more are counted.
_NAMES = 3


def statistic_text(statistic: str) -> str:
    """Return what a reader calls a statistic."""
    return _LABELS[statistic]


def subject_text(written: str, methods: Mapping[str, str], tasks: Mapping[str, str]) -> str:
    """Say what a statistic is of: ``bert-base, global magnitude, SST-2``, or of two things how they differ.

    Args:
        written: The column ``of`` of the table of findings.
        methods: What a method is called, by its name in the registry.
        tasks: What a task is called, by its name in the registry.
    """
    of = record(Of, json.loads(written))
    if isinstance(of, ValueDifference | KneeDifference | WeightDifference):
        one = _axes(of.one, methods, tasks)
        at = of.column if isinstance(of, WeightDifference) else ""
        if isinstance(of, ValueDifference):
            at = _at(of.levels, of.over)
        if of.other is None:
            return _joined([f"{_joined(one.values())} minus dense", at])
        other = _axes(of.other, methods, tasks)
        own = [[text for key, text in side.items() if one.get(key) != other.get(key)] for side in (one, other)]
        common = [text for key, text in one.items() if other.get(key) == text]
        return _joined([f"{_joined(own[0]) or 'the same'} minus {_joined(own[1]) or 'the same'}", *common, at])
    if isinstance(of, VarianceShare):
        return f"the {of.factor}, among the study's curves"
    if isinstance(of, AbruptChange):
        return _joined([models_text(of.models), of.column, "all weights" if of.matrix == "all" else of.matrix])
    parts = list(_axes(of, methods, tasks).values())
    if isinstance(of, MaskSimilarity):
        parts += [" and ".join(methods.get(m, m) for m in of.methods), _at(of.levels)]
    if isinstance(of, RankCorrelation):
        parts += [methods.get(of.method, of.method), f"{len(of.difficulty)} tasks"]
    return _joined(parts)


def models_text(names: Sequence[str]) -> str:
    """Name a group of models: ``3 x bert-mini`` where they differ by a number at the end, or one after the other."""
    stems = {re.sub(r"-\d+$", "", name) for name in names}
    if len(names) > 1 and len(stems) == 1:
        return f"{len(names)}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}{stems.pop()}"
    return ", ".join(names) if len(names) <= _NAMES else f"{names[0]} and {len(names) - 1} more"


def _axes(group: Group, methods: Mapping[str, str], tasks: Mapping[str, str]) -> dict[str, str]:
    found = {"models": models_text(group.models)}
    if group.checkpoint != LAST:
        found["checkpoint"] = group.checkpoint
    if isinstance(group, Part):
        found |= {"method": methods.get(group.method, group.method), "task": tasks.get(group.task, group.task)}
    return found


def _at(levels: Sequence[float] | str, over: str = "mean") -> str:
    if isinstance(levels, str):
        where = "up to the knee"
    elif len(levels) <= _NAMES:
        where = "at " + ", ".join(f"{100 * level:g} %" for level in levels)
    else:
        where = f"at {len(levels)} levels"
    return f"worst {where}" if over == "worst" else where


def _joined(parts: Any) -> str:
    return ", ".join(filter(None, parts))


def number_text(value: float) -> str:
    """Write a number with three digits; what has no bound as ``unbounded``."""
    if math.isinf(value):
        return "unbounded" if value > 0 else "-unbounded"
    return f"{float(f'{value:.3g}') + 0.0:g}"


def estimate_text(row: Row) -> str:
    """Write an estimate with its interval: ``7.9 (3.1 to 20)``, ``none``, ``0.4 (no interval)``."""
    if pd.isna(row["estimate"]):
        return "none"
    bounds = interval_text(row)
    return f"{number_text(row['estimate'])} ({bounds or 'no interval'})"


def interval_text(row: Row) -> str:
    """Write the interval of an estimate: ``3.1 to 20``, ``3.1 or more``; empty if there is none."""
    low, high = row["ci_low"], row["ci_high"]
    if pd.isna(low) or pd.isna(high):
        return ""
    if math.isinf(high):
        return f"{number_text(low)} or more" if math.isfinite(low) else "anything"
    return f"{number_text(low)} to {number_text(high)}" if math.isfinite(low) else f"{number_text(high)} or less"


def verdicts_sentence(findings: pd.DataFrame) -> str:
    """Count a study's verdicts: ``Of 4 claims 2 hold, 1 does not hold and 1 is undecided.``; empty without claims."""
    n, claims = len(findings), findings["finding"].nunique()
    if n == 0:
        return ""
    subject = _counted(n, "claim") if n == claims else f"{_counted(n, 'test')} of {_counted(claims, 'claim')}"
    counts = findings["verdict"].value_counts()
    words = {HOLDS: ("holds", "hold"), DOES_NOT_HOLD: ("does not hold", "do not hold"),
             UNDECIDED: ("is undecided", "are undecided")}  # fmt: skip
    parts = [
        f"{counts[key]} {one if counts[key] == 1 else many}" for key, (one, many) in words.items() if key in counts
    ]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"Of {subject} {listed}."


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def verdict_lines(findings: pd.DataFrame, methods: Mapping[str, str], tasks: Mapping[str, str]) -> Sequence[str]:
    """Return a line for each finding's claim and one for each of its statistics, for a terminal."""
    lines = []
    for name, rows in findings.groupby("finding", sort=False):
        lines.append(f"{name}: {rows['claim'].iloc[0]}")
        for row in records(rows):
            subject = subject_text(row["of"], methods, tasks)
            doubt = f"; {row['flags']}" if row["verdict"] == UNDECIDED and row["flags"] else ""
            lines.append(
                f"  {row['verdict']}: {statistic_text(row['statistic'])} of {subject}: {estimate_text(row)}, "
                f"holds {row['holds_where']}{doubt}"
            )
    return lines
