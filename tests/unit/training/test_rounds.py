"""Iterative pruning: rounds are what torch prunes by magnitude, and what is kept is the pre-trained checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import prune
from transformers import BertConfig, BertForMaskedLM

import entries
import families
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import Prepared, write_prepared
from essential_sparsity.errors import UserError
from essential_sparsity.pretraining.masked_text import train_tokenizer
from essential_sparsity.pruning.masks import AppliedMasks, Pruning, no_pruning, unpack
from essential_sparsity.training import fit as finetune
from essential_sparsity.training import rounds as iterative
from essential_sparsity.training.fit import build_model, training_data
from essential_sparsity.training.loop import Training, state_key, train_from
from essential_sparsity.training.rounds import prune_round, prune_trained

WHERE = "model m"
TASK = entries.task(
    head="mean_pooling", freeze=["embeddings.*"], train_examples=48, epochs=1, batch_size=16, batches="by_length",
    max_length=12, learning_rate=0.02, weight_decay=0.01,
)  # fmt: skip
LEVELS = (0.4, 0.7)
Masks = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer with pre-trained weights made up, and a task's inputs beside it."""
    folder = tmp_path_factory.mktemp("bert")
    draw = np.random.default_rng(0)
    kinds = {"plot": ["hero", "village", "war"], "review": ["film", "boring", "acting"]}
    records = [
        {
            "id": i,
            "text": " ".join(draw.choice(kinds[kind], size=5)),
            "label": kind,
            "split": "test" if i < 8 else "train",
        }
        for i, kind in enumerate(["plot", "review"] * 40)
    ]
    data = pd.DataFrame(records)
    tokenizer = train_tokenizer(data["text"].tolist(), 60, 1, 12)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    write_prepared(*prepare_inputs(data, folder, WHERE, kind="classes", max_length=12), folder / "inputs.arrow")
    return folder


def training(folder: Path, seed: int) -> Training:
    return Training(TASK, seed, torch.device("cpu"), folder / "states", "")


def rounds(folder: Path, seed: int, levels: tuple[float, ...] = LEVELS) -> list[Masks]:
    """Return the masks of every round."""
    matrices = families.manifest(folder)
    rows = {m.name: m for m in matrices if m.pruned}
    pruning, found = no_pruning(matrices), []
    for level in levels:
        packed = prune_round(folder, pruning, Prepared(folder / "inputs.arrow"), training(folder, seed), level, WHERE)
        found.append({name: unpack(bits, rows[name].shape) for name, bits in packed})
        pruning = Pruning(found[-1], rows)
    return found


@pytest.fixture(scope="module")
def starts() -> list[Masks]:
    """The prunable weights that each round of ``found`` began to train."""
    return []


@pytest.fixture(scope="module")
def found(folder: Path, starts: list[Masks]) -> list[Masks]:
    def building(*arguments: Any) -> tuple[nn.Module, AppliedMasks]:
        model, applied = build_model(*arguments)
        starts.append({name: weight.clone() for name, weight, _ in applied.trained()})
        return model, applied

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "build_model", building)
        return rounds(folder, 3)


def test_two_rounds_are_those_of_torch_with_the_trained_weights(folder: Path, found: list[Masks]) -> None:
    """The same training, masks kept by torch's own pruning, and its choice of the smallest: then rewound by loading."""
    data, own = Prepared(folder / "inputs.arrow"), training(folder, 3)
    rows = {m.name: m for m in families.manifest(folder) if m.pruned}
    size = sum(m.size for m in rows.values())
    keep: Masks = {name: torch.ones(m.shape, dtype=torch.bool) for name, m in rows.items()}
    for level, masks in zip(LEVELS, found, strict=True):
        removed = sum(int((~mask).sum()) for mask in keep.values())
        model, _ = train_from(
            partial(build_model, folder, Pruning(keep, rows), data, own, WHERE), training_data(data, own), own, None,
            TASK.batch_size, WHERE,
        )  # fmt: skip
        modules = {
            name: model.get_submodule(f"encoder.{name.removeprefix('bert.').removesuffix('.weight')}") for name in rows
        }
        for name, module in modules.items():
            prune.custom_from_mask(module, "weight", keep[name])
        pool = [(module, "weight") for module in modules.values()]
        prune.global_unstructured(pool, prune.L1Unstructured, amount=round(level * size) - removed)
        keep = {name: module.weight_mask.bool() for name, module in modules.items()}  # type: ignore[union-attr,operator]
        assert all(torch.equal(masks[name], keep[name]) for name in rows)


def test_rounds_are_nested_and_remove_the_rounded_count(found: list[Masks]) -> None:
    first, second = found
    size = sum(mask.numel() for mask in first.values())
    for level, masks in zip(LEVELS, found, strict=True):
        assert sum(int((~mask).sum()) for mask in masks.values()) == round(level * size)
    assert all(bool((first[name] | ~second[name]).all()) for name in first)


