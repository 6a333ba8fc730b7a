"""Masked language modelling: tokenizer, sequences, masks and losses, against transformers and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import entries
from essential_sparsity.pretraining.masked_text import (
    SPECIAL_TOKENS,
    held_out_loss,
    mask_tokens,
    masked_loss,
    pack_sequences,
    train_tokenizer,
)
from trainings import RECIPE, corpus, tied_texts


def test_tokens_are_masked_as_bert_does() -> None:
    generator = torch.Generator().manual_seed(0)
    vocabulary, mask = 1000, SPECIAL_TOKENS.index("[MASK]")
    ids = torch.randint(len(SPECIAL_TOKENS), vocabulary, (4000, 64), generator=generator)
    ids[:, 0], ids[:, -1] = SPECIAL_TOKENS.index("[CLS]"), SPECIAL_TOKENS.index("[SEP]")
    before = ids.clone()
    inputs, labels = mask_tokens(ids, generator, 0.15, mask, vocabulary)
    assert torch.equal(ids, before), "the batch itself is left alone"
    chosen = labels != -100
    assert not chosen[:, 0].any()
    assert not chosen[:, -1].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(inputs[~chosen], ids[~chosen]), "what is not predicted is not changed"
    n = int(chosen.sum())
    # Four standard errors of a binomial share.
    assert n / (4000 * 62) == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / (4000 * 62)))
    masked = float((inputs[chosen] == mask).double().mean())
    kept = float((inputs[chosen] == ids[chosen]).double().mean())
    assert masked == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / n))
    assert kept == pytest.approx(0.1 + 0.1 / 995, abs=4 * math.sqrt(0.1 * 0.9 / n))  # a random word may be the same
    swapped = inputs[chosen & (inputs != mask) & (inputs != ids)]
    assert int(swapped.min()) >= len(SPECIAL_TOKENS), "never a special token"
    assert swapped.unique().numel() > 900


def test_the_tokenizer_is_berts() -> None:
    tokenizer = train_tokenizer(corpus()["text"].tolist(), 80, 1, 12)
    assert [tokenizer.convert_tokens_to_ids(t) for t in SPECIAL_TOKENS] == list(range(5))
    assert tokenizer("The HERO")["input_ids"] == tokenizer("the hero")["input_ids"], "lower-casing"
    assert tokenizer.decode(tokenizer("The hero returns")["input_ids"], skip_special_tokens=True) == "the hero returns"
    assert len(tokenizer) <= 80


def test_the_same_texts_give_the_same_tokenizer() -> None:
    found = {train_tokenizer(tied_texts(), 200, 1, 12).backend_tokenizer.to_str() for _ in range(6)}
    assert len(found) == 1


def test_pieces_inside_words_are_no_special_tokens() -> None:
    tokenizer = train_tokenizer(corpus()["text"].tolist(), 80, 1, 12)
    assert set(tokenizer.all_special_tokens) == set(SPECIAL_TOKENS)
    assert tokenizer.tokenize("hero ##e") == [*tokenizer.tokenize("hero"), "[UNK]", "[UNK]", "e"]
    unknown = tokenizer.tokenize("vtr")  # letters that the texts have, in an order that they do not
    assert "".join(piece.removeprefix("##") for piece in unknown) == "vtr"
    assert all(piece.startswith("##") for piece in unknown[1:])
    assert tokenizer.decode(tokenizer.convert_tokens_to_ids(unknown), skip_special_tokens=True) == "vtr"


def test_sequences_are_the_stream_cut_into_equal_parts() -> None:
    texts = corpus()["text"].tolist()
    tokenizer = train_tokenizer(texts, 80, 1, 12)
    packed = pack_sequences(texts, tokenizer, 12)
    stream = [i for t in texts for i in tokenizer(t, add_special_tokens=False)["input_ids"]]
    assert packed.shape == (len(stream) // 10, 12)
    assert set(packed[:, 0].tolist()) == {tokenizer.cls_token_id}
    assert set(packed[:, -1].tolist()) == {tokenizer.sep_token_id}
    assert packed[:, 1:-1].flatten().tolist() == stream[: 10 * len(packed)]


def small_bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, max_position_embeddings=16, **RECIPE["architecture"])
    return BertForMaskedLM(config).eval()


@torch.no_grad()
def test_the_loss_on_masked_positions_is_that_of_transformers() -> None:
    model, generator = small_bert(), torch.Generator().manual_seed(1)
    ids = torch.randint(5, 50, (6, 16), generator=generator)
    inputs, labels = mask_tokens(ids, generator, 0.3, 4, 50)
    assert (labels != -100).sum() > 5
    expected = model(input_ids=inputs, labels=labels).loss
    torch.testing.assert_close(masked_loss(model, inputs, labels), expected)


@torch.no_grad()
def test_the_held_out_loss_is_the_mean_over_all_masked_positions() -> None:
    model = small_bert().train()
    sequences = torch.randint(5, 50, (70, 16), generator=torch.Generator().manual_seed(2))  # 64 and 6
    found = held_out_loss(model, sequences, entries.recipe(**RECIPE), 4)
    assert model.training, "the mode is given back"
    model.eval()
    generator, parts = torch.Generator().manual_seed(RECIPE["seed"]), []
    for batch in sequences.split(64):
        inputs, labels = mask_tokens(batch, generator, 0.15, 4, 50)
        nll = torch.nn.functional.cross_entropy(model(input_ids=inputs).logits.flatten(0, 1), labels.flatten(),
                                                reduction="none")  # fmt: skip
        parts.append(nll[labels.flatten() != -100])
    assert found == pytest.approx(float(torch.cat(parts).mean()), rel=1e-5)
    assert found == held_out_loss(model, sequences, entries.recipe(**RECIPE), 4), "one fixed draw of masks"
