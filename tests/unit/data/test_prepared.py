"""Prepared inputs: what is written is mapped back unchanged, and what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from essential_sparsity.data.prepared import Prepared, ragged_column, write_prepared
from essential_sparsity.errors import UserError

rows_of_numbers = st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=9), min_size=1, max_size=20)


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
