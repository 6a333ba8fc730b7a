"""A knee in words: where it lies, how sure that is, what it saves and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from essential_sparsity.checkpoints.steps import checkpoint_age, checkpoint_label
from essential_sparsity.knees.readings import LEFT, RIGHT, Settings
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE, metric_of
from essential_sparsity.report.words.numbers import (  # fmt: skip
    below_first,
    ending_text,
    interval_text,
    percent,
    records,
    resolution_text,
    rule_text,
    value_text,
)
from essential_sparsity.tables import Row

# Bytes of a weight in the formats that models are published in today: float16 and bfloat16.
BYTES_OF_A_WEIGHT = 2

_DASH = "-"


@dataclass(frozen=True)
class Size:
    """How large a model is, in weights.

    Attributes:
        prunable: The weights that sparsity counts.
        whole: All weights of the checkpoint, embeddings included.
    """

    prunable: int
    whole: int


def model_sizes(layers: pd.DataFrame) -> dict[str, Size]:
    """Return the size of every model that was pruned, counted off the shapes of its tensors.

    Args:
        layers: The table of layers; every mask lists all tensors of its model.
    """
    tensors = layers.drop_duplicates(["model", "name"])
    sizes = tensors["shape"].map(lambda shape: math.prod(map(int, filter(None, shape.split("x")))))
    whole = sizes.groupby(tensors["model"]).sum()
    prunable = sizes.where(tensors["pruned"], 0).groupby(tensors["model"]).sum()
    return {str(model): Size(int(prunable[model]), int(whole[model])) for model in whole.index}


def point_text(row: Row) -> str:
    """Write where a knee lies: ``27.4 %``, ``less than 5 %``, ``at least 90 %`` or ``none``.

    Args:
        row: A row of :func:`report.words.headline.finding_rows`.
    """
    if pd.isna(row["knee"]):
        return "none"
    if row["censored"] == LEFT:
        return f"less than {percent(row['first_level'])}" if below_first(row) else f"at most {percent(row['knee'])}"
    return f"at least {percent(row['knee'])}" if row["censored"] == RIGHT else percent(row["knee"])


def doubt_text(row: Row, confidence: float) -> str:
    """Write how sure a knee is: its interval, the levels it lies between, or why it is only a bound; empty if unknown.

    Args:
        row: A row of :func:`report.words.headline.finding_rows`.
        confidence: The level of the intervals, such as 0.95.
    """
    if pd.isna(row["knee"]):
        return str(row["flags"])
    ending = ending_text(row)
    parts = [ending] if ending else []
    # Of a knee before the first level the interval would be that of a line between two levels.
    if (bounds := interval_text(row)) != _DASH:
        parts.append(f"{percent(confidence)} interval {bounds}")
    if (between := resolution_text(row)) != "-":
        parts.append(f"between the levels {between.replace(' to ', ' and ')}")
    return ", ".join(parts)


def saved_text(row: Row, size: Size | None) -> str:
    """Write what a knee saves: weights, and below them their share of the whole model and their room at 16 bits.

    Args:
        row: A row of :func:`report.words.headline.finding_rows`.
        size: The model's size; None where no mask of it is known.
    """
    if size is None or pd.isna(row["knee"]) or (row["censored"] == LEFT and below_first(row)):
        return _DASH
    removed = float(row["knee"]) * size.prunable
    least = "at least " if row["censored"] == RIGHT else ""
    megabytes = removed * BYTES_OF_A_WEIGHT / 1e6
    room = f"{megabytes:,.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"
    return f"{least}{count_text(removed)} weights\n{percent(removed / size.whole)} of the model, {room}"


def lost_text(row: Row) -> str:
    """Write what is lost at a knee, and below it the two values; at the first level where the knee is below that.

    Args:
        row: A row of :func:`report.words.headline.finding_rows`.
    """
    metric = str(row["metric"])
    below = row["censored"] == LEFT and below_first(row)
    value = row["value_at_first"] if below else row["value_at_knee"]
    if pd.isna(row["knee"]) or pd.isna(value) or pd.isna(row["dense_value"]):
        return _DASH
    values = f"{value_text(value, metric)} against {value_text(row['dense_value'], metric)}"
    where = f" at {percent(row['first_level'])}" if below else ""
    return f"{change_text(value - row['dense_value'], metric)}{where}\n{values}"


def change_text(change: float, metric: str) -> str:
    """Write a change of a metric with its sign: ``-1.2 points``, ``+3.1``, ``+0.120 nats``."""
    unit = metric_of(metric).unit
    if unit == "fraction":
        return f"{_signed(100 * change, 1)} points"
    if unit in ("correlation", "nats"):
        return f"{_signed(change, 3)}{' nats' if unit == 'nats' else ''}"
    return _signed(change, 1) if abs(change) < 100 else f"{change:+,.0f}" if abs(change) < 1e7 else f"{change:+.1e}"


def _signed(value: float, digits: int) -> str:
    # Plus zero, so that what rounds to zero has no minus.
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def count_text(count: float) -> str:
    """Write a number of weights with three digits: ``21.7 million``, ``1.2 billion``."""
    for size, name in ((1e9, " billion"), (1e6, " million"), (1e3, " thousand")):
        if count >= size:
            return f"{float(f'{count / size:.3g}'):g}{name}"
    return f"{count:.0f}"


# --- the answer -----------------------------------------------------------------------------------------------------


def last_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last checkpoint of each model and task."""
    ages = rows["checkpoint"].map(checkpoint_age)
    last = ages.groupby([rows["model"], rows["task_name"]]).transform("max")
    return rows[ages == last]


