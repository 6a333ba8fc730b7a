"""A knee in words says what its row says: where it lies, how sure that is, what it saves and what it costs."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

import frames
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE
from essential_sparsity.report.words import knees as knee_words
from essential_sparsity.report.words.headline import finding_rows
from essential_sparsity.report.words.knees import Size

ROW: dict[str, Any] = {
    "knee": 0.274, "censored": "none", "ci_low": 0.251, "ci_high": 0.29, "grid_low": 0.25, "grid_high": 0.3,
    "first_level": 0.05, "last_level": 0.9, "flags": "", "metric": "accuracy", "dense_value": 0.85,
    "value_at_knee": 0.833, "value_at_first": 0.7,
}  # fmt: skip
MISSING = {"ci_low": math.nan, "ci_high": math.nan, "grid_low": math.nan, "grid_high": math.nan}
NO_KNEE = {**MISSING, "knee": math.nan, "value_at_knee": math.nan, "flags": "fewer than 3 levels"}
LEFT = {**MISSING, "knee": 0.02, "censored": "left"}
RIGHT = {**MISSING, "knee": 0.9, "censored": "right"}


@pytest.mark.parametrize(
    ("change", "point", "doubt"),
    [
        ({}, "27.4 %", "95 % interval 25.1 to 29 %, between the levels 25 and 30 %"),
        (MISSING, "27.4 %", ""),
        ({"grid_low": math.nan}, "27.4 %", "95 % interval 25.1 to 29 %"),
        (RIGHT, "at least 90 %", "the last level tried"),
        (LEFT, "less than 5 %", "the first level tried"),
        ({**RIGHT, "ci_low": 0.8, "ci_high": 0.9}, "at least 90 %", "the last level tried, 95 % interval from 80 % on"),
        (NO_KNEE, "none", "fewer than 3 levels"),
    ],
)
def test_a_knee_is_said_with_what_is_known_of_it(change: dict[str, Any], point: str, doubt: str) -> None:
    row = {**ROW, **change}
    assert knee_words.point_text(row) == point
    assert knee_words.doubt_text(row, 0.95) == doubt


def test_the_level_of_the_interval_is_the_study_s() -> None:
    assert knee_words.doubt_text(ROW, 0.9).startswith("90 % interval")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        # 0.274 x 100 million of 160 million weights, two bytes each.
        ({}, "27.4 million weights\n17.1 % of the model, 55 MB"),
        (RIGHT, "at least 90 million weights\n56.2 % of the model, 180 MB"),
        (LEFT, "-"),
        (NO_KNEE, "-"),
    ],
)
def test_what_a_knee_saves(change: dict[str, Any], text: str) -> None:
    assert knee_words.saved_text({**ROW, **change}, Size(100_000_000, 160_000_000)) == text


def test_nothing_is_said_to_be_saved_of_a_model_whose_size_is_not_known() -> None:
    assert knee_words.saved_text(ROW, None) == "-"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "-1.7 points\n83.3 % against 85.0 %"),
        ({"value_at_knee": 0.8499}, "+0.0 points\n85.0 % against 85.0 %"),
        (LEFT, "-15.0 points at 5 %\n70.0 % against 85.0 %"),
        ({"metric": "perplexity", "dense_value": 26.0, "value_at_knee": 29.1}, "+3.1\n29.1 against 26.0"),
        (
            {"metric": "masked_loss", "dense_value": 2.0, "value_at_knee": 2.04},
            "+0.040 nats\n2.040 nats against 2.000 nats",
        ),
        ({"metric": "matthews", "dense_value": 0.5, "value_at_knee": 0.4}, "-0.100\n0.400 against 0.500"),
        (NO_KNEE, "-"),
        ({"dense_value": math.nan}, "-"),
    ],
)  # fmt: skip
def test_what_is_lost_at_a_knee(change: dict[str, Any], text: str) -> None:
    assert knee_words.lost_text({**ROW, **change}) == text


def test_sizes_are_counted_off_shapes_once_a_tensor() -> None:
    common = {"model": "m", "checkpoint": "final", "method": "a", "seed": 0}
    tensors = [("w", "3x4", True), ("embedding", "10x4", False), ("scale", "", False)]
    rows = [
        {**common, "sparsity": s, "name": name, "shape": shape, "pruned": pruned}
        for s in (0.1, 0.2)
        for name, shape, pruned in tensors
    ]
    assert knee_words.model_sizes(pd.DataFrame(rows)) == {"m": Size(prunable=12, whole=12 + 40 + 1)}


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999"), (1_500, "1.5 thousand"), (21_740_000, "21.7 million"), (1.25e9, "1.25 billion")]
)
def test_counts(count: float, text: str) -> None:
    assert knee_words.count_text(count) == text


# --- the answer -----------------------------------------------------------------------------------------------------


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    """Return headline rows that differ from :data:`ROW`."""
    common = {
        "model": "m", "checkpoint": "final", "task": "plots", "task_name": "t", "method": "global magnitude",
        "chance": 0.5, "rounds": None,
    }  # fmt: skip
    return pd.DataFrame([{**ROW, **common, **change} for change in changes])


def answer(*changes: dict[str, Any]) -> str:
    return knee_words.answer_sentence(rows(*changes), frames.SETTINGS)


def test_the_answer_is_the_best_method_of_the_last_checkpoint() -> None:
    text = answer(
        {"checkpoint": "step000000", "knee": 0.9, "method": "early"},
        {"checkpoint": "step003000", "knee": 0.1, "method": "worse"},
        {"checkpoint": "step003000"},
    )
    assert text == (
        "At 2 % tolerance, global magnitude can remove 27.4 % (95 % interval 25.1 to 29 %, between the levels 25 and "
        "30 %) of the prunable weights of m (step 3,000) in one shot before it breaks on plots."
    )


def test_an_answer_that_took_rounds_is_not_called_one_shot() -> None:
    text = answer({"rounds": '{"levels":[0.3],"task":"t"}'}, {"knee": 0.1})
    assert "in rounds of training and pruning before it breaks" in text and "one shot" not in text


def test_a_second_task_follows_and_more_are_counted() -> None:
    second = {"task": "reviews", "task_name": "u", "knee": 0.5, **MISSING}
    assert answer({}, second).endswith("; for reviews it is 50 %.")
    third = {"model": "n", "task_name": "v"}
    assert answer({}, second, third).endswith("; the table has 2 more pairs of model and task.")


def test_the_answer_without_a_knee_gives_the_reason() -> None:
    assert answer(NO_KNEE) == "At 2 % tolerance, no method has a knee on m (final) for plots (fewer than 3 levels)."


def test_nothing_is_answered_of_a_model_at_chance() -> None:
    flagged = {"flags": DENSE_AT_CHANCE}
    assert answer(flagged) == "m (final) is at chance before anything is removed, so its knees mean nothing."
    assert "27.4 %" in answer({**flagged, "task_name": "u", "knee": 0.9}, {}) and "90" not in answer(
        {**flagged, "task_name": "u", "knee": 0.9}, {}
    )


def test_a_study_of_the_dense_model_alone_has_no_answer() -> None:
    empty = pd.DataFrame(columns=["model", "task_name", "checkpoint"])
    assert knee_words.answer_sentence(empty, frames.SETTINGS) == "Nothing was evaluated but the dense model."


def test_the_answer_of_the_default_study_is_one_sentence_with_an_interval() -> None:
    found = finding_rows(frames.evaluations(), frames.knees(), "tolerance", frames.METHOD_LABELS, frames.TASK_LABELS)
    text = knee_words.answer_sentence(found, frames.SETTINGS)
    assert text.count("interval") == 2 and text.endswith(".") and ". " not in text
