"""Extractive question answering as SQuAD 1.1 and 2.0 have it: features, loss, the best span, and scores of answers.

A row is a question (``text``) with its context (``text_pair``), its gold ``answers`` and where each begins in the
context (``answer_starts``, in characters). A context longer than a window is cut into windows that overlap; a *feature*
is one window with the question before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from essential_sparsity.data.tables import require_column
from essential_sparsity.errors import UserError

Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

# Columns of one entry a feature; lists of integers, so that Arrow can hold them.
Features = Mapping[str, Sequence[Any]]

_COLUMNS = ("id", "text", "text_pair", "answers", "answer_starts")

# The columns of features that a model is called with, besides the attention mask.
_INPUTS = ("input_ids", "token_type_ids")

# Rows tokenised at once: the tokenizer's Python objects take 50 times the room of the arrays that are kept.
_CHUNK = 1000

# Features of which the best span is sought at once.
_FEATURES_AT_ONCE = 512


# --- rows -----------------------------------------------------------------------------------------------------------


def check_rows(rows: pd.DataFrame, where: str) -> None:
    """Check that rows are questions on contexts, and that every gold answer stands in its context where it should.

    Args:
        rows: Columns ``id, text, text_pair, answers, answer_starts``.
        where: What they are of, for messages.

    Raises:
        UserError: A column is missing, a question or context is empty, or an answer is not at its place.
    """
    for column in _COLUMNS:
        require_column(rows, column, where)
        if (missing := rows[column].isna()).any():
            raise UserError(
                where=f"{where}, row {rows.loc[missing, 'id'].iloc[0]}",
                found=f"no `{column}` (nor in {int(missing.sum()) - 1} other rows)",
                expected="a question, its context and its answers; an empty list where it has no answer",
                mend=f"correct the row's `{column}`, or drop it",
            )
    for row, question, context, answers, starts in _questions(rows):
        at = f"{where}, row {row}"
        for column, text in (("text", question), ("text_pair", context)):
            if not text.strip():
                raise UserError(at, f"an empty `{column}`", "a question and its context", "correct the row, or drop it")
        if len(answers) != len(starts):
            raise UserError(
                at, f"{len(answers)} answers with {len(starts)} starts", "a start for each", "correct `answer_starts`"
            )
        for answer, start in zip(answers, starts, strict=True):
            there = context[start : start + len(answer)] if start >= 0 else ""
            if not answer.strip() or there != answer:
                raise UserError(
                    where=at,
                    found=f"the answer {answer!r}, and at its start, character {start}, the context's {there!r}",
                    expected="an answer that stands in the context at its start; none at all if it has no answer",
                    mend="correct `answer_starts` (they count characters, from 0), or drop the row",
                )


def _questions(rows: pd.DataFrame) -> Iterator[tuple[int, str, str, list[str], list[int]]]:
    """Yield each row's id, question, context, gold answers and their starts."""
    for row, question, context, answers, starts in zip(*(rows[name] for name in _COLUMNS), strict=True):
        # Parquet gives arrays.
        yield int(row), question, context, list(answers), [int(start) for start in starts]


def check_answerable(rows: pd.DataFrame, where: str) -> None:
    """Check that every question has an answer, as SQuAD 1.1 has it.

    Raises:
        UserError: One has none.
    """
    none = [row for row, _, _, answers, _ in _questions(rows) if not answers]
    if none:
        raise UserError(
            where=f"{where}, row {none[0]}",
            found=f"a question without an answer (so are {len(none)} of {len(rows)})",
            expected="a gold answer for every question, as in SQuAD 1.1",
            mend="evaluate as SQuAD 2.0 does, with a threshold for no answer, or drop these rows",
        )


# --- features -------------------------------------------------------------------------------------------------------


