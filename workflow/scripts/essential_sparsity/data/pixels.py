"""Images as a model sees them: decoded, resized by the model's own processor, kept as bytes until they are used.

A processor's output is a function of one byte a value, once the image is resized and cropped. Bytes are therefore what
is kept, a quarter of float32, and :func:`normalise` does the rest in the processor's own order of operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from essential_sparsity.checkpoints.remote_code import is_trusted
from essential_sparsity.data.images import decode_image
from essential_sparsity.errors import UserError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PROCESSOR = "preprocessor_config.json"

# Images that one call of a processor resizes: its checks of arguments cost more than a small image does.
_CHUNK = 64


@dataclass(frozen=True)
class PixelSettings:
    """How bytes become the values that a model takes.

    Attributes:
        scale: What a byte is multiplied by.
        mean: What is then taken away, for each channel.
        std: What is then divided by, for each channel.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_processor(checkpoint: Path, where: str) -> Any:
    """Load the image processor of a checkpoint, in its version that needs no torchvision.

    Args:
        checkpoint: The checkpoint's folder.
        where: What is evaluated, for messages.

    Raises:
        UserError: There is none beside the weights, or transformers cannot read it.
    """
    from transformers import AutoImageProcessor

    mend = f"put the model's own {PROCESSOR} into its folder"
    if not (checkpoint / PROCESSOR).is_file():
        raise UserError(where, f"no {PROCESSOR}", "the settings of the image processor beside the weights", mend)
    try:
        return AutoImageProcessor.from_pretrained(
            checkpoint, backend="pil", local_files_only=True, trust_remote_code=is_trusted(checkpoint)
        )
    except (ValueError, KeyError, OSError, TypeError, AttributeError, ImportError) as error:
        raise UserError(
            where=where,
            found=f"a {PROCESSOR} that transformers cannot read ({first_line(error)})",
            expected="the settings of an image processor that runs on PIL",
            mend=mend,
        ) from error


def pixel_settings(processor: Any, where: str) -> PixelSettings:
    """Return how a processor treats bytes once an image is resized, and check that this is all it does to them.

    Raises:
        UserError: The processor does something else, so that bytes cannot be kept in its stead.
    """
    try:
        scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
        mean, std = (
            (_for_channels(processor.image_mean), _for_channels(processor.image_std))
            if processor.do_normalize
            else ((0.0,) * 3, (1.0,) * 3)
        )
        settings = PixelSettings(scale, mean, std)
        whole = [np.asarray(v) for v in processor(images=_probes())["pixel_values"]]
        split = processor(images=_probes(), do_rescale=False, do_normalize=False)["pixel_values"]
        split = [np.asarray(values) for values in split]
    except (AttributeError, TypeError, ValueError, KeyError, ImportError) as error:
        raise _not_split(processor, where, f"a processor that fails on two images ({first_line(error)})") from error
    for bytes_, values in zip(split, whole, strict=True):
        if bytes_.dtype != np.uint8 or bytes_.ndim != 3 or len(bytes_) != 3:
            found = f"{bytes_.dtype} of shape {bytes_.shape} where it neither rescales nor normalises"
            raise _not_split(processor, where, found)
        if not np.array_equal(_normalised(bytes_[None], settings)[0], values):
            raise _not_split(processor, where, "that it does more to pixels than rescale and normalise them")
    return settings


def _probes() -> list[Image]:
    """Return two images of different shape with every byte in every channel: some processors pad to the largest."""
    from PIL import Image

    draw = np.random.default_rng(0)
    bytes_ = np.resize(np.arange(256, dtype=np.uint8), (3, 61 * 47))
    mixed = draw.permuted(bytes_, axis=1).T
    return [Image.fromarray(mixed.reshape(61, 47, 3)), Image.fromarray(mixed[: 61 * 30].reshape(30, 61, 3))]


def _for_channels(value: float | Sequence[float]) -> tuple[float, ...]:
    """Return a value for each of three channels; one number stands for all of them."""
    values = (value,) * 3 if isinstance(value, int | float) else value
    return tuple(float(v) for v in values)


