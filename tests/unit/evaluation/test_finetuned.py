"""Fine-tuning: what is removed stays removed, what is frozen stays frozen, and every level sees the same data."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
)

import entries
import families
from essential_sparsity.data.batches import draw_training_rows
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import Prepared, write_prepared
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.finetuned import evaluate_finetuned, predict
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.evaluation.tables import EXAMPLES
from essential_sparsity.metrics.registry import compute_metric
from essential_sparsity.pretraining.masked_text import train_tokenizer
from essential_sparsity.pruning.masks import AppliedMasks, Pruning
from essential_sparsity.run.exhaustion import is_out_of_memory
from essential_sparsity.study.protocols import KEYS
from essential_sparsity.tables import write_table
from essential_sparsity.training import kinds as task_kinds
from essential_sparsity.training.fit import HEADS, freeze
from essential_sparsity.training.kinds import TASK_KINDS
from essential_sparsity.training.loop import Training, adamw, hold_in_step
from pictures import pictures

CPU = torch.device("cpu")
WHERE = "model m, sparsity 0.500"
TASK: dict[str, Any] = {
    "head": "mean_pooling", "metric": "accuracy", "train_examples": 64, "epochs": 2, "batch_size": 16,
    "batches": "by_length", "max_length": 12, "stride": 4, "answer_length": 6, "learning_rate": 0.01,
    "weight_decay": 0.01, "evaluation_batch_size": 32,
}  # fmt: skip
KINDS = {"plot": ["hero", "village", "war", "train"], "review": ["film", "boring", "acting", "script"]}
TEXT_HEADS = ["mean_pooling", "sequence_classification"]


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


def prepared(checkpoint: Path, data: pd.DataFrame, kind: str, file: Path, **task: Any) -> Prepared:
    known = {**TASK, "unanswerable": False, **task}
    keys = {key: known[key] for key in (*KEYS[kind], *(["unanswerable"] if kind == "spans" else []))}
    write_prepared(*prepare_inputs(data, checkpoint, WHERE, kind=kind, **keys), file)
    return Prepared(file)


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Any:
    """Returns a function that prepares, trains and tests."""

    def evaluate(
        masks: Mapping[str, Tensor], seed: int = 0, data: pd.DataFrame | None = None, folder: Path = checkpoint,
        kind: str = "classes", processes: int = 1, **task: Any,
    ) -> tuple[Outcome, float]:  # fmt: skip
        frame = rows() if data is None else data
        inputs = prepared(folder, frame, kind, tmp_path / "inputs.arrow", **task)
        matrices = {m.name: m for m in families.manifest(folder)}
        training = Training(entries.task(**TASK | task), seed, CPU, tmp_path / "states", "key", processes)
        return evaluate_finetuned(folder, Pruning(masks, matrices), inputs, lambda: frame, training, WHERE)

    return evaluate


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Keep the encoder of each model that a run builds, and a copy of it before training."""
    built: list[nn.Module] = []
    for name, real in list(HEADS.items()):

        def keeping(folder: Path, options: Any, where: str, real: Any = real) -> Any:
            model, encoder = real(folder, options, where)
            built.extend([copy.deepcopy(encoder), encoder])
            return model, encoder

        monkeypatch.setitem(HEADS, name, keeping)
    return built


@pytest.mark.parametrize("head", TEXT_HEADS)
@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_removed_weights_stay_zero(
    run: Any, checkpoint: Path, models: list[nn.Module], head: str, sparsity: float
) -> None:
    masks = masks_at(checkpoint, sparsity)
    _, realised = run(masks, head=head)
    trained = dict(models[1].named_parameters())
    size = sum(m.numel() for m in masks.values())
    zeros = 0
    for name, keep in masks.items():
        weight = trained[name if name in trained else name.removeprefix("bert.")].detach()
        assert not weight[~keep].count_nonzero(), name
        assert weight[keep].count_nonzero() == keep.sum(), "kept weights are trained, not zeroed"
        zeros += int((weight == 0).sum())
    assert realised == zeros / size == round(sparsity * size) / size


