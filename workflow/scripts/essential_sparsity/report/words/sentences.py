"""What a study found, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_age, checkpoint_label, step_of
from essential_sparsity.knees.curves import curves, mean_curve
from essential_sparsity.knees.readings import LEFT, Settings
from essential_sparsity.knees.rules import RULE_NAMES
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE
from essential_sparsity.report.words.headline import finding_rows
from essential_sparsity.report.words.numbers import (
    EPSILON,
    Pair,
    below_first,
    capitalised,
    curve_key,
    ending_text,
    finding_key,
    groups_of,
    knee_text,
    percent,
    records,
    resolution_text,
    rule_text,
    steps_apart,
    subject_of,
    value_text,
)
from essential_sparsity.tables import Row


def _levels(row: Row) -> str:
    """Say which levels enclose a knee, for a sentence: ``70 and 80 %``; empty where no two do."""
    return resolution_text(row).strip("-").replace(" to ", " and ")


def _amount(row: Row) -> str:
    """Say a knee in a sentence: ``15 %``, ``less than 5 %``, ``at least 95 %`` or ``no knee``."""
    words = {"<": "less than", "<=": "at most", ">=": "at least", "none": "no knee"}
    sign, _, number = knee_text(row).partition(" ")
    return f"{words[sign]} {number}".rstrip() if sign in words else knee_text(row)


def finding_sentences(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    differences: pd.DataFrame,
    settings: Settings,
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> list[str]:
    """Say what the tables say, in plain sentences, the knees first.

    Args:
        evaluations: The table of evaluations.
        knees: The table of knees, read from it.
        differences: The table of differences between them.
        settings: The study's ``knees``: ``rules``, the headline's first, and what the first needs.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.
    """
    rows = finding_rows(evaluations, knees, settings.rules[0], method_labels, task_labels)
    levels = {finding_key(axes): mean_curve(frame) for axes, frame in curves(evaluations)}
    open_pairs = _not_told_apart(differences, settings)
    groups = list(groups_of(rows, ["model", "task_name", "checkpoint"]))
    sentences = [_headline_sentence(group, settings) for group in groups if not _at_chance(group)]
    sentences += [_chance_sentence(group) for group in groups if _at_chance(group)]
    for group in _last_checkpoints(groups):
        if not _at_chance(group):
            sentences += _comparison_sentences(group, levels, open_pairs)
    for group in groups_of(rows, ["model", "task_name"]):
        sentences += _emergence_sentences(group, levels, open_pairs)
    sentences += _disagreement_sentences(rows, knees, settings)
    return sentences


def _last_checkpoints(groups: Sequence[list[Row]]) -> list[list[Row]]:
    """Return, for each model and task, the group of its last checkpoint: earlier ones are compared with it instead."""
    last: dict[tuple[str, str], list[Row]] = {}
    for group in groups:
        key = group[0]["model"], group[0]["task_name"]
        if key not in last or checkpoint_age(group[0]["checkpoint"]) > checkpoint_age(last[key][0]["checkpoint"]):
            last[key] = group
    return list(last.values())


def _at_chance(group: Sequence[Row]) -> bool:
    return any(DENSE_AT_CHANCE in row["flags"] for row in group)


def _headline_sentence(group: Sequence[Row], settings: Settings) -> str:
    """Say the knees of all methods on one checkpoint and task."""
    lead = f"{rule_text(settings)} on {group[0]['task']}, "
    return lead + "; ".join([_full_clause(group[0]), *map(_short_clause, group[1:])]) + "."


def _full_clause(row: Row) -> str:
    """Say a method's knee with its model and the dense value."""
    metric = row["metric"]
    seeds = "" if row["seeds"] <= 1 else f"; means of {row['seeds']} seeds"
    dense = f"dense {value_text(row['dense_value'], metric)}{seeds}"
    if pd.isna(row["knee"]):
        return f"{row['method']} has no knee on {subject_of(row)}: {row['flags']} ({metric}, {dense})"
    levels = f" (levels {_levels(row)})" if _levels(row) else ""
    removes = f"{row['method']} removes {_amount(row)}{levels} of the prunable weights of {subject_of(row)}"
    if row["censored"] == LEFT and below_first(row):
        value = value_text(row["value_at_first"], metric)
        return f"{removes}: at {percent(row['first_level'])}, {ending_text(row)}, the {metric} is {value} ({dense})"
    article = "an" if metric[0] in "aeiou" else "a"
    ending = f", {ending_text(row)}," if ending_text(row) else ""
    return f"{removes}{ending} at {article} {metric} of {value_text(row['value_at_knee'], metric)} ({dense})"


