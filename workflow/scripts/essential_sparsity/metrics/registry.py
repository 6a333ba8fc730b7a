"""The registry of metrics: how each is computed from the examples of an evaluation, its direction, and what chance is.

Studies read this module when they are planned: scikit-learn and SciPy are imported where a metric needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.inference import Floats
from essential_sparsity.metrics import values, weighted
from essential_sparsity.metrics.squad import gold_answers
from essential_sparsity.metrics.values import Value

# What a task predicts: a class, a number, a span of a text, tokens, or one of the choices that each example brings.
KINDS = ("classes", "scores", "spans", "tokens", "choices")

# The flag of a dense model that knows nothing.
DENSE_AT_CHANCE = "dense at chance"


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and read.

    Attributes:
        label: What plots and the report call it.
        unit: ``fraction`` (0 to 1) and ``correlation`` (-1 to 1) are better the higher, ``perplexity`` and ``nats``
            the lower.
        kinds: The kinds of task that it fits, of :data:`KINDS`.
        compute: From examples, the positive class (None where none is named) and a text for messages.
        chance: The metric of the best model that sees no input, from the labels, the positive class and a text for
            messages. None where labels do not say it and the protocol must: an even guess over the vocabulary or the
            choices.
        margin: How far beyond chance a value must lie to be believed, from the chance and the number of examples.
        features: From what ``compute`` takes, the numbers (examples, k) of each example that ``weighted`` reads.
        weighted: The metric of examples that are drawn several times or not at all.
    """

    label: str
    unit: Literal["fraction", "correlation", "perplexity", "nats"]
    kinds: tuple[str, ...]
    compute: Callable[[pd.DataFrame, str | None, str], Value]
    chance: Callable[[pd.Series, str | None, str], float] | None
    margin: Callable[[float, int], float]
    features: Callable[[pd.DataFrame, str | None, str], Floats]
    weighted: weighted.Weighted

    @property
    def higher_is_better(self) -> bool:
        """Its direction."""
        return self.unit in ("fraction", "correlation")

    @property
    def logarithmic(self) -> bool:
        """Whether differences are compared in nats, which of a perplexity is its logarithm."""
        return self.unit == "perplexity"


# --- what users of the registry call --------------------------------------------------------------------------------


def check_metric(metric: str, kind: str, where: str) -> None:
    """Check that a metric exists and fits a task.

    Args:
        metric: Its name.
        kind: What the task predicts, of :data:`KINDS`.
        where: The task's place in the registry, for messages.

    Raises:
        UserError: It does not; names those that do.
    """
    fitting = [name for name, m in METRICS.items() if kind in m.kinds]
    if metric not in fitting:
        known = metric in METRICS
        raise UserError(
            where=f"{where}.metric",
            found=f"'{metric}', {'which does not fit' if known else 'no metric of'} a task that predicts {kind}",
            expected=f"one of {quoted(fitting)}",
            mend="replace it by one of those" if known else did_you_mean(metric, fitting),
        )


def compute_metric(metric: str, examples: pd.DataFrame, where: str, positive: str | None = None) -> Value:
    """Compute a metric from the examples of an evaluation, and from nothing else.

    Args:
        metric: Its name.
        examples: Columns ``id, label, prediction, score, loss, n`` as :class:`~essential_sparsity.outcomes.Outcome`
            has them; a metric reads those that it needs. ``loss`` is the mean over the row's ``n`` predictions (nats).
        where: What is evaluated, for messages.
        positive: The class that F1 is of; other metrics ignore it.

    Raises:
        UserError: There are no examples; a label, prediction, score or loss is missing, or is no finite number where
            one is needed; or the labels do not fit the metric.
    """
    if examples.empty:
        raise UserError(where, "no examples", "at least one", "check the dataset's split")
    return metric_of(metric).compute(examples, positive, where)


def metric_features(metric: str, examples: pd.DataFrame, where: str, positive: str | None = None) -> Floats:
    """Return the numbers of each example (examples, k) that a metric's draws are computed from.

    Args:
        metric: Its name.
        examples: As :func:`compute_metric` takes them.
        where: What is evaluated, for messages.
        positive: The class that F1 is of.

    Raises:
        UserError: As in :func:`compute_metric`.
    """
    return metric_of(metric).features(examples, positive, where)


