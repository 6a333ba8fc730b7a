"""Texts to pre-train on, for every objective: a tokenizer of their own, and sequences of equal length."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from essential_sparsity.pretraining.corpus import WITHHELD, check_batch
from essential_sparsity.pretraining.recipe import TextRecipe

# Enough for a held-out loss, and little beside the training itself.
_HELD_OUT_SEQUENCES = 512


@dataclass(frozen=True)
class TextCorpus:
    """Token ids for training and for the held-out loss.

    Attributes:
        tokenizer: What a checkpoint's texts are read by.
        train: Of the split ``train``, (sequences, length), or as the objective packs them.
        held_out: Of the split ``test``; none where there is no such split.
    """

    tokenizer: PreTrainedTokenizerFast
    train: Tensor
    held_out: Tensor


def prepare_texts(
    corpus: pd.DataFrame, recipe: TextRecipe,
    train_tokenizer: Callable[[list[str], int, int, int], PreTrainedTokenizerFast],
    pack: Callable[[list[str], PreTrainedTokenizerFast, int], Tensor], where: str,
) -> TextCorpus:  # fmt: skip
    """Train a tokenizer on the texts of a corpus, and cut them into sequences.

    The tokenizer sees the texts that a recipe withholds from its model: models that are trained on shares of one corpus
    then have one vocabulary, and their losses, in nats a token, and their embeddings can be compared. What a model
    learns of withheld texts is which strings are tokens, as do those of the RoBERTa family that were trained on shares
    of one corpus with the tokenizer of the whole.

    Args:
        corpus: Columns ``text`` and ``split``.
        recipe: The registry's recipe.
        train_tokenizer: From texts, most tokens, fewest occurrences and the longest input.
        pack: Cuts texts into sequences of a length.
        where: The registry key, for messages.

    Raises:
        UserError: Too little text.
    """
    texts, splits, length = corpus["text"], corpus["split"], recipe.sequence_length
    seen, sizes = texts[splits.isin(["train", WITHHELD])].tolist(), recipe.tokenizer
    tokenizer = train_tokenizer(seen, sizes.vocab_size, sizes.min_frequency, length)
    train = pack(texts[splits == "train"].tolist(), tokenizer, length)
    check_batch(len(train), f"sequences of {length} tokens", recipe.batch_size, where)
    test = texts[splits == "test"].tolist()
    held_out = pack(test, tokenizer, length)[:_HELD_OUT_SEQUENCES] if test else train[:0]
    logging.info("%d training and %d held-out sequences of %d tokens", len(train), len(held_out), length)
    return TextCorpus(tokenizer, train, held_out)
