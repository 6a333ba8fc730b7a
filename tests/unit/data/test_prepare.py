"""What a model cannot read is named when its inputs are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.errors import UserError
from essential_sparsity.pretraining.masked_text import train_tokenizer

WHERE = "model m, task t"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(["hero village war train film boring"] * 3, 60, 1, 12)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=12,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def texts(*, text: str = "hero film") -> pd.DataFrame:
    return pd.DataFrame({"id": [0, 1], "text": [text, "war"], "label": ["a", "b"], "split": ["train", "test"]})


KEYS: dict[str, Any] = {"kind": "classes", "max_length": 12}


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    other = train_tokenizer(["ångström αβγδε жзийк qxz"] * 3, 200, 1, 12)
    assert len(other) > len(AutoTokenizer.from_pretrained(bert))
    other.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"{WHERE}, tokenizer: found token \d+ in the texts; expected at most"):
        prepare_inputs(texts(text="жзийк qxz"), tmp_path, WHERE, **KEYS)


def test_a_tokenizer_that_does_not_know_the_texts_is_refused(bert: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer: found \d+% unknown tokens in the texts"):
        prepare_inputs(texts(text="жзийк αβγδε ångström 日本 語 жз"), bert, WHERE, **KEYS)


def test_a_tokenizer_without_a_pad_token_is_refused(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="tokenizer without a pad token"):
        prepare_inputs(texts(), tmp_path, WHERE, **KEYS)


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_task_without_rows_to_train_or_to_test_on_is_refused(bert: Path, lacking: str) -> None:
    rows = texts()
    with pytest.raises(UserError, match=f"found no row of the split '{lacking}' in the dataset"):
        prepare_inputs(rows[rows["split"] != lacking], bert, WHERE, **KEYS)


def test_a_question_without_an_answer_is_refused_where_every_one_must_have_it(bert: Path) -> None:
    rows = texts().assign(text_pair="hero war", answers=[["hero"], []], answer_starts=[[0], []])
    keys: dict[str, Any] = {"kind": "spans", "max_length": 12, "stride": 2}
    with pytest.raises(UserError, match="row 1: found a question without an answer"):
        prepare_inputs(rows, bert, WHERE, **keys, unanswerable=False)
    columns, _ = prepare_inputs(rows, bert, WHERE, **keys, unanswerable=True)
    assert columns["split"] == ["train", "test"]