def test_kept_weights_are_trained(run: Any, checkpoint: Path, models: list[nn.Module]) -> None:
    masks = masks_at(checkpoint, 0.5)
    run(masks)
    before, after = (dict(m.named_parameters()) for m in models)
    for name, keep in masks.items():
        short = name.removeprefix("bert.")
        assert bool((before[short][keep] != after[short][keep]).any()), name


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_a_mask_that_removes_nothing_changes_nothing(run: Any, checkpoint: Path, head: str) -> None:
    dense, sparsity = run({}, head=head)
    kept, realised = run(masks_at(checkpoint, 0.0), head=head)
    assert sparsity == realised == 0.0
    assert kept.value == dense.value
    pd.testing.assert_frame_equal(kept.examples, dense.examples)


def test_the_same_seed_gives_the_same_result_and_another_does_not(run: Any, checkpoint: Path) -> None:
    masks = masks_at(checkpoint, 0.5)
    one, again, other = (run(masks, seed)[0].examples["loss"] for seed in (3, 3, 4))
    assert one.equals(again)
    assert not one.equals(other)


@pytest.mark.parametrize("batches", ["shuffled", "by_length"])
def test_every_sparsity_of_a_seed_sees_the_same_batches(
    run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, batches: str
) -> None:
    seen: dict[tuple[int, float], list[list[int]]] = {}
    key, kind = (0, 0.0), TASK_KINDS["classes"]

    def recording(data: Prepared, chosen: Any) -> Any:
        seen.setdefault(key, []).append(chosen.tolist())
        return kind.batch(data, chosen)

    monkeypatch.setitem(task_kinds.TASK_KINDS, "classes", dataclasses.replace(kind, batch=recording))
    for seed in (0, 1):
        for sparsity in (0.0, 0.5, 0.9):
            key = (seed, sparsity)
            run(masks_at(checkpoint, sparsity) if sparsity else {}, seed, train_examples=40, batches=batches)
    for seed in (0, 1):
        assert seen[seed, 0.0] == seen[seed, 0.5] == seen[seed, 0.9]
        trained = seen[seed, 0.0][:6]  # two epochs of 16, 16 and 8 rows
        epochs = [sorted(row for batch in part for row in batch) for part in (trained[:3], trained[3:])]
        assert epochs[0] == epochs[1] == sorted(set(epochs[0])), "each row once an epoch"
        assert len(epochs[0]) == 40
    assert seen[0, 0.0] != seen[1, 0.0]


@pytest.mark.parametrize("patterns", [["embeddings.*"], ["*layer.0*", "embeddings.word_embeddings.weight"], ["*.bias"]])
def test_frozen_parameters_do_not_change(
    run: Any, checkpoint: Path, models: list[nn.Module], patterns: list[str]
) -> None:
    run({}, freeze=patterns)
    before, after = (dict(m.named_parameters()) for m in models)
    frozen = {n for n, p in after.items() if not p.requires_grad}
    assert frozen
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    trained = {n for n in after if n not in frozen and "pooler" not in n}
    changed = {n for n in trained if not torch.equal(before[n], after[n])}
    assert len(changed) > 0.8 * len(trained)
    if patterns == ["embeddings.*"]:
        assert frozen == {n for n in after if n.startswith("embeddings.")}


def test_a_frozen_matrix_is_still_pruned(run: Any, checkpoint: Path, models: list[nn.Module]) -> None:
    masks = masks_at(checkpoint, 0.5)
    _, realised = run(masks, freeze=["encoder.layer.0.*"])
    assert realised == pytest.approx(0.5, abs=1e-3)
    name = next(iter(masks))
    weight = models[1].get_parameter(name.removeprefix("bert."))
    assert not weight.requires_grad
    assert not weight.detach()[~masks[name]].count_nonzero()


