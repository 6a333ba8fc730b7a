"""Images to pre-train on, for every objective: kept as bytes at the model's size, cropped and mirrored when drawn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTImageProcessorPil

from essential_sparsity.data.pixels import PixelSettings, pixel_settings, prepare_pixels
from essential_sparsity.pretraining.corpus import check_batch
from essential_sparsity.pretraining.recipe import Augment, ImageRecipe
from essential_sparsity.records import plain

# Enough for a held-out accuracy to about a percentage point, and little beside the training itself.
_HELD_OUT_IMAGES = 2048
HELD_OUT_BATCH = 256


@dataclass(frozen=True)
class ImageCorpus:
    """Images for training and for the held-out figures, and the processor that made them.

    Attributes:
        processor: What a checkpoint's images are prepared by.
        settings: How its bytes become what a model takes.
        train: Rows of the split ``train``.
        pixels: Their bytes, (n, channels, height, width).
        held_out: Rows of the split ``test``.
        held_out_pixels: Their bytes.
    """

    processor: ViTImageProcessorPil
    settings: PixelSettings
    train: pd.DataFrame
    pixels: Tensor
    held_out: pd.DataFrame
    held_out_pixels: Tensor


def prepare_corpus(corpus: pd.DataFrame, recipe: ImageRecipe, where: str) -> ImageCorpus:
    """Decode the images of a corpus and bring them to the model's size.

    Args:
        corpus: Columns ``id``, ``image`` (bytes) and ``split``.
        recipe: The registry's recipe.
        where: The registry key, for messages.

    Raises:
        UserError: Too few images, or one that cannot be decoded.
    """
    edge = recipe.architecture.image_size
    processor = ViTImageProcessorPil(size={"height": edge, "width": edge})
    settings = pixel_settings(processor, where)
    train = corpus[corpus["split"] == "train"]
    check_batch(len(train), "images", recipe.batch_size, where)
    test = corpus[corpus["split"] == "test"]
    # Drawn, since rows often come in the order of their class.
    chosen = np.random.default_rng(recipe.seed).permutation(len(test))[:_HELD_OUT_IMAGES]
    held_out = test.iloc[np.sort(chosen)]
    pixels, held_out_pixels = (
        torch.from_numpy(prepare_pixels(rows["image"].tolist(), processor, rows["id"].tolist(), f"{where}.corpus"))
        for rows in (train, held_out)
    )
    logging.info("%d training and %d held-out images of %d x %d pixels", len(train), len(held_out), edge, edge)
    return ImageCorpus(processor, settings, train, pixels, held_out, held_out_pixels)


def vit_config(recipe: ImageRecipe, architecture: str, **options: Any) -> ViTConfig:
    """Return the configuration of a recipe's ViT.

    Args:
        recipe: The registry's recipe.
        architecture: The class of transformers that a checkpoint is of.
        options: What the configuration says besides.
    """
    sizes = {key: value for key, value in plain(recipe.architecture).items() if key != "model"}
    return ViTConfig(
        hidden_dropout_prob=recipe.dropout, attention_probs_dropout_prob=recipe.dropout,
        architectures=[architecture], **sizes, **options,
    )  # fmt: skip


def augmented(pixels: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Return images, (batch, channels, height, width), shifted and mirrored as a recipe's ``augment`` says."""
    if augment.crop_padding:
        pixels = random_crops(pixels, augment.crop_padding, generator)
    return random_flips(pixels, generator) if augment.flip else pixels


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
