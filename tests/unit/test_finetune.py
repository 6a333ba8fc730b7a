"""Fine-tuning: what is removed stays removed, what is frozen stays frozen, and every level sees the same data."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

import families
from essential_sparsity import finetune
from essential_sparsity.errors import UserError
from essential_sparsity.finetune import HEADS, bucketed_batches, draw_training_rows, evaluate_finetuned, freeze
from essential_sparsity.masks import Pruning
from essential_sparsity.outcomes import Outcome
from essential_sparsity.pretraining_text import train_tokenizer
from essential_sparsity.tables import EXAMPLES, write_table

CPU = torch.device("cpu")
WHERE = "model m, sparsity 0.500"
TASK: dict[str, Any] = {
    "head": "mean_pooling", "freeze": [], "train_examples": 64, "epochs": 2, "batch_size": 16, "max_length": 12,
    "learning_rate": 0.01, "weight_decay": 0.01,
}  # fmt: skip
KINDS = {"plot": ["hero", "village", "war", "train"], "review": ["film", "boring", "acting", "script"]}


def rows(n: int = 160, seed: int = 0) -> pd.DataFrame:
    """Two kinds of text of different lengths that a word tells apart; the ids are not the row numbers."""
    draw = np.random.default_rng(seed)
    records = []
    for i in range(n):
        kind = "plot" if i % 2 else "review"
        text = " ".join(draw.choice(KINDS[kind], size=draw.integers(3, 9)))
        records.append({"id": 1000 + i, "text": text, "label": kind, "split": "test" if i % 4 > 1 else "train"})
    return pd.DataFrame(records)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = train_tokenizer(rows()["text"].tolist(), 80, 1, 12)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, pad_token_id=tokenizer.pad_token_id, hidden_dropout_prob=0.1,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def masks_at(checkpoint: Path, sparsity: float) -> dict[str, Tensor]:
    """Return the masks of global magnitude, by an ordinary sort."""
    weights = load_file(checkpoint / "model.safetensors")
    names = [m.name for m in families.manifest(checkpoint) if m.pruned]
    flat = torch.cat([weights[name].abs().flatten() for name in names])
    keep = torch.ones(len(flat), dtype=torch.bool)
    keep[flat.argsort(stable=True)[: round(sparsity * len(flat))]] = False
    parts = keep.split([weights[name].numel() for name in names])
    return {name: part.reshape(weights[name].shape) for name, part in zip(names, parts, strict=True)}


def run(
    checkpoint: Path, masks: Mapping[str, Tensor], seed: int = 0, data: pd.DataFrame | None = None, **task: Any
) -> tuple[Outcome, float]:
    frame = rows() if data is None else data
    matrices = {m.name: m for m in families.manifest(checkpoint)}
    return evaluate_finetuned(checkpoint, Pruning(masks, matrices), frame, {**TASK, **task}, seed, CPU, WHERE)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Keep each model that a run builds, and a copy of it before training."""
    built: list[nn.Module] = []
    for name, real in list(HEADS.items()):

        def keeping(folder: Path, classes: int, where: str, real: Any = real) -> nn.Module:
            model = real(folder, classes, where)
            built.extend([copy.deepcopy(model), model])
            return model

        monkeypatch.setitem(HEADS, name, keeping)
    return built


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_removed_weights_stay_zero(checkpoint: Path, models: list[nn.Module], head: str, sparsity: float) -> None:
    masks = masks_at(checkpoint, sparsity)
    _, realised = run(checkpoint, masks, head=head)
    trained = dict(models[1].encoder.named_parameters())
    size = sum(m.numel() for m in masks.values())
    zeros = 0
    for name, keep in masks.items():
        weight = trained[name if name in trained else name.removeprefix("bert.")].detach()
        assert not weight[~keep].count_nonzero(), name
        assert weight[keep].count_nonzero() == keep.sum(), "kept weights are trained, not zeroed"
        zeros += int((weight == 0).sum())
    assert realised == zeros / size == round(sparsity * size) / size


def test_kept_weights_are_trained(checkpoint: Path, models: list[nn.Module]) -> None:
    masks = masks_at(checkpoint, 0.5)
    run(checkpoint, masks)
    before, after = (dict(m.encoder.named_parameters()) for m in models)
    for name, keep in masks.items():
        short = name.removeprefix("bert.")
        assert bool((before[short][keep] != after[short][keep]).any()), name


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_mask_that_removes_nothing_changes_nothing(checkpoint: Path, head: str) -> None:
    dense, sparsity = run(checkpoint, {}, head=head)
    kept, realised = run(checkpoint, masks_at(checkpoint, 0.0), head=head)
    assert sparsity == realised == 0.0
    assert kept.value == dense.value
    pd.testing.assert_frame_equal(kept.examples, dense.examples)


