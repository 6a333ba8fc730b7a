"""Masked image modelling: a ViT that reconstructs masked patches (SimMIM, Xie et al. 2022, arXiv 2111.09886)."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformers import ViTForMaskedImageModeling

from essential_sparsity.data.pixels import normalise
from essential_sparsity.pretraining.image_corpus import HELD_OUT_BATCH, augmented, prepare_corpus, vit_config
from essential_sparsity.pretraining.labelled_images import check_images
from essential_sparsity.pretraining.objectives import Batch
from essential_sparsity.pretraining.recipe import MaskedImagesRecipe


def draw_masks(count: int, patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw which patches of each image are masked: the same number of every image, at least one, and not all.

    Args:
        count: Images.
        patches: Patches of an image.
        ratio: Share of the patches to mask; their number is rounded.
        generator: Source of the draws.

    Returns:
        (count, patches), true where masked.
    """
    masked = min(max(1, round(ratio * patches)), patches - 1)
    ranks = torch.rand((count, patches), generator=generator).argsort(1).argsort(1)
    return ranks < masked


def masked_pixel_loss(found: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
    """Return SimMIM's loss: the mean absolute error of the pixels of masked patches, in the model's pixel values.

    SimMIM's, not MAE's error of normalised patches, since the architecture is SimMIM's: the encoder sees mask tokens,
    and one linear layer predicts pixels from its output.

    Args:
        found: Reconstructed pixels, (batch, channels, height, width).
        pixels: True ones, of the same shape.
        mask: (batch, patches), true where masked; patches are square, row by row.
    """
    edge = math.isqrt(mask.shape[1])
    patch = pixels.shape[2] // edge
    wide = mask.reshape(-1, edge, edge).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    errors = (found - pixels).abs().mean(1)  # (batch, height, width)
    return errors[wide].mean()


class MaskedImageModelling:
    """Reconstruction of masked patches of images, whose pixels are kept as bytes; classes are not looked at.

    Args:
        corpus: Columns ``id``, ``image`` (bytes) and ``split``; training sees only ``train``.
        recipe: The registry's recipe.
        where: The registry key, for messages.

    Raises:
        UserError: Too few images, or one that cannot be decoded.
    """

    def __init__(self, corpus: pd.DataFrame, recipe: MaskedImagesRecipe, where: str) -> None:
        self._recipe = recipe
        check_images(corpus, {"image", "split"}, recipe.objective, where)
        self._images = prepare_corpus(corpus, recipe, where)
        self._patches = recipe.architecture.patches
        self.size = len(self._images.pixels)

    def build(self) -> ViTForMaskedImageModeling:
        """Return a new model; its weights are drawn from torch's own generator."""
        stride = self._recipe.architecture.patch_size
        config = vit_config(self._recipe, "ViTForMaskedImageModeling", encoder_stride=stride)
        return ViTForMaskedImageModeling._from_config(config, attn_implementation="sdpa")

    def save(self, folder: Path) -> None:
        """Write the processor's settings."""
        self._images.processor.save_pretrained(folder)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Return augmented bytes, (rows, channels, height, width), and masks, (rows, patches)."""
        pixels = augmented(self._images.pixels[rows], self._recipe.augment, generator)
        return pixels, draw_masks(len(rows), self._patches, self._recipe.mask_ratio, generator)

    def loss(self, model: ViTForMaskedImageModeling, batch: Batch) -> Tensor:
        """Return the mean absolute error of the pixels of masked patches."""
        bytes_, mask = batch
        pixels = normalise(bytes_, self._images.settings)
        return masked_pixel_loss(reconstruct(model, pixels, mask), pixels, mask)

    @torch.no_grad()
    def held_out(self, model: ViTForMaskedImageModeling) -> dict[str, float]:
        """Return the error on images that training does not see, not augmented, with one fixed draw of masks."""
        pixels = self._images.held_out_pixels
        if not len(pixels):
            return {"held_out_loss": math.nan}
        generator = torch.Generator().manual_seed(self._recipe.seed)
        masks = draw_masks(len(pixels), self._patches, self._recipe.mask_ratio, generator)
        model.eval()
        device = next(model.parameters()).device
        batches = zip(pixels.split(HELD_OUT_BATCH), masks.split(HELD_OUT_BATCH), strict=True)
        # As many pixels are masked of every image, so that images weigh the same.
        total = sum(len(b) * float(self.loss(model, (b.to(device), m.to(device)))) for b, m in batches)
        model.train()
        return {"held_out_loss": total / len(pixels)}


def reconstruct(model: ViTForMaskedImageModeling, pixels: Tensor, mask: Tensor) -> Tensor:
    """Return the pixels that a model finds, (batch, channels, height, width), where it does not see masked patches."""
    found: Tensor = model(pixel_values=pixels, bool_masked_pos=mask).reconstruction
    return found
