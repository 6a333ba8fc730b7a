"""The frozen features of a vision encoder: its class token, or the mean over its patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from essential_sparsity.data.pixels import PixelSettings, normalise
from essential_sparsity.errors import UserError, first_line
from essential_sparsity.progress import progress

Integers = npt.NDArray[np.int64]

# Tokens that stand before the patches, by the name of their parameter in transformers' models.
_CLS_TOKENS = frozenset({"cls_token", "class_embedding"})
_OTHER_TOKENS = frozenset({"distillation_token", "register_tokens"})


def _own_parameters(model: nn.Module, names: frozenset[str]) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] in names]


def has_cls_token(model: nn.Module) -> bool:
    """Say whether an encoder puts a CLS token before the patches."""
    return bool(_own_parameters(model, _CLS_TOKENS))


def prefix_tokens(model: nn.Module) -> int:
    """Return how many tokens stand before the patches: CLS, DeiT's distillation token, registers."""
    width: int = model.config.hidden_size  # type: ignore[union-attr,assignment]
    return sum(p.numel() // width for p in _own_parameters(model, _CLS_TOKENS | _OTHER_TOKENS))


@torch.no_grad()
def features(
    model: nn.Module, pixels: Tensor, settings: PixelSettings, pooling: str, where: str, batch_size: int
) -> Tensor:
    """Return the encoder's representation of each image.

    Args:
        model: An encoder without a head, which is put into eval mode.
        pixels: uint8, (n, channels, height, width).
        settings: How the model's processor treats bytes.
        pooling: ``cls``: the CLS token after the final layer norm, as DINO is evaluated (Caron et al. 2021, section
            4.1); ``mean``: the mean over the patches, or over the positions of a feature map.
        where: What is evaluated, for messages.
        batch_size: Images a forward pass.

    Returns:
        float32 on the CPU, (n, width).

    Raises:
        UserError: No CLS token where one is asked for, a model that takes no such images, or features that are not
            finite.
    """
    if pooling == "cls" and not has_cls_token(model):
        raise UserError(
            where=f"{where}, key pooling",
            found=f"'cls' for a {type(model).__name__}, which has no CLS token",
            expected="'mean'",
            mend="write `pooling: mean` in a task of its own for this model",
        )
    model.eval()
    parameter = next(model.parameters())
    batches = pixels.split(batch_size)
    found = []
    for batch in progress(batches, "features", total=len(batches), unit="batches"):
        values = normalise(batch.to(parameter.device), settings).to(parameter.dtype)
        try:
            outputs = model(pixel_values=values, **_unmasked(model, values))
        except (TypeError, ValueError) as error:
            raise UserError(
                where=where,
                found=f"that {type(model).__name__} does not take the dataset's images ({first_line(error)})",
                expected="a vision encoder and a processor that makes images of the size it was trained on",
                mend="pair this task with a model of images, or correct `size` in its preprocessor_config.json",
            ) from error
        found.append(_pool(model, outputs, pooling).float().cpu())
    pooled = torch.cat(found)
    if not bool(torch.isfinite(pooled).all()):
        raise UserError(
            where=where,
            found=f"features that are NaN or infinite for {int((~torch.isfinite(pooled)).any(1).sum())} images",
            expected="finite features",
            mend="store the model with `dtype: float32`; if it is, the checkpoint is damaged",
        )
    return pooled


def _unmasked(model: nn.Module, values: Tensor) -> dict[str, Tensor]:
    """Return what makes a masked autoencoder see all patches, in their own order; nothing for other models."""
    config: Any = model.config
    if not hasattr(config, "mask_ratio"):
        return {}
    config.mask_ratio = 0.0
    patches = (values.shape[2] // config.patch_size) * (values.shape[3] // config.patch_size)
    return {"noise": torch.arange(patches, dtype=torch.float32, device=values.device).repeat(len(values), 1)}


def _pool(model: nn.Module, outputs: Any, pooling: str) -> Tensor:
    """Return (batch, width) of a model's outputs."""
    hidden: Tensor = outputs.last_hidden_state
    if hidden.ndim == 4:  # a feature map, (batch, width, height, width)
        return hidden.flatten(2).mean(2)
    if pooling == "cls":
        return hidden[:, 0]
    if getattr(model.config, "use_mean_pooling", False) and outputs.pooler_output is not None:
        # BEiT has its final layer norm after the mean.
        return outputs.pooler_output  # type: ignore[no-any-return]
    return hidden[:, prefix_tokens(model) :].mean(1)
