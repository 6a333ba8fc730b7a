"""Metrics: their values against formulas and references, the scale on which they are compared, and what chance is."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.errors import UserError
from essential_sparsity.metrics.registry import (
    KINDS,
    METRICS,
    at_chance,
    chance_of,
    check_metric,
    compute_metric,
    metric_of,
    performance,
    value_of,
)
from essential_sparsity.metrics.squad import gold_answers, gold_label
from reference_metrics import reference_metric

WHERE = "model m, task t"
CORRELATIONS = ("matthews", "pearson", "spearman")
MEANS_OF_SCORES = ("accuracy_norm", "squad_f1")
OF_LOSSES = ("perplexity", "word_perplexity", "masked_loss")
# What GLUE's tasks call their classes.
WORDS = np.array(["no", "yes"])


def examples(count: int, /, **columns: Any) -> pd.DataFrame:
    """Examples whose ids are not their row numbers; the columns that are not given are null."""
    empty = {"group": "", "label": "", "prediction": "", "score": np.nan, "loss": np.nan, "n": 1}
    return pd.DataFrame({"id": np.arange(count) + 500, **empty, **columns})


def of_classes(labels: Any, predictions: Any) -> pd.DataFrame:
    return examples(len(labels), label=WORDS[np.array(labels)], prediction=WORDS[np.array(predictions)])


def of_numbers(labels: Any, predictions: Any) -> pd.DataFrame:
    written = [[repr(float(v)) for v in values] for values in (labels, predictions)]
    return examples(len(labels), label=written[0], prediction=written[1])


def valid(metric: str, n: int = 12) -> pd.DataFrame:
    """Examples that the metric accepts."""
    labels = np.arange(n) % 2
    if metric in ("pearson", "spearman"):
        return of_numbers(np.arange(n), np.arange(n) ** 2 % 7)
    if metric == "exact_match":
        return examples(n, label=[gold_label(["a river"])] * n, prediction=["river", "sea"] * (n // 2))
    if metric in MEANS_OF_SCORES:
        return examples(n, score=labels.astype(float))
    if metric in OF_LOSSES:
        return examples(n, loss=1.0 + labels, n=1 + labels)
    return of_classes(labels, np.arange(n) % 3 % 2)


def value(metric: str, frame: pd.DataFrame) -> float:
    return compute_metric(metric, frame, WHERE, positive="yes").value


# Two labels and predictions for each example, at least one of each label.
binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


# --- values against formulas ----------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(binary)
def test_metrics_of_two_classes_are_those_of_the_four_counts(pairs: list[tuple[int, int]]) -> None:
    tp, fp, fn, tn = (sum(pair == (label, said) for pair in pairs) for label, said in [(1, 1), (0, 1), (1, 0), (0, 0)])
    frame = of_classes(*zip(*pairs, strict=True))
    assert value("accuracy", frame) == pytest.approx((tp + tn) / len(pairs))
    assert value("f1", frame) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0
    assert value("matthews", frame) == pytest.approx(expected, abs=1e-12)


def test_f1_is_of_the_class_that_is_named() -> None:
    frame = of_classes([1, 1, 1, 0], [1, 1, 0, 0])
    assert compute_metric("f1", frame, WHERE, positive="yes").value == pytest.approx(4 / 5)
    assert compute_metric("f1", frame, WHERE, positive="no").value == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_classes_are_those_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    draw = np.random.default_rng(seed)
    labels = draw.choice(["entailment", "neutral", "contradiction"], 300)
    predictions = np.where(draw.random(300) < 0.4, labels, draw.choice(["entailment", "neutral"], 300))
    frame = examples(300, label=labels, prediction=predictions)
    assert value("accuracy", frame) == pytest.approx(accuracy_score(labels, predictions))
    assert value("matthews", frame) == pytest.approx(matthews_corrcoef(labels, predictions))


@pytest.mark.parametrize("seed", range(5))
def test_correlations_of_numbers_are_those_of_the_formula(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 26, 200) / 5  # as STS-B: many ties
    predictions = labels + draw.normal(scale=2, size=200).round(1)

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        x, y = x - x.mean(), y - y.mean()
        return float((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()))

    def ranks(x: np.ndarray) -> np.ndarray:
        # The mean rank of those that are equal: how many are less, plus half of how many are equal.
        return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])

    frame = of_numbers(labels, predictions)
    assert value("pearson", frame) == pytest.approx(correlation(labels, predictions))
    assert value("spearman", frame) == pytest.approx(correlation(ranks(labels), ranks(predictions)))


def test_numbers_by_hand() -> None:
    assert value("pearson", of_numbers([1, 2, 3], [1, 3, 2])) == pytest.approx(0.5)
    assert value("spearman", of_numbers([1, 2, 3, 4], [10, 1000, 100, 10000])) == pytest.approx(0.8)
    # 3 of 4 positives found, 1 false alarm of 2: (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2).
    assert value("matthews", of_classes([1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0])) == pytest.approx(0.25)
    # Documents of 2 and 6 words, with 3 and 1 nats a word: 12 nats for 8 words.
    frame = examples(2, loss=[3.0, 1.0], n=[2, 6])
    assert value("masked_loss", frame) == pytest.approx(1.5)
    assert value("word_perplexity", frame) == value("perplexity", frame) == pytest.approx(math.exp(1.5))
    assert value("perplexity", examples(1, loss=[1e4])) == math.inf


def test_an_answer_matches_where_it_is_one_of_the_gold_ones_or_there_is_none() -> None:
    golds = [["The Sea", "a river"], ["x"], [], [], ["the"]]
    frame = examples(5, label=[gold_label(g) for g in golds], prediction=["sea!", "y", "", "z", ""])
    assert value("exact_match", frame) == pytest.approx(3 / 5)


def test_a_metric_of_lm_eval_alone_is_the_mean_of_its_scores() -> None:
    assert value("bleu_max", examples(4, score=[1.0, 0.0, 0.5, 0.5])) == pytest.approx(0.5)
    assert metric_of("bleu_max").higher_is_better


@pytest.mark.parametrize("metric", MEANS_OF_SCORES)
def test_means_of_scores(metric: str) -> None:
    assert value(metric, examples(4, score=[1.0, 0.0, 0.5, 0.5])) == pytest.approx(0.5)


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_the_examples_does_not_matter(metric: str) -> None:
    frame = valid(metric)
    shuffled = frame.sample(frac=1, random_state=1)
    assert value(metric, shuffled) == pytest.approx(value(metric, frame))


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_survives_a_file(metric: str, tmp_path: Path) -> None:
    frame = valid(metric)
    frame.to_parquet(tmp_path / "e.parquet")
    assert value(metric, pd.read_parquet(tmp_path / "e.parquet")) == value(metric, frame)


# --- values against `evaluate` --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", ["mrpc", "qqp", "cola", "stsb", "rte"])
def test_metrics_are_those_of_glue(task: str, seed: int) -> None:
    reference = reference_metric("glue", task)
    draw = np.random.default_rng(seed)
    if task == "stsb":
        labels = draw.integers(0, 26, 500) / 5
        predictions = labels + draw.normal(size=500)
        frame, names = of_numbers(labels, predictions), {"pearson": "pearson", "spearman": "spearmanr"}
    else:
        labels = draw.integers(0, 2, 500)
        predictions = np.where(draw.random(500) < 0.7, labels, 1 - labels)
        names = {"accuracy": "accuracy", "f1": "f1"} if task in ("mrpc", "qqp") else {"accuracy": "accuracy"}
        names = {"matthews": "matthews_correlation"} if task == "cola" else names
        frame = of_classes(labels, predictions)
    expected = reference.compute(predictions=predictions, references=labels)
    assert set(expected) == set(names.values())
    for ours, theirs in names.items():
        # STS-B's numbers are rounded to float32 there.
        assert value(ours, frame) == pytest.approx(expected[theirs], rel=1e-6 if task == "stsb" else 1e-12)


# --- what is not defined, and what failed ---------------------------------------------------------------------------


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_a_model_that_answers_every_example_alike_has_no_correlation(metric: str) -> None:
    frame = valid(metric).assign(prediction="1.5" if metric != "matthews" else "yes")
    found = compute_metric(metric, frame, WHERE)
    assert found.value == 0.0
    assert len(found.notes) == 1
    assert "counts as 0" in found.notes[0]
    assert compute_metric(metric, valid(metric), WHERE).notes == ()


def test_of_one_prediction_scikit_learn_says_0_and_scipy_nan() -> None:
    """Why the value of such a correlation is 0 here: the references do not agree."""
    from scipy.stats import ConstantInputWarning, pearsonr
    from sklearn.metrics import matthews_corrcoef

    assert matthews_corrcoef([0, 1, 1], [1, 1, 1]) == 0
    with pytest.warns(ConstantInputWarning):
        assert math.isnan(pearsonr([0, 1, 2], [1, 1, 1]).statistic)


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_labels_that_are_all_alike_are_refused(metric: str) -> None:
    frame = valid(metric).assign(label="1.0")
    with pytest.raises(UserError, match=r"one label, 1\.0, in all 12 examples"):
        compute_metric(metric, frame, WHERE)


COLUMNS = {
    **dict.fromkeys(("accuracy", "f1", "matthews"), ("label", "prediction")),
    **dict.fromkeys(("pearson", "spearman"), ("label", "prediction")),
    **dict.fromkeys(MEANS_OF_SCORES, ("score",)),
    "exact_match": ("label",),
    **dict.fromkeys(OF_LOSSES, ("loss",)),
}


@pytest.mark.parametrize(("metric", "column"), [(m, c) for m, columns in COLUMNS.items() for c in columns])
def test_what_failed_is_no_number(metric: str, column: str) -> None:
    assert set(COLUMNS) == set(METRICS)
    bad: list[Any] = [None]
    if column in ("label", "prediction"):
        bad += [""]
    if metric in ("pearson", "spearman"):
        bad += ["nan", "inf", "-inf", "three"]
    if column in ("score", "loss"):
        bad += [math.nan, math.inf]
    for wrong in bad:
        frame = valid(metric).astype({column: object} if isinstance(wrong, str) else {})
        frame.loc[3, column] = wrong
        with pytest.raises(UserError) as caught:
            compute_metric(metric, frame, WHERE, positive="yes")
        assert caught.value.where == f"{WHERE}, example 503"
        assert column in caught.value.found


@pytest.mark.parametrize("metric", METRICS)
def test_missing_columns_and_missing_examples_are_refused(metric: str) -> None:
    for column in COLUMNS[metric]:
        with pytest.raises(UserError, match=f"examples without `{column}`"):
            compute_metric(metric, valid(metric).drop(columns=column), WHERE, positive="yes")
    with pytest.raises(UserError, match="no examples"):
        compute_metric(metric, valid(metric).iloc[:0], WHERE, positive="yes")


@pytest.mark.parametrize("metric", MEANS_OF_SCORES)
def test_scores_in_per_cent_are_refused(metric: str) -> None:
    with pytest.raises(UserError, match=r"example 501: found a score of 50;.*divide per cent by 100"):
        value(metric, examples(2, score=[0.0, 50.0]))


def test_f1_needs_two_classes_and_the_positive_one() -> None:
    frame = of_classes([1, 0, 1], [1, 1, 0])
    with pytest.raises(UserError, match="no positive class named"):
        compute_metric("f1", frame, WHERE)
    with pytest.raises(UserError, match="positive class 'Yes', and the classes 'no', 'yes'"):
        compute_metric("f1", frame, WHERE, positive="Yes")
    with pytest.raises(UserError, match="expected two classes"):
        compute_metric("f1", frame.assign(prediction=["yes", "no", "maybe"]), WHERE, positive="yes")
    with pytest.raises(UserError, match="examples of the positive one"):
        compute_metric("f1", of_classes([0, 0], [1, 0]), WHERE, positive="yes")


def test_losses_of_no_predictions_are_refused() -> None:
    with pytest.raises(UserError, match="0 predictions behind the losses"):
        value("perplexity", examples(2, loss=[1.0, 2.0], n=[0, 0]))


# --- the scale ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_performance_is_higher_where_the_metric_is_better(metric: str) -> None:
    worse_to_better = np.array([0.1, 0.5, 0.9]) if METRICS[metric].higher_is_better else np.array([900.0, 50.0, 1.0])
    assert (np.diff(performance(worse_to_better, metric)) > 0).all()
    np.testing.assert_allclose(value_of(performance(worse_to_better, metric), metric), worse_to_better)


@pytest.mark.parametrize("metric", ["perplexity", "word_perplexity"])
def test_perplexity_becomes_minus_the_nats_of_a_token(metric: str) -> None:
    nats = np.array([0.0, 1.5, 10.0])
    np.testing.assert_allclose(performance(np.exp(nats), metric), -nats)


def test_nats_stay_nats() -> None:
    np.testing.assert_array_equal(performance(np.array([2.5, 7.0]), "masked_loss"), [-2.5, -7.0])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "squad_f1"])
def test_fractions_and_correlations_stay_as_they_are(metric: str) -> None:
    np.testing.assert_array_equal(performance(np.array([0.25, 0.75]), metric), [0.25, 0.75])


def test_only_perplexities_and_losses_are_better_the_lower() -> None:
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == set(OF_LOSSES)


# --- chance ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(binary)
def test_chance_is_what_the_best_constant_answer_gets(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    for metric in ("accuracy", "f1", "matthews"):
        constant = [value(metric, of_classes(labels, np.full(len(labels), answer))) for answer in (0, 1)]
        chance = chance_of(metric, of_classes(labels, labels)["label"], WHERE, positive="yes")
        assert chance == pytest.approx(max(constant))


def test_chance_of_numbers_is_no_correlation() -> None:
    for metric in ("pearson", "spearman"):
        assert chance_of(metric, valid(metric)["label"], WHERE) == 0.0


@pytest.mark.parametrize("metric", ["exact_match", "squad_f1"])
def test_chance_of_questions_is_the_share_without_an_answer(metric: str) -> None:
    labels = pd.Series([gold_label(answers) for answers in (["a 'b'"], [], ['c "d"', "é"], [])])
    assert chance_of(metric, labels, WHERE) == 0.5
    assert chance_of(metric, labels[[0, 2]], WHERE) == 0.0
    with pytest.raises(UserError, match="a list of gold answers"):
        chance_of(metric, pd.Series(["Denver Broncos"]), WHERE)


@given(st.lists(st.text()))
def test_gold_answers_survive_their_label(answers: list[str]) -> None:
    assert gold_answers(gold_label(answers), WHERE) == answers


@pytest.mark.parametrize("metric", [*OF_LOSSES, "accuracy_norm"])
def test_chance_that_labels_do_not_say_is_not_made_up(metric: str) -> None:
    with pytest.raises(ValueError, match="labels do not say"):
        chance_of(metric, pd.Series(["", ""]), WHERE)


@pytest.mark.parametrize("metric", ["accuracy", "accuracy_norm", "exact_match", "squad_f1"])
def test_accuracy_at_chance_is_within_two_standard_errors_of_the_majority(metric: str) -> None:
    chance, n = 0.6, 400
    error = math.sqrt(0.6 * 0.4 / 400)
    assert at_chance(0.6, chance, n, metric)
    assert at_chance(0.3, chance, n, metric)
    assert at_chance(0.6 + 1.99 * error, chance, n, metric)
    assert not at_chance(0.6 + 2.01 * error, chance, n, metric)


def test_more_examples_make_a_small_gain_believable() -> None:
    for metric in ("accuracy", "f1"):
        assert at_chance(0.55, 0.5, 100, metric)
        assert not at_chance(0.55, 0.5, 10_000, metric)
    for metric in CORRELATIONS:
        assert at_chance(0.15, 0.0, 100, metric)
        assert not at_chance(0.15, 0.0, 10_000, metric)


@pytest.mark.parametrize("metric", ["perplexity", "word_perplexity"])
def test_perplexity_at_chance_is_an_even_guess_over_the_vocabulary(metric: str) -> None:
    assert at_chance(50_000.0, 50_000.0, 10, metric)
    assert not at_chance(49_999.0, 50_000.0, 10, metric)
    assert at_chance(math.inf, 50_000.0, 10, metric)


def test_a_loss_at_chance_is_that_of_an_even_guess() -> None:
    chance = math.log(50_000)
    assert at_chance(chance, chance, 10, "masked_loss")
    assert not at_chance(chance - 1e-3, chance, 10, "masked_loss")


def test_answering_one_question_is_more_than_answering_none() -> None:
    assert at_chance(0.0, 0.0, 1000, "exact_match")
    assert not at_chance(0.001, 0.0, 1000, "exact_match")


@pytest.mark.parametrize("metric", METRICS)
def test_nan_is_neither_at_chance_nor_above_it(metric: str) -> None:
    with pytest.raises(ValueError, match="NaN"):
        at_chance(math.nan, 0.5, 10, metric)


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_predictions_that_know_nothing_are_at_chance_as_often_as_the_normal_law_says(metric: str) -> None:
    draw, n, found = np.random.default_rng(0), 200, 0
    for _ in range(400):
        if metric == "matthews":
            frame = of_classes(draw.binomial(1, 0.7, n), draw.binomial(1, 0.4, n))
        else:
            frame = of_numbers(draw.normal(size=n), draw.normal(size=n))
        found += at_chance(value(metric, frame), 0.0, n, metric)
    # 97.7 % lie below two standard errors; of 400 draws the share has a standard error of 0.7 %.
    assert 0.95 < found / 400 < 0.998


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_a_correlation_at_chance_is_within_two_standard_errors_of_none(metric: str) -> None:
    assert at_chance(1.99 / math.sqrt(400), 0.0, 400, metric)
    assert at_chance(-0.9, 0.0, 400, metric)
    assert not at_chance(2.01 / math.sqrt(400), 0.0, 400, metric)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.68])
def test_the_margin_of_f1_is_two_standard_errors_of_the_constant_answer(share: float) -> None:
    positives = np.random.default_rng(0).binomial(400, share, size=20_000) / 400
    of_constant = 2 * positives / (1 + positives)
    chance = 2 * share / (1 + share)
    assert at_chance(chance + 1.9 * of_constant.std(), chance, 400, "f1")
    assert not at_chance(chance + 2.1 * of_constant.std(), chance, 400, "f1")


# --- which metric fits which task -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_fits_the_kinds_that_it_names(kind: str) -> None:
    fitting = {name for name, metric in METRICS.items() if kind in metric.kinds}
    assert fitting
    for name in METRICS:
        if name in fitting:
            check_metric(name, kind, "tasks.t")
            continue
        with pytest.raises(UserError) as caught:
            check_metric(name, kind, "tasks.t")
        assert caught.value.where == "tasks.t.metric"
        assert f"'{name}', which does not fit" in caught.value.found
        assert all(f"'{other}'" in caught.value.expected for other in fitting)


def test_every_metric_fits_a_kind_that_exists() -> None:
    for name, metric in METRICS.items():
        assert metric.kinds, name
        assert set(metric.kinds) <= set(KINDS), name


def test_a_misspelt_metric_is_named_with_what_was_meant() -> None:
    with pytest.raises(UserError, match=r"tasks\.cola\.metric: found 'mathews'.*write 'matthews' instead"):
        check_metric("mathews", "classes", "tasks.cola")


def test_reading_the_registry_loads_nothing_heavy(root: Path) -> None:
    heavy = {"torch", "sklearn", "scipy", "transformers"}
    check = f"import sys, essential_sparsity.metrics; print(*{heavy} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", check], cwd=root / "workflow" / "scripts", capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
