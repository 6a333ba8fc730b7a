"""Files that are written tensor by tensor are files of safetensors like any other, whole or not there at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.checkpoints.writer import header_room, writing_tensors
from random_tensors import TYPES, as_bytes, header_of, random_tensor, shapes


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    said = metadata or {}
    with writing_tensors(path, header_room(list(tensors), len(json.dumps(said)))) as writer:
        for name, tensor in tensors.items():
            writer.put(name, tensor)
        writer.finish(said)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    contents=st.dictionaries(
        st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(TYPES), shapes, st.integers(0, 2**31)),
        max_size=6,
    ),
    metadata=st.dictionaries(st.text(max_size=10), st.text(max_size=40), max_size=3),
)
def test_what_is_written_is_read_by_the_library(
    contents: dict[str, tuple[torch.dtype, tuple[int, ...], int]], metadata: dict[str, str]
) -> None:
    tensors = {name: random_tensor(*what) for name, what in contents.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.safetensors"
        write(path, tensors, metadata)
        with safe_open(path, framework="pt") as file:
            assert (file.metadata() or {}) == metadata
        theirs = load_file(path)
        assert theirs.keys() == tensors.keys()
        with open_weights(path) as ours:
            for name, tensor in tensors.items():
                for found in (theirs[name], ours.read(name)):
                    assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
                    assert as_bytes(found) == as_bytes(tensor)
        # What readers of the format that map files into memory rely on.
        assert (path.stat().st_size - len(header_of(path)[1])) % 8 == 0


def test_views_and_parameters_are_written_in_their_own_order(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {"turned": base.transpose(0, 2), "part": base[:, 1:, ::2], "layer": nn.Linear(3, 2).weight}
    write(tmp_path / "any.safetensors", tensors)
    found = load_file(tmp_path / "any.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("failure", ["in the block", "no header", "header too long", "written twice"])
def test_nothing_is_half_written(tmp_path: Path, existed: bool, failure: str) -> None:
    path = tmp_path / "any.safetensors"
    if existed:
        write(path, {"old": torch.ones(3)})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(RuntimeError), writing_tensors(path, 8 if failure == "header too long" else 1000) as writer:
        writer.put("a", torch.ones(1000))
        if failure == "in the block":
            raise RuntimeError("the disk is full, say")
        if failure == "written twice":
            writer.put("a", torch.zeros(1000))
        if failure != "no header":
            writer.finish({})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 2, dtype=torch.bfloat16)}
    for name in ("one", "two"):
        write(tmp_path / name, tensors, {"note": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
