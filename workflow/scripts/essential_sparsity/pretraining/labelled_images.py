"""Supervised pre-training on images: a ViT from scratch (Dosovitskiy et al. 2021), with crops and flips."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import ViTForImageClassification

from essential_sparsity.data.pixels import normalise
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.pretraining.image_corpus import HELD_OUT_BATCH, augmented, prepare_corpus, vit_config
from essential_sparsity.pretraining.objectives import Batch
from essential_sparsity.pretraining.recipe import LabelledImagesRecipe


def check_images(corpus: pd.DataFrame, needed: Collection[str], objective: str, where: str) -> None:
    """Check that a corpus has the columns that an objective learns from.

    Raises:
        UserError: It does not.
    """
    if missing := set(needed) - set(corpus.columns):
        raise UserError(
            where=f"{where}.corpus",
            found=f"a dataset without {quoted(sorted(missing))}",
            expected=f"a dataset of images, which the objective {objective} learns from",
            mend="choose a dataset with images, of supervised-images also with classes, or another objective",
        )


def check_classes(corpus: pd.DataFrame, where: str) -> list[str]:
    """Return the classes of the training images, sorted.

    Raises:
        UserError: The corpus has no images or no labels, fewer than two classes, or test images of another class.
    """
    check_images(corpus, {"image", "label", "split"}, "supervised-images", where)
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


class SupervisedImages:
    """Classification of images, whose pixels are kept as bytes.

    Args:
        corpus: Columns ``id``, ``image`` (bytes), ``label`` and ``split``; training sees only ``train``.
        recipe: The registry's recipe.
        where: The registry key, for messages.

    Raises:
        UserError: Too few images or classes, or one that cannot be decoded.
    """

    def __init__(self, corpus: pd.DataFrame, recipe: LabelledImagesRecipe, where: str) -> None:
        self._recipe = recipe
        self._classes = check_classes(corpus, where)
        self._images = prepare_corpus(corpus.dropna(subset=["label"]), recipe, where)
        self._labels, self._held_out_labels = map(self._numbers, (self._images.train, self._images.held_out))
        self.size = len(self._labels)
        logging.info("%d classes", len(self._classes))

    def _numbers(self, rows: pd.DataFrame) -> Tensor:
        """Return the places of the rows' classes among all, (rows,)."""
        numbers = {name: i for i, name in enumerate(self._classes)}
        return torch.tensor([numbers[label] for label in rows["label"]], dtype=torch.int64)

    def build(self) -> ViTForImageClassification:
        """Return a new model; its weights are drawn from torch's own generator."""
        names = dict(enumerate(self._classes))
        numbers = {name: i for i, name in names.items()}
        config = vit_config(self._recipe, "ViTForImageClassification", id2label=names, label2id=numbers)
        # SDPA is about 10 % faster than eager attention at this width on a CPU.
        return ViTForImageClassification._from_config(config, attn_implementation="sdpa")

    def save(self, folder: Path) -> None:
        """Write the processor's settings."""
        self._images.processor.save_pretrained(folder)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Return augmented bytes, (rows, channels, height, width), and classes, (rows,)."""
        return augmented(self._images.pixels[rows], self._recipe.augment, generator), self._labels[rows]

    def loss(self, model: ViTForImageClassification, batch: Batch) -> Tensor:
        """Return the mean cross-entropy (nats), against smoothed labels where the recipe says so."""
        pixels, labels = batch
        logits = model(pixel_values=normalise(pixels, self._images.settings)).logits
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing)

    @torch.no_grad()
    def held_out(self, model: ViTForImageClassification) -> dict[str, float]:
        """Return cross-entropy and accuracy on images that training does not see, not augmented."""
        pixels, labels, settings = self._images.held_out_pixels, self._held_out_labels, self._images.settings
        if not len(labels):
            return {"held_out_loss": math.nan, "held_out_accuracy": math.nan}
        model.eval()
        batches = pixels.split(HELD_OUT_BATCH)
        device = next(model.parameters()).device
        logits = [model(pixel_values=normalise(b.to(device), settings)).logits.float().cpu() for b in batches]
        model.train()
        found = torch.cat(logits)
        return {
            "held_out_loss": float(nn.functional.cross_entropy(found, labels)),
            "held_out_accuracy": float((found.argmax(1) == labels).double().mean()),
        }
