"""Supervised pre-training on images: a ViT from scratch (Dosovitskiy et al. 2021), with crops and flips."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.images import normalise, pixel_settings, prepare_pixels
from essential_sparsity.objectives import Batch

# Enough for a held-out accuracy to about a percentage point, and little beside the training itself.
_HELD_OUT_IMAGES = 2048
_HELD_OUT_BATCH = 256


def random_crops(pixels: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift images at random by at most ``padding`` pixels in both directions; what comes in is black.

    Args:
        pixels: (batch, channels, height, width).
        padding: Pixels.
        generator: Source of the draws.

    Returns:
        A tensor of the same shape and type.
    """
    count, channels, height, width = pixels.shape
    padded = nn.functional.pad(pixels, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[image, channel, rows, columns]


def random_flips(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image, (batch, channels, height, width), from left to right with probability one half."""
    chosen = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], pixels.flip(3), pixels)


def check_classes(corpus: pd.DataFrame, where: str) -> list[str]:
    """Return the classes of the training images, sorted.

    Raises:
        UserError: The corpus has no images or no labels, fewer than two classes, or test images of another class.
    """
    if missing := {"image", "label", "split"} - set(corpus.columns):
        raise UserError(
            where=f"{where}.corpus",
            found=f"a dataset without {quoted(sorted(missing))}",
            expected="a dataset of images with classes, which the objective supervised-images learns",
            mend="choose a dataset with `image` and `label`, or another objective",
        )
    labels = {split: set(rows.dropna()) for split, rows in corpus.groupby("split")["label"]}
    train = labels.get("train", set())
    if len(train) < 2:
        raise UserError(
            where=f"{where}.corpus",
            found=f"{len(train)} class(es) in the split 'train'",
            expected="at least two",
            mend="correct the dataset's `label`, `classes` or `where`",
        )
    if unknown := labels.get("test", set()) - train:
        raise UserError(
            where=f"{where}.corpus",
            found=f"the classes {quoted(sorted(unknown)[:5])} in the split 'test', but not in 'train'",
            expected="test images of classes that are learnt",
            mend="correct the dataset's splits",
        )
    return sorted(train)


def check_architecture(sizes: Mapping[str, Any], where: str) -> None:
    """Check the sizes of a ViT against each other.

    Raises:
        UserError: The image is no whole number of patches, or the width of heads.
    """
    for whole, part in (("image_size", "patch_size"), ("hidden_size", "num_attention_heads")):
        if sizes[whole] % sizes[part]:
            raise UserError(
                where=f"{where}.architecture.{whole}",
                found=repr(sizes[whole]),
                expected=f"a multiple of {part} ({sizes[part]})",
                mend="correct one of the two",
            )


class SupervisedImages:
    """Classification of images, whose pixels are kept as bytes.

    Args:
        corpus: Columns ``id``, ``image`` (bytes), ``label`` and ``split``; training sees only ``train``.
        recipe: The registry's recipe.
        where: The registry key, for messages.

    Raises:
        UserError: Too few images or classes, one that cannot be decoded, or sizes that do not fit each other.
    """

    def __init__(self, corpus: pd.DataFrame, recipe: Mapping[str, Any], where: str) -> None:
        self._recipe = recipe
        sizes = recipe["architecture"]
        check_architecture(sizes, where)
        self._classes = check_classes(corpus, where)
        edge = sizes["image_size"]
        self._processor = ViTImageProcessorPil(size={"height": edge, "width": edge})
        self._settings = pixel_settings(self._processor, where)
        train = corpus[corpus["split"] == "train"].dropna(subset=["label"])
        if len(train) < recipe["batch_size"]:
            raise UserError(
                where=f"{where}.corpus",
                found=f"{len(train)} images in the split 'train'",
                expected=f"at least one batch of {recipe['batch_size']}",
                mend="use a larger dataset or a smaller batch",
            )
        held_out = corpus[corpus["split"] == "test"].dropna(subset=["label"])
        # Drawn, since rows often come in the order of their class.
        chosen = np.random.default_rng(recipe["seed"]).permutation(len(held_out))[:_HELD_OUT_IMAGES]
        self._pixels, self._labels = self._prepare(train, f"{where}.corpus")
        self._check = self._prepare(held_out.iloc[np.sort(chosen)], f"{where}.corpus")
        self.size = len(self._pixels)
        logging.info(
            "%d training and %d held-out images of %d x %d pixels in %d classes", self.size, len(self._check[0]),
            edge, edge, len(self._classes),
        )  # fmt: skip

    def _prepare(self, rows: pd.DataFrame, where: str) -> Batch:
        """Return bytes, (n, channels, height, width), and classes, (n,)."""
        pixels = prepare_pixels(rows["image"].tolist(), self._processor, rows["id"].tolist(), where)
        numbers = {name: i for i, name in enumerate(self._classes)}
        return torch.from_numpy(pixels), torch.tensor([numbers[label] for label in rows["label"]], dtype=torch.int64)

    def build(self) -> ViTForImageClassification:
        """Return a new model; its weights are drawn from torch's own generator."""
        names = dict(enumerate(self._classes))
        sizes = {key: value for key, value in self._recipe["architecture"].items() if key != "model"}
        config = ViTConfig(
            hidden_dropout_prob=self._recipe["dropout"], attention_probs_dropout_prob=self._recipe["dropout"],
            id2label=names, label2id={name: i for i, name in names.items()},
            architectures=["ViTForImageClassification"], **sizes,
        )  # fmt: skip
        # SDPA is about 10 % faster than eager attention at this width on a CPU.
        return ViTForImageClassification._from_config(config, attn_implementation="sdpa")

    def save(self, folder: Path) -> None:
        """Write the processor's settings."""
        self._processor.save_pretrained(folder)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Return augmented bytes, (rows, channels, height, width), and classes, (rows,)."""
        pixels, augment = self._pixels[rows], self._recipe["augment"]
        if augment["crop_padding"]:
            pixels = random_crops(pixels, augment["crop_padding"], generator)
        if augment["flip"]:
            pixels = random_flips(pixels, generator)
        return pixels, self._labels[rows]

    def loss(self, model: ViTForImageClassification, batch: Batch) -> Tensor:
        """Return the mean cross-entropy (nats), against smoothed labels where the recipe says so."""
        pixels, labels = batch
        logits = model(pixel_values=normalise(pixels, self._settings)).logits
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self._recipe["label_smoothing"])

    @torch.no_grad()
    def held_out(self, model: ViTForImageClassification) -> dict[str, float]:
        """Return cross-entropy and accuracy on images that training does not see, not augmented."""
        pixels, labels = self._check
        if not len(labels):
            return {"held_out_loss": math.nan, "held_out_accuracy": math.nan}
        model.eval()
        batches = pixels.split(_HELD_OUT_BATCH)
        device = next(model.parameters()).device
        logits = [model(pixel_values=normalise(b.to(device), self._settings)).logits.float().cpu() for b in batches]
        model.train()
        found = torch.cat(logits)
        return {
            "held_out_loss": float(nn.functional.cross_entropy(found, labels)),
            "held_out_accuracy": float((found.argmax(1) == labels).double().mean()),
        }
