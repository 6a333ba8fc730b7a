"""The tables of the report: finished texts, a row a curve, a comparison, a rule of the workflow or a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_label
from essential_sparsity.knees.rules import RULE_NAMES
from essential_sparsity.report.words.knees import Size, doubt_text, last_rows, lost_text, point_text, saved_text
from essential_sparsity.report.words.numbers import interval_text, percent, range_text, records, resolution_text
from essential_sparsity.report.words.verdicts import estimate_text, statistic_text, subject_text
from essential_sparsity.tables import Row

# What a first screen has room for; further rows follow below.
FIRST_ROWS = 6
# A page with more rows is read by nobody; the files hold all.
SHOWN_DIFFERENCES = 200
SHOWN_CURVES = 1000


@dataclass(frozen=True)
class Table:
    """A table of finished texts.

    Attributes:
        columns: The headings.
        rows: One text a column; what follows a line break is set small.
        numeric: The columns to set flush right.
        note: What was left out; empty if nothing was.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    note: str = ""


def headline_tables(rows: pd.DataFrame, sizes: Mapping[str, Size], confidence: float) -> tuple[Table, Table]:
    """Return the table of the first screen, and the one with all other curves.

    The first holds curves of the last checkpoints, the best of every model and task before any second one.

    Args:
        rows: What :func:`report.words.headline.finding_rows` returns.
        sizes: The size of every model.
        confidence: The level of the intervals, such as 0.95.
    """
    last = last_rows(rows)
    places = last.groupby(["model", "task_name"], sort=False).cumcount()
    chosen = sorted(places.sort_values(kind="stable").index[:FIRST_ROWS])
    common = common_flags(rows["flags"])
    note = f"Of every curve: {'; '.join(common)}." if common else ""
    first, others = rows.loc[chosen], rows.drop(index=chosen)
    left = len(others) - SHOWN_CURVES
    more = f"{left:,} further curves are in the table knees.parquet of the study." if left > 0 else ""
    return (
        _headline(first, sizes, confidence, common, note),
        _headline(others.head(SHOWN_CURVES), sizes, confidence, common, more),
    )


def common_flags(flags: Iterable[str]) -> tuple[str, ...]:
    """Return the flags that all curves of several have, which a reader is told once."""
    split = [_flags(text) for text in flags]
    return tuple(flag for flag in split[0] if all(flag in others for others in split)) if len(split) > 1 else ()


def _flags(text: str) -> list[str]:
    return text.split("; ") if text else []


def _headline(
    rows: pd.DataFrame, sizes: Mapping[str, Size], confidence: float, common: Sequence[str], note: str = ""
) -> Table:
    flags = [_own_flags(row, common) for row in records(rows)]
    # A column that says nothing takes the room of those that do.
    flagged = any(flags)
    columns = ("Model", "Task", "Method", "Knee", "Saved", "Lost", *(["Flags"] if flagged else []))
    texts = tuple(
        (
            f"{row['model']} ({checkpoint_label(row['checkpoint'])})", str(row["task"]), str(row["method"]),
            f"{point_text(row)}\n{doubt_text(row, confidence)}".strip(), saved_text(row, sizes.get(row["model"])),
            lost_text(row), *([own] if flagged else []),
        )
        for row, own in zip(records(rows), flags, strict=True)
    )  # fmt: skip
    return Table(columns, texts, note=note)


def _own_flags(row: Row, common: Sequence[str]) -> str:
    """Return the flags of a curve that not all have; none where they say why there is no knee, beside the knee."""
    return "" if pd.isna(row["knee"]) else "; ".join(flag for flag in _flags(row["flags"]) if flag not in common)


