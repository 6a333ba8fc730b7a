"""Token and word perplexity and the loss of masked tokens, against NumPy on the model's own logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaForCausalLM

import entries
import tiny
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import Prepared, write_prepared
from essential_sparsity.data.tasks import Windows
from essential_sparsity.data.tokens import rolling_windows, token_windows
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.evaluation.perplexity import (
    LANGUAGE_MODELLING,
    causal_losses,
    evaluate_masked,
    evaluate_stream,
    load_causal,
    load_masked,
)
from essential_sparsity.evaluation.tables import EXAMPLES
from essential_sparsity.metrics.registry import compute_metric
from essential_sparsity.pretraining.masked_text import train_tokenizer
from essential_sparsity.study.tasks import preparation
from essential_sparsity.tables import write_table

WHERE = "model m, sparsity 0.300"
STREAM = entries.task("perplexity", window=16, windows=5, batch_size=2)
DOCUMENTS = entries.task("perplexity", metric="word_perplexity", window=16, batch_size=3)
MASKED = entries.task("masked_tokens", window=16, windows=6, batch_size=4, mask_probability=0.2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny.write_llama(path)
    # A token that ends texts, before the first of a document.
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.eos_token = "<unk>"
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> nn.Module:
    return LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("texts") / "t.csv"
    tiny.write_texts(path, 30)
    return pd.read_csv(path).assign(split="train", id=range(100, 130))


def prepared(rows: pd.DataFrame, task: Windows, folder: Path, file: Path) -> Prepared:
    keys = preparation(task, entries.dataset(text="t"))
    assert keys is not None
    write_prepared(*prepare_inputs(rows, folder, WHERE, **keys), file)
    return Prepared(file)


def evaluated(rows: pd.DataFrame, task: Windows, model: nn.Module, folder: Path, file: Path) -> Outcome:
    _, evaluate = LANGUAGE_MODELLING[task.protocol, task.metric]
    return evaluate(model, prepared(rows, task, folder, file / "inputs.arrow"), task, WHERE)


def ids_of(texts: pd.DataFrame, tokenizer: Any, n: int) -> np.ndarray:
    """The stream, tokenised as one text: the texts joined by blank lines."""
    stream = tokenizer("\n\n".join(texts["text"]), add_special_tokens=False)["input_ids"]
    return np.array(stream[:n]).reshape(STREAM.windows, STREAM.window)


def log_probabilities(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities of all tokens after each, (rows, length, vocabulary), in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids)).logits.double().numpy()
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def numpy_losses(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    """Mean negative log-likelihood of each window's tokens but the first, in float64."""
    before = log_probabilities(model, ids)[:, :-1]
    return -np.take_along_axis(before, ids[:, 1:, None], axis=-1)[..., 0].mean(axis=1)


# --- Token perplexity ---


