"""Weights are read as the safetensors library reads them, part by part, and what is missing is named."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import families
from essential_sparsity.checkpoints.tensors import INDEX, WEIGHTS, chunks, file_tensors, open_weights
from essential_sparsity.errors import UserError
from random_tensors import TYPES, as_bytes, random_tensor, shapes

contents = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(TYPES), shapes, st.integers(0, 2**31)),
    max_size=5,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(contents=contents, data=st.data())
def test_a_file_is_read_as_the_library_reads_it(
    contents: dict[str, tuple[torch.dtype, tuple[int, ...], int]], data: st.DataObject
) -> None:
    tensors = {name: random_tensor(*what) for name, what in contents.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        theirs = load_file(path)
        with open_weights(path) as files:
            assert files.tensors.keys() == theirs.keys()
            for name, expected in theirs.items():
                stored = files.tensors[name]
                assert (stored.shape, stored.dtype, stored.size) == (
                    tuple(expected.shape), expected.dtype, expected.numel(),
                )  # fmt: skip
                found = files.read(name)
                assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
                assert as_bytes(found) == as_bytes(expected) == as_bytes(tensors[name])
                start = data.draw(st.integers(0, stored.size))
                stop = data.draw(st.integers(start, stored.size))
                assert as_bytes(files.read_part(name, start, stop)) == as_bytes(expected.reshape(-1)[start:stop])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_that_the_library_writes_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    # An odd number of bytes comes first, so that what follows may lie anywhere.
    tensors = {"a": random_tensor(torch.uint8, (3,), 0), "b": random_tensor(dtype, (3, 5), 1)}
    save_file(tensors, tmp_path / "any.safetensors")
    with open_weights(tmp_path / "any.safetensors") as files:
        assert as_bytes(files.read("b")) == as_bytes(tensors["b"])
        assert as_bytes(files.read_part("b", 4, 11)) == as_bytes(tensors["b"].reshape(-1)[4:11])


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no file": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "a page of text": lambda path: path.write_bytes(b"<html><body>404 Not Found</body></html>\n" * 10),
    "a byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a type that torch lacks": lambda path: path.write_bytes(path.read_bytes().replace(b"F8_E5M2", b"F8_E4M3FNUZ")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"a": torch.ones(3).to(torch.float8_e5m2)}, path)
    DAMAGES[damage](path)
    for read in (file_tensors, open_weights):
        with pytest.raises(UserError, match=r"whole safetensors file.*fetch or make the file again") as caught:
            read(path)
        assert caught.value.where == str(path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / WEIGHTS)
    with open_weights(tmp_path) as files:
        os.truncate(tmp_path / WEIGHTS, 1000)
        with pytest.raises(UserError, match=r"model\.safetensors: found a file that ends at byte 1000"):
            files.read("a")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A checkpoint of several files."""
    families.save("llama", tmp_path / "sharded", shard="8KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    return tmp_path / "sharded"


@pytest.mark.parametrize("named", ["folder", "index"])
def test_shards_are_read_as_one_file(tmp_path: Path, sharded: Path, named: str) -> None:
    families.save("llama", tmp_path / "whole")
    with (
        open_weights(sharded if named == "folder" else sharded / INDEX) as parts,
        open_weights(tmp_path / "whole" / WEIGHTS) as whole,
    ):
        assert parts.tensors.keys() == whole.tensors.keys()
        for name in whole.tensors:
            assert as_bytes(parts.read(name)) == as_bytes(whole.read(name))


def test_a_missing_shard_is_named(sharded: Path) -> None:
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError) as caught:
        open_weights(sharded)
    assert caught.value.where == str(sharded / INDEX)
    lost_matrices = [n for n, f in json.loads((sharded / INDEX).read_text())["weight_map"].items() if f == lost.name]
    assert f"no shard '{lost.name}'" in caught.value.found
    assert any(name in caught.value.found for name in lost_matrices)
    assert lost.name in caught.value.mend


def test_a_tensor_that_the_index_names_and_no_shard_has_is_named(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    shard = sorted(set(index["weight_map"].values()))[0]
    index["weight_map"] |= {"model.layers.7.mlp.up_proj.weight": shard, "model.layers.8.mlp.up_proj.weight": shard}
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"no such tensor in its shards \(2 are missing\)") as caught:
        open_weights(sharded)
    assert caught.value.where.endswith("matrix model.layers.7.mlp.up_proj.weight")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": []}}', None])
def test_a_damaged_index_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / INDEX).write_text(text)
    with pytest.raises(UserError, match="an index that cannot be read") as caught:
        open_weights(tmp_path / INDEX)
    assert caught.value.where == str(tmp_path / INDEX)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=f"found neither {WEIGHTS} nor {INDEX}") as caught:
        open_weights(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_of_a_whole_file_and_shards_transformers_own_choice_is_read(tmp_path: Path, sharded: Path) -> None:
    """A folder may hold both, of different weights: what is pruned must be what is evaluated."""
    families.save("llama", tmp_path / "whole")
    with torch.no_grad():
        other = load_file(tmp_path / "whole" / WEIGHTS)
        other["lm_head.weight"].add_(1)
    save_file(other, sharded / WEIGHTS, metadata={"format": "pt"})
    loaded = families.load(sharded, "llama").state_dict()["lm_head.weight"]
    with open_weights(sharded) as files:
        assert torch.equal(files.read("lm_head.weight"), loaded)


def open_descriptors(folder: Path) -> int:
    links = Path("/proc/self/fd")
    if not links.exists():
        pytest.skip("only Linux lists what a process has open")
    found = [os.readlink(link) for link in links.iterdir() if link.exists()]
    return sum(name.startswith(str(folder)) for name in found)


def test_files_are_read_by_several_threads_opened_once_and_closed(sharded: Path) -> None:
    expected = families.stored_tensors(sharded)
    with open_weights(sharded) as files, ThreadPoolExecutor(4) as pool:
        for (name, tensor), found in zip(expected.items(), pool.map(files.read, expected), strict=True):
            assert torch.equal(found, tensor), name
        assert open_descriptors(sharded) == len(list(sharded.glob("*.safetensors")))
    assert open_descriptors(sharded) == 0


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    """The list of a checkpoint's tensors can be had from its headers, whatever its size."""
    size = 1 << 34
    header = json.dumps({"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    (tmp_path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(tmp_path / WEIGHTS, 8 + len(header) + size)
    with open_weights(tmp_path) as files:
        assert files.tensors["a"].size == size // 4
        assert files.read_part("a", size // 4 - 2, size // 4).tolist() == [0.0] * 2


@given(st.integers(0, 1000), st.integers(1, 300))
def test_chunks_cover_everything_once_in_order(size: int, length: int) -> None:
    parts = list(chunks(size, length))
    assert [i for a, b in parts for i in range(a, b)] == list(range(size))
    assert all(b - a == length for a, b in parts[:-1])
    assert all(0 < b - a <= length for a, b in parts)
