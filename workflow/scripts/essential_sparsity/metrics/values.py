"""Metrics of the examples of an evaluation, from the columns that each reads.

scikit-learn and SciPy are imported where a metric needs them, since studies read this module when they are planned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.inference import Floats
from essential_sparsity.metrics import weighted
from essential_sparsity.metrics.squad import gold_answers, normalised


@dataclass(frozen=True)
class Value:
    """A metric's value.

    Attributes:
        value: In the metric's own unit; only a perplexity may be infinite, nothing is ever NaN.
        notes: What a reader should know of it.
    """

    value: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if math.isnan(self.value):
            raise ValueError("a metric is NaN though what it is computed from is not")


def accuracy(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return the share of right predictions."""
    labels, predictions = texts(examples, "label", where), texts(examples, "prediction", where)
    # Not by scikit-learn: most jobs need no other metric, and importing it takes longer than all of this.
    return Value(float(np.mean(labels == predictions)))


def f1(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return F1 of the positive class."""
    from sklearn.metrics import f1_score

    labels, predictions = texts(examples, "label", where), texts(examples, "prediction", where)
    check_positive({*labels, *predictions}, set(labels), positive, where)
    return Value(float(f1_score(labels == positive, predictions == positive)))


def matthews(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return Matthews' correlation."""
    from sklearn.metrics import matthews_corrcoef

    labels, predictions = texts(examples, "label", where), texts(examples, "prediction", where)
    if undefined := _undefined(labels, predictions, where):
        return undefined
    return Value(float(matthews_corrcoef(labels, predictions)))


def pearson(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return Pearson's correlation."""
    from scipy.stats import pearsonr

    labels, predictions = numbers(examples, "label", where), numbers(examples, "prediction", where)
    return _undefined(labels, predictions, where) or Value(float(pearsonr(labels, predictions).statistic))


def spearman(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return Spearman's correlation."""
    from scipy.stats import spearmanr

    labels, predictions = numbers(examples, "label", where), numbers(examples, "prediction", where)
    return _undefined(labels, predictions, where) or Value(float(spearmanr(labels, predictions).statistic))


def mean_score(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return the mean of scores between 0 and 1."""
    scores = numbers(examples, "score", where)
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise UserError(
            where=f"{where}, example {examples['id'].to_numpy()[outside][0]}",
            found=f"a score of {scores[outside][0]:g}",
            expected="a fraction between 0 and 1",
            mend="divide per cent by 100",
        )
    return Value(float(scores.mean()))


def exact_match(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return the share of answers that are a gold answer."""
    return Value(float(np.mean(exactly_right(examples, where))))


def exactly_right(examples: pd.DataFrame, where: str) -> list[bool]:
    """Say of each answer whether it is a gold answer."""
    labels, predictions = texts(examples, "label", where), _present(examples, "prediction", where)
    golds = [[normalised(answer) for answer in gold_answers(label, where)] for label in labels]
    return [normalised(given) in (gold or [""]) for given, gold in zip(predictions, golds, strict=True)]


def mean_loss(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return the mean loss of a prediction, in nats."""
    losses, counts = numbers(examples, "loss", where), numbers(examples, "n", where)
    if (counts < 0).any() or not counts.any():
        raise UserError(where, f"{counts.sum():g} predictions behind the losses", "at least one", "check `n`")
    return Value(float(np.average(losses, weights=counts)))


def exp_mean_loss(examples: pd.DataFrame, positive: str | None, where: str) -> Value:
    """Return the perplexity; infinite where it overflows."""
    mean = mean_loss(examples, positive, where).value
    return Value(math.exp(mean) if mean < weighted.LARGEST_EXPONENT else math.inf)


def _undefined(labels: npt.NDArray[Any], predictions: npt.NDArray[Any], where: str) -> Value | None:
    """Return what stands for a correlation that is 0 / 0, and None where it is defined.

    A pruned model that collapses answers every example alike, and its curve must show that. Its answers say nothing of
    the labels: 0, as scikit-learn defines Matthews' coefficient. SciPy, and GLUE's reference with it, gives NaN.

    Raises:
        UserError: The labels are all alike, so that no model can be measured on them.
    """
    if (labels == labels[0]).all():
        raise UserError(
            where=where,
            found=f"one label, {labels[0]}, in all {len(labels)} examples",
            expected="labels that differ, since a correlation is computed with them",
            mend="use a test split with several labels, or another metric",
        )
    if (predictions == predictions[0]).all():
        return Value(0.0, (f"every prediction is {predictions[0]}: the correlation, 0 / 0, counts as 0",))
    return None


def check_positive(classes: set[str], among: set[str], positive: str | None, where: str) -> None:
    """Refuse a positive class that is none of two."""
    if positive not in among or len(classes) > 2:
        raise UserError(
            where=where,
            found=f"{'no positive class named' if positive is None else f'positive class {positive!r}'}, and the "
            f"classes {quoted(sorted(classes)[:10])}",
            expected="two classes, with examples of the positive one",
            mend="name as positive one of the dataset's two classes (in GLUE that of label 1), or use another metric",
        )


def _present(examples: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column without gaps.

    Raises:
        UserError: The column or a value is missing.
    """
    if column not in examples.columns:
        raise UserError(where, f"examples without `{column}`", f"a column `{column}`", "use another metric")
    missing = examples[column].isna().to_numpy()
    if missing.any():
        raise _failed(examples, missing, column, "missing", where)
    return examples[column]


def texts(examples: pd.DataFrame, column: str, where: str) -> npt.NDArray[np.object_]:
    """Return a column of texts, none of them empty."""
    values = _present(examples, column, where).astype(str).to_numpy(dtype=object)
    empty = values == ""
    if empty.any():
        raise _failed(examples, empty, column, "empty", where)
    return values


def numbers(examples: pd.DataFrame, column: str, where: str) -> Floats:
    """Return a column of finite numbers."""
    values = pd.to_numeric(_present(examples, column, where), errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise _failed(examples, wrong, column, "no finite number", where)
    return values


def _failed(examples: pd.DataFrame, which: npt.NDArray[np.bool_], column: str, what: str, where: str) -> UserError:
    first = examples[which].iloc[0]
    return UserError(
        where=f"{where}, example {first.get('id', examples.index[which][0])}",
        found=f"{column} {first[column]!r}, which is {what} (so are {int(which.sum())} of {len(examples)})",
        expected=f"a {column} for every example",
        mend="correct the dataset's column of labels"
        if column == "label"
        else "store the model with `dtype: float32`; if it is, the checkpoint is damaged",
    )
