"""Token perplexity, against NumPy on the model's own logits."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaForCausalLM

import tiny
from essential_sparsity.errors import UserError
from essential_sparsity.perplexity import evaluate_perplexity, load_causal, token_windows, window_losses
from essential_sparsity.tables import EXAMPLES, write_table

WHERE = "model m, sparsity 0.300"
TASK = {"window": 16, "windows": 5, "batch_size": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny.write_llama(path)
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
    return pd.read_csv(path).assign(split="train")


def ids_of(texts: pd.DataFrame, tokenizer: Any, n: int) -> np.ndarray:
    """The stream, tokenised as one text: the texts joined by blank lines."""
    stream = tokenizer("\n\n".join(texts["text"]), add_special_tokens=False)["input_ids"]
    return np.array(stream[:n]).reshape(TASK["windows"], TASK["window"])


def numpy_losses(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    """Mean negative log-likelihood of each window's tokens but the first, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids)).logits.double().numpy()[:, :-1]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -np.take_along_axis(log_probability, ids[:, 1:, None], axis=-1)[..., 0].mean(axis=1)


def test_perplexity_is_that_of_numpy(model: nn.Module, tokenizer: Any, texts: pd.DataFrame) -> None:
    outcome = evaluate_perplexity(model, tokenizer, texts, TASK, WHERE)
    losses = numpy_losses(model, ids_of(texts, tokenizer, 80))
    assert outcome.value == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    np.testing.assert_allclose(outcome.examples["loss"], losses, rtol=1e-5)
    assert outcome.n == 5 * 15, "the first token of a window is not predicted"
    assert outcome.chance == len(tokenizer)


def test_perplexity_is_that_of_transformers(model: nn.Module, tokenizer: Any, texts: pd.DataFrame) -> None:
    outcome = evaluate_perplexity(model, tokenizer, texts, TASK, WHERE)
    ids = torch.from_numpy(ids_of(texts, tokenizer, 80))
    with torch.no_grad():
        expected = torch.stack([model(input_ids=w[None], labels=w[None]).loss for w in ids])
    np.testing.assert_allclose(outcome.examples["loss"], expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_the_batch_size_does_not_matter(model: nn.Module, batch_size: int) -> None:
    windows = torch.randint(0, 20, (7, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(window_losses(model, windows, batch_size), window_losses(model, windows, 2))


def test_the_value_can_be_recomputed_from_the_examples(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame, tmp_path: Path
) -> None:
    outcome = evaluate_perplexity(model, tokenizer, texts, TASK, WHERE)
    stored = write_table(outcome.examples, EXAMPLES, tmp_path / "e.parquet")
    assert math.exp(stored["loss"].mean()) == outcome.value
    assert stored["id"].tolist() == list(range(5))


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tokenizer: Any, texts: pd.DataFrame) -> None:
    class Even(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, len(tokenizer)) + self.w)

    outcome = evaluate_perplexity(Even(), tokenizer, texts, TASK, WHERE)
    assert outcome.value == pytest.approx(len(tokenizer), rel=1e-5)
    assert outcome.value == pytest.approx(outcome.chance, rel=1e-5)


def test_of_a_dataset_with_a_split_the_held_out_texts_are_read(
    model: nn.Module, tokenizer: Any, texts: pd.DataFrame
) -> None:
    task = {"window": 16, "windows": 4, "batch_size": 2}
    held_out = texts.iloc[len(texts) // 2 :]
    split = texts.assign(split=["train"] * (len(texts) - len(held_out)) + ["test"] * len(held_out))
    values = [evaluate_perplexity(model, tokenizer, rows, task, WHERE).value for rows in (split, held_out, texts)]
    assert values[0] == values[1] != values[2]


def test_windows_do_not_overlap_and_lose_nothing(tokenizer: Any, texts: pd.DataFrame) -> None:
    windows = token_windows(texts["text"].tolist(), tokenizer, 16, 5, WHERE)
    assert windows.shape == (5, 16)
    np.testing.assert_array_equal(windows.numpy(), ids_of(texts, tokenizer, 80))


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


def test_a_loss_that_is_not_finite_is_refused(folder: Path, tokenizer: Any, texts: pd.DataFrame) -> None:
    broken = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=rf"{WHERE}: found a loss that is NaN or infinite in 5 of 5 windows"):
        evaluate_perplexity(broken, tokenizer, texts, TASK, WHERE)


def test_a_masked_language_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{WHERE}: found the architecture BertForMaskedLM.*finetune"):
        load_causal(tmp_path, CPU, WHERE)


def test_a_causal_model_is_loaded_in_eval_mode(folder: Path) -> None:
    model, tokenizer = load_causal(folder, CPU, WHERE)
    assert not model.training
    assert tokenizer("hero").input_ids


def test_no_gradient_is_kept(model: nn.Module) -> None:
    losses = window_losses(model, torch.randint(0, 20, (2, 9)), 2)
    assert not losses.requires_grad
    assert losses.dtype is torch.float64
