"""From tables to words and numbers: what a study found, and what it cannot say."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.analysis import headline
from essential_sparsity.knee import LEFT, RIGHT, RULE_NAMES
from essential_sparsity.knee_tolerance import DEFAULT_LOSS
from essential_sparsity.metrics import DENSE_AT_CHANCE, metric_of
from essential_sparsity.tables import curves, mean_curve
from essential_sparsity.trajectory import checkpoint_age, checkpoint_label, step_of

PAPER = "Jaiswal et al. 2023"
SUMMARY_COLUMNS = 110

_AXES = ["model", "checkpoint", "task", "method"]
_CURVE = ["model", "checkpoint", "task_name", "method_name"]
_EPSILON = 1e-9

Row = dict[str, Any]


def finding_rows(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    rule: str,
    method_labels: Mapping[str, str],
    task_labels: Mapping[str, str],
) -> pd.DataFrame:
    """Return the headline: a row a curve, with the knee of the mean curve over the seeds by one rule.

    Args:
        evaluations: The table of evaluations.
        knees: The table of knees, read from it.
        rule: The rule of the headline, the first of the study's ``knees.rules``.
        method_labels: What a method is called, by its name in the registry.
        task_labels: What a task is called, by its name in the registry.

    Returns:
        ``model, checkpoint, task, method, metric, dense_value, knee, grid_low, grid_high, ci_low, ci_high, interval,
        value_at_knee, lowest, highest`` (over the rules), ``seed_lowest, seed_highest`` (over the seeds, by the rule),
        ``censored, flags, seeds, first_level, value_at_first, last_level, score, scope, chance, rounds, task_name,
        method_name``; models and tasks in the order of the evaluations, checkpoints in that of pre-training, the
        largest knee first. Sparsities are fractions.
    """
    found = headline(knees, rule).rename(columns={"task": "task_name", "method": "method_name", "n_seeds": "seeds"})
    own = knees[knees["seed"].notna() & (knees["rule"] == rule)]
    spread = own.groupby(_AXES)["knee"].agg(["min", "max"]).to_dict("index")
    rows: list[Row] = []
    levels = {_key(axes): mean_curve(frame) for axes, frame in curves(evaluations)}
    known = {(row["model"], row["task"], row["method"]): row for row in records(evaluations)}
    for row in records(found):
        key = _curve_key(row)
        curve = levels[key]
        pruned = curve[curve["sparsity"] > 0]
        seeds = spread.get(key, {"min": np.nan, "max": np.nan})
        method = known[row["model"], row["task_name"], row["method_name"]]
        rows.append({
            **row, "task": task_labels.get(row["task_name"], row["task_name"]),
            "method": method_labels.get(row["method_name"], row["method_name"]),
            "seed_lowest": seeds["min"], "seed_highest": seeds["max"], "first_level": pruned["sparsity"].iloc[0],
            "value_at_first": pruned["value"].iloc[0], "last_level": pruned["sparsity"].iloc[-1],
            "score": method["score"], "scope": method["scope"], "chance": method["chance"], "rounds": method["rounds"],
        })  # fmt: skip
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    models, tasks = list(evaluations["model"].unique()), list(evaluations["task"].unique())
    order = frame.assign(
        model=frame["model"].map(models.index), task=frame["task_name"].map(tasks.index),
        age=frame["checkpoint"].map(checkpoint_age), rank=-frame["knee"].astype(float).fillna(-1.0),
        score=frame["score"].astype(str),
    )  # fmt: skip
    order = order.sort_values(["model", "task", "age", "rank", "score", "method_name"])
    return frame.loc[order.index].reset_index(drop=True)


_COLUMNS = [
    "model", "checkpoint", "task", "method", "metric", "dense_value", "knee", "grid_low", "grid_high", "ci_low",
    "ci_high", "interval", "value_at_knee", "lowest", "highest", "seed_lowest", "seed_highest", "censored", "flags",
    "seeds", "first_level", "value_at_first", "last_level", "score", "scope", "chance", "rounds", "task_name",
    "method_name",
]  # fmt: skip


def _key(axes: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return axes["model"], axes["checkpoint"], axes["task"], axes["method"]


# --- numbers in words -----------------------------------------------------------------------------------------------


def percent(fraction: float) -> str:
    """Write a fraction as per cent with at most one decimal: ``15 %``, ``76.3 %``."""
    return f"{round(100 * fraction, 1):g} %"


def value_text(value: float, metric: str) -> str:
    """Write a value of a metric: fractions in per cent, correlations and nats with three decimals."""
    unit = metric_of(metric).unit
    if unit == "fraction":
        return f"{100 * value:.1f} %"
    if unit == "correlation":
        return f"{value:.3f}"
    if unit == "nats":
        return f"{value:.3f} nats"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"


def knee_text(row: Mapping[str, Any]) -> str:
    """Write the knee of a headline row for a table: ``15 %``, ``< 5 %``, ``>= 95 %`` or ``none``."""
    if pd.isna(row["knee"]):
        return "none"
    if row["censored"] == LEFT:
        return f"< {percent(row['first_level'])}" if below_first(row) else f"<= {percent(row['knee'])}"
    return f">= {percent(row['knee'])}" if row["censored"] == RIGHT else percent(row["knee"])


def value_at_knee_text(row: Mapping[str, Any]) -> str:
    """Write the metric at a headline row's knee; a dash where there is no knee, or none among the levels."""
    if pd.isna(row["knee"]) or (row["censored"] == LEFT and below_first(row)):
        return "-"
    return value_text(row["value_at_knee"], row["metric"])


