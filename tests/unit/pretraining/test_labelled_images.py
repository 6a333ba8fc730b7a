"""Pre-training on images: what is learnt, what a batch is, and a checkpoint that everything downstream can use."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForImageClassification, ViTForImageClassification

import entries
from essential_sparsity.checkpoints.extract import empty_model, extract
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.data.pixels import load_processor, normalise, pixel_settings, prepare_pixels
from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json
from essential_sparsity.pretraining.image_corpus import random_crops, random_flips
from essential_sparsity.pretraining.labelled_images import SupervisedImages
from essential_sparsity.pretraining.loop import make_optimiser
from essential_sparsity.sources.fetch import fetch
from essential_sparsity.study.validation import validate
from pictures import COLOURS, pictures
from trainings import WHERE, killed_in, trained

CPU = torch.device("cpu")
RECIPE: dict[str, Any] = {
    "objective": "supervised-images", "corpus": "colours",
    "architecture": {
        "model": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32,
    },
    "steps": 12, "batch_size": 8, "learning_rate": 0.005, "weight_decay": 0.05, "warmup": 0.1, "dropout": 0.1,
    "augment": {"flip": True, "crop_padding": 2}, "label_smoothing": 0.1, "checkpoints": 3, "first_checkpoint": 4,
    "log_every": 5, "seed": 0,
}  # fmt: skip


def recipe(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECIPE), **changes}


def train(folder: Path, rows: pd.DataFrame | None = None, **changes: Any) -> dict[str, bytes]:
    return trained(pictures() if rows is None else rows, recipe(**changes), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a training that nothing interrupted."""
    return train(tmp_path_factory.mktemp("whole"))


def restored(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path, whole: dict[str, bytes]) -> Path:
    """The last step, as the workflow makes a checkpoint of it."""
    index = restored(tmp_path / "training", whole) / "index.json"
    step = entries.source("pretrain", corpus="c", step="step000012")
    fetch(step, [index, index.parent], tmp_path / "source", WHERE)
    extract(tmp_path / "source", tmp_path / "checkpoint", "float32", WHERE)
    return tmp_path / "checkpoint"


# --- The recipe alone decides ---


def test_two_trainings_give_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    assert train(tmp_path) == whole
    assert {"index.json", "loss.parquet", "config.json", "preprocessor_config.json"} <= set(whole)
    assert {n for n in whole if n.endswith("safetensors")} == {
        "step000000.safetensors",
        "step000004.safetensors",
        "step000012.safetensors",
    }


def test_a_training_that_was_cut_off_ends_in_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    with killed_in(6):
        train(tmp_path)
    assert not (tmp_path / "index.json").exists()
    assert train(tmp_path) == whole


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"augment": {"flip": False, "crop_padding": 2}}, {"augment": {"flip": True, "crop_padding": 0}},
     {"label_smoothing": 0.0}, {"dropout": 0.0}, {"weight_decay": 0.5}],
    ids=lambda change: str(change),
)  # fmt: skip
def test_every_setting_matters(whole: dict[str, bytes], tmp_path: Path, change: dict[str, Any]) -> None:
    assert train(tmp_path, **change)["step000012.safetensors"] != whole["step000012.safetensors"]


def test_training_sees_only_its_split(tmp_path: Path, whole: dict[str, bytes]) -> None:
    rows = pictures()
    test = rows["split"] == "test"
    rows.loc[test, "image"] = pictures(seed=9).loc[test, "image"]
    found = train(tmp_path / "other", rows=rows)
    without = train(tmp_path / "none", rows=pictures()[~test])
    for files in (found, without):
        for name in ("step000012.safetensors", "config.json", "preprocessor_config.json"):
            assert files[name] == whole[name], "test images leave no trace in the weights"
    curve = pd.read_parquet(tmp_path / "none" / "loss.parquet")
    assert curve[["held_out_loss", "held_out_accuracy"]].isna().all(axis=None)
    assert found["loss.parquet"] != whole["loss.parquet"]


def test_another_objectives_files_do_not_stay(tmp_path: Path, whole: dict[str, bytes]) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert train(tmp_path) == whole


def test_colours_are_learnt(tmp_path: Path) -> None:
    train(tmp_path, steps=150, checkpoints=2, dropout=0.0, label_smoothing=0.0)
    curve = pd.read_parquet(tmp_path / "loss.parquet").set_index("step")
    assert curve["held_out_loss"].loc[0] == pytest.approx(math.log(3), rel=0.1), "untrained is an even guess"
    assert curve["held_out_accuracy"].loc[150] > 0.9
    assert curve["loss"].iloc[-1] < 0.5 * math.log(3)


