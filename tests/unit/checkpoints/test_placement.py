"""Every tensor of a checkpoint is found in the model that transformers loads of it, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    ConversionOps,
    Interleave,
    MergeModulelist,
    PermuteForRope,
    Transpose,
    WeightConverter,
    WeightRenaming,
)

import families
from essential_sparsity.checkpoints.extract import empty_model
from essential_sparsity.checkpoints.placement import Placement, part_of, place_tensors
from essential_sparsity.errors import UserError


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_stored_tensor_is_where_its_place_says(tmp_path: Path, name: str) -> None:
    families.save(name, tmp_path)
    shapes = families.shapes_of(tmp_path)
    places = place_tensors(empty_model(tmp_path), shapes, name)
    assert places.keys() == shapes.keys()
    state = families.load(tmp_path, name).state_dict()
    filled: dict[str, Tensor] = {}
    for tensor, stored in families.stored_tensors(tmp_path).items():
        place = places[tensor]
        parameter = state[place.parameter]
        assert torch.equal(part_of(parameter, place.part, shapes[tensor]), stored), (tensor, place)
        mark = filled.setdefault(place.parameter, torch.zeros(parameter.shape, dtype=torch.int))
        part_of(mark, place.part, shapes[tensor]).add_(1)
    # Together the stored tensors fill what they fill exactly once.
    assert all(bool((mark == 1).all()) for mark in filled.values())
    missing = {id(t) for n, t in state.items()} - {id(state[n]) for n in filled}
    tied = {t.data_ptr() for n, t in state.items() if n in filled}
    assert all(t.data_ptr() in tied for t in state.values() if id(t) in missing), "only tied names are left"


def test_some_names_differ_between_file_and_model(tmp_path: Path) -> None:
    """What the test above would not show if transformers renamed nothing."""
    families.save("vit", tmp_path)
    places = place_tensors(empty_model(tmp_path), families.shapes_of(tmp_path), "vit")
    stored = "vit.encoder.layer.1.attention.attention.key.weight"
    assert places[stored] == Placement("vit.layers.1.attention.k_proj.weight")
    families.save("mixtral", tmp_path)
    places = place_tensors(empty_model(tmp_path), families.shapes_of(tmp_path), "mixtral")
    assert places["model.layers.1.block_sparse_moe.experts.2.w3.weight"] == Placement(
        "model.layers.1.mlp.experts.gate_up_proj", ((2, 3), (32, 64), (0, 16))
    )


def test_more_than_ten_experts_keep_their_order(tmp_path: Path) -> None:
    """Expert 10 comes behind expert 9 and not behind expert 1."""
    families.save("mixtral", tmp_path, num_local_experts=12, num_hidden_layers=1)
    places = place_tensors(empty_model(tmp_path), families.shapes_of(tmp_path), "mixtral")
    for expert in range(12):
        place = places[f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"]
        assert place.part[0] == (expert, expert + 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_parts_with_a_side_of_one_keep_their_shape(shape: tuple[int, int]) -> None:
    fused = torch.arange(5 * 6 * 6.0).reshape(5, 6, 6)
    part = ((2, 3), (0, shape[0]), (0, shape[1]))
    found = part_of(fused, part, shape)
    assert found.shape == shape
    assert torch.equal(found, fused[2, : shape[0], : shape[1]])
    found.zero_()
    assert int((fused == 0).sum()) == shape[0] * shape[1] + 1, "a view, not a copy"


def test_a_model_of_no_library_keeps_its_names() -> None:
    model = nn.ModuleList([nn.Linear(2, 3)])
    places = place_tensors(model, {"0.weight": (3, 2), "other": (1,)}, "mine")
    assert places == {"0.weight": Placement("0.weight")}


class _Doubled(ConversionOps):
    """A conversion that does not exist, and hands on other values than it is given."""

    def convert(self, input_dict: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        return {name: [2 * t for t in tensors] for name, tensors in input_dict.items()}


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def places_under(
    rule: WeightConverter | WeightRenaming, stored: Mapping[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Placement]:
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda model: [rule])
    return place_tensors(llama(), stored, "mine")


_OUT, _KEY = "self_attn.o_proj.weight", "self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("rule", "stored", "named"),
    [
        # One tensor of the file is cut into three of the model.
        (
            WeightConverter("qkv.weight", [f"self_attn.{m}_proj.weight" for m in "qkv"], [Chunk(0)]),
            {"qkv.weight": (48, 16)},
            "self_attn.q_proj.weight",
        ),
        # Rows change places.
        (WeightConverter("old.weight", _OUT, [PermuteForRope()]), {"old.weight": (16, 16)}, _OUT),
        (WeightConverter("old.weight", _OUT, [Interleave(0)]), {"old.weight": (16, 16)}, _OUT),
        # A square matrix, whose shape tells nothing, is turned round; and one that is not square.
        (WeightConverter("old.weight", _OUT, [Transpose()]), {"old.weight": (16, 16)}, _OUT),
        (WeightConverter("old.weight", _KEY, [Transpose()]), {"old.weight": (16, 8)}, _KEY),
        # Parts of unequal size, and parts that do not fill the parameter.
        (
            WeightConverter(["a.weight", "b.weight"], _OUT, [Concatenate(0)]),
            {"a.weight": (12, 16), "b.weight": (4, 16)},
            _OUT,
        ),
        (
            WeightConverter(["a.weight", "b.weight"], _OUT, [Concatenate(0)]),
            {"a.weight": (6, 16), "b.weight": (6, 16)},
            _OUT,
        ),
        # An operation that is not known, and the tensors of different counts that cannot be stacked.
        (WeightConverter("old.weight", _OUT, [_Doubled()]), {"old.weight": (16, 16)}, _OUT),
        (
            WeightConverter(["ex.*.a.weight", "ex.*.b.weight"], _OUT, [MergeModulelist(0), Concatenate(1)]),
            {"ex.0.a.weight": (8, 16), "ex.1.a.weight": (8, 16), "ex.0.b.weight": (8, 16)},
            _OUT,
        ),
    ],
    ids=[
        "chunk", "rope", "interleave", "square", "transpose", "unequal", "too-small", "unknown", "uneven-lists",
    ],
)  # fmt: skip
def test_a_conversion_that_cannot_be_followed_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, rule: WeightConverter, stored: Mapping[str, tuple[int, ...]], named: str
) -> None:
    names = {f"model.layers.0.{name}": shape for name, shape in stored.items()}
    with pytest.raises(UserError) as caught:
        places_under(rule, names, monkeypatch)
    assert caught.value.where == f"model mine (LlamaForCausalLM), matrix model.layers.0.{named}"
    assert f"converts it from {len(stored)} tensors" in caught.value.found
    assert "save it as it is in memory" in caught.value.mend


def test_conversions_that_keep_values_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = WeightConverter(["a.weight", "b.weight"], _OUT, [Concatenate(1)])
    stored = {"model.layers.0.a.weight": (16, 8), "model.layers.0.b.weight": (16, 8)}
    assert places_under(rule, stored, monkeypatch) == {
        "model.layers.0.a.weight": Placement(f"model.layers.0.{_OUT}", ((0, 16), (0, 8))),
        "model.layers.0.b.weight": Placement(f"model.layers.0.{_OUT}", ((0, 16), (8, 16))),
    }


def test_a_transposition_of_what_is_stored_the_other_way_round_only_is_no_obstacle_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = WeightConverter("old.weight", _KEY, [Transpose(0, 1, check_dims=True)])
    name = "model.layers.0.old.weight"
    assert places_under(rule, {name: (8, 16)}, monkeypatch) == {name: Placement(f"model.layers.0.{_KEY}")}
    with pytest.raises(UserError, match=r"matrix model\.layers\.0\.self_attn\.k_proj\.weight"):
        places_under(rule, {name: (16, 8)}, monkeypatch)


def test_rules_that_have_changed_are_a_defect_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion_mapping, "get_model_conversion_mapping", lambda model: None)
    with pytest.raises(RuntimeError, match="transformers' rules of conversion have changed"):
        place_tensors(llama(), {"lm_head.weight": (20, 16)}, "mine")