def range_text(lowest: float, highest: float) -> str:
    """Write a range of knees for a table: ``10 to 25 %``; ``none`` where there is no knee."""
    if pd.isna(lowest):
        return "none"
    if percent(lowest) == percent(highest):
        return percent(lowest)
    return f"{percent(lowest).removesuffix(' %')} to {percent(highest)}"


def interval_text(row: Mapping[str, Any]) -> str:
    """Write the interval of a knee: none of one before the first level, after the last its lower bound alone."""
    if pd.isna(row["ci_low"]) or row["censored"] == LEFT:
        return "-"
    if row["censored"] == RIGHT:
        return f"from {percent(row['ci_low'])} on"
    return range_text(row["ci_low"], row["ci_high"])


def rule_text(settings: Mapping[str, Any]) -> str:
    """Write how the headline's knees are read: ``At 2 % tolerance`` or ``By the rule Kneedle``.

    Args:
        settings: The study's ``knees``: ``rules``, the headline's first, and what the first needs.
    """
    rule = settings["rules"][0]
    if rule != "tolerance":
        return f"By the rule {RULE_NAMES.get(rule, rule)}"
    loss = settings.get("loss", DEFAULT_LOSS)
    return "At " + _TOLERANCES[loss].format(share=percent(settings["tolerance"]), points=_points(settings))


_TOLERANCES = {
    "relative": "{share} tolerance",
    "absolute": "a tolerance of {points}",
    "above_chance": "{share} tolerance above chance",
}

_LOSSES = {
    "relative": "{share} relative to the dense model: of accuracy, or of the logarithm of perplexity",
    "absolute": "{points}",
    "above_chance": "{share} of what the dense model has above chance: in accuracy, or in the logarithm of perplexity",
}


def _points(settings: Mapping[str, Any]) -> str:
    """Write an absolute tolerance: ``2 points (of perplexity, 0.02 nats)``."""
    return f"{round(100 * settings['tolerance'], 6):g} points (of perplexity, {settings['tolerance']:g} nats)"


def reading_note(settings: Mapping[str, Any]) -> str:
    """Say how the headline's knees are defined, for the line below their table."""
    if settings["rules"][0] != "tolerance":
        name = RULE_NAMES.get(settings["rules"][0], settings["rules"][0])
        return f"Knees of the mean curve over the seeds by the rule {name}."
    loss = _LOSSES[settings.get("loss", DEFAULT_LOSS)]
    lost = loss.format(share=percent(settings["tolerance"]), points=_points(settings))
    return (
        f"A knee is the sparsity at which the mean curve over the seeds, linearly interpolated between levels, first "
        f"loses more than {lost}."
    )