def weighted_values(metric: str, weights: Floats, features: Floats) -> Floats:
    """Compute a metric of examples that are drawn several times or not at all.

    Args:
        metric: Its name.
        weights: How often each draw has each example (draws, examples).
        features: Of :func:`metric_features`, one array for each evaluation of these examples (curves, examples, k).

    Returns:
        The metric (curves, draws): what :func:`compute_metric` gives of the repeated rows. A correlation that is 0 / 0
        counts as 0, also where a draw has one label alone.
    """
    return metric_of(metric).weighted(weights, features)


def chance_of(metric: str, labels: pd.Series, where: str, positive: str | None = None) -> float:
    """Return the metric of the best model that sees no input.

    Args:
        metric: Its name.
        labels: The column ``label`` of the examples.
        where: What is evaluated, for messages.
        positive: The class that F1 is of.

    Raises:
        UserError: The labels do not fit the metric.
        ValueError: Labels do not say it: chance is then the protocol's to state.
    """
    rule = metric_of(metric).chance
    if rule is None:
        raise ValueError(f"{metric}: labels do not say what chance is")
    return rule(labels, positive, where)


def performance(values: Floats, metric: str) -> Floats:
    """Return values on a scale on which higher is better.

    Minus the logarithm of a perplexity, minus a loss, and other metrics as they are.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if metric_of(metric).logarithmic:
        return -np.log(numbers)
    return numbers if metric_of(metric).higher_is_better else -numbers


def value_of(performances: Floats, metric: str) -> Floats:
    """Return the values whose :func:`performance` is given."""
    numbers = np.asarray(performances, dtype=np.float64)
    if metric_of(metric).logarithmic:
        return np.exp(-numbers)
    return numbers if metric_of(metric).higher_is_better else -numbers


def at_chance(value: float, chance: float, n: int, metric: str) -> bool:
    """Say whether a dense model is no better than one that knows nothing.

    Accuracies and answers: not above chance by two binomial standard errors, so a chance of 0 (every question has an
    answer, and the model that sees nothing gives none) is reached by 0 alone. F1: two standard errors of the F1 of
    always answering the positive class. Correlations: not above 2 / sqrt(n). Perplexities and losses: not below
    chance.

    Raises:
        ValueError: The value is NaN.
    """
    if math.isnan(value):
        raise ValueError(f"{metric}: NaN is neither at chance nor above it")
    margin = metric_of(metric).margin(chance, n)
    return value <= chance + margin if metric_of(metric).higher_is_better else value >= chance - margin


# --- what draws are computed from -----------------------------------------------------------------------------------


def _columns(*columns: npt.ArrayLike) -> Floats:
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _right_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    right = values.texts(examples, "label", where) == values.texts(examples, "prediction", where)
    return _columns(np.ones(len(examples)), right)


def _f1_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    labels, predictions = (values.texts(examples, column, where) == positive for column in ("label", "prediction"))
    return _columns(labels & predictions, predictions, labels)


def _matthews_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    labels, predictions = values.texts(examples, "label", where), values.texts(examples, "prediction", where)
    classes = sorted({*labels, *predictions})
    ones = [column for name in classes for column in (labels == name, predictions == name)]
    return _columns(np.ones(len(examples)), labels == predictions, *ones)


def _pearson_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    # A correlation knows no shift and no scale; sums of squares far from zero would lose digits.
    x, y = (_standardised(values.numbers(examples, column, where)) for column in ("label", "prediction"))
    return _columns(np.ones(len(examples)), x, y, x**2, y**2, x * y)


def _standardised(values: Floats) -> Floats:
    centred = values - values.mean()
    spread = float(np.abs(centred).max())
    return centred / spread if spread > 0 else np.zeros_like(values)


def _spearman_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    return _columns(values.numbers(examples, "label", where), values.numbers(examples, "prediction", where))


def _score_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    return _columns(np.ones(len(examples)), values.numbers(examples, "score", where))


def _exact_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    return _columns(np.ones(len(examples)), values.exactly_right(examples, where))


def _loss_features(examples: pd.DataFrame, positive: str | None, where: str) -> Floats:
    losses, counts = values.numbers(examples, "loss", where), values.numbers(examples, "n", where)
    return _columns(counts, counts * losses)


# --- chance ---------------------------------------------------------------------------------------------------------


def _majority(labels: pd.Series, positive: str | None, where: str) -> float:
    return float(labels.value_counts(normalize=True).max())


def _always_positive(labels: pd.Series, positive: str | None, where: str) -> float:
    """Return the F1 of always answering the positive class, the highest that knows no input: 2p / (1 + p)."""
    values.check_positive(set(labels), set(labels), positive, where)
    share = float((labels == positive).mean())
    return 2 * share / (1 + share)


def _no_correlation(labels: pd.Series, positive: str | None, where: str) -> float:
    return 0.0


def _unanswerable(labels: pd.Series, positive: str | None, where: str) -> float:
    """Return the share of questions that have no answer: what the model that never answers gets."""
    return float(np.mean([not gold_answers(label, where) for label in labels]))


# --- margins of chance ----------------------------------------------------------------------------------------------


def _two_binomial_errors(chance: float, n: int) -> float:
    return 2 * math.sqrt(max(chance * (1 - chance), 0.0) / n)


def _two_errors_of_f1(chance: float, n: int) -> float:
    # F = 2p / (1 + p) of the share p of positive labels: its standard error is that of p, times dF/dp = 2 / (1 + p)^2.
    share = chance / (2 - chance)
    return _two_binomial_errors(share, n) * 2 / (1 + share) ** 2


def _two_errors_of_correlation(chance: float, n: int) -> float:
    # Of independent variables a correlation, and Matthews' coefficient is one, has a standard error of 1 / sqrt(n).
    return 2 / math.sqrt(n)


def _none(chance: float, n: int) -> float:
    return 0.0


# --- the registry ---------------------------------------------------------------------------------------------------

_MEAN, _EXP_MEAN = weighted.of_sums(weighted.mean), weighted.of_sums(weighted.exp_mean)

METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "Accuracy", "fraction", ("classes", "choices"), values.accuracy, _majority, _two_binomial_errors,
        _right_features, _MEAN,
    ),
    # Of a choice by log-likelihood divided by the length of the choice, as lm-evaluation-harness has it.
    "accuracy_norm": Metric(
        "Length-normalised accuracy", "fraction", ("choices",), values.mean_score, None, _two_binomial_errors,
        _score_features, _MEAN,
    ),
    "f1": Metric(
        "F1", "fraction", ("classes",), values.f1, _always_positive, _two_errors_of_f1,
        _f1_features, weighted.of_sums(weighted.f1),
    ),
    "matthews": Metric(
        "Matthews correlation", "correlation", ("classes",), values.matthews, _no_correlation,
        _two_errors_of_correlation, _matthews_features, weighted.of_sums(weighted.matthews),
    ),
    "pearson": Metric(
        "Pearson correlation", "correlation", ("scores",), values.pearson, _no_correlation,
        _two_errors_of_correlation, _pearson_features, weighted.of_sums(weighted.pearson),
    ),
    "spearman": Metric(
        "Spearman correlation", "correlation", ("scores",), values.spearman, _no_correlation,
        _two_errors_of_correlation, _spearman_features, weighted.spearman,
    ),
    # Fractions, where the official scripts and `evaluate` report per cent.
    "exact_match": Metric(
        "Exact match", "fraction", ("spans",), values.exact_match, _unanswerable, _two_binomial_errors,
        _exact_features, _MEAN,
    ),
    "squad_f1": Metric(
        "F1 of answers", "fraction", ("spans",), values.mean_score, _unanswerable, _two_binomial_errors,
        _score_features, _MEAN,
    ),
    "perplexity": Metric(
        "Token perplexity", "perplexity", ("tokens",), values.exp_mean_loss, None, _none, _loss_features, _EXP_MEAN
    ),
    # The same formula: a row is a document, and what it counts are words.
    "word_perplexity": Metric(
        "Word perplexity", "perplexity", ("tokens",), values.exp_mean_loss, None, _none, _loss_features, _EXP_MEAN
    ),
    "masked_loss": Metric(
        "Loss of masked tokens", "nats", ("tokens",), values.mean_loss, None, _none, _loss_features, _MEAN
    ),
}  # fmt: skip


def metric_of(name: str) -> Metric:
    """Return a metric; of a name that only lm-evaluation-harness knows, the mean of the examples' scores."""
    return METRICS.get(name) or Metric(
        name, "fraction", ("choices",), values.mean_score, None, _two_binomial_errors, _score_features, _MEAN
    )