def knees_table(
    knees: pd.DataFrame,
    rules: Sequence[str],
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> Table:
    """Return the knees of the mean curves by every rule with their intervals, a row a curve.

    Args:
        knees: The table of knees.
        rules: The study's rules, the headline's first.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.
    """
    mean, single = knees[knees["seed"].isna()], knees[knees["seed"].notna() & (knees["rule"] == rules[0])]
    axes = ["model", "task", "checkpoint", "method"]
    spread = single.groupby(axes)["knee"].agg(["min", "max", "size"]).reset_index()
    ranges = {tuple(row[axis] for axis in axes): row for row in records(spread)}
    seeded = any(row["size"] > 1 for row in ranges.values())
    names = tuple(_capital(RULE_NAMES.get(rule, rule)) for rule in rules)
    texts = []
    groups = list(mean.groupby(axes, sort=False))
    common = common_flags(mean["flags"])
    for key, part in groups[:SHOWN_CURVES]:
        model, task, checkpoint, method = map(str, key)
        read = {row["rule"]: row for row in records(part)}
        remarks = [
            flag for flag in dict.fromkeys(f for flags in part["flags"] for f in _flags(flags)) if flag not in common
        ]
        texts.append((
            model, checkpoint_label(checkpoint), task_labels.get(task, task), method_labels.get(method, method),
            *(_reading(read[rule]) if rule in read else "-" for rule in rules),
            *([_seeds(ranges[model, task, checkpoint, method])] if seeded else []), "; ".join(remarks),
        ))  # fmt: skip
    columns = ("Model", "Checkpoint", "Task", "Method", *names, *(["Over seeds"] if seeded else []), "Remarks")
    left = len(groups) - len(texts)
    notes = [f"{left:,} further curves are in the table knees.parquet of the study."] if left else []
    notes += [f"Of every curve: {'; '.join(common)}."] if common else []
    return Table(columns, tuple(texts), frozenset({*names, "Over seeds"}), " ".join(notes))


def _reading(row: Row) -> str:
    """Write one rule's knee, or where it is censored; below it its interval and the levels that enclose it."""
    if pd.isna(row["knee"]):
        return "none"
    sign = {"left": "<= ", "right": ">= "}.get(row["censored"], "")
    # Before the first level the crossing is interpolated from the dense model: only the level is known.
    place = row["grid_high"] if row["censored"] == "left" and not pd.isna(row["grid_high"]) else row["knee"]
    interval = interval_text(row).replace("-", "")
    between = resolution_text(row)
    below = [interval, "" if between == "-" else f"levels {between}"]
    return f"{sign}{percent(place)}\n{'; '.join(filter(None, below))}".strip()


def _seeds(row: Row) -> str:
    return f"{range_text(row['min'], row['max'])} ({row['size']:.0f})" if row["size"] > 1 else "-"


def differences_table(
    differences: pd.DataFrame,
    rule: str,
    confidence: float,
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> Table:
    """Return the differences of knees by one rule, the surest first.

    Args:
        differences: The table of differences.
        rule: The rule of the headline.
        confidence: The level of the intervals; a difference is told apart where its adjusted p is below the rest.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.
    """
    mine = differences[differences["rule"] == rule]
    mine = mine.assign(size=mine["difference"].abs()).sort_values(
        ["p_adjusted", "size"], ascending=[True, False], kind="stable", na_position="last"
    )
    texts = []
    for row in records(mine.head(SHOWN_DIFFERENCES)):
        one, other, where = _sides(row, method_labels)
        texts.append((
            where, task_labels.get(row["task"], row["task"]), one, other, _difference(row), _p_value(row["p_adjusted"]),
            verdict_text(row, confidence, one, other),
        ))  # fmt: skip
    left = len(mine) - len(texts)
    note = f"{left:,} further comparisons, less sure, are in the table differences.parquet of the study."
    columns = ("Of", "Task", "Knee of", "minus that of", "Difference (points)", "Adjusted p", "In words")
    return Table(columns, tuple(texts), frozenset({"Difference (points)", "Adjusted p"}), note if left > 0 else "")


def _sides(row: Row, method_labels: Mapping[str, str]) -> tuple[str, str, str]:
    """Return what the two sides of a comparison are called, and what they have in common."""
    method, other = (method_labels.get(row[name], row[name]) for name in ("method", "other_method"))
    checkpoint, other_checkpoint = (checkpoint_label(row[name]) for name in ("checkpoint", "other_checkpoint"))
    if row["kind"] == "methods":
        return method, other, f"{row['model']} ({checkpoint})"
    if row["kind"] == "checkpoints":
        return checkpoint, other_checkpoint, f"{row['model']}, {method}"
    return f"{row['model']} ({checkpoint})", f"{row['other_model']} ({other_checkpoint})", method


def verdict_text(row: Row, confidence: float, one: str, other: str) -> str:
    """Say in words what a comparison of two knees shows, and no more.

    Args:
        row: A row of the table of differences.
        confidence: The level, such as 0.95.
        one: What the first side is called.
        other: What the other side is called.
    """
    if pd.isna(row["difference"]):
        return f"cannot be said: {row['flags'] or 'one of the two has no knee'}"
    doubt = f" ({row['flags']})" if row["flags"] else ""
    if pd.isna(row["p_adjusted"]):
        return f"not tested{doubt}"
    if row["p_adjusted"] > 1 - confidence or row["difference"] == 0:
        return f"undecided{doubt}"
    higher, lower = (one, other) if row["difference"] > 0 else (other, one)
    return f"{higher} keeps more than {lower}{doubt}"


def _difference(row: Row) -> str:
    if pd.isna(row["difference"]):
        return "-"
    text = f"{100 * row['difference']:+.1f}"
    if pd.isna(row["ci_low"]) or pd.isna(row["ci_high"]):
        return text
    return f"{text}\n{100 * row['ci_low']:+.1f} to {100 * row['ci_high']:+.1f}"


def verdicts_table(findings: pd.DataFrame, method_labels: Mapping[str, str], task_labels: Mapping[str, str]) -> Table:
    """Return the claims with their verdicts, a row a statistic.

    Args:
        findings: The table of findings.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.
    """
    columns = ("Claim", "Verdict", "Estimate", "Holds", "Statistic", "Seeds", "Remarks")
    texts = tuple(
        (
            f"{row['finding']}\n{row['claim']}", str(row["verdict"]),
            estimate_text(row).replace(" (", "\n(", 1), str(row["holds_where"]),
            f"{_capital(statistic_text(row['statistic']))}\n"
            f"{subject_text(row['of'], method_labels, task_labels)}",
            str(row["n_seeds"]), "; ".join(filter(None, [_diverged(row["diverged"]), row["flags"]])),
        )
        for row in records(findings)
    )  # fmt: skip
    return Table(columns, texts, frozenset({"Seeds"}), _INFINITE if findings["ci_high"].isin([math.inf]).any() else "")


_INFINITE = "Unbounded: no number is too large for the estimate; an interval of so much or more has no upper end."


def _diverged(seeds: str) -> str:
    return f"diverged: {seeds}" if seeds else ""


def _p_value(value: float) -> str:
    return "-" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def costs_table(costs: pd.DataFrame) -> Table:
    """Return time and memory, a row a rule, the longest first, and the total.

    Args:
        costs: The table of costs.
    """
    columns = (
        "Rule", "Jobs", "Total (s)", "A job (s)", "Longest job (s)", "Planned for it (s)", "Peak memory (MB)",
        "Planned memory (MB)",
    )  # fmt: skip
    if costs.empty:
        return Table(columns, (), frozenset(columns[1:]))
    sums = costs.groupby("rule").agg(
        jobs=("job", "size"), total=("seconds", "sum"), mean=("seconds", "mean"), longest=("seconds", "max"),
        planned=("planned_seconds", "max"), peak=("max_rss_mb", "max"), memory=("planned_mb", "max"),
    )  # fmt: skip
    rows = [
        (str(rule), f"{row['jobs']:,.0f}", *(f"{row[key]:,.1f}" for key in ("total", "mean", "longest")),
         *(_whole(row[key]) for key in ("planned", "peak", "memory")))
        for rule, row in sums.sort_values("total", ascending=False).iterrows()
    ]  # fmt: skip
    seconds = costs["seconds"]
    total = (
        "all", f"{len(costs):,}", *(f"{value:,.1f}" for value in (seconds.sum(), seconds.mean(), seconds.max())),
        *(_whole(costs[name].max()) for name in ("planned_seconds", "max_rss_mb", "planned_mb")),
    )  # fmt: skip
    return Table(columns, (*rows, total), frozenset(columns[1:]))


def _whole(number: float) -> str:
    # Snakemake cannot measure a job that ends within a second.
    return "-" if pd.isna(number) else f"{number:,.0f}"


def provenance_table(rows: Iterable[Row]) -> Table:
    """Return where the models came from.

    Args:
        rows: For each model ``model, source, revision, sha256, licence``; a value that is missing becomes a dash.
    """
    keys = ("model", "source", "revision", "sha256", "licence")
    texts = tuple(tuple(str(row.get(key) or "-") for key in keys) for row in rows)
    return Table(("Model", "Source", "Revision", "SHA-256", "Licence"), texts)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
