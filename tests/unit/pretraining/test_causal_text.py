"""Causal pre-training: nothing of the future is seen, every token is predicted once, and the checkpoint goes on."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

import entries
from essential_sparsity.checkpoints.extract import empty_model, extract
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import Prepared, write_prepared
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.perplexity import evaluate_documents, load_causal
from essential_sparsity.methods.method import Method
from essential_sparsity.pretraining.causal_text import (
    END_OF_TEXT,
    CausalLanguageModelling,
    held_out_loss,
    next_token_loss,
    pack_texts,
    train_tokenizer,
)
from essential_sparsity.pretraining.loop import make_optimiser
from essential_sparsity.pruning.masks import unpack
from essential_sparsity.pruning.prune import PrunableModel, prune_levels
from essential_sparsity.pruning.streaming import dense_statistics, streamed_model
from essential_sparsity.sources.fetch import fetch
from essential_sparsity.study.validation import validate
from trainings import WHERE, killed_in, tied_texts, trained

CPU = torch.device("cpu")
RECIPE: dict[str, Any] = {
    "objective": "causal-language-modelling", "corpus": "texts",
    "architecture": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40,
    },
    "tokenizer": {"vocab_size": 280, "min_frequency": 1}, "sequence_length": 12, "steps": 12, "batch_size": 8,
    "learning_rate": 0.01, "weight_decay": 0.01, "warmup": 0.1, "dropout": 0.1,
    "checkpoints": 3, "first_checkpoint": 4, "log_every": 5, "seed": 0,
}  # fmt: skip
NUMBERS = "one two three four five six seven eight nine ten"


def corpus(rows: int = 60) -> pd.DataFrame:
    """Texts in which every word follows from the one before it, beginning anywhere; every fifth is held out."""
    draw, words = np.random.default_rng(0), NUMBERS.split()
    texts = [" ".join(np.roll(words, draw.integers(10))[:8]) for _ in range(rows)]
    return pd.DataFrame(
        {"id": range(rows), "text": texts, "split": ["test" if i % 5 == 0 else "train" for i in range(rows)]}
    )


def recipe(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECIPE), **changes}


def train(folder: Path, **changes: Any) -> dict[str, bytes]:
    return trained(corpus(), recipe(**changes), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last step, as the workflow makes a checkpoint of it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    step = entries.source("pretrain", corpus="c", step="step000012")
    fetch(step, [whole / "index.json", whole], folder / "source", WHERE)
    extract(folder / "source", folder / "checkpoint", "float32", WHERE)
    return folder / "checkpoint"


def test_a_training_that_was_cut_off_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    with killed_in(6):
        train(tmp_path)
    assert not (tmp_path / "index.json").exists()
    assert train(tmp_path) == {p.name: p.read_bytes() for p in whole.iterdir()}


def test_the_next_word_is_learnt(tmp_path: Path) -> None:
    """The loss falls below that of the best model that knows how often tokens occur, and nothing of their order."""
    train(tmp_path, steps=100, dropout=0.0, checkpoints=2)
    curve = pd.read_parquet(tmp_path / "loss.parquet").set_index("step")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = corpus()
    stream = pack_texts(rows.loc[rows["split"] == "train", "text"].tolist(), tokenizer, 12)[:, 1:].flatten()
    share = torch.bincount(stream) / len(stream)
    unigram = -float(torch.xlogy(share, share).sum())
    assert curve["held_out_loss"].loc[0] == pytest.approx(math.log(len(tokenizer)), rel=0.05), "untrained: even guess"
    assert curve["held_out_loss"].loc[100] < 0.6 * unigram
    assert curve["loss"].iloc[-1] < 0.6 * unigram


@torch.no_grad()
def test_a_token_has_no_say_in_what_is_predicted_before_it(checkpoint: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    ids = torch.randint(1, 280, (4, 12), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 7] = (ids[:, 7] + 1) % 280
    before, after = model(input_ids=ids).logits, model(input_ids=changed).logits
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


@torch.no_grad()
def test_the_loss_is_the_mean_over_every_next_token(checkpoint: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(checkpoint).train()
    sequences = torch.randint(0, 280, (70, 13), generator=torch.Generator().manual_seed(1))  # 64 and 6
    found = held_out_loss(model, sequences)
    assert model.training, "the mode is given back"
    model.eval()
    logits = model(input_ids=sequences[:, :-1]).logits.double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    true = np.take_along_axis(log_p, sequences[:, 1:, None].numpy(), axis=-1)
    assert found == pytest.approx(-true.mean(), rel=1e-5)
    # Transformers' own loss, which shifts labels itself: all tokens but a sequence's first.
    expected = model(input_ids=sequences[:, :-1], labels=sequences[:, :-1]).loss
    torch.testing.assert_close(next_token_loss(model, sequences[:, :-2], sequences[:, 1:-1]), expected)


def test_texts_are_one_stream_that_every_sequence_goes_on_in() -> None:
    texts = corpus()["text"].tolist()
    tokenizer = train_tokenizer(texts, 280, 1, 12)
    packed = pack_texts(texts, tokenizer, 12)
    stream = [i for t in texts for i in [*tokenizer(t)["input_ids"], tokenizer.eos_token_id]]
    assert packed.shape == ((len(stream) - 1) // 12, 13)
    assert packed[:, :-1].flatten().tolist() == stream[: 12 * len(packed)]
    assert packed[:, 1:].flatten().tolist() == stream[1 : 12 * len(packed) + 1]
    assert tokenizer.decode(packed[:, :-1].flatten()).count(END_OF_TEXT) > 20
    assert pack_texts([], tokenizer, 12).shape == pack_texts(["one"], tokenizer, 12).shape == (0, 13)


def test_any_text_comes_back_whole_from_its_tokens(whole: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(whole)
    for text in (NUMBERS, "Ærø\n\n 12\t漢字 \x00", ""):
        assert tokenizer.decode(tokenizer(text, verbose=False)["input_ids"]) == text
    assert len(tokenizer(NUMBERS)["input_ids"]) < len(NUMBERS) / 2, "merges were learnt"


def test_the_same_texts_give_the_same_tokenizer() -> None:
    found = {train_tokenizer(tied_texts(), 400, 1, 12).backend_tokenizer.to_str() for _ in range(6)}
    assert len(found) == 1


# --- Downstream ---


def test_a_checkpoint_is_what_transformers_loads(checkpoint: Path) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert isinstance(model, GPT2LMHeadModel)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.n_positions == 12
    assert model.config.n_inner == 40


def test_the_checkpoint_is_pruned_calibrated_and_evaluated(checkpoint: Path, tmp_path: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    matrices = list_matrices(empty_model(checkpoint), shapes, WHERE)
    pruned = [m for m in matrices if m.pruned]
    # GPT-2 stores (inputs, outputs): queries, keys and values in one, and three more of every block.
    assert [(m.block, m.shape, m.transposed) for m in pruned] == [
        (block, shape, True) for block in (0, 1) for shape in ((16, 48), (16, 16), (16, 40), (40, 16))
    ]
    task = entries.task("perplexity", window=12, batch_size=8)
    columns, about = prepare_inputs(corpus(), checkpoint, WHERE, kind="documents", window=12, windows=None)
    write_prepared(columns, about, tmp_path / "inputs.arrow")
    model = load_causal(checkpoint, CPU, WHERE)
    outcome = evaluate_documents(model, Prepared(tmp_path / "inputs.arrow"), task, WHERE)
    assert 1 < outcome.value < outcome.chance
    batches = [torch.randint(0, 280, (2, 12), generator=torch.Generator().manual_seed(2))]
    with open_weights(checkpoint / "model.safetensors") as files:
        blocks = dense_statistics(streamed_model(checkpoint), files, matrices, batches, CPU, None, False, "float32")
        observed = {name: inputs.squares.numel() for block in blocks for name, inputs in block.items()}
        method = Method(score="magnitude", scope="layer")
        results = dict(prune_levels(PrunableModel(files, pruned, CPU), method, [0.25], 0, {}))
    assert observed == {m.name: m.shape[0] for m in pruned}
    kept = {m.name: int(unpack(results[m.name][0].packed, m.shape).sum()) for m in pruned}
    assert kept == {m.name: m.size - m.size // 4 for m in pruned}


# --- What cannot be trained ---


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.corpus: found \d sequences of 12 tokens.*batch of 8.*corpus_share"):
        train(tmp_path, corpus_share=0.05)
    assert not (tmp_path / "index.json").exists()


def test_the_registry_fills_in_the_recipe(root: Path) -> None:
    schema = root / "workflow" / "schemas" / "source.schema.yaml"

    def checked(**changes: Any) -> dict[str, Any]:
        asked = {key: RECIPE[key] for key in ("objective", "corpus", "architecture", "steps")} | changes
        source: dict[str, Any] = {"kind": "pretrain", "recipe": asked}
        validate(source, schema, "models.yaml")
        return source["recipe"]  # type: ignore[no-any-return]

    assert set(checked()) == set(RECIPE), "no key of another objective, and all of this one"
    assert checked()["tokenizer"] == {"vocab_size": 2000, "min_frequency": 2}
    with pytest.raises(UserError, match="vocab_size: found 200; expected a number of at least 257"):
        checked(tokenizer={"vocab_size": 200})
    with pytest.raises(UserError, match="unknown key 'mask_probability'"):
        checked(mask_probability=0.1)


def test_only_matrices_and_embeddings_decay() -> None:
    model: nn.Module = CausalLanguageModelling(corpus(), entries.recipe(**RECIPE), WHERE).build()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, _ = make_optimiser(model, 0.1, 0.05).param_groups
    assert not [names[id(p)] for p in decayed["params"] if "ln_" in names[id(p)] or names[id(p)].endswith("bias")]
    assert sum(p.ndim == 2 for p in model.parameters()) == len(decayed["params"])