def resolution_text(row: Mapping[str, Any]) -> str:
    """Write the levels between which a knee by the rule ``tolerance`` lies: ``70 to 80 %``; a dash where none do."""
    if pd.isna(row["grid_low"]) or pd.isna(row["grid_high"]):
        return "-"
    return f"{percent(row['grid_low']).removesuffix(' %')} to {percent(row['grid_high'])}"


def _levels(row: Mapping[str, Any]) -> str:
    """Say which levels enclose a knee, for a sentence: ``70 and 80 %``; empty where no two do."""
    return resolution_text(row).strip("-").replace(" to ", " and ")


def below_first(row: Mapping[str, Any]) -> bool:
    """Say whether a knee lies below the first level that was tried."""
    return bool(row["knee"] < row["first_level"] - _EPSILON)


def _amount(row: Mapping[str, Any]) -> str:
    """Say a knee in a sentence: ``15 %``, ``less than 5 %``, ``at least 95 %`` or ``no knee``."""
    words = {"<": "less than", "<=": "at most", ">=": "at least", "none": "no knee"}
    sign, _, number = knee_text(row).partition(" ")
    return f"{words[sign]} {number}".rstrip() if sign in words else knee_text(row)


def ending_text(row: Mapping[str, Any]) -> str:
    """Say where the levels end before the knee is found; empty where they do not."""
    if row["censored"] == LEFT:
        return "the first level tried" if below_first(row) else "the lowest that these levels can show"
    if row["censored"] == RIGHT:
        last = row["knee"] > row["last_level"] - _EPSILON
        return "the last level tried" if last else "the highest that these levels can show"
    return ""


# --- sentences ------------------------------------------------------------------------------------------------------