def test_perplexity_is_that_of_numpy(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    outcome = evaluated(texts, STREAM, model, folder, tmp_path)
    losses = numpy_losses(model, ids_of(texts, tokenizer, 80))
    assert outcome.value == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    np.testing.assert_allclose(outcome.examples["loss"], losses, rtol=1e-5)
    assert outcome.n == 5 * 15, "the first token of a window is not predicted"
    assert outcome.chance == len(tokenizer)


def test_perplexity_is_that_of_transformers(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    outcome = evaluated(texts, STREAM, model, folder, tmp_path)
    ids = torch.from_numpy(ids_of(texts, tokenizer, 80))
    with torch.no_grad():
        expected = torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in ids])
    np.testing.assert_allclose(outcome.examples["loss"], expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_the_batch_size_does_not_matter(
    model: nn.Module, texts: pd.DataFrame, folder: Path, tmp_path: Path, batch_size: int
) -> None:
    for task in (STREAM, DOCUMENTS):
        data = prepared(texts, task, folder, tmp_path / "inputs.arrow")
        torch.testing.assert_close(causal_losses(model, data, batch_size, "x"), causal_losses(model, data, 2, "x"))


def test_a_lack_of_memory_changes_nothing(
    model: nn.Module, texts: pd.DataFrame, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(nn.Module):
        """Has room for two windows."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
            if len(input_ids) > 2:
                raise torch.OutOfMemoryError("no room")
            return self.inner(input_ids=input_ids, **more)

    data = prepared(texts, STREAM, folder, tmp_path / "inputs.arrow")
    task = replace(STREAM, batch_size=8)
    whole, parts = evaluate_stream(model, data, STREAM, WHERE), evaluate_stream(Full(), data, task, WHERE)
    pd.testing.assert_frame_equal(whole.examples, parts.examples, rtol=1e-6)
    assert "out of memory, going on with batches of 2" in caplog.text


def test_the_value_can_be_recomputed_from_the_examples(
    model: nn.Module, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    for task, metric in ((STREAM, "perplexity"), (DOCUMENTS, "word_perplexity")):
        outcome = evaluated(texts, task, model, folder, tmp_path)
        stored = write_table(outcome.examples, EXAMPLES, tmp_path / "e.parquet")
        again = math.exp((stored["loss"] * stored["n"]).sum() / stored["n"].sum())
        assert again == pytest.approx(outcome.value, rel=1e-12)
        assert compute_metric(metric, stored, WHERE).value == outcome.value
        assert stored["n"].sum() == outcome.n


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(
    tokenizer: Any, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, len(tokenizer)) + self.w)

    for task in (STREAM, DOCUMENTS, replace(STREAM, windows=6, batch_size=4)):
        outcome = evaluated(texts, task, Even(), folder, tmp_path)
        assert outcome.value == pytest.approx(outcome.chance, rel=1e-5)
    assert evaluated(texts, STREAM, Even(), folder, tmp_path).value == pytest.approx(len(tokenizer), rel=1e-5)


def test_of_a_dataset_with_a_split_the_held_out_texts_are_read(
    model: nn.Module, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    held_out = texts.iloc[len(texts) // 2 :]
    split = texts.assign(split=["train"] * (len(texts) - len(held_out)) + ["test"] * len(held_out))
    for task in (STREAM, DOCUMENTS):
        values = [evaluated(rows, task, model, folder, tmp_path).value for rows in (split, held_out, texts)]
        assert values[0] == values[1] != values[2]


def test_windows_do_not_overlap_and_lose_nothing(tokenizer: Any, texts: pd.DataFrame) -> None:
    windows = token_windows(texts["text"].tolist(), tokenizer, 16, 5, WHERE)
    np.testing.assert_array_equal(windows, ids_of(texts, tokenizer, 80))
    stream = tokenizer("\n\n".join(texts["text"]), add_special_tokens=False)["input_ids"]
    every = token_windows(texts["text"].tolist(), tokenizer, 16, None, WHERE)
    assert every.shape == (len(stream) // 16, 16), "all of them without a number"


@pytest.mark.parametrize("enough", [True, False])
def test_too_little_text_is_refused(tokenizer: Any, texts: pd.DataFrame, enough: bool) -> None:
    few = texts["text"].tolist()[:3]
    tokens = sum(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in few)
    if enough:
        assert token_windows(few, tokenizer, tokens, 1, WHERE).shape == (1, tokens)
        return
    with pytest.raises(UserError) as caught:
        token_windows(few, tokenizer, 16, 5, WHERE)
    assert caught.value.where == WHERE
    assert caught.value.found == f"{tokens} tokens in 3 texts"
    assert "80 in all" in caught.value.expected
    assert "`windows`" in caught.value.mend


def test_only_as_many_texts_are_read_as_are_needed(tokenizer: Any, texts: pd.DataFrame) -> None:
    read: list[str] = []

    def counting(text: str, **options: Any) -> Any:
        read.append(text)
        return tokenizer(text, **options)

    token_windows(texts["text"].tolist(), counting, 16, 1, WHERE)
    assert len(read) == 2


def test_a_window_longer_than_the_model_is_refused(
    model: nn.Module, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="key window: found 65 tokens; expected at most 64"):
        evaluated(texts, replace(STREAM, window=65, windows=1), model, folder, tmp_path)


def test_a_loss_that_is_not_finite_is_refused(texts: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    broken = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=rf"{WHERE}: found a loss that is NaN or infinite in 5 of 5 windows"):
        evaluated(texts, STREAM, broken, folder, tmp_path)


# --- Word perplexity ---


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(2, 20))
def test_every_token_of_a_document_is_predicted_once_with_all_the_context_there_is_room_for(
    length: int, window: int
) -> None:
    ids = list(range(1, length + 1))
    seen: list[int] = []
    for part, count in rolling_windows(ids, window, 0):
        assert 1 <= count <= len(part) - 1 <= window
        seen += part[-count:]
        whole = [0, *ids]
        end = whole.index(part[-1])
        assert part == whole[max(0, end - window) : end + 1] or part[0] == 0
    assert seen == ids


def test_word_perplexity_is_that_of_numpy(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    few = texts.head(7)
    outcome = evaluated(few, replace(DOCUMENTS, window=64), model, folder, tmp_path)
    losses, words = [], []
    for text in few["text"]:
        ids = np.array([[tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        losses.append(numpy_losses(model, ids)[0] * (ids.shape[1] - 1))
        words.append(len(text.split()))
    assert outcome.value == pytest.approx(math.exp(sum(losses) / sum(words)), rel=1e-5)
    np.testing.assert_allclose(outcome.examples["loss"] * outcome.examples["n"], losses, rtol=1e-5)
    assert outcome.examples["n"].tolist() == words
    assert outcome.examples["id"].tolist() == few["id"].tolist()


def test_long_documents_are_read_in_parts(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame, folder: Path, tmp_path: Path
) -> None:
    long = pd.DataFrame({"id": [4], "text": [" ".join(texts["text"])], "split": ["train"]})
    outcome = evaluated(long, DOCUMENTS, model, folder, tmp_path)
    ids = [tokenizer.eos_token_id, *tokenizer(long["text"][0], add_special_tokens=False)["input_ids"]]
    total, done = 0.0, 1
    while done < len(ids):
        end = min(done + 16, len(ids))
        start = max(0, end - 17)
        part = np.array([ids[start:end]])
        before = log_probabilities(model, part[:, :-1])[0]
        total -= before[np.arange(len(before)), part[0, 1:]][done - end :].sum()
        done = end
    assert outcome.value == pytest.approx(math.exp(total / len(long["text"][0].split())), rel=1e-5)


def test_texts_without_a_word_do_not_count(model: nn.Module, texts: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    blank = pd.concat([texts.head(3), pd.DataFrame({"id": [9], "text": [" \n "], "split": ["train"]})])
    one, other = (evaluated(rows, DOCUMENTS, model, folder, tmp_path) for rows in (texts.head(3), blank))
    assert one.value == other.value
    with pytest.raises(UserError, match="no text with a word"):
        evaluated(blank.tail(1), DOCUMENTS, model, folder, tmp_path)


# --- Masked tokens ---


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, texts: pd.DataFrame) -> Path:
    path = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(texts["text"].tolist(), 80, 1, 32)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(path)
    return path


def test_the_loss_of_masked_tokens_is_that_of_numpy(bert: Path, texts: pd.DataFrame, tmp_path: Path) -> None:
    model = load_masked(bert, CPU, WHERE)
    data = prepared(texts, MASKED, bert, tmp_path / "inputs.arrow")
    outcome = evaluate_masked(model, data, MASKED, WHERE)
    ids, labels = data.ragged("input_ids"), data.ragged("labels")
    total, count = 0.0, 0
    for i in range(len(data)):
        found = log_probabilities(model, ids[i][None].astype(np.int64))[0]
        places = np.flatnonzero(labels[i] != -100)
        assert len(places) == round(0.2 * 14), "[CLS] and [SEP] are of the window, and never masked"
        total -= found[places, labels[i][places]].sum()
        count += len(places)
    assert outcome.value == pytest.approx(total / count, rel=1e-5)
    assert outcome.n == count
    assert outcome.chance == pytest.approx(math.log(len(AutoTokenizer.from_pretrained(bert))))


def test_only_masked_places_differ_from_the_text(bert: Path, texts: pd.DataFrame, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bert)
    data = prepared(texts, MASKED, bert, tmp_path / "inputs.arrow")
    stream = token_windows(texts["text"].tolist(), tokenizer, 14, 6, WHERE)
    for i in range(len(data)):
        ids, labels = data.ragged("input_ids")[i], data.ragged("labels")[i]
        restored = np.where(labels != -100, labels, ids)
        assert restored.tolist() == [tokenizer.cls_token_id, *stream[i].tolist(), tokenizer.sep_token_id]
        assert (ids[labels != -100] == tokenizer.mask_token_id).all()
    again = prepared(texts, MASKED, bert, tmp_path / "again.arrow")
    other = prepared(texts, replace(MASKED, seed=1), bert, tmp_path / "other.arrow")
    values = [d.ragged("input_ids").values.tolist() for d in (data, again, other)]
    assert values[0] == values[1] != values[2]


# --- Loading ---


def test_a_model_without_the_head_is_refused(bert: Path, folder: Path, checkpoints: Any) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}: found the architecture BertForMaskedLM.*finetune"):
        load_causal(bert, CPU, WHERE)
    with pytest.raises(UserError, match=rf"{WHERE}: found the architecture LlamaForCausalLM.*masked language model"):
        load_masked(folder, CPU, WHERE)


def test_models_are_loaded_in_eval_mode_and_keep_no_gradient(
    folder: Path, bert: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    assert not load_causal(folder, CPU, WHERE).training
    assert not load_masked(bert, CPU, WHERE).training
    losses = causal_losses(
        load_causal(folder, CPU, WHERE), prepared(texts, STREAM, folder, tmp_path / "i.arrow"), 2, "x"
    )
    assert not losses.requires_grad
    assert losses.dtype is torch.float64


@torch.no_grad()
def test_the_dense_model_gives_the_logits_of_transformers_bit_for_bit(
    folder: Path, bert: Path, texts: pd.DataFrame, tmp_path: Path
) -> None:
    ids = torch.randint(0, 20, (2, 9), generator=torch.Generator().manual_seed(0))
    for path, own, theirs in ((folder, load_causal, LlamaForCausalLM), (bert, load_masked, BertForMaskedLM)):
        assert torch.equal(own(path, CPU, WHERE)(ids).logits, theirs.from_pretrained(path).eval()(ids).logits)


def test_every_language_modelling_protocol_has_its_evaluation() -> None:
    assert set(LANGUAGE_MODELLING) == {
        ("perplexity", "perplexity"), ("perplexity", "word_perplexity"), ("masked_tokens", "masked_loss"),
    }  # fmt: skip
