"""Masks: what is written is what was asked, what is read is what was written, and what is removed stays zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from essential_sparsity.errors import UserError
from essential_sparsity.layers import list_matrices
from essential_sparsity.masks import AppliedMasks, MaskHeader, pack, read_header, read_masks, unpack, write_mask
from essential_sparsity.pruning import prune_checkpoint

GLOBAL = {"score": "magnitude", "allocation": "uniform", "scope": "global", "pattern": "unstructured"}
LAYER = {**GLOBAL, "scope": "layer"}
BERT = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16, num_labels=2,
)  # fmt: skip


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**31))
def test_packing_is_undone_by_unpacking(shape: list[int], seed: int) -> None:
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(keep)
    assert packed.dtype == np.uint8
    assert packed.size == -(-keep.numel() // 8), "one bit a weight"
    assert torch.equal(unpack(packed, shape), keep)


def test_the_first_weight_is_the_highest_bit() -> None:
    assert pack(torch.tensor([[True, False], [False, False]])).tolist() == [0b1000_0000]


MASKS = {
    "a": torch.tensor([[True, False, True], [False, True, True]]),
    "b": torch.tensor([[True, True, True], [False, True, False]]),
}
SHAPES = {name: tuple(m.shape) for name, m in MASKS.items()}


def write(path: Path, target: float = 4 / 12, method: dict[str, str] = GLOBAL, masks: Any = None) -> MaskHeader:
    return write_mask(path, "model", "step000010", method, 7, target, SHAPES, (masks or MASKS).items())


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    header = write(tmp_path / "deep" / "m.safetensors")
    assert header == MaskHeader(
        "model", "step000010", GLOBAL, 7, 4 / 12, 4 / 12, {"a": [2, 3], "b": [2, 3]}, {"a": 2, "b": 2}
    )
    assert read_header(tmp_path / "deep" / "m.safetensors") == header
    found = read_masks(tmp_path / "deep" / "m.safetensors")
    assert list(found) == list(MASKS)
    assert all(torch.equal(found[name], keep) for name, keep in MASKS.items())


def test_the_header_counts_what_the_bits_say(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors")
    header = read_header(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            bits = np.unpackbits(file.get_tensor(name))[:6]
            assert header.removed[name] == 6 - bits.sum()


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors")
    write(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("target", "method", "names"),
    [
        (0.25, GLOBAL, "ab"),  # three weights, but four are removed
        (0.5, LAYER, "ab"),  # three of each matrix
        (4 / 12, GLOBAL, "ba"),  # the right number in the wrong order
        (4 / 12, LAYER, "a"),  # a matrix is missing
        (2 / 12, GLOBAL, "a"),
    ],
)
def test_a_wrong_count_is_never_written(tmp_path: Path, target: float, method: dict[str, str], names: str) -> None:
    with pytest.raises(RuntimeError, match="weights removed at target"):
        write(tmp_path / "m.safetensors", target, method, {name: MASKS[name] for name in names})
    assert list(tmp_path.iterdir()) == []


def test_layer_masks_are_counted_matrix_by_matrix(tmp_path: Path) -> None:
    # The sum is right, each matrix is not.
    uneven = {"a": torch.ones(2, 3, dtype=torch.bool), "b": torch.zeros(2, 3, dtype=torch.bool)}
    with pytest.raises(RuntimeError):
        write(tmp_path / "m.safetensors", 0.5, LAYER, uneven)
    assert write(tmp_path / "m.safetensors", 0.5, GLOBAL, uneven).removed == {"a": 0, "b": 6}


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "0.300.safetensors"
    write(path)
    whole = path.read_bytes()
    if damage == "other":
        save_file({"a": np.zeros(3)}, path)
    else:
        path.write_bytes({"empty": b"", "garbage": b"x" * 100, "truncated": whole[: len(whole) - 1]}[damage])
    for read in (read_header, read_masks):
        with pytest.raises(UserError, match=r"0\.300\.safetensors.*delete this file and run again"):
            read(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path)
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 0b1000_0000  # the last byte belongs to the last matrix
    path.write_bytes(whole)
    with pytest.raises(UserError, match="matrix b: found a mask that removes 3 weights; expected 2"):
        read_masks(path)


def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BERT)


def masks_for(model: nn.Module, folder: Path, sparsity: float) -> dict[str, Tensor]:
    model.save_pretrained(folder)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        matrices = [m for m in list_matrices(model, set(file.keys()), "bert") if m.pruned]
    shapes = {m.name: m.shape for m in matrices}
    weights = folder / "model.safetensors"
    chosen = prune_checkpoint(weights, matrices, GLOBAL, sparsity, 0, torch.device("cpu"))
    write_mask(folder / "mask.safetensors", "bert", "final", GLOBAL, 0, sparsity, shapes, chosen)
    return read_masks(folder / "mask.safetensors")


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_hold_zeroes_exactly_what_is_removed(tmp_path: Path, sparsity: float) -> None:
    model = bert()
    masks = masks_for(model, tmp_path, sparsity)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    applied = AppliedMasks(model, masks)
    applied.hold()
    zeros = 0
    for name, p in model.named_parameters():
        keep = masks.get(name, torch.ones_like(p, dtype=torch.bool))
        assert torch.equal(p.detach(), torch.where(keep, before[name], 0.0)), name
        zeros += int((p == 0).sum()) if name in masks else 0
    size = sum(m.numel() for m in masks.values())
    assert applied.realised_sparsity() == zeros / size == round(sparsity * size) / size


def test_a_revived_weight_is_an_error(tmp_path: Path) -> None:
    model = bert()
    masks = masks_for(model, tmp_path, 0.5)
    applied = AppliedMasks(model, masks)
    with pytest.raises(RuntimeError, match="removed weights are not zero"):
        applied.realised_sparsity()  # not held yet
    applied.hold()
    name = next(iter(masks))
    with torch.no_grad():
        model.get_parameter(name)[tuple((~masks[name]).nonzero()[0])] = 1e-30
    with pytest.raises(RuntimeError, match=f"{name}: removed weights are not zero"):
        applied.realised_sparsity()
    applied.hold()
    assert applied.realised_sparsity() == pytest.approx(0.5, abs=1e-4)


def test_zeros_that_nothing_explains_are_an_error(tmp_path: Path) -> None:
    model = bert()
    masks = masks_for(model, tmp_path, 0.5)
    applied = AppliedMasks(model, masks)
    applied.hold()
    with torch.no_grad():
        model.get_parameter(next(iter(masks))).zero_()
    with pytest.raises(RuntimeError, match="are zero, but the masks remove"):
        applied.realised_sparsity()


def test_zeros_of_the_checkpoint_itself_are_counted_and_allowed() -> None:
    layer = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)[0] = 0.0
    keep = torch.ones(10, 10, dtype=torch.bool)
    keep[1] = False
    applied = AppliedMasks(layer, {"weight": keep})
    applied.hold()
    assert applied.realised_sparsity() == 0.2


def test_the_dense_model_has_sparsity_zero() -> None:
    applied = AppliedMasks(bert(), {})
    applied.hold()
    assert applied.realised_sparsity() == 0.0


def test_a_missing_matrix_is_named() -> None:
    with pytest.raises(UserError, match=r"mask of matrix no\.such\.weight.*no such matrix"):
        AppliedMasks(bert(), {"no.such.weight": torch.ones(2, 2, dtype=torch.bool)})


def test_another_shape_is_named() -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    with pytest.raises(UserError, match=r"output\.dense.*\(32, 16\).*\(16, 32\)"):
        AppliedMasks(bert(), {name: torch.ones(32, 16, dtype=torch.bool)})


@pytest.mark.parametrize("target", [BertModel, BertForSequenceClassification, BertForMaskedLM])
@pytest.mark.parametrize("source", [BertModel, BertForMaskedLM])
def test_names_are_found_with_and_without_a_head(
    tmp_path: Path, source: type[nn.Module], target: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    masks = masks_for(source(BERT), tmp_path, 0.4)
    model = target.from_pretrained(tmp_path)
    applied = AppliedMasks(model, masks)
    applied.hold()
    assert applied.size == 2 * (4 * 16 * 16 + 2 * 16 * 32)
    assert applied.realised_sparsity() == round(0.4 * applied.size) / applied.size
    # Each mask sits on its own matrix, not on any that happens to have the shape.
    encoder = getattr(model, "bert", model)
    for name, keep in masks.items():
        own = encoder.get_parameter(name.removeprefix("bert."))
        assert not own[~keep].count_nonzero()
        assert own[keep].count_nonzero() == keep.sum()