def test_the_loss_curve_has_a_row_a_logged_step(whole: dict[str, bytes], tmp_path: Path) -> None:
    curve = pd.read_parquet(restored(tmp_path, whole) / "loss.parquet")
    assert list(curve) == ["step", "loss", "held_out_loss", "held_out_accuracy", "learning_rate"]
    assert curve["step"].tolist() == [0, 4, 5, 10, 12]
    for column in ("held_out_loss", "held_out_accuracy"):
        assert curve.loc[curve[column].notna(), "step"].tolist() == [0, 4, 12]
    assert curve.loc[curve["loss"].notna(), "step"].tolist() == [4, 5, 10, 12]


# --- The checkpoint ---


def test_a_checkpoint_is_loaded_by_transformers_with_and_without_its_head(checkpoint: Path) -> None:
    model, report = AutoModelForImageClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert isinstance(model, ViTForImageClassification)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert "model" not in read_json(checkpoint / "config.json"), "a key of recipes, not of configurations"
    encoder, report = AutoModel.from_pretrained(checkpoint, output_loading_info=True)
    assert all("pooler" in name for name in report["missing_keys"])
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = encoder.eval()(pixel_values=images).last_hidden_state
        torch.testing.assert_close(model.classifier(hidden[:, 0]), model.eval()(pixel_values=images).logits)


def test_six_matrices_of_every_block_are_pruned_and_nothing_else(checkpoint: Path) -> None:
    stored = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    matrices = list_matrices(empty_model(checkpoint), stored, WHERE)
    pruned = [m for m in matrices if m.pruned]
    assert [m.block for m in pruned] == [0] * 6 + [1] * 6
    assert sorted(m.shape for m in pruned) == sorted(2 * (4 * [(16, 16)] + [(32, 16), (16, 32)]))
    dense = {m.name for m in matrices if not m.pruned and len(m.shape) > 1}
    assert {name.removeprefix("vit.embeddings.") for name in dense} == {
        "cls_token", "position_embeddings", "patch_embeddings.projection.weight", "classifier.weight"
    }  # fmt: skip


def test_the_checkpoints_processor_makes_what_was_trained_on(checkpoint: Path) -> None:
    """The held-out accuracy of the loss curve is that of the checkpoint with its own processor and head."""
    processor = load_processor(checkpoint, WHERE)
    assert pixel_settings(processor, WHERE).mean == (0.5, 0.5, 0.5)
    rows = pictures()
    test = rows[rows["split"] == "test"]
    model = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    values = processor(images=[Image.open(io.BytesIO(c)) for c in test["image"]], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixel_values=values).logits
    gold = torch.tensor([model.config.label2id[label] for label in test["label"]])
    curve = pd.read_parquet(checkpoint.parent / "training" / "loss.parquet").set_index("step").loc[12]
    assert curve["held_out_accuracy"] == float((logits.argmax(1) == gold).double().mean())
    assert curve["held_out_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, gold)), rel=1e-5)


# --- Parts ---


def test_crops_shift_images_and_black_comes_in() -> None:
    pixels = torch.randint(1, 256, (300, 3, 5, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = random_crops(pixels, 2, torch.Generator().manual_seed(1))
    assert found.dtype == torch.uint8
    assert found.shape == pixels.shape
    seen = set()
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    for image, crop in zip(padded, found.numpy(), strict=True):
        places = [
            (y, x) for y in range(5) for x in range(5) if np.array_equal(image[:, y : y + 5, x : x + 4], crop)
        ]  # fmt: skip
        assert len(places) == 1, "all channels are shifted together"
        seen.add(places[0])
    assert len(seen) == 25, "every shift occurs"


def test_half_of_the_images_are_mirrored() -> None:
    pixels = torch.randint(0, 256, (1000, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = random_flips(pixels, torch.Generator().manual_seed(1))
    mirrored = (found == pixels.flip(3)).flatten(1).all(1)
    assert ((found == pixels).flatten(1).all(1) ^ mirrored).all(), "each is as it was, or mirrored as a whole"
    assert float(mirrored.double().mean()) == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 1000))


def test_a_batch_without_augmentation_is_the_images_with_their_classes() -> None:
    rows = pictures()
    objective = SupervisedImages(rows, entries.recipe(**recipe(augment={"flip": False, "crop_padding": 0})), WHERE)
    chosen = torch.tensor([5, 0, 17])
    pixels, labels = objective.draw(chosen, torch.Generator())
    train_rows = rows[rows["split"] == "train"].iloc[chosen.tolist()]
    expected = prepare_pixels(
        train_rows["image"].tolist(), objective._images.processor, train_rows["id"].tolist(), WHERE
    )
    assert np.array_equal(pixels.numpy(), expected)
    assert [sorted(COLOURS)[i] for i in labels] == train_rows["label"].tolist()


@torch.no_grad()
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_cross_entropy_against_smoothed_labels(smoothing: float) -> None:
    objective = SupervisedImages(pictures(), entries.recipe(**recipe(label_smoothing=smoothing)), WHERE)
    model = objective.build().eval()
    pixels, labels = objective.draw(torch.arange(20), torch.Generator().manual_seed(0))
    logits = (
        model(pixel_values=normalise(pixels, pixel_settings(objective._images.processor, WHERE)))
        .logits.double()
        .numpy()
    )
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(3)[labels.numpy()] + smoothing / 3
    found = float(objective.loss(model, (pixels, labels)))
    assert found == pytest.approx(-(target * log_p).sum(1).mean(), rel=1e-5)


@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_the_weights_at_step_zero_are_as_wide_as_asked(spread: float) -> None:
    wide = {**RECIPE["architecture"], "hidden_size": 64, "initializer_range": spread}
    model = SupervisedImages(pictures(), entries.recipe(**recipe(architecture=wide)), WHERE).build()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 1000:
            assert float(module.weight.detach().std()) == pytest.approx(spread, rel=0.1), name


def test_only_weights_of_layers_decay() -> None:
    model = SupervisedImages(pictures(), entries.recipe(**RECIPE), WHERE).build()
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = make_optimiser(model, 0.1, 0.05).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    found = {names[id(p)] for p in decayed["params"]}
    layers = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }  # fmt: skip
    assert found == layers
    assert found | {names[id(p)] for p in plain["params"]} == set(names.values())


# --- What cannot be trained on ---


def without(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.drop(columns=column)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without("image"), "found a dataset without 'image'"),
        (without("label"), "found a dataset without 'label'"),
        (lambda rows: rows.assign(label="red"), r"found 1 class\(es\) in the split 'train'"),
        (lambda rows: rows.iloc[:8], "found 6 images in the split 'train'.*batch of 8"),
        (
            lambda rows: rows.assign(label=rows["label"].where(rows["split"] == "train", "grey")),
            "found the classes 'grey' in the split 'test'",
        ),
        (lambda rows: rows.assign(image=rows["image"].where(rows["id"] != 103, b"x")), "row 103: found 1 bytes"),
    ],
)
def test_a_corpus_that_cannot_be_learnt_is_refused(
    tmp_path: Path, spoil: Callable[[pd.DataFrame], pd.DataFrame], says: str
) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}\.corpus.*{says}.*To mend"):
        train(tmp_path, rows=spoil(pictures()))
    assert not (tmp_path / "index.json").exists()


