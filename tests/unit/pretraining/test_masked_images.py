"""Masked image modelling: only masked pixels are learnt from, and the encoder is fine-tuned as a supervised one is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
)

import entries
from essential_sparsity.checkpoints.extract import empty_model, extract
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.loading import load_model
from essential_sparsity.data.pixels import normalise
from essential_sparsity.errors import UserError
from essential_sparsity.pretraining.masked_images import (
    MaskedImageModelling,
    draw_masks,
    masked_pixel_loss,
    reconstruct,
)
from essential_sparsity.sources.fetch import fetch
from essential_sparsity.study.validation import validate
from essential_sparsity.training.fit import HEADS
from essential_sparsity.training.kinds import TASK_KINDS
from pictures import pictures
from trainings import WHERE, killed_in, trained

CPU = torch.device("cpu")
SIZES = {
    "model": "vit", "image_size": 8, "patch_size": 2, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "objective": "masked-image-modelling", "corpus": "colours", "architecture": SIZES,
    "steps": 12, "batch_size": 8, "learning_rate": 0.005, "weight_decay": 0.05, "warmup": 0.1, "dropout": 0.1,
    "augment": {"flip": True, "crop_padding": 2}, "mask_ratio": 0.5, "checkpoints": 3, "first_checkpoint": 4,
    "log_every": 5, "seed": 0,
}  # fmt: skip


def recipe(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECIPE), **changes}


def train(folder: Path, rows: pd.DataFrame | None = None, **changes: Any) -> dict[str, bytes]:
    return trained(pictures() if rows is None else rows, recipe(**changes), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def checkpoint_of(training: Path, folder: Path) -> Path:
    """Return the last step, as the workflow makes a checkpoint of it."""
    step = entries.source("pretrain", corpus="c", step="step000012")
    fetch(step, [training / "index.json", training], folder / "source", WHERE)
    extract(folder / "source", folder / "checkpoint", "float32", WHERE)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def checkpoint(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_of(whole, tmp_path_factory.mktemp("masked"))


def test_a_training_that_was_cut_off_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    with killed_in(6):
        train(tmp_path)
    assert not (tmp_path / "index.json").exists()
    assert train(tmp_path) == {p.name: p.read_bytes() for p in whole.iterdir()}


@pytest.mark.parametrize("change", [{"mask_ratio": 0.6}, {"seed": 1}, {"augment": {"flip": False, "crop_padding": 2}}])
def test_every_setting_matters(whole: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    last = "step000012.safetensors"
    assert train(tmp_path, **change)[last] != (whole / last).read_bytes()


def test_pixels_are_learnt_from_those_that_are_seen(tmp_path: Path) -> None:
    """The loss falls below that of the best constant image: what is masked is told from what is not."""
    rows = pictures(160, noise=20)
    train(tmp_path, rows, steps=150, checkpoints=2, dropout=0.0, augment={"flip": False, "crop_padding": 0})
    curve = pd.read_parquet(tmp_path / "loss.parquet").set_index("step")
    images = MaskedImageModelling(rows, entries.recipe(**RECIPE), WHERE)._images
    values = normalise(images.pixels, images.settings)
    constant = float((values - values.median(0).values).abs().mean())
    assert curve["held_out_loss"].loc[150] < 0.6 * constant
    assert curve["loss"].iloc[-1] < 0.6 * constant


def test_classes_leave_no_trace(whole: Path, tmp_path: Path) -> None:
    rows = pictures().assign(label=None)
    last = "step000012.safetensors"
    assert train(tmp_path, rows)[last] == (whole / last).read_bytes()


# --- The loss ---


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, 8, 8, generator=generator), draw_masks(5, 16, 0.5, generator)


def in_patches(pixels: torch.Tensor) -> torch.Tensor:
    """Return the pixels of each patch, (batch, 16, 3 * 2 * 2), by a way of its own."""
    return torch.nn.functional.unfold(pixels, kernel_size=2, stride=2).transpose(1, 2)


@torch.no_grad()
def test_the_loss_is_that_of_transformers_and_of_the_formula(checkpoint: Path) -> None:
    model = ViTForMaskedImageModeling.from_pretrained(checkpoint).eval()
    pixels, mask = batch()
    found = masked_pixel_loss(reconstruct(model, pixels, mask), pixels, mask)
    output = model(pixel_values=pixels, bool_masked_pos=mask)
    torch.testing.assert_close(found, output.loss, rtol=1e-4, atol=0)
    errors = (in_patches(output.reconstruction) - in_patches(pixels)).abs()[mask]
    torch.testing.assert_close(found, errors.mean())


def test_only_masked_pixels_count() -> None:
    pixels, mask = batch()
    found = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = masked_pixel_loss(found, pixels, mask)
    loss.backward()
    assert found.grad is not None
    touched = (in_patches(found.grad) != 0).all(2)
    assert torch.equal(touched, mask)
    assert torch.equal((in_patches(found.grad) != 0).any(2), mask)
    # Other targets where nothing is masked change nothing; where something is, they do.
    wide = torch.nn.functional.fold(
        mask[:, None, :].expand(5, 12, 16).float(), (8, 8), kernel_size=2, stride=2
    ).bool()  # fmt: skip
    assert float(masked_pixel_loss(found.detach(), torch.where(wide, pixels, 9.0), mask)) == float(loss.detach())
    assert float(masked_pixel_loss(found.detach(), torch.where(wide, 9.0, pixels), mask)) != float(loss.detach())


@torch.no_grad()
def test_what_is_masked_is_not_seen(checkpoint: Path) -> None:
    model = ViTForMaskedImageModeling.from_pretrained(checkpoint).eval()
    pixels, mask = batch()
    patches = in_patches(pixels).masked_fill(mask[:, :, None], 5.0).transpose(1, 2)
    hidden = torch.nn.functional.fold(patches, (8, 8), kernel_size=2, stride=2)
    assert not torch.equal(hidden, pixels)
    torch.testing.assert_close(reconstruct(model, hidden, mask), reconstruct(model, pixels, mask))


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 8), (0.6, 10), (0.75, 12), (0.01, 1), (0.99, 15)])
def test_as_many_patches_are_masked_of_every_image(ratio: float, count: int) -> None:
    masks = draw_masks(4000, 16, ratio, torch.Generator().manual_seed(0))
    assert set(masks.sum(1).tolist()) == {count}
    # Every patch as often as another: five standard errors of a binomial share.
    share = masks.double().mean(0).numpy()
    expected = count / 16
    np.testing.assert_allclose(share, expected, atol=5 * np.sqrt(expected * (1 - expected) / 4000))


# --- Downstream ---


def test_the_encoder_is_fine_tuned_and_the_decoder_left_behind(checkpoint: Path) -> None:
    model = load_model(AutoModelForImageClassification, checkpoint, WHERE, num_labels=7, ignore_mismatched_sizes=True)
    assert isinstance(model, ViTForImageClassification)
    _, report = AutoModelForImageClassification.from_pretrained(checkpoint, num_labels=7, output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    stored = load_file(checkpoint / "model.safetensors")
    for name, parameter in model.vit.named_parameters():
        assert torch.equal(parameter, stored[f"vit.{name}"]), name


@pytest.mark.parametrize("classes", [("red", "green"), ("green", "blue"), ("red", "green", "blue")])
def test_a_head_stays_only_with_its_own_classes(tmp_path: Path, classes: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    names = {0: "red", 1: "green"}
    sizes = {key: value for key, value in SIZES.items() if key != "model"}
    source = ViTForImageClassification(ViTConfig(**sizes, id2label=names))
    source.save_pretrained(tmp_path)
    options = TASK_KINDS["images"].model_options({"classes": list(classes)})
    found, _ = HEADS["image_classification"](tmp_path, options, WHERE)
    head = found.get_parameter("classifier.weight")
    assert head.shape == (len(classes), 16)
    assert torch.equal(head, source.classifier.weight) == (classes == ("red", "green"))
    for name, parameter in source.vit.named_parameters():
        assert torch.equal(found.get_parameter(f"vit.{name}"), parameter), "the encoder is the checkpoint's"


def test_the_same_matrices_are_pruned_as_of_a_supervised_model(checkpoint: Path, tmp_path: Path) -> None:
    supervised = {k: v for k, v in RECIPE.items() if k != "mask_ratio"}
    supervised |= {"objective": "supervised-images", "label_smoothing": 0.0}
    trained(pictures(), supervised, tmp_path / "training")
    listed = []
    for folder in (checkpoint, checkpoint_of(tmp_path / "training", tmp_path)):
        shapes = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
        matrices = list_matrices(empty_model(folder), shapes, WHERE)
        listed.append([(m.name, m.shape, m.block, m.transposed, m.reason) for m in matrices if m.pruned])
    assert listed[0] == listed[1]
    assert [block for _, _, block, _, _ in listed[0]] == [0] * 6 + [1] * 6


# --- What cannot be trained ---


@pytest.mark.parametrize(
    ("rows", "changes", "says"),
    [
        (pictures().drop(columns="image"), {}, r"corpus: found a dataset without 'image'"),
        (pictures(8), {}, r"corpus: found 6 images in the split 'train'.*batch of 8"),
        (pictures(), {"corpus_share": 0.1}, r"corpus: found 5 images.*`corpus_share`"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, rows: pd.DataFrame, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}\..*{says}"):
        train(tmp_path, rows, **changes)


def test_the_registry_fills_in_the_recipe(root: Path) -> None:
    def checked(**changes: Any) -> dict[str, Any]:
        asked = {key: copy.deepcopy(RECIPE[key]) for key in ("objective", "corpus", "architecture", "steps")} | changes
        source: dict[str, Any] = {"kind": "pretrain", "recipe": asked}
        validate(source, root / "workflow" / "schemas" / "source.schema.yaml", "models.yaml")
        return source["recipe"]  # type: ignore[no-any-return]

    assert set(checked()) == set(RECIPE), "no key of another objective, and all of this one"
    assert checked()["mask_ratio"] == 0.6, "SimMIM's"
    with pytest.raises(UserError, match="unknown key 'label_smoothing'"):
        checked(label_smoothing=0.1)
