"""Tokenised texts: sentences and pairs to train on; streams, documents and masked windows for language models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from essential_sparsity.checkpoints.extract import read_config
from essential_sparsity.checkpoints.loading import load_tokenizer
from essential_sparsity.data.prepared import About, ragged_column
from essential_sparsity.errors import UserError

Columns = dict[str, Any]

# A tokenizer that knows fewer of the tokens than this was made for other texts.
_MOST_UNKNOWN = 0.5


def has_segments(config: Any) -> bool:
    """Say whether a model tells the first from the second text of a pair by segment ids."""
    return int(getattr(config, "type_vocab_size", None) or 0) > 1


def vocabulary_size(config: Any) -> int | None:
    """Return the number of tokens that a model has embeddings of; None if its configuration does not say."""
    found = getattr(config.get_text_config(), "vocab_size", None)
    return None if found is None else int(found)


def longest_input(wanted: int, tokenizer: Any, config: Any) -> int:
    """Return how many tokens a text may have: as many as a task wants, or fewer where the model has fewer positions."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(min(wanted, tokenizer.model_max_length, positions or wanted))


def check_fits(ids: npt.NDArray[Any], tokenizer: Any, config: Any, where: str) -> None:
    """Check that a tokenizer is that of the model.

    Args:
        ids: All token ids of a dataset.
        tokenizer: The checkpoint's tokenizer.
        config: The checkpoint's configuration.
        where: What is prepared, for messages.

    Raises:
        UserError: An id that the model has no embedding of, or texts that are mostly unknown to the tokenizer.
    """
    size = vocabulary_size(config)
    largest = int(ids.max(initial=0))
    if size is not None and largest >= size:
        raise UserError(
            where=f"{where}, tokenizer",
            found=f"token {largest} in the texts",
            expected=f"at most {size - 1}: the model has embeddings of {size} tokens",
            mend="put the model's own tokenizer files beside its weights",
        )
    unknown = float(np.mean(ids == tokenizer.unk_token_id)) if tokenizer.unk_token_id is not None and len(ids) else 0.0
    if unknown > _MOST_UNKNOWN:
        raise UserError(
            where=f"{where}, tokenizer",
            found=f"{unknown:.0%} unknown tokens in the texts",
            expected="a tokenizer that was made for such texts",
            mend="put the model's own tokenizer files beside its weights, or name a dataset in its language",
        )


def pad_token(tokenizer: Any, where: str) -> int:
    """Return the token that fills up a batch.

    Raises:
        UserError: The tokenizer has none.
    """
    if tokenizer.pad_token_id is None:
        raise UserError(
            where=f"{where}, tokenizer",
            found="a tokenizer without a pad token",
            expected="one with a pad token, since texts of different length are batched",
            mend="add `pad_token` to the model's tokenizer_config.json",
        )
    return int(tokenizer.pad_token_id)


def prepare_sequences(rows: pd.DataFrame, checkpoint: Path, where: str, *, max_length: int) -> tuple[Columns, About]:
    """Tokenise sentences or pairs with a class or a number each.

    Args:
        rows: Columns ``id, split, text`` and perhaps ``text_pair``, and ``label`` or ``score``.
        checkpoint: The folder with tokenizer and configuration.
        where: What is prepared, for messages.
        max_length: Tokens of a text.

    Returns:
        Columns ``id, split, input_ids``, ``token_type_ids`` where the model has segments, and ``label``: the class's
        place in ``about["classes"]``, or the number. Besides, ``about`` says what fills up a batch, on which side, and
        how many texts of each split were cut.

    Raises:
        UserError: A tokenizer that does not fit the model or cannot fill up a batch.
    """
    tokenizer, config = load_tokenizer(checkpoint, where), read_config(checkpoint)
    texts = [rows["text"].tolist()] + ([rows["text_pair"].tolist()] if "text_pair" in rows else [])
    # Asked for by name: a tokenizer's own list of inputs may lack them, and pairs would lose what tells them apart.
    options = {"return_token_type_ids": has_segments(config), "return_attention_mask": False, "verbose": False}
    encoded = tokenizer(*texts, **options)
    longest = longest_input(max_length, tokenizer, config)
    cut = np.array([len(ids) > longest for ids in encoded["input_ids"]])
    shortened = tokenizer(
        *([part[i] for i in np.flatnonzero(cut)] for part in texts),
        truncation=True, max_length=longest, **options,
    ) if cut.any() else {}  # fmt: skip
    columns: Columns = {"id": rows["id"].to_numpy(), "split": rows["split"].tolist()}
    for key, dtype in (("input_ids", pa.int32()), ("token_type_ids", pa.int8())):
        if key in encoded:
            found = list(encoded[key])
            for place, i in enumerate(np.flatnonzero(cut)):
                found[i] = shortened[key][place]
            columns[key] = ragged_column(found, dtype)
    check_fits(columns["input_ids"].values.to_numpy(), tokenizer, config, where)
    about: About = {
        "pad": pad_token(tokenizer, where),
        "padding_side": tokenizer.padding_side,
        "max_length": longest,
        "cut": {str(k): int(v) for k, v in pd.Series(cut).groupby(rows["split"].to_numpy()).sum().items()},
    }
    columns["label"], about["classes"] = targets(rows)
    return columns, about


