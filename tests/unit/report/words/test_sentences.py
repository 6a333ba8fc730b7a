"""Sentences say what the tables say, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

import entries
import frames
from essential_sparsity.evaluation.tables import EVALUATIONS
from essential_sparsity.knees.tables import DIFFERENCES
from essential_sparsity.metrics.registry import DENSE_AT_CHANCE
from essential_sparsity.report.words import numbers
from essential_sparsity.report.words.headline import finding_rows
from essential_sparsity.report.words.notes import departures, evaluation_notes
from essential_sparsity.report.words.sentences import finding_sentences
from essential_sparsity.report.words.summary import summary_text
from essential_sparsity.tables import stack

BERT, GENRE, SMOLLM, PLOTS = frames.BERT, frames.GENRE, frames.SMOLLM, frames.PLOTS


def study(*curves: list[dict[str, Any]]) -> pd.DataFrame:
    """Return evaluations from curves; their common dense rows occur once."""
    rows = pd.DataFrame([row for curve in curves for row in curve])
    axes = ["model", "checkpoint", "method", "sparsity", "task", "seed"]
    return frames.typed(rows.drop_duplicates(axes), EVALUATIONS)


def sentences(evaluations: pd.DataFrame, settings: Any = frames.SETTINGS) -> list[str]:
    return said(evaluations, stack([], DIFFERENCES), settings)


def said(evaluations: pd.DataFrame, differences: pd.DataFrame, settings: Any = frames.SETTINGS) -> list[str]:
    knees = frames.knees(evaluations, settings)
    return finding_sentences(evaluations, knees, differences, settings, frames.METHOD_LABELS, frames.TASK_LABELS)


def accuracy(method: str, dense: float, values: dict[float, float], checkpoint: str = "final", **other: Any) -> Any:
    return frames.curve_rows(BERT, checkpoint, method, GENRE, dense, values, **other)


PLATEAU = {0.3: 0.80, 0.5: 0.80, 0.7: 0.79, 0.8: 0.70, 0.9: 0.60}
EARLY = {0.3: 0.79, 0.5: 0.70, 0.7: 0.65, 0.8: 0.60, 0.9: 0.55}
AT_ONCE = {0.3: 0.70, 0.5: 0.65, 0.7: 0.62, 0.8: 0.60, 0.9: 0.55}


def test_a_knee_is_said_with_its_value_and_the_dense_one() -> None:
    text = sentences(study(accuracy("magnitude-global", 0.8, PLATEAU)))[0]
    assert text == (
        f"At 2 % tolerance on plot or review, global magnitude removes 70.7 % (levels 70 and 80 %) of the prunable "
        f"weights of {BERT} (final) at an accuracy of 78.4 % (dense 80.0 %)."
    )


def test_perplexity_and_several_methods_share_a_sentence() -> None:
    text = sentences(frames.evaluations())[0]
    # The tolerated perplexity is 25.98^1.02 = 27.7: for the first 74 % of a step of 5 %, in logarithms, above 10 %.
    assert "global magnitude removes 13.7 % (levels 10 and 15 %) of the prunable weights" in text
    assert "at a perplexity of 27.7 (dense 26.0)" in text
    assert "layer-wise magnitude removes 11.3 % (27.7; levels 10 and 15 %)" in text
    assert "global random removes less than 5 %, the first level tried (318 there)" in text


def test_left_censored() -> None:
    text = sentences(study(accuracy("magnitude-global", 0.8, AT_ONCE)))[0]
    assert "removes less than 30 % of the prunable weights" in text
    assert "at 30 %, the first level tried, the accuracy is 70.0 % (dense 80.0 %)" in text


def test_right_censored() -> None:
    text = sentences(study(accuracy("magnitude-global", 0.8, {0.5: 0.8, 0.9: 0.8, 0.95: 0.795})))[0]
    assert "removes at least 95 % of the prunable weights" in text and "the last level tried," in text


def test_no_knee() -> None:
    flat = study(accuracy("magnitude-global", 0.8, dict.fromkeys((0.3, 0.5, 0.7), 0.8)))
    text = sentences(flat, replace(frames.SETTINGS, rules=["kneedle", "tolerance"]))[0]
    assert text.startswith("By the rule Kneedle on plot or review, global magnitude has no knee")
    assert "flat curve" in text


def test_a_model_at_chance_is_flagged_and_nothing_is_claimed_of_it() -> None:
    curve = accuracy("magnitude-global", 0.53, dict.fromkeys(PLATEAU, 0.53), "step000000")
    curve[0]["flags"] = DENSE_AT_CHANCE
    texts = sentences(study(curve, accuracy("magnitude-global", 0.8, PLATEAU, "step003000")))
    assert any("(step 0) is at chance on plot or review before anything is removed" in text for text in texts)
    assert any("no comparison, since the dense model is at chance at step 0" in text for text in texts)
    assert not any("(step 0)" in text and "removes" in text for text in texts if "at chance" not in text)
    assert not any("is higher" in text for text in texts)


def comparison(magnitude: dict[float, float], random: dict[float, float]) -> str:
    texts = sentences(
        study(accuracy("magnitude-global", 0.8, magnitude), accuracy("random-global", 0.8, random))
    )  # fmt: skip
    return next(text for text in texts if "beat" in text)


def test_magnitude_beats_random() -> None:
    text = comparison(PLATEAU, EARLY)
    assert text.startswith("Global magnitude beats global random") and "70.7 % against 31.3 %" in text
    assert "at 70 % the accuracy is 79.0 % against 65.0 %" in text


@pytest.mark.parametrize(("adjusted", "beats"), [(0.3, False), (0.001, True)])
def test_what_the_test_does_not_tell_apart_is_undecided(adjusted: float, beats: bool) -> None:
    place = {"model": BERT, "checkpoint": "final", "task": GENRE, "other_model": BERT, "other_checkpoint": "final"}
    row = {
        **place, "kind": "methods", "method": "random-global", "other_method": "magnitude-global", "flags": "",
        "rule": frames.SETTINGS.rules[0], "difference": -0.394, "ci_low": -0.9, "ci_high": 0.1,
        "p_value": adjusted, "p_adjusted": adjusted,
    }  # fmt: skip
    curves = study(accuracy("magnitude-global", 0.8, PLATEAU), accuracy("random-global", 0.8, EARLY))
    texts = said(curves, frames.typed(pd.DataFrame([row]), DIFFERENCES))
    assert any(text.startswith("Global magnitude beats") for text in texts) is beats
    undecided = "is undecided: the test does not tell the knees apart, 70.7 % against 31.3 %"
    assert any(undecided in text for text in texts) is not beats


def test_magnitude_does_not_beat_random() -> None:
    text = comparison(EARLY, PLATEAU)
    assert text.startswith("Global magnitude does not beat global random") and "31.3 % against 70.7 %" in text


@pytest.mark.parametrize(
    ("random", "why"),
    [({**PLATEAU, 0.7: 0.7}, "within one grid step"), (PLATEAU, "the same"), ({**PLATEAU, 0.8: 0.79}, "one grid step")],
)
def test_one_grid_step_is_undecided(random: dict[float, float], why: str) -> None:
    text = comparison(PLATEAU, random)
    assert "is undecided" in text and why in text


def test_overlapping_seeds_are_undecided() -> None:
    curves = []
    for seed, values in enumerate((PLATEAU, {**PLATEAU, 0.5: 0.79, 0.7: 0.788})):
        curves.append(accuracy("magnitude-global", 0.8, values, seed=seed))
    for seed, values in enumerate((AT_ONCE, PLATEAU)):
        curves.append(accuracy("random-global", 0.8, values, seed=seed))
    text = next(text for text in sentences(study(*curves)) if "beats" in text)
    assert "is undecided: the knees of the seeds overlap" in text


def test_methods_of_one_scope_are_compared() -> None:
    text = next(text for text in sentences(frames.evaluations()) if "film plots" in text and "beat" in text)
    assert text.startswith("Global magnitude beats global random") and "13.7 % against less than 5 %" in text


def emergence(start: dict[float, float], end: dict[float, float]) -> str:
    return next(
        text
        for text in sentences(
            study(
                accuracy("magnitude-global", 0.8, start, "step000000"),
                accuracy("magnitude-global", 0.8, end, "step003000"),
            )
        )
        if "step 3,000 against step 0" in text
    )


def test_the_last_checkpoint_is_compared_with_the_first() -> None:
    assert "the knee of global magnitude is higher (70.7 % against less than 30 %)" in emergence(AT_ONCE, PLATEAU)
    assert "the knee of global magnitude is lower (less than 30 % against 70.7 %)" in emergence(PLATEAU, AT_ONCE)
    assert "undecided" in emergence(AT_ONCE, AT_ONCE)


def test_a_single_checkpoint_is_not_compared() -> None:
    assert not any("against step 0" in text for text in sentences(study(accuracy("magnitude-global", 0.8, PLATEAU))))


def test_the_largest_disagreement_of_the_rules_is_said() -> None:
    text = sentences(frames.evaluations())[-1]
    assert "The rules disagree most for global magnitude on plot or review" in text and "(step 0)" in text
    assert "by 81.6 points: tolerance 8.4 %, Kneedle 90 %, two segments none" in text


def test_one_rule_cannot_disagree() -> None:
    settings = replace(frames.SETTINGS, rules=["tolerance"])
    assert not any("disagree" in text for text in sentences(frames.evaluations(), settings))


def test_every_number_of_a_sentence_about_knees_is_in_the_tables() -> None:
    rows = finding_rows(frames.evaluations(), frames.knees(), "tolerance", frames.METHOD_LABELS, frames.TASK_LABELS)
    assert len(rows) == 7
    assert list(rows["method"][:3]) == ["global magnitude", "layer-wise magnitude", "global random"]
    assert (rows["lowest"] <= rows["knee"]).all() and (rows["knee"] <= rows["highest"]).all()
    assert list(rows.loc[rows["model"] == BERT, "checkpoint"].unique()) == ["step000000", "step003000"]
    last = rows[(rows["checkpoint"] == "step003000") & (rows["method"] == "global magnitude")].iloc[0]
    table = frames.knees()
    own = table[(table["checkpoint"] == "step003000") & (table["method"] == "magnitude-global") & table["seed"].notna()]
    own = own[own["rule"] == "tolerance"].sort_values("knee")
    assert own["grid_low"].tolist() == [0.7, 0.8]
    assert (last["seed_lowest"], last["seed_highest"], last["seeds"]) == (*own["knee"], 2)


def test_departures() -> None:
    own = {"freeze": ["embeddings.*"], "head": "mean_pooling"}
    tasks = {
        "a": entries.task(label="plot or review", **own),
        "b": entries.task("perplexity", label="film plots", windows=12, window=512),
        "c": entries.task(label="as the paper", head="sequence_classification"),
    }
    frozen, head, tokens = departures(tasks)
    assert "Plot or review" in frozen and "`embeddings.*`" in frozen
    assert "departs from the paper (Jaiswal et al. 2023)" in frozen and "departs from the paper" in head
    assert "6,144 tokens (12 windows of 512)" in tokens


def test_notes_of_evaluations_are_said_once_for_a_model() -> None:
    evaluations = frames.evaluations().assign(notes="")
    assert evaluation_notes(evaluations, frames.TASK_LABELS) == []
    chosen = evaluations["task"] == frames.PLOTS
    evaluations.loc[chosen, "notes"] = "3 of 9 texts of test cut to 8 tokens; every prediction is a"
    model = evaluations.loc[chosen, "model"].iloc[0]
    label = frames.TASK_LABELS[frames.PLOTS]
    said = evaluation_notes(evaluations, frames.TASK_LABELS)
    assert said == [
        f"{label[0].upper()}{label[1:]}, {model}: {note}."
        for note in ("3 of 9 texts of test cut to 8 tokens", "every prediction is a")
    ]


_SCORES = ("random", "magnitude")


def test_summary_is_a_table_for_a_terminal() -> None:
    labels = {
        **frames.METHOD_LABELS,
        "magnitude-layer": "a method with a name that is far too long for a terminal " * 2,
    }
    rows = finding_rows(frames.evaluations(), frames.knees(), "tolerance", labels, frames.TASK_LABELS)
    text = summary_text(rows, frames.SETTINGS)
    assert max(map(len, text.splitlines())) <= 110
    assert text.isascii()
    assert "Knees at 2 % tolerance (range: over tolerance, kneedle, two-segment)" in text
    own = text[text.index(f"{SMOLLM} (final)") :].splitlines()
    random, magnitude = (next(line for line in own if line.strip().startswith(f"global {x}")) for x in _SCORES)
    assert random.split()[:6] == ["global", "random", "<", "5", "%", "-"], "a line between two levels has no interval"
    row = rows[(rows["model"] == SMOLLM) & (rows["method"] == "global magnitude")].iloc[0]
    low, high = (numbers.percent(float(row[bound])) for bound in ("ci_low", "ci_high"))
    assert f" {low.removesuffix(' %')} to {high} " in magnitude
    assert next(line for line in text.splitlines() if "method" in line).split()[2:5] == ["95", "%", "interval"]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"knee": 0.15, "censored": "none"}, "15 %"),
        ({"knee": 0.763, "censored": "none"}, "76.3 %"),
        ({"knee": 0.0, "censored": "left"}, "< 5 %"),
        ({"knee": 0.05, "censored": "left"}, "<= 5 %"),
        ({"knee": 0.95, "censored": "right"}, ">= 95 %"),
        ({"knee": float("nan"), "censored": "none"}, "none"),
    ],
)
def test_knee_text(row: dict[str, Any], text: str) -> None:
    assert numbers.knee_text({"first_level": 0.05, "last_level": 0.95, **row}) == text


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [(0.8531, "accuracy", "85.3 %"), (26.04, "perplexity", "26.0"), (318.2, "perplexity", "318"),
     (31_200.0, "perplexity", "31,200"), (2.5e9, "perplexity", "2.5e+09"), (26.04, "word_perplexity", "26.0"),
     (0.8531, "squad_f1", "85.3 %"), (-0.0312, "matthews", "-0.031"), (2.5, "masked_loss", "2.500 nats")],
)  # fmt: skip
def test_value_text(value: float, metric: str, text: str) -> None:
    assert numbers.value_text(value, metric) == text