def _short_clause(row: Row) -> str:
    """Say a method's knee after another method's has been said in full."""
    if pd.isna(row["knee"]):
        return f"{row['method']} has no knee ({row['flags']})"
    ending = f", {ending_text(row)}" if ending_text(row) else ""
    if row["censored"] == LEFT and below_first(row):
        value = f"{value_text(row['value_at_first'], row['metric'])} there"
    else:
        value = value_text(row["value_at_knee"], row["metric"])
    levels = f"; levels {_levels(row)}" if _levels(row) else ""
    return f"{row['method']} removes {_amount(row)}{ending} ({value}{levels})"


def _chance_sentence(group: Sequence[Row]) -> str:
    row = group[0]
    return (
        f"{subject_of(row)} is at chance on {row['task']} before anything is removed ({row['metric']} "
        f"{value_text(row['dense_value'], row['metric'])}, chance {value_text(row['chance'], row['metric'])}): its "
        f"knees mean nothing."
    )


def _not_told_apart(differences: pd.DataFrame, settings: Settings) -> set[Pair]:
    """Return the pairs of curves whose knees by the headline's rule the test does not tell apart."""
    mine = differences[differences["rule"] == settings.rules[0]]
    undecided = mine[mine["p_adjusted"] > 1 - settings.confidence]
    return {
        frozenset({
            (row["model"], row["checkpoint"], row["task"], row["method"]),
            (row["other_model"], row["other_checkpoint"], row["task"], row["other_method"]),
        })
        for row in records(undecided)
    }  # fmt: skip


def _undecided(one: Row, other: Row, apart: float, open_pairs: set[Pair]) -> str:
    """Say why two knees that lie ``apart`` grid steps from each other cannot be told apart; empty if they can."""
    if abs(apart) < EPSILON:
        return "the knees are the same"
    if abs(apart) <= 1 + EPSILON:
        return "the knees lie within one grid step"
    if frozenset({curve_key(one), curve_key(other)}) in open_pairs:
        return "the test does not tell the knees apart"
    low, high = sorted((one, other), key=lambda row: float(row["knee"]))
    if min(one["seeds"], other["seeds"]) > 1 and low["seed_highest"] >= high["seed_lowest"]:
        return "the knees of the seeds overlap"
    return ""


def _comparison_sentences(
    group: Sequence[Row], levels: Mapping[Any, pd.DataFrame], open_pairs: set[Pair]
) -> list[str]:  # fmt: skip
    """Compare each random method with magnitude in the same scope, or in another where there is none."""
    magnitude = [row for row in group if row["score"] == "magnitude"]
    sentences = []
    for random in (row for row in group if row["score"] == "random"):
        partners = [row for row in magnitude if row["scope"] == random["scope"]] or magnitude
        if partners:
            sentences.append(_comparison(partners[0], random, levels, open_pairs))
    return sentences


def _comparison(magnitude: Row, random: Row, levels: Mapping[Any, pd.DataFrame], open_pairs: set[Pair]) -> str:
    """Say whether magnitude beats random, which one step of the grid does not decide."""
    ours, theirs = levels[curve_key(magnitude)], levels[curve_key(random)]
    where = f"on {magnitude['task']}, {subject_of(magnitude)}"
    pair = f"{_amount(magnitude)} against {_amount(random)}"
    at = _values_at_larger_knee(magnitude, random, ours, theirs)
    names = f"{magnitude['method']} beats {random['method']}"
    if pd.isna(magnitude["knee"]) or pd.isna(random["knee"]):
        return f"Whether {names} {where} cannot be said by knees: {pair}{at}."
    apart = steps_apart(magnitude["knee"], random["knee"], sorted({*ours["sparsity"], *theirs["sparsity"]}))
    if doubt := _undecided(magnitude, random, apart, open_pairs):
        return f"Whether {names} {where} is undecided: {doubt}, {pair}{at}."
    if apart < 0:
        names = f"{magnitude['method']} does not beat {random['method']}"
    return f"{capitalised(names)} {where}: {pair}{at}."