def targets(rows: pd.DataFrame) -> tuple[np.ndarray, list[str] | None]:
    """Return what is to be predicted of each row: the place of its class among all, sorted; or its number."""
    if "score" in rows:
        return rows["score"].to_numpy(dtype=np.float64), None
    classes = sorted(rows["label"].unique())
    return pd.Categorical(rows["label"], categories=classes).codes.astype(np.int64), classes


def evaluated_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a language model is evaluated on: of a dataset with a split, those of ``test``."""
    held_out = rows[rows["split"] == "test"]
    return held_out if len(held_out) else rows


def token_windows(texts: list[str], tokenizer: Any, window: int, windows: int | None, where: str) -> np.ndarray:
    """Return the first windows of the stream of texts, joined by blank lines; all of them if no number is given.

    Returns:
        Token ids, (windows, window), int64; what is left of the stream at its end is not used.

    Raises:
        UserError: The texts are too short.
    """
    stream: list[int] = []
    for text in texts:
        # Text by text, and only as far as needed: the tokenizer warns of, and is slow on, one very long text.
        stream += tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]
        if windows is not None and len(stream) >= window * windows:
            break
    count = len(stream) // window if windows is None else windows
    if not count or len(stream) < window * count:
        raise UserError(
            where=where,
            found=f"{len(stream)} tokens in {len(texts)} texts",
            expected=f"{windows or 1} windows of {window} tokens, {window * (windows or 1)} in all",
            mend="lower `windows` or `window`, or use a longer text",
        )
    return np.array(stream[: window * count], dtype=np.int64).reshape(count, window)


def _window_columns(windows: np.ndarray) -> Columns:
    return {
        "id": np.arange(len(windows)),
        "input_ids": ragged_column(list(windows.astype(np.int32)), pa.int32()),
    }


def prepare_stream(
    rows: pd.DataFrame, checkpoint: Path, where: str, *, window: int, windows: int | None
) -> tuple[Columns, About]:
    """Cut the texts, as one stream, into windows that do not overlap, as the pruning papers do.

    Args:
        rows: Columns ``text`` and ``split``: of a dataset with a split, ``test`` is read.
        checkpoint: The folder with tokenizer and configuration.
        where: What is prepared, for messages.
        window: Tokens of a window.
        windows: How many; None for all.

    Returns:
        Columns ``id, input_ids``, all rows of one length, and the size of the vocabulary.
    """
    tokenizer = load_tokenizer(checkpoint, where)
    texts = evaluated_texts(rows)["text"].tolist()
    cut = token_windows(texts, tokenizer, window, windows, where)
    check_fits(cut.ravel(), tokenizer, read_config(checkpoint), where)
    return _window_columns(cut), {"vocabulary": len(tokenizer)}


def rolling_windows(ids: list[int], window: int, prefix: int) -> Iterator[tuple[list[int], int]]:
    """Cut a document into inputs whose predictions cover each of its tokens once.

    As lm-eval's rolling log-likelihood does: the first input begins with a token that ends texts, so that the first
    token is predicted, too; every further input begins with as much context as there is room for.

    Args:
        ids: The document's tokens.
        window: Tokens that a model is given at once.
        prefix: The token before the first.

    Yields:
        The tokens of an input with, at the end, those that are predicted, and the number of these: at most ``window``
        tokens are given to the model, the last one is only predicted.
    """
    first = min(window, len(ids))
    yield [prefix, *ids[:first]], first
    done = first
    while done < len(ids):
        count = min(len(ids) - done, window)
        end = done + count
        yield ids[end - window - 1 : end], count
        done = end


def prepare_documents(
    rows: pd.DataFrame, checkpoint: Path, where: str, *, window: int, windows: int | None
) -> tuple[Columns, About]:
    """Cut each text, as a document of its own, into inputs for word perplexity.

    Args:
        rows: Columns ``id, text`` and ``split``: of a dataset with a split, ``test`` is read.
        checkpoint: The folder with tokenizer and configuration.
        where: What is prepared, for messages.
        window: Tokens that the model is given at once.
        windows: How many documents; None for all.

    Returns:
        Columns ``id`` (of the document), ``input_ids``, ``predicted`` (how many of the last tokens are predicted) and
        ``words`` (of the whole document; 0 in all inputs of it but the first), and the size of the vocabulary.

    Raises:
        UserError: No text has a word, or the tokenizer has no token for the beginning.
    """
    tokenizer = load_tokenizer(checkpoint, where)
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefix is None:
        raise UserError(
            where=f"{where}, tokenizer",
            found="neither a token that begins nor one that ends a text",
            expected="one of them, before the first token of a document",
            mend="add `bos_token` or `eos_token` to the model's tokenizer_config.json, or use `metric: perplexity`",
        )
    chosen = evaluated_texts(rows)
    chosen = chosen[[bool(text.split()) for text in chosen["text"]]]
    chosen = chosen if windows is None else chosen.head(windows)
    if chosen.empty:
        raise UserError(where, "no text with a word", "at least one", "use another dataset")
    parts: list[tuple[int, list[int], int, int]] = []
    for row, text in zip(chosen["id"], chosen["text"], strict=True):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        words = itertools.chain([len(text.split())], itertools.repeat(0))
        parts += [(row, part, count, next(words)) for part, count in rolling_windows(ids, window, int(prefix))]
    columns: Columns = {
        "id": np.array([part[0] for part in parts]),
        "input_ids": ragged_column([part[1] for part in parts], pa.int32()),
        "predicted": np.array([part[2] for part in parts]),
        "words": np.array([part[3] for part in parts]),
    }
    check_fits(columns["input_ids"].values.to_numpy(), tokenizer, read_config(checkpoint), where)
    return columns, {"vocabulary": len(tokenizer)}


def special_tokens_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and behind a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    inner = [i for i, flag in enumerate(special) if not flag]
    return ids[: inner[0]], ids[inner[-1] + 1 :]


def prepare_masked(
    rows: pd.DataFrame, checkpoint: Path, where: str, *, window: int, windows: int | None, mask_probability: float,
    seed: int,
) -> tuple[Columns, About]:  # fmt: skip
    """Draw the tokens that a masked language model is to predict, once for all sparsities.

    Args:
        rows: Columns ``text`` and ``split``: of a dataset with a split, ``test`` is read.
        checkpoint: The folder with tokenizer and configuration.
        where: What is prepared, for messages.
        window: Tokens of a window, special ones included.
        windows: How many; None for all.
        mask_probability: Share of the tokens that are drawn.
        seed: Of the draw.

    Returns:
        Columns ``id``, ``input_ids`` between the tokenizer's first and last special token and with its mask token in
        place of every drawn one (no random or kept ones: this is a test, not a training), and ``labels``: the drawn
        tokens, -100 elsewhere. Besides, the size of the vocabulary.

    Raises:
        UserError: The tokenizer has no mask token, or too little text.
    """
    tokenizer = load_tokenizer(checkpoint, where)
    if tokenizer.mask_token_id is None:
        raise UserError(
            where=f"{where}, tokenizer",
            found="a tokenizer without a mask token",
            expected="that of a masked language model",
            mend="pair this model with a task of the protocol perplexity",
        )
    before, after = special_tokens_around(tokenizer)
    inner = window - len(before) - len(after)
    texts = evaluated_texts(rows)["text"].tolist()
    cut = token_windows(texts, tokenizer, inner, windows, where)
    check_fits(cut.ravel(), tokenizer, read_config(checkpoint), where)
    draw = np.random.default_rng(seed)
    count = max(1, round(mask_probability * inner))
    inputs, labels = [], []
    for ids in cut:
        places = draw.permutation(inner)[:count]
        masked, wanted = ids.copy(), np.full(inner, -100)
        masked[places], wanted[places] = tokenizer.mask_token_id, ids[places]
        inputs.append([*before, *masked.tolist(), *after])
        labels.append([-100] * len(before) + wanted.tolist() + [-100] * len(after))
    columns: Columns = {
        "id": np.arange(len(cut)),
        "input_ids": ragged_column(inputs, pa.int32()),
        "labels": ragged_column(labels, pa.int32()),
    }
    return columns, {"vocabulary": len(tokenizer)}
