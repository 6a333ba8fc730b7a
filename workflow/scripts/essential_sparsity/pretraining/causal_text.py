"""Causal language modelling: a GPT-2 and its tokenizer from text (Radford et al. 2019)."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from essential_sparsity.pretraining.objectives import Batch
from essential_sparsity.pretraining.recipe import CausalTextRecipe
from essential_sparsity.pretraining.text_corpus import prepare_texts

END_OF_TEXT = "<|endoftext|>"
_HELD_OUT_BATCH = 64


def train_tokenizer(texts: list[str], vocab_size: int, min_frequency: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Radford et al. 2019) with one special token, which ends texts.

    Every byte is a token, so that nothing is unknown. The trainer numbers bytes and merges in an order of their own
    (merges of equal frequency by the numbers of their parts), so that the same texts give the same vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    # One token for all three, as GPT-2's users have it: batches of fine-tuning need something that fills them up.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def pack_texts(texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> Tensor:
    """Join texts into one stream, each ended by its token, and cut it into sequences with the token that follows.

    Returns:
        Token ids, (sequences, length + 1): the last token of a row is the first of the next, so that every position
        has a next token to predict. The remainder is dropped.
    """
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    stream = torch.tensor([i for text in ids for i in (*text, tokenizer.eos_token_id)], dtype=torch.int64)
    if len(stream) <= length:
        return stream.new_empty((0, length + 1))
    return stream.unfold(0, length + 1, length)


def next_token_loss(model: GPT2LMHeadModel, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) of the next token at every position.

    Args:
        model: A causal language model.
        inputs: Token ids, (batch, length).
        labels: The token that follows each, (batch, length).
    """
    logits = model(input_ids=inputs, use_cache=False).logits  # (batch, length, vocabulary)
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, sequences: Tensor) -> float:
    """Return the mean loss (nats a token) over held-out sequences, (sequences, length + 1); NaN without any."""
    if not len(sequences):
        return math.nan
    model.eval()
    device = next(model.parameters()).device
    batches = [batch.to(device) for batch in sequences.split(_HELD_OUT_BATCH)]
    total = sum(len(batch) * float(next_token_loss(model, batch[:, :-1], batch[:, 1:])) for batch in batches)
    model.train()
    return total / len(sequences)


class CausalLanguageModelling:
    """GPT's objective, with its own tokenizer trained on the same texts.

    Args:
        corpus: Columns ``text`` and ``split``; training sees only ``train``.
        recipe: The registry's recipe.
        where: The registry key, for messages.

    Raises:
        UserError: Too little text.
    """

    def __init__(self, corpus: pd.DataFrame, recipe: CausalTextRecipe, where: str) -> None:
        self._recipe = recipe
        self._texts = prepare_texts(corpus, recipe, train_tokenizer, pack_texts, where)
        self.size = len(self._texts.train)

    def build(self) -> GPT2LMHeadModel:
        """Return a new model; its weights are drawn from torch's own generator."""
        sizes, dropout, end = self._recipe.architecture, self._recipe.dropout, self._texts.tokenizer.eos_token_id
        config = GPT2Config(
            vocab_size=len(self._texts.tokenizer), n_positions=self._recipe.sequence_length,
            n_embd=sizes.hidden_size, n_layer=sizes.num_hidden_layers, n_head=sizes.num_attention_heads,
            n_inner=sizes.intermediate_size, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
            bos_token_id=end, eos_token_id=end, architectures=["GPT2LMHeadModel"],
        )  # fmt: skip
        return GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self._texts.tokenizer.save_pretrained(folder)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Return tokens and the tokens that follow them, both (rows, length); nothing is drawn."""
        chosen = self._texts.train[rows]
        return chosen[:, :-1], chosen[:, 1:]

    def loss(self, model: GPT2LMHeadModel, batch: Batch) -> Tensor:
        """Return the mean cross-entropy (nats) of the next token."""
        return next_token_loss(model, *batch)

    def held_out(self, model: GPT2LMHeadModel) -> dict[str, float]:
        """Return the loss on texts that training does not see."""
        return {"held_out_loss": held_out_loss(model, self._texts.held_out)}