def test_the_second_round_trains_the_pre_trained_weights_that_are_kept(
    folder: Path, found: list[Masks], starts: list[Masks]
) -> None:
    before = load_file(folder / "model.safetensors")
    assert len(starts) == 2
    for name, mask in found[0].items():
        assert torch.equal(starts[0][name], before[name])
        assert torch.equal(starts[1][name], before[name] * mask)


def test_a_seed_gives_the_same_masks_and_another_does_not(folder: Path, found: list[Masks]) -> None:
    (again,), (other,) = rounds(folder, 3, LEVELS[:1]), rounds(folder, 4, LEVELS[:1])
    assert all(torch.equal(found[0][name], again[name]) for name in again)
    assert not all(torch.equal(found[0][name], other[name]) for name in other)


def test_a_round_that_was_cut_off_goes_on_from_its_last_state(
    folder: Path, found: list[Masks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices = families.manifest(folder)
    rows, steps, real = {m.name: m for m in matrices}, [], AppliedMasks.hold_gradients
    own = Training(replace(TASK, save_every=1), 3, torch.device("cpu"), tmp_path / "states", "key")

    def run() -> Masks:
        packed = prune_round(folder, no_pruning(matrices), Prepared(folder / "inputs.arrow"), own, LEVELS[0], WHERE)
        return {name: unpack(bits, rows[name].shape) for name, bits in packed}

    def dying(self: AppliedMasks) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(AppliedMasks, "hold_gradients", dying)
    with pytest.raises(KeyboardInterrupt):
        run()
    again = run()
    assert len(steps) == 3 + 1, "the last of three steps alone"
    assert all(torch.equal(found[0][name], again[name]) for name in again)


# --- The choice itself, of weights that need no training ---


def applied(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> AppliedMasks:
    model = nn.Module()
    for name, weight in weights.items():
        model.register_parameter(name, nn.Parameter(weight))
    return AppliedMasks(model, masks, {n: Matrix(n, tuple(w.shape), True, "", n) for n, w in weights.items()})


def chosen(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], sparsity: float) -> Masks:
    packed = prune_trained(applied(weights, masks), sparsity, WHERE)
    return {name: unpack(bits, weights[name].shape) for name, bits in packed}


def test_what_was_removed_stays_removed_where_kept_weights_are_zero_too() -> None:
    weights = {"a": torch.tensor([[0.0, 0.0, 5.0, -0.0]]), "b": torch.tensor([[0.0, -1.0, 0.0, 2.0]])}
    masks = {"a": torch.tensor([[True, True, True, True]]), "b": torch.tensor([[True, True, False, True]])}
    # Four of eight: the one that is removed already, then the kept zeros by position, those of `a` first.
    found = chosen(weights, masks, 0.5)
    assert found["a"].tolist() == [[False, False, True, False]]
    assert found["b"].tolist() == [[True, True, False, True]]
    assert chosen(weights, masks, 0.125)["b"].tolist() == masks["b"].tolist(), "a level with nothing more to remove"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_trained_weights_that_are_not_finite_stop_the_round(wrong: float) -> None:
    weights, masks = {"a": torch.tensor([[1.0, wrong]])}, {"a": torch.tensor([[True, True]])}
    with pytest.raises(UserError, match=f"{WHERE}, matrix a: found trained weights that are NaN.*learning_rate"):
        chosen(weights, masks, 0.5)


def test_a_level_below_that_of_the_masks_is_a_defect() -> None:
    weights, masks = {"a": torch.tensor([[1.0, 0.0]])}, {"a": torch.tensor([[True, False]])}
    with pytest.raises(RuntimeError, match="cannot be pruned to 0"):
        chosen(weights, masks, 0.1)


def test_a_removed_weight_that_came_back_is_a_defect() -> None:
    with pytest.raises(RuntimeError, match="removed weights are not zero"):
        chosen({"a": torch.tensor([[1.0, 0.5]])}, {"a": torch.tensor([[True, False]])}, 0.5)


def test_several_gpus_train_by_the_same_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round trains by what evaluates: it shares batches among processes wherever that does."""
    assert iterative.train_masked is finetune.train_masked
    asked: list[int] = []

    def sharing(checkpoint: Path, pruning: Pruning, data: Prepared, own: Training, where: str) -> Any:
        asked.append(own.processes)
        return build_model(checkpoint, pruning, data, own, where)

    monkeypatch.setattr(finetune, "fit_in_processes", sharing)
    several = Training(TASK, 0, torch.device("cpu"), folder / "states", "", 2)
    finetune.train_masked(
        folder, no_pruning(families.manifest(folder)), Prepared(folder / "inputs.arrow"), several, WHERE
    )
    assert asked == [2]


def test_states_are_named_only_where_some_are_saved(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert state_key(TASK, ["code"], [tmp_path / "a"]) == ""
    saving = replace(TASK, save_every=2)
    key = state_key(saving, ["code"], [tmp_path / "a"])
    (tmp_path / "a").write_text("b")
    assert key.startswith("code ") and key != state_key(saving, ["code"], [tmp_path / "a"])
