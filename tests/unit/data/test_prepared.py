"""Prepared inputs: what is written is mapped back unchanged, batch by batch, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from essential_sparsity.data.batches import attention, halving, padded, run_by_length, smaller
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import Prepared, Ragged, ragged_column, write_prepared
from essential_sparsity.errors import UserError
from essential_sparsity.pretraining.masked_text import train_tokenizer

WHERE = "model m, task t"
rows_of_numbers = st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=9), min_size=1, max_size=20)


def ragged(rows: list[list[int]]) -> Ragged:
    return Ragged(np.concatenate([np.array(r) for r in rows]), np.cumsum([0, *map(len, rows)]))


@settings(max_examples=30, deadline=None)
@given(rows_of_numbers)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("p") / "deep" / "x.arrow"
    splits = ["train" if i % 3 else "test" for i in range(len(rows))]
    blocks = np.arange(len(rows) * 6, dtype=np.uint8).reshape(len(rows), 6)
    flat = pa.Array.from_buffers(pa.binary(6), len(rows), [None, pa.py_buffer(blocks)])
    write_prepared(
        {"id": np.arange(len(rows)), "split": splits, "ids": ragged_column(rows, pa.int32()), "pixels": flat},
        {"classes": ["a", "b"]}, path,
    )  # fmt: skip
    data = Prepared(path)
    assert len(data) == len(rows)
    assert [data.ragged("ids")[i].tolist() for i in range(len(rows))] == rows
    assert data.ragged("ids").lengths.tolist() == list(map(len, rows))
    assert data.split("train").tolist() == [i for i, split in enumerate(splits) if split == "train"]
    assert data.splits() == sorted(set(splits))
    assert np.array_equal(data.blocks("pixels", (2, 3)), blocks.reshape(-1, 2, 3))
    assert data.about == {"classes": ["a", "b"]}
    assert data.has("ids") and not data.has("token_type_ids")


def test_columns_are_mapped_and_not_copied(tmp_path: Path) -> None:
    write_prepared(
        {"x": np.arange(1000), "ids": ragged_column([[1, 2]] * 9 + [[]] * 991, pa.int32())}, {}, tmp_path / "x"
    )
    data = Prepared(tmp_path / "x")
    for array in (data.numbers("x"), data.ragged("ids").values):
        assert not array.flags.owndata
        assert not array.flags.writeable


@pytest.mark.parametrize("content", [b"", b"no arrow", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.arrow"
    write_prepared({"x": np.arange(100)}, {}, path)
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(UserError, match=r"x\.arrow: found a file that cannot be read.*delete this file"):
        Prepared(path)


# --- Batches ---


@settings(max_examples=40, deadline=None)
@given(rows_of_numbers, st.sampled_from(["left", "right"]))
def test_padding_fills_up_on_one_side(rows: list[list[int]], side: str) -> None:
    chosen = np.arange(len(rows))[::-1]
    ids, mask = padded(ragged(rows), chosen, -1, side), attention(ragged(rows), chosen, side)
    for line, seen, row in zip(ids, mask, [rows[i] for i in chosen], strict=True):
        assert line[seen.bool()].tolist() == row
        assert (line[~seen.bool()] == -1).all()
        first = int(seen.argmax())
        assert first == (len(line) - len(row) if side == "left" else 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 12))
def test_results_come_in_the_order_of_the_rows_whatever_memory_allows(lengths: list[int], size: int, room: int) -> None:
    seen: list[int] = []

    def run(rows: Any) -> list[torch.Tensor]:
        if len(rows) > room:
            raise torch.OutOfMemoryError("no room")
        seen.extend(rows.tolist())
        return [torch.from_numpy(rows), torch.from_numpy(rows * 2.0)]

    one, two = run_by_length(np.array(lengths), size, run, "x")
    assert one.tolist() == list(range(len(lengths)))
    assert two.tolist() == [2.0 * i for i in range(len(lengths))]
    assert sorted(seen) == list(range(len(lengths))), "no row twice"
    assert [lengths[i] for i in seen] == sorted(lengths, reverse=True), "longest first"


@given(st.integers(2, 500))
def test_a_smaller_batch_divides_the_batch(size: int) -> None:
    assert size % smaller(size) == 0
    assert smaller(size) <= size // 2
    assert all(size % larger for larger in range(smaller(size) + 1, size // 2 + 1))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        halving(8, lambda _: (_ for _ in ()).throw(RuntimeError("shape")), "x")
    with pytest.raises(torch.OutOfMemoryError):
        halving(8, lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("none at all")), "x")


# --- What does not fit ---


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