def test_a_pattern_that_matches_nothing_is_refused(run: Any, checkpoint: Path) -> None:
    with pytest.raises(UserError) as caught:
        run({}, freeze=["embedings.*"])
    assert caught.value.where == f"{WHERE}.freeze"
    assert "'embedings.*'" in caught.value.found
    assert "embeddings.word_embeddings.weight" in caught.value.expected


def test_nothing_left_to_train_is_refused(run: Any, checkpoint: Path) -> None:
    with pytest.raises(UserError, match="leave no parameter to train"):
        run({}, head="sequence_classification", freeze=["*"])
    model, encoder = HEADS["mean_pooling"](checkpoint, {"num_labels": 2}, WHERE)
    frozen = freeze(model, encoder, ["*"], WHERE)  # the classifier is left
    assert set(frozen) == set(dict(encoder.named_parameters()))


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_a_task_that_can_be_learnt_is_learnt(run: Any, checkpoint: Path, head: str) -> None:
    outcome, _ = run({}, head=head, epochs=10)
    assert outcome.value > 0.9
    assert outcome.chance == 0.5


def test_a_stored_half_precision_checkpoint_is_trained_in_float32(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    BertForMaskedLM.from_pretrained(checkpoint).to(torch.bfloat16).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("bert.embeddings.word_embeddings.weight").dtype is torch.bfloat16
    for head in TEXT_HEADS:
        outcome, realised = run(masks_at(tmp_path, 0.3), folder=tmp_path, head=head, epochs=10)
        assert outcome.value > 0.8
        assert realised == pytest.approx(0.3, abs=1e-3)


def test_the_accuracy_can_be_recomputed_from_the_examples(run: Any, checkpoint: Path, tmp_path: Path) -> None:
    data = rows()
    outcome, _ = run({}, epochs=1, learning_rate=0.002, data=data)
    examples = write_table(outcome.examples, EXAMPLES, tmp_path / "e.parquet")
    assert outcome.n == len(examples) == (data["split"] == "test").sum()
    assert outcome.value == (examples["label"] == examples["prediction"]).mean()
    truth = data.set_index("id")["label"]
    assert (examples["label"].to_numpy() == truth.loc[examples["id"]].to_numpy()).all(), "each id has its own label"
    assert set(examples["id"]) == set(data.loc[data["split"] == "test", "id"])
    # Two classes: right exactly where the loss is below that of an even guess.
    right = examples["label"] == examples["prediction"]
    assert (right == (examples["loss"] < math.log(2))).all()


def test_chance_is_the_share_of_the_majority(run: Any, checkpoint: Path) -> None:
    data = rows()
    drop = data[(data["split"] == "test") & (data["label"] == "plot")].index[:30]
    outcome, _ = run({}, data=data.drop(index=drop), epochs=1)
    assert outcome.chance == pytest.approx(40 / 50)


def test_a_loss_that_is_not_finite_stops_the_training(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = HEADS["mean_pooling"]

    def broken(folder: Path, options: Any, where: str) -> Any:
        model, encoder = real(folder, options, where)
        with torch.no_grad():
            model.classifier.bias[0] = float("nan")
        return model, encoder

    monkeypatch.setitem(HEADS, "mean_pooling", broken)
    with pytest.raises(UserError, match=rf"{WHERE}: found a loss of nan.*learning_rate"):
        run({})


def test_a_mask_of_another_model_is_refused(run: Any, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"mask of matrix model\.layers\.0"):
        run({"model.layers.0.q_proj.weight": torch.ones(2, 2, dtype=torch.bool)})


# --- As others do it ---


@pytest.mark.parametrize("masked", ["no masks", "all-ones masks"])
def test_without_anything_removed_the_result_is_that_of_plain_trainer(
    run: Any, checkpoint: Path, models: list[nn.Module], tmp_path: Path, masked: str
) -> None:
    task = {"head": "sequence_classification", "batches": "shuffled", "learning_rate": 1e-3, "train_examples": 1000}
    run({} if masked == "no masks" else masks_at(checkpoint, 0.0), 5, **task)

    data = rows()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    torch.manual_seed(5)
    plain = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    train = data[data["split"] == "train"]
    encoded = tokenizer(train["text"].tolist(), truncation=True, max_length=12)
    examples = [
        {key: encoded[key][i] for key in encoded} | {"labels": ["plot", "review"].index(label)}
        for i, label in enumerate(train["label"])
    ]
    arguments = TrainingArguments(
        str(tmp_path / "plain"), per_device_train_batch_size=16, num_train_epochs=2, learning_rate=1e-3,
        weight_decay=0.01, seed=5, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        plain, arguments, train_dataset=examples, data_collator=DataCollatorWithPadding(tokenizer),
        optimizers=(torch.optim.AdamW(plain.parameters(), lr=1e-3, eps=1e-8, weight_decay=0.01), None),
    )  # fmt: skip
    trainer.train()
    expected = plain.state_dict()
    for name, value in models[1].state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
@pytest.mark.parametrize("head", TEXT_HEADS)
def test_the_dense_model_gives_the_logits_of_transformers_bit_for_bit(
    checkpoint: Path, tmp_path: Path, head: str
) -> None:
    data = prepared(checkpoint, rows(), "classes", tmp_path / "inputs.arrow")
    torch.manual_seed(0)
    model, encoder = HEADS[head](checkpoint, {"num_labels": 2}, WHERE)
    inputs = TASK_KINDS["classes"].batch(data, np.arange(9))
    inputs.pop("labels")
    model.eval()
    if head == "mean_pooling":
        plain = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
        assert torch.equal(encoder(**inputs).last_hidden_state, plain(**inputs).last_hidden_state)
    else:
        torch.manual_seed(0)
        plain = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2).eval()
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    theirs = tokenizer(rows()["text"].tolist()[:9], truncation=True, max_length=12, padding=True, return_tensors="pt")
    for key, value in theirs.items():
        assert torch.equal(inputs[key], value), key
    assert "token_type_ids" in inputs, "segment ids are passed on (a trap of the paper's code)"


# --- Settings ---


def test_parts_of_a_batch_add_up_to_the_whole(
    run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    masks, task = masks_at(checkpoint, 0.5), {"train_examples": 60, "learning_rate": 0.001}
    # Dropout would draw anew for each part.
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    whole, _ = run(masks, **task)
    parts, _ = run(masks, micro_batch=4, **task)
    kind, limit = TASK_KINDS["classes"], 8

    def crowded(data: Prepared, chosen: Any) -> Any:
        if len(chosen) > limit:
            raise torch.OutOfMemoryError("no room")
        return kind.batch(data, chosen)

    monkeypatch.setitem(task_kinds.TASK_KINDS, "classes", dataclasses.replace(kind, batch=crowded))
    halved, _ = run(masks, **task)
    assert "fine-tuning: out of memory, going on with batches of 8" in caplog.text
    assert "testing: out of memory, going on with batches of 8" in caplog.text
    for other in (parts, halved):
        # Adam divides by the gradient's size, and makes much of how a sum is rounded.
        pd.testing.assert_frame_equal(whole.examples, other.examples, rtol=1e-3)


def test_a_real_refusal_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_early_stopping_takes_the_best_state_and_never_looks_at_the_test(
    run: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows(240)
    data.loc[data.index % 4 == 1, "split"] = "validation"
    seen: set[int] = set()
    kind, tested = TASK_KINDS["classes"], []
    real = predict

    def recording(inputs: Prepared, chosen: Any) -> Any:
        if not tested:
            seen.update(inputs.numbers("id")[chosen].tolist())
        return kind.batch(inputs, chosen)

    monkeypatch.setitem(task_kinds.TASK_KINDS, "classes", dataclasses.replace(kind, batch=recording))
    monkeypatch.setattr(
        "essential_sparsity.evaluation.finetuned.predict", lambda *a: (tested.append(True), real(*a))[1]
    )
    # A rate at which training soon makes things worse.
    outcome, realised = run(
        masks_at(checkpoint, 0.5), data=data, epochs=30, learning_rate=0.05,
        early_stopping={"every": 2, "patience": 2},
    )  # fmt: skip
    assert seen == set(data.loc[data["split"] != "test", "id"])
    assert realised == pytest.approx(0.5, abs=1e-3), "the state that is taken up again is pruned, too"
    assert outcome.n == (data["split"] == "test").sum()


@pytest.fixture(scope="module")
def image_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT, which transformers saves under other names than its parameters have."""
    folder = families.save("vit", tmp_path_factory.mktemp("vit"))
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["classes", "images"])
def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(
    run: Any, checkpoint: Path, image_checkpoint: Path, models: list[nn.Module], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, kind: str,
) -> None:  # fmt: skip
    folder, task = checkpoint, {"save_every": 3, "epochs": 3}
    if kind == "images":
        folder = image_checkpoint
        task |= {"folder": folder, "kind": kind, "data": pictures(80), "head": "image_classification"}
    masks = masks_at(folder, 0.5)
    whole, _ = run(masks, **task)
    shutil.rmtree(tmp_path / "states")
    steps, real = [], AppliedMasks.hold_gradients

    def dying(self: AppliedMasks) -> None:
        steps.append(1)
        if len(steps) == 9:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(AppliedMasks, "hold_gradients", dying)
        with pytest.raises(KeyboardInterrupt):
            run(masks, **task)
    # As a process that ends while it saves leaves it.
    (tmp_path / "states" / "checkpoint-8").mkdir()
    counted: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(AppliedMasks, "hold_gradients", lambda self: (counted.append(1), real(self))[1])
        again, _ = run(masks, **task)
    assert len(counted) == 12 - 6, "from the last state, not from the beginning"
    pd.testing.assert_frame_equal(whole.examples, again.examples)
    trained, found = models[1].state_dict(), models[-1].state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in trained.items())


@pytest.mark.parametrize("saving", [{"save_every": 100}, {"early_stopping": {"every": 4, "patience": 9}}])
def test_a_training_that_is_told_to_end_saves_its_state_and_goes_on_to_the_same_result(
    run: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saving: dict[str, Any]
) -> None:
    masks, task, data = masks_at(checkpoint, 0.5), {**saving, "epochs": 3}, rows(240)
    data.loc[data.index % 4 == 1, "split"] = "validation"
    whole, _ = run(masks, data=data, **task)
    shutil.rmtree(tmp_path / "states")
    steps, real = [], AppliedMasks.hold_gradients

    def told(self: AppliedMasks) -> None:
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(AppliedMasks, "hold_gradients", told)
        with pytest.raises(UserError, match=r"SIGTERM\) after step 6 of \d+.*goes on from there"):
            run(masks, data=data, **task)
        ended = len(steps)
        again, _ = run(masks, data=data, **task)
    assert ended == 6, "it ends after the step in which it is told to"
    steps_of_all = 3 * -(-int((data["split"] == "train").sum()) // 16)
    assert len(steps) == steps_of_all, "no step is taken twice"
    pd.testing.assert_frame_equal(whole.examples, again.examples)


def test_the_step_holds_masks_before_it_clips() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 8, bias=False)
    keep = torch.rand(8, 8) > 0.5
    applied = AppliedMasks(model, {"weight": keep}, {})
    applied.hold()
    before = model.weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    hold_in_step(optimiser, applied, 1.0)
    gradient = torch.randn(8, 8)
    model.weight.grad = gradient.clone()
    optimiser.step()
    kept = gradient * keep
    expected = before - kept / max(1.0, float(kept.norm()))
    torch.testing.assert_close(model.weight.detach(), expected)
    assert not model.weight.detach()[~keep].count_nonzero()


def test_adamw_has_the_papers_settings(checkpoint: Path) -> None:
    model = AutoModel.from_pretrained(checkpoint)
    model.embeddings.requires_grad_(False)
    group = adamw(model, entries.task()).param_groups[0]
    assert (group["lr"], group["eps"], group["weight_decay"], group["betas"]) == (2e-5, 1e-8, 0.0, (0.9, 0.999))
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"schedule": "cosine", "warmup": 0.2}, {"clip": 0.0}])
def test_settings_change_the_training(run: Any, change: dict[str, Any]) -> None:
    plain, other = run({}, learning_rate=1e-3)[0], run({}, learning_rate=1e-3, **change)[0]
    assert not np.array_equal(plain.examples["loss"], other.examples["loss"])
    np.testing.assert_allclose(plain.examples["loss"], other.examples["loss"], atol=0.3)


def test_training_rows_are_drawn_by_the_seed_alone() -> None:
    every = np.arange(100, 160)
    one, again, other = (draw_training_rows(every, 20, seed).tolist() for seed in (1, 1, 2))
    assert one == again != other
    assert len(set(one)) == 20
    assert draw_training_rows(every, 60, 0).tolist() == every.tolist()


# --- Several processes, as on several GPUs ---


@pytest.fixture(scope="module")
def without_dropout(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, but the same in one process as in several, whose draws differ."""
    folder = tmp_path_factory.mktemp("bert") / "folder"
    shutil.copytree(checkpoint, folder)
    config = BertConfig.from_pretrained(checkpoint)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.save_pretrained(folder)
    return folder


def test_several_processes_take_the_steps_that_one_takes(
    run: Any, without_dropout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = masks_at(without_dropout, 0.5)
    rate = {"learning_rate": 0.001, "folder": without_dropout, "freeze": ["embeddings.*"]}
    one, sparsity = run(masks, 2, **rate)
    several, realised = run(masks, 2, processes=2, micro_batch=4, **rate)
    assert realised == sparsity == pytest.approx(0.5, abs=1e-3)
    # Adam divides by the gradient's size, and makes much of how a sum is rounded.
    pd.testing.assert_frame_equal(one.examples, several.examples, rtol=1e-3)
    untrained, _ = run(masks, 2, **rate | {"learning_rate": 1e-12})
    assert not np.allclose(one.examples["loss"], untrained.examples["loss"], rtol=1e-2), "there were steps to take"


def test_a_batch_that_cannot_be_shared_is_refused(run: Any) -> None:
    with pytest.raises(UserError, match="found 16 rows for 3 GPUs"):
        run({}, processes=3)


# --- Other kinds of rows ---


def test_further_test_splits_are_reported_beside_the_headline(run: Any, checkpoint: Path) -> None:
    data = rows(200)
    data.loc[data.index[-40:], "split"] = "test-mismatched"
    outcome, _ = run({}, data=data, also=["matthews"], epochs=1)
    headline = outcome.examples[outcome.examples["group"] == ""]
    other = outcome.examples[outcome.examples["group"] == "mismatched"]
    assert len(other) == 40
    assert outcome.n == len(headline) == (data["split"] == "test").sum()
    assert set(outcome.others) == {"matthews", "mismatched/accuracy", "mismatched/matthews"}
    assert outcome.value == (headline["label"] == headline["prediction"]).mean()
    assert outcome.others["mismatched/accuracy"] == (other["label"] == other["prediction"]).mean()


def test_numbers_are_predicted(run: Any, checkpoint: Path) -> None:
    data = rows()
    data["score"] = data["text"].str.count("hero|film").astype(float)
    outcome, _ = run(
        {}, data=data.drop(columns="label"), kind="scores", head="sequence_classification", metric="pearson",
        also=["spearman"], epochs=25,
    )  # fmt: skip
    labels, found = outcome.examples["label"].astype(float), outcome.examples["prediction"].astype(float)
    assert outcome.value == pytest.approx(np.corrcoef(labels, found)[0, 1])
    assert outcome.value > 0.5
    np.testing.assert_allclose(outcome.examples["loss"], (labels - found) ** 2)
    assert outcome.chance == 0.0


def test_pairs_have_segments(checkpoint: Path, tmp_path: Path) -> None:
    data = rows(12).assign(text_pair="war train")
    found = prepared(checkpoint, data, "classes", tmp_path / "inputs.arrow")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    inputs = TASK_KINDS["classes"].batch(found, np.arange(12))
    theirs = tokenizer(
        data["text"].tolist(), data["text_pair"].tolist(), truncation=True, max_length=12, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    for key, value in theirs.items():
        assert torch.equal(inputs[key], value), key
    assert inputs["token_type_ids"].any()


def test_texts_that_are_cut_are_counted(run: Any, checkpoint: Path) -> None:
    data = rows()
    longer = data["text"].str.split().str.len() + 2 > 6
    outcome, _ = run({}, data=data, max_length=6, epochs=1)
    tests = data["split"] == "test"
    assert f"{(longer & tests).sum()} of {tests.sum()} texts of test cut to 6 tokens" in outcome.notes
    long = data.assign(text=data["text"] + " hero" * 20)
    notes = run({}, data=long, max_length=256, epochs=1)[0].notes
    assert f"{tests.sum()} of {tests.sum()} texts of test cut to 12 tokens" in notes, "the model has no more positions"


def questions(n: int = 96) -> pd.DataFrame:
    """The answer is the one word of the context that is no plot."""
    draw = np.random.default_rng(0)
    records = []
    for i in range(n):
        words = draw.choice(KINDS["plot"], size=4).tolist()
        answer = str(draw.choice(KINDS["review"]))
        words.insert(int(draw.integers(5)), answer)
        start = len(" ".join(words[: words.index(answer)]))
        records.append(
            {
                "id": i,
                "text": "film",
                "text_pair": " ".join(words),
                "answers": [answer],
                "answer_starts": [start + (start > 0)],
                "label": None,
                "split": "test" if i % 3 == 2 else "train",
            }
        )
    return pd.DataFrame(records)


def test_answers_are_found_in_texts(run: Any, checkpoint: Path) -> None:
    data = questions()
    outcome, realised = run(
        masks_at(checkpoint, 0.3), data=data, kind="spans", head="question_answering", metric="squad_f1",
        also=["exact_match"], epochs=25, stride=2,
    )  # fmt: skip
    tests = data[data["split"] == "test"]
    assert outcome.examples["id"].tolist() == tests["id"].tolist()
    assert outcome.value == pytest.approx(outcome.examples["score"].mean())
    right = [p in gold for p, gold in zip(outcome.examples["prediction"], tests["answers"], strict=True)]
    assert outcome.others["exact_match"] == pytest.approx(np.mean(right))
    assert outcome.others["exact_match"] > 0.8
    assert realised == pytest.approx(0.3, abs=1e-3)
    assert compute_metric("exact_match", outcome.examples, WHERE).value == outcome.others["exact_match"]


@torch.no_grad()
def test_predictions_come_in_the_order_of_the_rows(checkpoint: Path, tmp_path: Path) -> None:
    data = prepared(checkpoint, rows(), "classes", tmp_path / "inputs.arrow")
    torch.manual_seed(0)
    model, _ = HEADS["sequence_classification"](checkpoint, {"num_labels": 2}, WHERE)
    chosen = np.array([5, 80, 3, 44, 17, 9])
    kind = TASK_KINDS["classes"]
    (together,) = predict(model, data, chosen, kind, 4, CPU, WHERE)
    single = torch.cat([predict(model, data, chosen[i : i + 1], kind, 1, CPU, WHERE)[0] for i in range(6)])
    torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    with pytest.raises(UserError, match=f"{WHERE}: found outputs that are NaN"):
        predict(model, data, chosen, kind, 4, CPU, WHERE)
