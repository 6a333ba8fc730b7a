"""Masked language modelling: a BERT and its tokenizer from text (Devlin et al. 2019)."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from essential_sparsity.pretraining.objectives import Batch
from essential_sparsity.pretraining.recipe import MaskedTextRecipe
from essential_sparsity.pretraining.text_corpus import prepare_texts
from essential_sparsity.records import plain

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_IGNORED = -100


def train_tokenizer(texts: list[str], vocab_size: int, min_frequency: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer (Devlin et al. 2019) with BERT's special tokens.

    The trainer numbers the pieces inside words (``##a``) in the order of a hash table that changes from run to run, and
    breaks ties between merges by these numbers. They are therefore given to it beforehand, in alphabetical order: the
    same texts give the same vocabulary.
    """
    draft = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    draft.normalizer = normalizers.BertNormalizer(lowercase=True)
    draft.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = (
        word for text in texts for word, _ in draft.pre_tokenizer.pre_tokenize_str(draft.normalizer.normalize_str(text))
    )
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[*SPECIAL_TOKENS, *inner],
        show_progress=False,
    )  # fmt: skip
    draft.train_from_iterator(texts, trainer)
    # A new tokenizer from that vocabulary, to which the inner pieces are pieces and not special tokens.
    vocabulary = dict(sorted(draft.get_vocab().items(), key=lambda item: item[1]))
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = draft.normalizer, draft.pre_tokenizer
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def pack_sequences(texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> Tensor:
    """Join the texts into one stream and cut it into ``[CLS] ... [SEP]`` sequences of equal length.

    Returns:
        Token ids, (sequences, length); the remainder is dropped.
    """
    stream = [i for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in ids]
    body = length - 2
    rows = len(stream) // body
    packed = torch.tensor(stream[: rows * body], dtype=torch.int64).reshape(rows, body)
    cls = torch.full((rows, 1), tokenizer.cls_token_id, dtype=torch.int64)
    sep = torch.full((rows, 1), tokenizer.sep_token_id, dtype=torch.int64)
    return torch.cat([cls, packed, sep], dim=1)


def mask_tokens(
    ids: Tensor, generator: torch.Generator, probability: float, mask_id: int, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Mask tokens for BERT's objective: of the chosen positions 80 % ``[MASK]``, 10 % random, 10 % unchanged.

    Args:
        ids: (batch, length); the first and last position, ``[CLS]`` and ``[SEP]``, are never chosen.
        generator: Source of the draws.
        probability: Chance that a position is chosen.
        mask_id: Id of ``[MASK]``.
        vocab_size: Random tokens are drawn above the special tokens.

    Returns:
        Inputs and labels, both (batch, length); labels are -100 where nothing is predicted.
    """
    draws = torch.rand(ids.shape, generator=generator)
    chosen = draws < probability
    chosen[:, 0] = chosen[:, -1] = False
    labels = ids.masked_fill(~chosen, _IGNORED)
    action = torch.rand(ids.shape, generator=generator)
    words = torch.randint(len(SPECIAL_TOKENS), vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (action < 0.8), mask_id, ids)
    return torch.where(chosen & (action >= 0.8) & (action < 0.9), words, inputs), labels


def masked_loss(model: BertForMaskedLM, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) over the masked positions.

    The language-modelling head, most of a small model's cost, is computed on those positions only.
    """
    hidden = model.bert(input_ids=inputs).last_hidden_state  # (batch, length, hidden)
    chosen = labels != _IGNORED
    if not bool(chosen.any()):
        # A small batch in which no position was drawn: nothing to learn, a gradient of zero.
        nothing: Tensor = hidden.sum() * 0.0
        return nothing
    logits = model.cls(hidden[chosen])  # (masked, vocabulary)
    return torch.nn.functional.cross_entropy(logits, labels[chosen])


@torch.no_grad()
def held_out_loss(model: BertForMaskedLM, sequences: Tensor, recipe: MaskedTextRecipe, mask_id: int) -> float:
    """Return the mean masked loss over held-out sequences, (sequences, length), with one fixed draw of masks."""
    model.eval()
    generator = torch.Generator().manual_seed(recipe.seed)
    total, predictions = 0.0, 0
    device = next(model.parameters()).device
    for batch in sequences.split(64):
        # The vocabulary of the model, which may be smaller than the recipe's: a small corpus has fewer words.
        inputs, labels = mask_tokens(batch, generator, recipe.mask_probability, mask_id, model.config.vocab_size)
        count = int((labels != _IGNORED).sum())
        total += count * float(masked_loss(model, inputs.to(device), labels.to(device)))
        predictions += count
    model.train()
    return total / predictions if predictions else math.nan


class MaskedLanguageModelling:
    """BERT's objective, with its own tokenizer trained on the same texts.

    Args:
        corpus: Columns ``text`` and ``split``; training sees only ``train``.
        recipe: The registry's recipe.
        where: The registry key, for messages.

    Raises:
        UserError: Too little text.
    """

    def __init__(self, corpus: pd.DataFrame, recipe: MaskedTextRecipe, where: str) -> None:
        self._recipe = recipe
        self._texts = prepare_texts(corpus, recipe, train_tokenizer, pack_sequences, where)
        self.size = len(self._texts.train)

    def build(self) -> BertForMaskedLM:
        """Return a new model; its weights are drawn from torch's own generator."""
        config = BertConfig(
            vocab_size=len(self._texts.tokenizer), max_position_embeddings=self._recipe.sequence_length,
            hidden_dropout_prob=self._recipe.dropout, attention_probs_dropout_prob=self._recipe.dropout,
            pad_token_id=self._texts.tokenizer.pad_token_id, architectures=["BertForMaskedLM"],
            **plain(self._recipe.architecture),
        )  # fmt: skip
        # Eager attention is about 15 % faster than SDPA at this width on a CPU.
        return BertForMaskedLM._from_config(config, attn_implementation="eager")

    def save(self, folder: Path) -> None:
        """Write the tokenizer."""
        self._texts.tokenizer.save_pretrained(folder)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Return masked inputs and labels, both (rows, length)."""
        return mask_tokens(
            self._texts.train[rows], generator, self._recipe.mask_probability, self._texts.tokenizer.mask_token_id,
            len(self._texts.tokenizer),
        )  # fmt: skip

    def loss(self, model: BertForMaskedLM, batch: Batch) -> Tensor:
        """Return the mean cross-entropy (nats) over the masked positions."""
        return masked_loss(model, *batch)

    def held_out(self, model: BertForMaskedLM) -> dict[str, float]:
        """Return the loss on texts that training does not see."""
        if not len(self._texts.held_out):
            return {"held_out_loss": math.nan}
        mask_id = self._texts.tokenizer.mask_token_id
        return {"held_out_loss": held_out_loss(model, self._texts.held_out, self._recipe, mask_id)}