def test_the_same_seed_gives_the_same_result_and_another_does_not(checkpoint: Path) -> None:
    masks = masks_at(checkpoint, 0.5)
    one, again, other = (run(checkpoint, masks, seed)[0].examples["loss"] for seed in (3, 3, 4))
    assert one.equals(again)
    assert not one.equals(other)


def test_every_sparsity_of_a_seed_sees_the_same_batches(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[int, float], list[list[list[int]]]] = {}
    real = finetune.Encoded.batch
    key = (0, 0.0)

    def recording(self: Any, chosen: list[int], pad: Any) -> Any:
        inputs, labels = real(self, chosen, pad)
        seen.setdefault(key, []).append(inputs["input_ids"].tolist())
        return inputs, labels

    monkeypatch.setattr(finetune.Encoded, "batch", recording)
    for seed in (0, 1):
        for sparsity in (0.0, 0.5, 0.9):
            key = (seed, sparsity)
            run(checkpoint, masks_at(checkpoint, sparsity) if sparsity else {}, seed, train_examples=40)
    for seed in (0, 1):
        assert seen[seed, 0.0] == seen[seed, 0.5] == seen[seed, 0.9]
    assert seen[0, 0.0] != seen[1, 0.0]


@pytest.mark.parametrize("patterns", [["embeddings.*"], ["*layer.0*", "embeddings.word_embeddings.weight"], ["*.bias"]])
def test_frozen_parameters_do_not_change(checkpoint: Path, models: list[nn.Module], patterns: list[str]) -> None:
    run(checkpoint, {}, freeze=patterns)
    before, after = (dict(m.encoder.named_parameters()) for m in models)
    frozen = {n for n, p in after.items() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    trained = {n for n in after if n not in frozen and "pooler" not in n}
    changed = {n for n in trained if not torch.equal(before[n], after[n])}
    assert len(changed) > 0.8 * len(trained)
    if patterns == ["embeddings.*"]:
        assert frozen == {n for n in after if n.startswith("embeddings.")}


def test_a_frozen_matrix_is_still_pruned(checkpoint: Path, models: list[nn.Module]) -> None:
    masks = masks_at(checkpoint, 0.5)
    _, realised = run(checkpoint, masks, freeze=["encoder.layer.0.*"])
    assert realised == pytest.approx(0.5, abs=1e-3)
    name = next(iter(masks))
    weight = models[1].encoder.get_parameter(name.removeprefix("bert."))
    assert not weight.requires_grad
    assert not weight.detach()[~masks[name]].count_nonzero()


def test_a_pattern_that_matches_nothing_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(checkpoint, {}, freeze=["embedings.*"])
    assert caught.value.where == f"{WHERE}.freeze"
    assert "'embedings.*'" in caught.value.found
    assert "embeddings.word_embeddings.weight" in caught.value.expected


def test_nothing_left_to_train_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="leave no parameter to train"):
        run(checkpoint, {}, head="sequence_classification", freeze=["*"])
    model = HEADS["mean_pooling"](checkpoint, 2, WHERE)
    frozen = freeze(model, ["*"], WHERE)  # the classifier is left
    assert set(frozen) == set(dict(model.encoder.named_parameters()))


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_task_that_can_be_learnt_is_learnt(checkpoint: Path, head: str) -> None:
    outcome, _ = run(checkpoint, {}, head=head, epochs=6)
    assert outcome.value > 0.9
    assert outcome.chance == 0.5


