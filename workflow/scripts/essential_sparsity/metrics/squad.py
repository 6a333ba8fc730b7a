"""Scores of answers that are texts, as SQuAD has them."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence

from essential_sparsity.errors import UserError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without ASCII punctuation and articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def squad_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Score an answer as SQuAD 1.1 does (Rajpurkar et al. 2016), by the gold answer that it fits best.

    Args:
        prediction: The text that the model answers; empty for none.
        answers: The gold answers, at least one.

    Returns:
        Exact match (0 or 1) and F1 of words, as fractions; the official script reports the means in per cent.

    Raises:
        ValueError: There is no gold answer.
    """
    words = normalised(prediction).split()
    golds = [normalised(answer).split() for answer in answers]
    if not golds:
        raise ValueError("SQuAD 1.1 has a gold answer for every question")
    return float(words in golds), max(_f1(words, gold) for gold in golds)


def _f1(words: list[str], gold: list[str]) -> float:
    """Return the F1 of two bags of words: shared words over the mean of their sizes; 0 if both are empty."""
    shared = (Counter(words) & Counter(gold)).total()
    return 2 * shared / (len(words) + len(gold)) if shared else 0.0


def squad_v2_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Score an answer as SQuAD 2.0 does (Rajpurkar et al. 2018): where there is no answer, none is right.

    Gold answers that are nothing but articles and punctuation are no answers, and neither are such predictions.

    Args:
        prediction: The text that the model answers; empty for none.
        answers: The gold answers; none if the context does not answer the question.

    Returns:
        As in :func:`squad_scores`.
    """
    golds = [answer for answer in answers if normalised(answer)]
    if golds:
        return squad_scores(prediction, golds)
    right = float(not normalised(prediction))
    return right, right


def gold_label(answers: list[str]) -> str:
    """Write the gold answers of a question as the column ``label`` holds them: a list in JSON."""
    return json.dumps(answers, ensure_ascii=False)


def gold_answers(label: str, where: str) -> list[str]:
    """Read the gold answers of a question from its label; none if it has no answer.

    Raises:
        UserError: The label is no list.
    """
    try:
        answers = json.loads(label)
    except ValueError:
        answers = None
    if not isinstance(answers, list):
        raise UserError(where, f"the label {label!r}", "a list of gold answers in JSON", "evaluate this task again")
    return answers
