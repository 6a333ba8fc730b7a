"""Masks: what is written is what was asked, what is read is what was written, and what is removed stays zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel, PreTrainedModel

import families
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.placement import part_of
from essential_sparsity.errors import UserError
from essential_sparsity.pruning.masks import (
    AppliedMasks,
    MaskFile,
    MaskHeader,
    Pruning,
    apply_to_tensor,
    check_shapes,
    keep_all,
    pack,
    read_header,
    read_masks,
    read_pruning,
    resolve_name,
    unpack,
    writing_mask,
)
from random_masks import METHOD, random_keep, random_masks, write_masks


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


def test_masks_are_packed_in_the_order_of_their_indices_and_not_of_memory() -> None:
    keep = torch.tensor([[True, False, True], [False, False, True]])
    assert pack(keep.T).tolist() == [0b1000_1100]


MASKS = {
    "a": torch.tensor([[True, False, True], [False, True, True]]),
    "b": torch.tensor([[True, True, True], [False, True, False]]),
}


def write(path: Path, **header: Any) -> MaskHeader:
    return write_masks(path, MASKS, **{"checkpoint": "step000010", "seed": 7, "target": 4 / 12, **header})


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "m.safetensors"
    write(path, targets={"a": 0.25, "b": 0.5})
    assert read_header(path) == MaskHeader(
        model="model", checkpoint="step000010", method=METHOD, seed=7, target=4 / 12, realised=4 / 12,
        shapes={"a": [2, 3], "b": [2, 3]}, removed={"a": 2, "b": 2}, targets={"a": 0.25, "b": 0.5}, updated=False,
        notes=[],
    )  # fmt: skip
    found = read_masks(path)
    assert list(found) == list(MASKS)
    assert all(torch.equal(found[name], keep) for name, keep in MASKS.items())


names = st.text("abz019._äж漢🌱", min_size=1, max_size=60)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    sizes=st.dictionaries(names, st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8),
    notes=st.lists(st.text("ab .äж漢🌱", min_size=1, max_size=900), max_size=4),
    updated=st.booleans(),
    targets=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_names_and_notes_fit_into_the_header(
    sizes: dict[str, tuple[int, int]], notes: list[str], updated: bool, targets: bool, seed: int
) -> None:
    masks = {name: random_keep(s, seed % (s[0] * s[1] + 1), seed) for name, s in sizes.items()}
    values = {name: torch.randn(int(keep.sum())) for name, keep in masks.items()}
    asked = dict.fromkeys(sizes, 1 / 3) if targets else {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        write_masks(path, masks, values if updated else None, targets=asked, notes=notes)
        header = read_header(path)
        assert header.shapes == {name: list(s) for name, s in sizes.items()}
        assert header.targets == asked
        joined = " ".join(notes)
        assert "".join(header.notes) == joined[:2048], "what does not fit is cut off"
        with MaskFile(path) as file:
            for name, keep in masks.items():
                assert torch.equal(file.keep(name), keep)
                found = file.values(name)
                assert (found is not None) == updated
                assert found is None or torch.equal(found, values[name])


@pytest.mark.parametrize("letter", ["a", '"', "漢", "🌱"])
def test_notes_without_end_are_cut_off(tmp_path: Path, letter: str) -> None:
    write(tmp_path / "m.safetensors", notes=[letter * 5000, letter * 5000])
    assert read_header(tmp_path / "m.safetensors").notes == [letter * 2048]


def test_the_header_counts_what_the_bits_say(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors")
    header = read_header(tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            bits = np.unpackbits(file.get_tensor(name))[:6]
            assert header.removed[name] == 6 - bits.sum()
    assert header.realised == sum(header.removed.values()) / 12


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors")
    write(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_mask_takes_one_bit_a_weight(tmp_path: Path) -> None:
    keep = random_keep((1000, 801), 400_000, 0)
    write_masks(tmp_path / "m.safetensors", {"a": keep})
    assert (tmp_path / "m.safetensors").stat().st_size < keep.numel() / 8 * 1.5


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        ("a", {}, "no mask of .'b'"),  # a matrix is left out
        ("", {}, "no mask of .'a', 'b'"),
        ("aab", {}, "a was written before"),
        ("ab", {"packed": np.zeros(2, np.uint8)}, "2 bytes for a mask of 6 weights"),
        ("ab", {"values": torch.ones(4)}, "where the header says otherwise"),
        ("ab", {"updated": True}, "where the header says otherwise"),
        ("ab", {"updated": True, "values": torch.ones(3)}, "3 values for 4 kept weights"),
    ],
)
def test_what_does_not_fit_together_is_never_written(
    tmp_path: Path, names: str, change: dict[str, Any], message: str
) -> None:
    shapes = {name: list(keep.shape) for name, keep in MASKS.items()}
    header = MaskHeader("m", "c", METHOD, 0, 0.5, shapes=shapes, updated=change.get("updated", False))
    with (
        pytest.raises(RuntimeError, match=message),
        writing_mask(tmp_path / "m.safetensors", header) as writer,
    ):
        for name in names:
            writer.put(name, change.get("packed", pack(MASKS[name])), change.get("values"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "other"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "0.300.safetensors"
    write(path)
    whole = path.read_bytes()
    if damage == "other":
        save_file({"a": np.zeros(3)}, path)
    else:
        path.write_bytes({"empty": b"", "garbage": b"x" * 100, "truncated": whole[: len(whole) - 1]}[damage])
    for read in (read_header, read_masks, MaskFile):
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
    with MaskFile(path) as file:
        assert torch.equal(file.keep("a"), MASKS["a"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("updated", [False, True])
def test_a_mask_is_applied_in_place(dtype: torch.dtype, updated: bool) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    keep = random_keep((6, 4), 10, 0).T  # in another order in memory
    values = torch.arange(1.0, 15.0) if updated else None
    expected = np.zeros((4, 6), dtype=np.float32)
    expected[keep.numpy()] = np.arange(1.0, 15.0) if updated else weight.float().numpy()[keep.numpy()]
    place = weight.data_ptr()
    apply_to_tensor(weight, keep, values)
    assert (weight.dtype, weight.data_ptr()) == (dtype, place)
    assert np.array_equal(weight.float().numpy(), expected)


FAMILIES = ("bert", "gpt2", "vit", "mixtral", "gpt-oss")


def prunable(folder: Path) -> dict[str, Matrix]:
    return {m.name: m for m in families.manifest(folder) if m.pruned}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_hold_zeroes_exactly_what_is_removed(checkpoints: Callable[..., Path], name: str, sparsity: float) -> None:
    model, rows = families.load(checkpoints(name), name), prunable(checkpoints(name))
    masks = random_masks(list(rows.values()), sparsity)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    applied = AppliedMasks(model, masks, rows)
    applied.hold()
    # What is left of each matrix as it is stored, and every parameter with these parts put back.
    expected = {n: p.clone() for n, p in before.items()}
    for tensor, stored in families.stored_tensors(checkpoints(name)).items():
        if tensor in masks:
            m = rows[tensor]
            part_of(expected[m.parameter], m.part, m.shape).copy_(torch.where(masks[tensor], stored, 0.0))
    for n, p in model.named_parameters():
        assert torch.equal(p.detach(), expected[n]), n
    removed = sum(int((~keep).sum()) for keep in masks.values())
    size = sum(m.size for m in rows.values())
    assert (applied.removed, applied.size) == (removed, size)
    assert applied.realised_sparsity() == removed / size


def bert(checkpoints: Callable[..., Path]) -> tuple[BertForMaskedLM, dict[str, Tensor], dict[str, Matrix]]:
    rows = prunable(checkpoints("bert"))
    return families.load(checkpoints("bert"), "bert"), random_masks(list(rows.values()), 0.5), rows


def test_zeros_among_new_values_are_no_revived_weights(checkpoints: Callable[..., Path]) -> None:
    # SparseGPT sets kept weights of dead inputs to zero: a tenth here.
    model, masks, rows = bert(checkpoints)
    values = {name: torch.arange(int(keep.sum())) % 10 * 1.0 for name, keep in masks.items()}
    applied = Pruning(masks, rows, values).apply(model)
    assert applied.realised_sparsity() == pytest.approx(0.55, abs=0.001)
    with torch.no_grad():
        for name, keep in masks.items():
            model.get_parameter(rows[name].parameter)[keep] = 0.0
    with pytest.raises(RuntimeError, match="weights are zero, but the masks remove"):
        applied.realised_sparsity()


def test_a_revived_weight_is_an_error(checkpoints: Callable[..., Path]) -> None:
    model, masks, rows = bert(checkpoints)
    applied = AppliedMasks(model, masks, rows)
    with pytest.raises(RuntimeError, match="removed weights are not zero"):
        applied.realised_sparsity()  # not held yet
    applied.hold()
    name = next(iter(masks))
    place = tuple((~masks[name]).nonzero()[0])
    for value in (1e-30, float("nan")):
        with torch.no_grad():
            model.get_parameter(name)[place] = value
        with pytest.raises(RuntimeError, match=f"{name}: removed weights are not zero"):
            applied.realised_sparsity()
    applied.hold()
    assert applied.realised_sparsity() == pytest.approx(0.5, abs=1e-4)


def test_zeros_that_nothing_explains_are_an_error(checkpoints: Callable[..., Path]) -> None:
    model, masks, rows = bert(checkpoints)
    applied = AppliedMasks(model, masks, rows)
    applied.hold()
    with torch.no_grad():
        model.get_parameter(next(iter(masks))).zero_()
    with pytest.raises(RuntimeError, match="are zero, but the masks remove"):
        applied.realised_sparsity()


def linear_row(layer: nn.Linear) -> dict[str, Matrix]:
    shape = tuple(layer.weight.shape)
    return {"weight": Matrix("weight", shape, True, "linear", parameter="weight")}


def test_zeros_of_the_checkpoint_itself_are_counted_and_allowed() -> None:
    layer = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)[0] = 0.0
    keep = torch.ones(10, 10, dtype=torch.bool)
    keep[1] = False
    applied = AppliedMasks(layer, {"weight": keep}, linear_row(layer))
    applied.hold()
    assert applied.realised_sparsity() == 0.2


def test_the_dense_model_has_the_zeros_of_its_checkpoint(checkpoints: Callable[..., Path]) -> None:
    model, _, rows = bert(checkpoints)
    masks = keep_all({name: m.shape for name, m in rows.items()})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    applied = AppliedMasks(model, masks, rows)
    applied.hold()
    assert applied.realised_sparsity() == 0.0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert AppliedMasks(model, {}, {}).realised_sparsity() == 0.0


def test_gradients_of_removed_weights_are_zero_and_of_others_untouched(checkpoints: Callable[..., Path]) -> None:
    for name in ("bert", "mixtral"):
        model, rows = families.load(checkpoints(name), name), prunable(checkpoints(name))
        masks = random_masks(list(rows.values()), 0.5)
        applied = AppliedMasks(model, masks, rows)
        for p in model.parameters():
            p.grad = torch.full_like(p, 2.0)
        applied.hold_gradients()
        for n, keep in masks.items():
            gradient = part_of(model.get_parameter(rows[n].parameter).grad, rows[n].part, rows[n].shape)
            assert torch.equal(gradient, torch.where(keep, 2.0, 0.0))
        masked = {m.parameter for m in rows.values()}
        assert all(bool((p.grad == 2.0).all()) for n, p in model.named_parameters() if n not in masked)


@pytest.mark.parametrize("updated", [False, True])
def test_what_a_file_decides_is_applied_to_a_model(
    tmp_path: Path, checkpoints: Callable[..., Path], updated: bool
) -> None:
    for name in ("mixtral", "gpt2"):
        model, matrices = families.load(checkpoints(name), name), families.manifest(checkpoints(name))
        rows, masks = prunable(checkpoints(name)), random_masks(matrices, 0.6)
        values = {n: torch.randn(int(keep.sum())) for n, keep in masks.items()}
        write_masks(tmp_path / name, masks, values if updated else None)
        stored = families.stored_tensors(checkpoints(name))
        pruning = read_pruning(tmp_path / name, matrices)
        assert pruning.masks.keys() == rows.keys()
        applied = pruning.apply(model)
        for n, keep in masks.items():
            m = rows[n]
            expected = torch.where(keep, stored[n], 0.0)
            if updated:
                expected[keep] = values[n]
            assert torch.equal(part_of(model.get_parameter(m.parameter).detach(), m.part, m.shape), expected)
        assert applied.realised_sparsity() == applied.removed / applied.size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("model.layers.1.self_attn.q_proj.weight"), r"q_proj\.weight: found no mask; expected shape"),
        (
            lambda m: m.update({"model.layers.9.mlp.up_proj.weight": torch.ones(3, 3, dtype=torch.bool)}),
            r"layers\.9\.mlp\.up_proj\.weight: found a mask of shape \(3, 3\); expected no such matrix",
        ),
        (
            lambda m: m.update({"model.layers.0.self_attn.k_proj.weight": torch.ones(16, 8, dtype=torch.bool)}),
            r"layers\.0\.self_attn\.k_proj\.weight: found a mask of shape \(16, 8\); expected shape \(8, 16\)",
        ),
    ],
)
def test_a_mask_of_another_models_matrices_is_refused_by_name(
    tmp_path: Path, checkpoints: Callable[..., Path], change: Any, message: str
) -> None:
    matrices = families.manifest(checkpoints("mixtral"))
    masks = random_masks(matrices, 0.5)
    change(masks)
    write_masks(tmp_path / "m.safetensors", masks)
    with pytest.raises(UserError, match=message):
        read_pruning(tmp_path / "m.safetensors", matrices)
    shapes = {m.name: m.shape for m in matrices if m.pruned}
    with pytest.raises(UserError, match=message):
        check_shapes(read_header(tmp_path / "m.safetensors"), shapes, tmp_path / "m.safetensors")


def test_a_missing_matrix_is_named(checkpoints: Callable[..., Path]) -> None:
    model, _, _ = bert(checkpoints)
    row = Matrix("no.such.weight", (2, 2), True, "linear", parameter="no.such.weight")
    with pytest.raises(UserError, match=r"mask of matrix no\.such\.weight.*no such matrix"):
        AppliedMasks(model, {"no.such.weight": torch.ones(2, 2, dtype=torch.bool)}, {"no.such.weight": row})


def test_another_shape_is_named(checkpoints: Callable[..., Path]) -> None:
    model, _, rows = bert(checkpoints)
    name = "bert.encoder.layer.0.output.dense.weight"
    with pytest.raises(UserError, match=r"output\.dense.*\(32, 16\).*\(16, 32\)"):
        AppliedMasks(model, {name: torch.ones(32, 16, dtype=torch.bool)}, rows)


def test_experts_of_another_model_are_named(checkpoints: Callable[..., Path]) -> None:
    rows = prunable(checkpoints("mixtral"))
    smaller = families.build("mixtral", num_local_experts=2)
    name = "model.layers.0.block_sparse_moe.experts.3.w1.weight"
    with pytest.raises(UserError, match=r"mask of matrix model\.layers\.0\.block_sparse_moe\.experts\.3\.w1"):
        AppliedMasks(smaller, {name: torch.ones(32, 16, dtype=torch.bool)}, rows)


@pytest.mark.parametrize("target", [BertModel, BertForSequenceClassification, BertForMaskedLM])
@pytest.mark.parametrize("source", [BertModel, BertForMaskedLM])
def test_names_are_found_with_and_without_a_head(
    tmp_path: Path, source: type[PreTrainedModel], target: type[PreTrainedModel]
) -> None:
    whole: Any = families.build("bert")
    (whole if source is BertForMaskedLM else whole.bert).save_pretrained(tmp_path)
    rows = prunable(tmp_path)
    masks = random_masks(list(rows.values()), 0.4)
    model: Any = target.from_pretrained(tmp_path)
    applied = AppliedMasks(model, masks, rows)
    applied.hold()
    assert applied.size == 2 * (4 * 16 * 16 + 2 * 16 * 32)
    assert applied.realised_sparsity() == applied.removed / applied.size > 0.3
    # Each mask sits on its own matrix, not on any that happens to have the shape.
    encoder = getattr(model, "bert", model)
    for name, keep in masks.items():
        own = encoder.get_parameter(name.removeprefix("bert."))
        assert not own[~keep].count_nonzero()
        assert own[keep].count_nonzero() == keep.sum()


def test_a_name_that_a_model_does_not_know_stays_as_it_is(checkpoints: Callable[..., Path]) -> None:
    model = families.load(checkpoints("bert"), "bert")
    assert resolve_name("no.such", model, dict(model.named_parameters())) == "no.such"