def _not_split(processor: Any, where: str, found: str) -> UserError:
    return UserError(
        where=f"{where}, image processor {type(processor).__name__}",
        found=found,
        expected="a processor that resizes and crops bytes in three channels, then rescales and normalises them",
        mend="choose a model with a processor such as ViTImageProcessor, or correct its " + PROCESSOR,
    )


def value_table(settings: PixelSettings) -> npt.NDArray[np.float32]:
    """Return the value of every byte in every channel, (channels, 256), as transformers' processors compute it.

    The product is taken in float64 and rounded to float32; the rest is float32.
    """
    return _normalised(np.broadcast_to(np.arange(256, dtype=np.uint8), (1, len(settings.mean), 1, 256)), settings)[
        0, :, 0
    ]


def _normalised(pixels: npt.NDArray[np.uint8], settings: PixelSettings) -> npt.NDArray[np.float32]:
    """Rescale and normalise bytes, (n, channels, height, width)."""
    rescaled = (pixels.astype(np.float64) * settings.scale).astype(np.float32)
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (settings.mean, settings.std))
    return (rescaled - mean) / std


def normalise(pixels: Tensor, settings: PixelSettings) -> Tensor:
    """Turn bytes into the values that a model takes: exactly what its processor would have made of the image.

    There are only 256 values for each channel, so they are looked up; the result is the same on every device.

    Args:
        pixels: uint8, (n, channels, height, width).
        settings: The processor's, from :func:`pixel_settings`.

    Returns:
        float32 of the same shape, on the same device.
    """
    import torch

    table = torch.from_numpy(value_table(settings)).to(pixels.device)
    values = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
    for channel, row in enumerate(table):
        values[:, channel] = row[pixels[:, channel].int()]
    return values


def prepare_pixels(
    encoded: Sequence[bytes], processor: Any, ids: Sequence[int], where: str
) -> npt.NDArray[np.uint8]:  # fmt: skip
    """Decode images, and resize and crop them as a processor does.

    Args:
        encoded: The files' contents.
        processor: From :func:`load_processor`.
        ids: The number of each image's row, for messages.
        where: The dataset, for messages.

    Returns:
        (n, channels, height, width); (0, 3, 0, 0) without images.

    Raises:
        UserError: An image that cannot be decoded or resized, or one of another size after the processor.
    """
    pixels = np.empty((0, 3, 0, 0), dtype=np.uint8)
    for start in range(0, len(encoded), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(encoded)))
        images = [decode_image(encoded[row], f"{where}, row {ids[row]}") for row in rows]
        for row, values in zip(rows, _resized(images, processor, [ids[row] for row in rows], where), strict=True):
            if row == 0:
                # All at once: a list of arrays and their stack would be there twice.
                pixels = np.empty((len(encoded), *values.shape), dtype=np.uint8)
            if values.shape != pixels.shape[1:]:
                raise UserError(
                    where=f"{where}, row {ids[row]}",
                    found=f"an image of {_size(values)} pixels after the model's processor, but {_size(pixels)} of row "
                    f"{ids[0]}",
                    expected="images of one size",
                    mend=f"set `size` to a height and a width, or `do_center_crop: true`, in the model's {PROCESSOR}",
                )
            pixels[row] = values
    return pixels


def _resized(images: list[Image], processor: Any, ids: list[int], where: str) -> Iterator[npt.NDArray[np.uint8]]:
    try:
        prepared = processor(images=images, do_rescale=False, do_normalize=False)["pixel_values"]
    except ValueError as error:
        # Named one by one, since the processor does not say which it was.
        for row, image in zip(ids, images, strict=True):
            try:
                processor(images=[image], do_rescale=False, do_normalize=False)
            except ValueError as single:
                raise UserError(
                    where=f"{where}, row {row}",
                    found=f"an image of {image.height} x {image.width} pixels that {type(processor).__name__} refuses "
                    f"({first_line(single)})",
                    expected="an image that the model's processor can resize",
                    mend="remove the image from the data",
                ) from error
        raise
    return (np.asarray(values) for values in prepared)


def _size(values: npt.NDArray[np.uint8]) -> str:
    return f"{values.shape[-2]} x {values.shape[-1]}"