def _values_at_larger_knee(magnitude: Row, random: Row, ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Say both values at the highest level of both curves within the larger knee, or else at the lowest of both."""
    knees = [row["knee"] for row in (magnitude, random) if not pd.isna(row["knee"])]
    shared = sorted({float(s) for s in ours["sparsity"]} & {float(s) for s in theirs["sparsity"]} - {0.0})
    if not shared:
        return ""
    level = max([s for s in shared if s <= max(knees, default=0.0) + EPSILON], default=shared[0])
    values = [
        value_text(float(curve.loc[curve["sparsity"] == level, "value"].iloc[0]), magnitude["metric"])
        for curve in (ours, theirs)
    ]
    return f"; at {percent(level)} the {magnitude['metric']} is {values[0]} against {values[1]}"


def _emergence_sentences(
    group: Sequence[Row], levels: Mapping[Any, pd.DataFrame], open_pairs: set[Pair]
) -> list[str]:  # fmt: skip
    """Compare the last checkpoint with step 0, method by method, where both were evaluated."""
    last = max((row["checkpoint"] for row in group), key=checkpoint_age)
    starts = {row["method_name"]: row for row in group if step_of(row["checkpoint"]) == 0}
    ends = {row["method_name"]: row for row in group if row["checkpoint"] == last}
    pairs = [(starts[name], end) for name, end in ends.items() if name in starts]
    if checkpoint_age(last) == 0 or not pairs:
        return []
    start, end = pairs[0]
    metric, points = end["metric"], [checkpoint_label(row["checkpoint"]) for row in (start, end)]
    lead = f"{end['model']}, {points[1]} against {points[0]} on {end['task']}"
    for row, point in zip((start, end), points, strict=True):
        if DENSE_AT_CHANCE in row["flags"]:
            return [f"{lead}: no comparison, since the dense model is at chance at {point}."]
    dense = " against ".join(value_text(row["dense_value"], metric) for row in (end, start))
    changes = "; ".join(_change(before, after, levels, open_pairs) for before, after in pairs)
    return [f"{lead} (dense {metric} {dense}): {changes}."]


def _change(start: Row, end: Row, levels: Mapping[Any, pd.DataFrame], open_pairs: set[Pair]) -> str:
    """Say whether the knee of a method is higher after pre-training than before it."""
    pair = f"{_amount(end)} against {_amount(start)}"
    lead = f"the knee of {end['method']}"
    if pd.isna(start["knee"]) or pd.isna(end["knee"]):
        return f"{lead} cannot be compared ({pair})"
    grid = sorted({*levels[curve_key(start)]["sparsity"], *levels[curve_key(end)]["sparsity"]})
    apart = steps_apart(end["knee"], start["knee"], grid)
    if doubt := _undecided(start, end, apart, open_pairs):
        return f"a change of {lead} is undecided ({doubt}: {pair})"
    return f"{lead} is {'higher' if apart > 0 else 'lower'} ({pair})"


def _disagreement_sentences(rows: pd.DataFrame, knees: pd.DataFrame, settings: Settings) -> list[str]:
    """Say where the rules lie furthest apart, and how often one finds nothing."""
    rules = list(settings.rules)
    if len(rules) < 2 or rows.empty:
        return []
    mean = knees[knees["seed"].isna()]
    spread = (rows["highest"] - rows["lowest"]).astype(float)
    missing = {rule: int(mean.loc[mean["rule"] == rule, "knee"].isna().sum()) for rule in rules}
    silent = ", ".join(f"{RULE_NAMES.get(r, r)} on {n}" for r, n in missing.items() if n)
    ending = f" No knee, of {len(rows)} curves: {silent}." if silent else ""
    if spread.isna().all():
        return [f"No rule finds a knee.{ending}"]
    if spread.max() < EPSILON:
        return [f"The rules agree on every curve where more than one finds a knee.{ending}"]
    row = records(rows)[int(np.nanargmax(spread))]
    curve = mean[(mean[["model", "checkpoint", "task", "method"]] == list(curve_key(row))).all(axis=1)]
    read = dict(zip(curve["rule"], curve["knee"], strict=True))
    readings = ", ".join(f"{RULE_NAMES.get(r, r)} " + ("none" if pd.isna(read[r]) else percent(read[r])) for r in rules)
    return [
        f"The rules disagree most for {row['method']} on {row['task']}, {subject_of(row)}, by "
        f"{round(100 * float(spread.max()), 1):g} points: {readings}.{ending}"
    ]
