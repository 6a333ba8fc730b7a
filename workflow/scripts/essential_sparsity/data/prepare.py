"""What each protocol reads, prepared once: from a dataset's rows to columns of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from essential_sparsity.checkpoints.extract import read_config
from essential_sparsity.checkpoints.loading import load_tokenizer
from essential_sparsity.data.prepared import About, ragged_column
from essential_sparsity.data.tokens import (
    Columns,
    check_fits,
    has_segments,
    longest_input,
    pad_token,
    prepare_documents,
    prepare_masked,
    prepare_sequences,
    prepare_stream,
    targets,
)
from essential_sparsity.errors import UserError, quoted


def prepare_images(rows: pd.DataFrame, checkpoint: Path, where: str) -> tuple[Columns, About]:
    """Decode images and bring them to the size that the model's processor asks for; bytes, not yet normalised.

    Args:
        rows: Columns ``id, split, image, label``.
        checkpoint: The folder with ``preprocessor_config.json``.
        where: What is prepared, for messages.

    Returns:
        Columns ``id, split, pixels`` (bytes of channels x height x width) and ``label``, and what ``about`` says of
        them: ``shape``, and ``pixels``, how bytes become what the model takes.

    Raises:
        UserError: An image that cannot be read, or a processor that cannot be used.
    """
    from essential_sparsity.data.pixels import load_processor, pixel_settings, prepare_pixels

    processor = load_processor(checkpoint, where)
    pixels = prepare_pixels(rows["image"].tolist(), processor, rows["id"].tolist(), where)
    size = int(np.prod(pixels.shape[1:]))
    flat = pa.Array.from_buffers(pa.binary(size), len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))])
    label, classes = targets(rows)
    columns: Columns = {
        "id": rows["id"].to_numpy(), "split": rows["split"].tolist(), "pixels": flat, "label": label,
    }  # fmt: skip
    about = {
        "shape": list(pixels.shape[1:]),
        "pixels": asdict(pixel_settings(processor, where)),
        "classes": classes,
    }
    return columns, about


def prepare_spans(
    rows: pd.DataFrame, checkpoint: Path, where: str, *, max_length: int, stride: int, unanswerable: bool
) -> tuple[Columns, About]:
    """Tokenise questions with the windows of their contexts.

    Args:
        rows: Columns ``id, split, text, text_pair, answers, answer_starts``.
        checkpoint: The folder with tokenizer and configuration.
        where: What is prepared, for messages.
        max_length: Tokens of a window.
        stride: Tokens that two windows of a context share.
        unanswerable: Whether questions may have no answer.

    Returns:
        The columns of :func:`data.spans.span_features`, a row a feature, with the ``split`` of each; and what fills
        up a batch.

    Raises:
        UserError: An answer that is not in its context, or a question without one where every one must have it.
    """
    from essential_sparsity.data.spans import check_answerable, lost_answers, span_features

    tokenizer, config = load_tokenizer(checkpoint, where), read_config(checkpoint)
    if not unanswerable:
        check_answerable(rows, where)
    longest = longest_input(max_length, tokenizer, config)
    features = span_features(rows, tokenizer, longest, stride, has_segments(config), where)
    splits = rows.set_index("id")["split"]
    lists = {"input_ids": pa.int32(), "token_type_ids": pa.int8(), "offsets": pa.int32()}
    columns: Columns = {
        key: ragged_column(values, lists[key]) if key in lists else np.array(values, dtype=np.int64)
        for key, values in features.items()
    }
    columns["split"] = splits.loc[features["id"]].tolist()
    check_fits(columns["input_ids"].values.to_numpy(), tokenizer, config, where)
    # On the right: positions count from the first token, and of a window the first tokens are the question.
    about = {
        "pad": pad_token(tokenizer, where), "padding_side": "right", "max_length": longest,
        "lost": lost_answers(features, rows),
    }  # fmt: skip
    return columns, about


# The kinds whose rows a model, or what stands on it, is trained on.
TRAINED = ("classes", "scores", "spans", "images")

# By what a study says of a task: the kind of its rows, or what its protocol and metric make of texts. What follows the
# star are keys of the task.
PREPARE: dict[str, Callable[..., tuple[Columns, About]]] = {
    "classes": prepare_sequences,
    "scores": prepare_sequences,
    "spans": prepare_spans,
    "images": prepare_images,
    "stream": prepare_stream,
    "documents": prepare_documents,
    "masked": prepare_masked,
}


def prepare_inputs(
    rows: pd.DataFrame, checkpoint: Path, where: str, *, kind: str, **keys: Any
) -> tuple[Columns, About]:
    """Prepare the inputs of a task for one model.

    Args:
        rows: The dataset's rows.
        checkpoint: The folder of a checkpoint of the model, with tokenizer or processor.
        where: What is prepared, for messages.
        kind: An entry of :data:`PREPARE`.
        keys: What that takes of the task.

    Returns:
        Columns for :func:`data.prepared.write_prepared`, and what holds for all rows, with the ``kind``.

    Raises:
        UserError: Nothing to train or to test on, or as the kind's own function says.
    """
    if kind in TRAINED and (missing := {"train", "test"} - set(rows["split"])):
        raise UserError(
            where=where,
            found=f"no row of the split {quoted(sorted(missing))} in the dataset",
            expected="rows to train on and rows to test on",
            mend="add rows of that split to the data, or `test_fraction` to the dataset's `split`",
        )
    columns, about = PREPARE[kind](rows, checkpoint, where, **keys)
    return columns, {**about, "kind": kind}