def test_a_stored_half_precision_checkpoint_is_trained_in_float32(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    BertForMaskedLM.from_pretrained(checkpoint).to(torch.bfloat16).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("bert.embeddings.word_embeddings.weight").dtype is torch.bfloat16
    for head in sorted(HEADS):
        outcome, realised = run(tmp_path, masks_at(tmp_path, 0.3), head=head, epochs=4)
        assert outcome.value > 0.8
        assert realised == pytest.approx(0.3, abs=1e-3)


def test_the_accuracy_can_be_recomputed_from_the_examples(checkpoint: Path, tmp_path: Path) -> None:
    data = rows()
    outcome, _ = run(checkpoint, {}, epochs=1, learning_rate=0.002, data=data)
    examples = write_table(outcome.examples, EXAMPLES, tmp_path / "e.parquet")
    assert outcome.n == len(examples) == (data["split"] == "test").sum()
    assert outcome.value == (examples["label"] == examples["prediction"]).mean()
    truth = data.set_index("id")["label"]
    assert (examples["label"].to_numpy() == truth.loc[examples["id"]].to_numpy()).all(), "each id has its own label"
    assert set(examples["id"]) == set(data.loc[data["split"] == "test", "id"])
    # Two classes: right exactly where the loss is below that of an even guess.
    right = examples["label"] == examples["prediction"]
    assert (right == (examples["loss"] < math.log(2))).all()


def test_chance_is_the_share_of_the_majority(checkpoint: Path) -> None:
    data = rows()
    drop = data[(data["split"] == "test") & (data["label"] == "plot")].index[:30]
    outcome, _ = run(checkpoint, {}, data=data.drop(index=drop), epochs=1)
    assert outcome.chance == pytest.approx(40 / 50)


def test_one_class_is_refused(checkpoint: Path) -> None:
    data = rows()
    with pytest.raises(UserError, match=rf"{WHERE}: found 1 class"):
        run(checkpoint, {}, data=data[data["label"] == "plot"])


def test_a_loss_that_is_not_finite_stops_the_training(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = HEADS["mean_pooling"]

    def broken(folder: Path, classes: int, where: str) -> nn.Module:
        model = real(folder, classes, where)
        with torch.no_grad():
            model.classifier.bias[0] = float("nan")
        return model

    monkeypatch.setitem(HEADS, "mean_pooling", broken)
    with pytest.raises(UserError, match=rf"{WHERE}: found a loss of nan in fine-tuning.*learning_rate"):
        run(checkpoint, {})


def test_a_mask_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"mask of matrix model\.layers\.0"):
        run(checkpoint, {"model.layers.0.q_proj.weight": torch.ones(2, 2, dtype=torch.bool)})


# --- Batches ---


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_every_row_is_seen_once_an_epoch(n: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = list(bucketed_batches(n, batch_size, seed, epoch))
    assert sorted(row for batch in batches for row in batch) == list(range(n))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(batch == list(range(batch[0], batch[-1] + 1)) for batch in batches), "neighbours in length"
    assert batches == list(bucketed_batches(n, batch_size, seed, epoch))


def test_the_order_and_the_neighbours_change_with_the_epoch() -> None:
    plans = [list(bucketed_batches(100, 16, 0, epoch)) for epoch in range(4)]
    assert all(plans[0] != other for other in plans[1:])
    assert len({tuple(sorted(map(tuple, plan))) for plan in plans}) > 1, "the cut points move"


def test_training_rows_are_drawn_by_the_seed_alone() -> None:
    data = rows()
    one, again, other = (draw_training_rows(data, 20, seed)["id"].tolist() for seed in (1, 1, 2))
    assert one == again != other
    assert len(set(one)) == 20
    assert sorted(draw_training_rows(data, 10_000, 0)["id"]) == sorted(data["id"])


def test_texts_are_encoded_shortest_first_with_their_own_labels(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    data = rows(20)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encoded = finetune.encode(data, ["plot", "review"], tokenizer, 6)
    lengths = [len(row["input_ids"]) for row in encoded.inputs]
    assert lengths == sorted(lengths)
    assert max(lengths) == 6, "cut at max_length"
    truth = data.set_index("id")["label"]
    assert [["plot", "review"][i] for i in encoded.labels.tolist()] == [truth[i] for i in encoded.ids]
    inputs, labels = encoded.batch([0, 19], tokenizer.pad)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape
    assert inputs["attention_mask"].sum(1).tolist() == [lengths[0], lengths[19]]
    assert labels.tolist() == encoded.labels[[0, 19]].tolist()
    assert "token_type_ids" in inputs, "segment ids are passed on (a trap of the paper's code)"


@torch.no_grad()
def test_padding_does_not_change_the_logits(checkpoint: Path) -> None:
    model = HEADS["mean_pooling"](checkpoint, 3, WHERE).eval()
    ids = torch.tensor([[2, 7, 8, 3]])
    short = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    padded = torch.nn.functional.pad(ids, (0, 5))
    long = model(input_ids=padded, attention_mask=(padded > 0).long())
    assert short.shape == (1, 3)
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5)