def finding_sentences(
    evaluations: pd.DataFrame,
    knees: pd.DataFrame,
    differences: pd.DataFrame,
    settings: Mapping[str, Any],
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
    rows = finding_rows(evaluations, knees, settings["rules"][0], method_labels, task_labels)
    levels = {_key(axes): mean_curve(frame) for axes, frame in curves(evaluations)}
    open_pairs = _not_told_apart(differences, settings)
    groups = list(_groups(rows, ["model", "task_name", "checkpoint"]))
    sentences = [_headline_sentence(group, settings) for group in groups if not _at_chance(group)]
    sentences += [_chance_sentence(group) for group in groups if _at_chance(group)]
    for group in _last_checkpoints(groups):
        if not _at_chance(group):
            sentences += _comparison_sentences(group, levels, open_pairs)
    for group in _groups(rows, ["model", "task_name"]):
        sentences += _emergence_sentences(group, levels, open_pairs)
    sentences += _disagreement_sentences(rows, knees, settings)
    return sentences


def _groups(rows: pd.DataFrame, axes: list[str]) -> Iterator[list[Row]]:
    for _, group in rows.groupby(axes, sort=False):
        yield records(group)


def records(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame as mappings from column to value."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


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


def _subject(row: Row) -> str:
    return f"{row['model']} ({checkpoint_label(row['checkpoint'])})"


def _headline_sentence(group: Sequence[Row], settings: Mapping[str, Any]) -> str:
    """Say the knees of all methods on one checkpoint and task."""
    lead = f"{rule_text(settings)} on {group[0]['task']}, "
    return lead + "; ".join([_full_clause(group[0]), *map(_short_clause, group[1:])]) + "."


def _full_clause(row: Row) -> str:
    """Say a method's knee with its model and the dense value."""
    metric = row["metric"]
    seeds = "" if row["seeds"] <= 1 else f"; means of {row['seeds']} seeds"
    dense = f"dense {value_text(row['dense_value'], metric)}{seeds}"
    if pd.isna(row["knee"]):
        return f"{row['method']} has no knee on {_subject(row)}: {row['flags']} ({metric}, {dense})"
    levels = f" (levels {_levels(row)})" if _levels(row) else ""
    removes = f"{row['method']} removes {_amount(row)}{levels} of the prunable weights of {_subject(row)}"
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
        f"{_subject(row)} is at chance on {row['task']} before anything is removed ({row['metric']} "
        f"{value_text(row['dense_value'], row['metric'])}, chance {value_text(row['chance'], row['metric'])}): its "
        f"knees mean nothing."
    )


def steps_apart(knee: float, other: float, levels: Sequence[float]) -> float:
    """Return by how many steps of a grid a knee lies above another; between levels, in fractions of a step.

    Args:
        knee: A sparsity.
        other: A sparsity.
        levels: The grid, ascending, with 0 for the dense model.
    """
    places = np.arange(len(levels), dtype=float)
    return float(np.interp(knee, levels, places) - np.interp(other, levels, places))


# Two curves, each by model, checkpoint, task and method.
Pair = frozenset[tuple[Any, ...]]


def _not_told_apart(differences: pd.DataFrame, settings: Mapping[str, Any]) -> set[Pair]:
    """Return the pairs of curves whose knees by the headline's rule the test does not tell apart."""
    mine = differences[differences["rule"] == settings["rules"][0]]
    undecided = mine[mine["p_adjusted"] > 1 - settings.get("confidence", 0.95)]
    return {
        frozenset({
            (row["model"], row["checkpoint"], row["task"], row["method"]),
            (row["other_model"], row["other_checkpoint"], row["task"], row["other_method"]),
        })
        for row in records(undecided)
    }  # fmt: skip


def _undecided(one: Row, other: Row, apart: float, open_pairs: set[Pair]) -> str:
    """Say why two knees that lie ``apart`` grid steps from each other cannot be told apart; empty if they can."""
    if abs(apart) < _EPSILON:
        return "the knees are the same"
    if abs(apart) <= 1 + _EPSILON:
        return "the knees lie within one grid step"
    if frozenset({_curve_key(one), _curve_key(other)}) in open_pairs:
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
    ours, theirs = levels[_curve_key(magnitude)], levels[_curve_key(random)]
    where = f"on {magnitude['task']}, {_subject(magnitude)}"
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
    return f"{_capital(names)} {where}: {pair}{at}."


def _values_at_larger_knee(magnitude: Row, random: Row, ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Say both values at the highest level of both curves within the larger knee, or else at the lowest of both."""
    knees = [row["knee"] for row in (magnitude, random) if not pd.isna(row["knee"])]
    shared = sorted({float(s) for s in ours["sparsity"]} & {float(s) for s in theirs["sparsity"]} - {0.0})
    if not shared:
        return ""
    level = max([s for s in shared if s <= max(knees, default=0.0) + _EPSILON], default=shared[0])
    values = [
        value_text(float(curve.loc[curve["sparsity"] == level, "value"].iloc[0]), magnitude["metric"])
        for curve in (ours, theirs)
    ]
    return f"; at {percent(level)} the {magnitude['metric']} is {values[0]} against {values[1]}"


def _curve_key(row: Row) -> tuple[Any, ...]:
    return tuple(row[axis] for axis in _CURVE)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


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
    grid = sorted({*levels[_curve_key(start)]["sparsity"], *levels[_curve_key(end)]["sparsity"]})
    apart = steps_apart(end["knee"], start["knee"], grid)
    if doubt := _undecided(start, end, apart, open_pairs):
        return f"a change of {lead} is undecided ({doubt}: {pair})"
    return f"{lead} is {'higher' if apart > 0 else 'lower'} ({pair})"


def _disagreement_sentences(rows: pd.DataFrame, knees: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """Say where the rules lie furthest apart, and how often one finds nothing."""
    rules = list(settings["rules"])
    if len(rules) < 2 or rows.empty:
        return []
    mean = knees[knees["seed"].isna()]
    spread = (rows["highest"] - rows["lowest"]).astype(float)
    missing = {rule: int(mean.loc[mean["rule"] == rule, "knee"].isna().sum()) for rule in rules}
    silent = ", ".join(f"{RULE_NAMES.get(r, r)} on {n}" for r, n in missing.items() if n)
    ending = f" No knee, of {len(rows)} curves: {silent}." if silent else ""
    if spread.isna().all():
        return [f"No rule finds a knee.{ending}"]
    if spread.max() < _EPSILON:
        return [f"The rules agree on every curve where more than one finds a knee.{ending}"]
    row = records(rows)[int(np.nanargmax(spread))]
    curve = mean[(mean[["model", "checkpoint", "task", "method"]] == list(_curve_key(row))).all(axis=1)]
    read = dict(zip(curve["rule"], curve["knee"], strict=True))
    readings = ", ".join(f"{RULE_NAMES.get(r, r)} " + ("none" if pd.isna(read[r]) else percent(read[r])) for r in rules)
    return [
        f"The rules disagree most for {row['method']} on {row['task']}, {_subject(row)}, by "
        f"{round(100 * float(spread.max()), 1):g} points: {readings}.{ending}"
    ]


# --- departures and summary -----------------------------------------------------------------------------------------


def departures(tasks: Mapping[str, Any]) -> list[str]:
    """Say where a study's tasks depart from the paper, and on how much text a perplexity rests.

    Args:
        tasks: The registry's entries of the tasks that the study evaluates.
    """
    sentences = []
    for name, task in tasks.items():
        label = task.get("label", name)
        if task["protocol"] == "finetune":
            if task.get("freeze"):
                patterns = ", ".join(f"`{pattern}`" for pattern in task["freeze"])
                sentences.append(
                    f"{_capital(label)}: the parameters that match {patterns} are frozen while fine-tuning. This "
                    f"departs from the paper ({PAPER}), which fine-tunes all weights."
                )
            if task.get("head") == "mean_pooling":
                sentences.append(
                    f"{_capital(label)}: the classifier is a linear layer on the mean of the last hidden states. This "
                    f"departs from the paper ({PAPER}), which uses the model's own classifier."
                )
        elif task["protocol"] == "perplexity" and task["windows"] is not None:
            part = (
                f"the first {task['windows'] * task['window']:,} tokens ({task['windows']:,} windows of "
                f"{task['window']:,})"
                if task["metric"] == "perplexity"
                else f"the first {task['windows']:,} texts"
            )
            sentences.append(f"{_capital(label)}: perplexity is computed on {part}, not on all of the data.")
    return sentences


def evaluation_notes(evaluations: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Say what the evaluations of a task note, such as how many texts were cut; each note once for a model.

    Args:
        evaluations: The study's table.
        labels: What plots call each task.
    """
    noted = evaluations[evaluations["notes"] != ""]
    return [
        f"{_capital(labels.get(str(task), str(task)))}, {model}: {note}."
        for (task, model), rows in noted.groupby(["task", "model"], sort=True)
        for note in dict.fromkeys("; ".join(rows["notes"]).split("; "))
    ]


def summary_text(rows: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Return the knees as a table for a terminal, in ASCII but for names, at most 110 columns wide.

    Args:
        rows: What :func:`finding_rows` returns.
        settings: The study's ``knees``: ``rules``, the headline's first, and what the first needs.
    """
    how = rule_text(settings)
    lines = [f"Knees {how[0].lower()}{how[1:]} (range: over {', '.join(settings['rules'])})", ""]
    width = min(28, max([6, *rows["method"].str.len()]))
    interval = f"{percent(settings.get('confidence', 0.95))} interval"
    columns = f"  {'method':<{width}}  {'knee':>9}  {interval:>15}  {'value there':>11}  {'range':>14}  flags"
    for group in _groups(rows, ["model", "task_name", "checkpoint"]):
        first = group[0]
        dense = f"dense {first['metric']} {value_text(first['dense_value'], first['metric'])}"
        lines += textwrap.wrap(f"{_subject(first)} on {first['task']}: {dense}", SUMMARY_COLUMNS)
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