def answer_sentence(rows: pd.DataFrame, settings: Settings) -> str:
    """Answer the study's question in one sentence: the largest knee after pre-training, with its interval.

    It is that of the first model and task; a second pair follows in a clause, and more are counted.

    Args:
        rows: What :func:`report.words.headline.finding_rows` returns.
        settings: The study's ``knees``.
    """
    if rows.empty:
        return "Nothing was evaluated but the dense model."
    groups = [records(group) for _, group in last_rows(rows).groupby(["model", "task_name"], sort=False)]
    sound = [group for group in groups if not any(DENSE_AT_CHANCE in row["flags"] for row in group)]
    if not sound:
        names = "its" if len(groups) == 1 else "their"
        subject = _subject(groups[0][0]) if len(groups) == 1 else "Every model"
        return f"{subject} is at chance before anything is removed, so {names} knees mean nothing."
    best = [_best(group) for group in sound]
    clauses = [_answer(best[0], settings)]
    if len(best) == 2:
        clauses.append(_further(best[1], best[0], settings))
    elif len(best) > 2:
        clauses.append(f"the table has {len(best) - 1} more pairs of model and task")
    return "; ".join(clauses) + "."


def _best(group: list[Row]) -> Row:
    return max(group, key=lambda row: -1.0 if pd.isna(row["knee"]) else float(row["knee"]))


def _subject(row: Row) -> str:
    return f"{row['model']} ({checkpoint_label(row['checkpoint'])})"


def _sure(row: Row, settings: Settings) -> str:
    doubt = doubt_text(row, settings.confidence)
    return f" ({doubt})" if doubt else ""


def _answer(row: Row, settings: Settings) -> str:
    lead = rule_text(settings)
    if pd.isna(row["knee"]):
        return f"{lead}, no method has a knee on {_subject(row)} for {row['task']}{_sure(row, settings)}"
    knee = f"{point_text(row)}{_sure(row, settings)} of the prunable weights of {_subject(row)}"
    way = "in one shot" if pd.isna(row["rounds"]) else "in rounds of training and pruning"
    return f"{lead}, {row['method']} can remove {knee} {way} before it breaks on {row['task']}"


def _further(row: Row, first: Row, settings: Settings) -> str:
    where = row["task"] if row["model"] == first["model"] else f"{_subject(row)} on {row['task']}"
    if pd.isna(row["knee"]):
        return f"for {where} there is no knee{_sure(row, settings)}"
    method = "" if row["method"] == first["method"] else f" by {row['method']}"
    return f"for {where} it is {point_text(row)}{method}{_sure(row, settings)}"