# --- The registry ---


def checked(root: Path, recipe_: dict[str, Any]) -> dict[str, Any]:
    source = {"kind": "pretrain", "recipe": copy.deepcopy(recipe_)}
    validate(source, root / "workflow" / "schemas" / "source.schema.yaml", "models.yaml")
    return source["recipe"]  # type: ignore[return-value]


BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def test_the_registry_fills_in_what_each_objective_needs(root: Path) -> None:
    asked = {key: RECIPE[key] for key in ("objective", "corpus", "architecture", "steps")}
    found = checked(root, asked)
    assert set(found) == set(RECIPE), "no key of another objective, and all of this one"
    assert found["augment"] == {"flip": True, "crop_padding": 4}
    assert found["label_smoothing"] == 0.0
    old = checked(root, {"corpus": "texts", "steps": 9, "architecture": BERT})
    assert old["objective"] == "masked-language-modelling"
    assert old["tokenizer"] == {"vocab_size": 2000, "min_frequency": 2}
    assert not {"augment", "label_smoothing"} & set(old)
    assert old == checked(root, {"objective": "masked-language-modelling", "corpus": "texts", "steps": 9,
                                 "architecture": BERT})  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "supervised-image"}, "recipe.objective: found 'supervised-image'.*'supervised-images'"),
        ({"sequence_length": 8}, "unknown key 'sequence_length'"),
        ({"augment": {"flop": True}}, r"augment\.flop: found the unknown key.*'flip'"),
        ({"architecture": BERT}, "architecture: found no key 'model'"),
        ({"architecture": {**RECIPE["architecture"], "model": "resnet"}}, "architecture.model: found 'resnet'"),
        ({"label_smoothing": 1.0}, "label_smoothing: found 1.0; expected a number of at least 0 and below 1"),
    ],
)
def test_a_mistyped_recipe_is_named(root: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        checked(root, {**RECIPE, **change})


def test_keys_of_images_are_unknown_to_texts(root: Path) -> None:
    with pytest.raises(UserError, match="unknown key 'augment'"):
        checked(root, {"corpus": "texts", "steps": 9, "architecture": BERT, "augment": {}})
    with pytest.raises(UserError, match="unknown key 'patch_size'"):
        checked(root, {"corpus": "texts", "steps": 9, "architecture": {**BERT, "patch_size": 4}})