def span_features(
    rows: pd.DataFrame, tokenizer: Any, max_length: int, stride: int, segments: bool, where: str
) -> dict[str, list[Any]]:
    """Tokenise questions with their contexts, a feature for each window of a context.

    Args:
        rows: As in :func:`check_rows`.
        tokenizer: A fast tokenizer; which side it pads does not matter.
        max_length: Tokens of a feature (384 in the literature), those of the question and special ones included.
        stride: Context tokens that neighbouring windows share (128 in the literature).
        segments: Whether the model tells question and context by segment ids. Tokenizers do not all give them unasked.
        where: What is evaluated, for messages.

    Returns:
        An entry a feature, those of one row together and in the order of the context:
        ``id``: of its row;
        ``input_ids`` and, with segments, ``token_type_ids``: (length,), without padding;
        ``offsets``: (2 * length,), the first and the last-but-one character in the context of each token; -1 for tokens
        that are not of the context, and for those that stand for no character;
        ``start_position, end_position``: the tokens where the first gold answer begins and ends; both are
        ``null_position`` where it is not wholly inside the window, or there is none;
        ``null_position``: the token that stands for no answer: CLS, and the first one where the model has no CLS.

    Raises:
        UserError: The rows are at fault, the tokenizer is not a fast one, or a question leaves no room for its context.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            where=where,
            found=f"a tokenizer of Python ({type(tokenizer).__name__})",
            expected="a fast one, which says which characters each token stands for",
            mend="put the tokenizer.json of the model into its folder, or use a task without spans",
        )
    check_rows(rows, where)
    columns = ("id", *_INPUTS[: 1 + segments], "offsets", "start_position", "end_position", "null_position")
    features: dict[str, list[Any]] = {column: [] for column in columns}
    for first in range(0, len(rows), _CHUNK):
        chunk = list(_questions(rows.iloc[first : first + _CHUNK]))
        _check_room(chunk, tokenizer, max_length, stride, where)
        encoded = tokenizer(
            # Blanks before a question are no part of it, and some of SQuAD's have hundreds.
            [question.lstrip() for _, question, *_ in chunk], [context for _, _, context, *_ in chunk],
            truncation="only_second", max_length=max_length, stride=stride, padding=False,
            return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=segments,
            return_attention_mask=False,
        )  # fmt: skip
        for i, source in enumerate(encoded["overflow_to_sample_mapping"]):
            row, _, _, answers, starts = chunk[source]
            ids = np.array(encoded["input_ids"][i], dtype=np.int32)
            offsets = _context_offsets(encoded["offset_mapping"][i], encoded.sequence_ids(i))
            null = _null_position(ids, tokenizer.cls_token_id)
            inside = _answer_tokens(offsets, answers[0], starts[0]) if answers else None
            begin, end = inside or (null, null)
            values = {"id": row, "input_ids": ids, "offsets": offsets.reshape(-1), "null_position": null}
            values |= {"start_position": begin, "end_position": end}
            if segments:
                values["token_type_ids"] = np.array(encoded["token_type_ids"][i], dtype=np.int32)
            for column, value in values.items():
                features[column].append(value)
    return features


def _check_room(chunk: Sequence[tuple[Any, ...]], tokenizer: Any, max_length: int, stride: int, where: str) -> None:
    """Check that every question leaves a window more room than windows share; the tokenizer panics where it does not.

    Raises:
        UserError: One does not.
    """
    questions = [question.lstrip() for _, question, *_ in chunk]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for (row, *_), ids in zip(chunk, tokenizer(questions, add_special_tokens=False)["input_ids"], strict=True):
        if max_length - special - len(ids) <= stride:
            raise UserError(
                where=f"{where}, row {row}",
                found=f"a question of {len(ids)} tokens, which with {special} special ones leaves "
                f"{max(max_length - special - len(ids), 0)} of `max_length: {max_length}` to the context",
                expected=f"room for more than `stride: {stride}`",
                mend="raise `max_length`, lower `stride`, or drop the row",
            )


def _context_offsets(mapping: Sequence[tuple[int, int]], sequence_ids: Sequence[int | None]) -> Integers:
    """Return the characters of each token, (length, 2); -1 for tokens not of the context and those without any."""
    offsets = np.array(mapping, dtype=np.int32).reshape(-1, 2)
    context = np.array([part == 1 for part in sequence_ids])
    return np.where((context & (offsets[:, 1] > offsets[:, 0]))[:, None], offsets, np.int32(-1))


def _null_position(ids: Integers, cls_id: int | None) -> int:
    if cls_id is None or cls_id not in ids:
        return 0
    return int(np.flatnonzero(ids == cls_id)[0])


def _answer_tokens(offsets: Integers, answer: str, start: int) -> tuple[int, int] | None:
    """Return the first and the last token of an answer, None if it is not wholly inside the window.

    These are the tokens that share a character with it: the shortest span of tokens that holds the answer.
    """
    # No token need stand for the blanks at its ends.
    begin = start + len(answer) - len(answer.lstrip())
    end = start + len(answer.rstrip())
    context = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(context) or offsets[context[0], 0] > begin or offsets[context[-1], 1] < end:
        return None
    shared = context[(offsets[context, 1] > begin) & (offsets[context, 0] < end)]
    return (int(shared[0]), int(shared[-1])) if len(shared) else None


def lost_answers(features: Features, rows: pd.DataFrame) -> int:
    """Count the questions with an answer that is whole in no window: training tells the model they have none."""
    found = {
        row
        for row, begin, null in zip(features["id"], features["start_position"], features["null_position"], strict=True)
        if begin != null
    }
    return sum(bool(answers) and row not in found for row, _, _, answers, _ in _questions(rows))


# --- loss -----------------------------------------------------------------------------------------------------------


def span_loss(
    start_logits: Tensor, end_logits: Tensor, start_positions: Tensor, end_positions: Tensor, features: int
) -> Tensor:
    """Return a batch's share of the loss of a step: the mean of the cross-entropies of starts and of ends.

    With ``features`` the size of the batch it is transformers' own loss of question answering. Divided by the features
    of all batches of a step, the gradients of the batches add up to those of one large batch, whatever their sizes.

    Args:
        start_logits: (batch, length), padding included, as transformers' models give them.
        end_logits: (batch, length).
        start_positions: (batch,); a position beyond the sequence adds nothing.
        end_positions: (batch,).
        features: Features in all batches of the step, those without a position in the sequence left out.

    Returns:
        Nats, a scalar.
    """
    beyond = start_logits.shape[1]
    pairs = ((start_logits, start_positions), (end_logits, end_positions))
    losses = [
        torch.nn.functional.cross_entropy(logits, positions.clamp(max=beyond), ignore_index=beyond, reduction="sum")
        for logits, positions in pairs
    ]
    return (losses[0] + losses[1]) / (2 * features)


# --- the best span --------------------------------------------------------------------------------------------------


def best_spans(
    start_logits: Sequence[Floats], end_logits: Sequence[Floats], features: Features, rows: pd.DataFrame, where: str,
    n_best: int = 20, max_answer_length: int = 30, null_threshold: float | None = None,
) -> list[str]:  # fmt: skip
    """Return the text that a model answers each question with, by BERT's procedure (Devlin et al. 2019).

    In each feature the ``n_best`` highest starts are paired with the ``n_best`` highest ends. A pair counts if both are
    tokens of the context, the end is not before the start, and the span has ``max_answer_length`` tokens at most. The
    pair with the highest sum of logits over all features of a row is its answer, cut from the context as it is written.
    The sum at the position for no answer, the least of all features, is compared with that of the best pair. Ties go
    to the earlier feature, then to the higher start, then to the higher end; of equal logits, to the earlier token.
    Starts are not limited to the window in which a token has most context, as in transformers' example, and unlike the
    first implementation.

    Args:
        start_logits: One array a feature, (length,), without padding.
        end_logits: The same of ends.
        features: What :func:`span_features` returns.
        rows: The rows that the features are of.
        where: What is evaluated, for messages.
        n_best: Starts, and ends, that are considered in a feature.
        max_answer_length: Tokens.
        null_threshold: The answer is none where the sum for none is above that of the best pair by more than this
            (SQuAD 2.0: 0.0). None: every question has an answer (SQuAD 1.1), and none is given only where no pair
            counts.

    Returns:
        A text a row, in their order; empty for no answer.

    Raises:
        UserError: A logit is NaN or infinite, or a row has no feature.
    """
    ids = np.asarray(features["id"])
    scores, spans, nulls = _feature_spans(start_logits, end_logits, features, n_best, max_answer_length, where)
    # By row, then by score from the highest; stable, so that ties stay in the order of features.
    order = np.lexsort((-scores, ids))
    firsts = np.flatnonzero(np.diff(ids[order], prepend=ids[order][:1] - 1))
    best = dict(zip(ids[order][firsts].tolist(), order[firsts].tolist(), strict=True))
    least = dict(zip(best, np.minimum.reduceat(nulls[order], firsts).tolist() if len(firsts) else [], strict=True))
    texts = []
    for row, context in zip(rows["id"].tolist(), rows["text_pair"], strict=True):
        if row not in best:
            raise UserError(where, f"no feature of row {row}", "features of every row", "evaluate this task again")
        feature = best[row]
        none = null_threshold is not None and least[row] - scores[feature] > null_threshold
        begin, end = (0, 0) if none or np.isneginf(scores[feature]) else spans[feature]
        texts.append(context[begin:end])
    return texts


def _feature_spans(
    start_logits: Sequence[Floats], end_logits: Sequence[Floats], features: Features, n_best: int,
    max_answer_length: int, where: str,
) -> tuple[npt.NDArray[np.float64], Integers, npt.NDArray[np.float64]]:  # fmt: skip
    """Return what :func:`best_spans` needs of each feature.

    Returns:
        The sum of its best pair, (features,), minus infinity if none counts; the characters from where to where that
        answers, (features, 2); and the sum for no answer, (features,).
    """
    total = len(features["id"])
    scores, nulls = np.full(total, -np.inf), np.empty(total)
    spans = np.zeros((total, 2), dtype=np.int32)
    for first in range(0, total, _FEATURES_AT_ONCE):
        part = slice(first, min(first + _FEATURES_AT_ONCE, total))
        starts, ends = (_stacked(logits[part], features, first, where) for logits in (start_logits, end_logits))
        offsets = _stacked_offsets(features["offsets"][part], starts.shape[1])
        rows = np.arange(len(starts))
        null = np.asarray(features["null_position"][part])
        nulls[part] = starts[rows, null] + ends[rows, null]

        top_starts = np.argsort(-starts, axis=1, kind="stable")[:, :n_best, None]  # (features, n_best, 1)
        top_ends = np.argsort(-ends, axis=1, kind="stable")[:, None, :n_best]  # (features, 1, n_best)
        by_row = rows[:, None, None]
        length = top_ends - top_starts + 1
        begin, end = offsets[by_row, top_starts, 0], offsets[by_row, top_ends, 1]
        counts = (begin >= 0) & (end > begin) & (length >= 1) & (length <= max_answer_length)
        sums = np.where(counts, starts[by_row, top_starts] + ends[by_row, top_ends], -np.inf).reshape(len(rows), -1)
        best = sums.argmax(axis=1)
        scores[part] = sums[rows, best]
        at_start, at_end = np.unravel_index(best, (top_starts.shape[1], top_ends.shape[2]))
        spans[part] = np.stack([begin[rows, at_start, 0], end[rows, 0, at_end]], axis=1)
    return scores, spans, nulls


def _stacked(logits: Sequence[Floats], features: Features, first: int, where: str) -> npt.NDArray[np.float64]:
    """Return logits of features below each other, (features, longest), with minus infinity beyond their ends.

    Raises:
        UserError: One is NaN or infinite.
    """
    stacked = np.full((len(logits), max(map(len, logits))), -np.inf)
    for i, values in enumerate(logits):
        if len(values) != len(features["input_ids"][first + i]):
            raise ValueError(f"feature {first + i}: logits for {len(values)} tokens")
        if not np.isfinite(values).all():
            raise UserError(
                where=f"{where}, row {features['id'][first + i]}",
                found=f"{int((~np.isfinite(values)).sum())} of {len(values)} logits that are NaN or infinite",
                expected="finite logits",
                mend="store the model with `dtype: float32`; if it is, the checkpoint is damaged",
            )
        stacked[i, : len(values)] = values
    return stacked


def _stacked_offsets(offsets: Sequence[Any], longest: int) -> Integers:
    """Return the characters of tokens, (features, longest, 2), with -1 beyond the features' ends."""
    stacked = np.full((len(offsets), longest, 2), -1, dtype=np.int32)
    for i, flat in enumerate(offsets):
        stacked[i, : len(flat) // 2] = np.asarray(flat, dtype=np.int32).reshape(-1, 2)
    return stacked
