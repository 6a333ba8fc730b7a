"""Images as a model sees them: decoded, resized by the model's own processor, kept as bytes until they are used.

A processor's output is a function of one byte a value, once the image is resized and cropped. Bytes are therefore what
is kept, a quarter of float32, and :func:`normalise` does the rest in the processor's own order of operations.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from essential_sparsity.errors import UserError, did_you_mean, first_line, quoted
from essential_sparsity.remote_code import is_trusted

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PROCESSOR = "preprocessor_config.json"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SPLITS = ("train", "validation", "test")

# What Pillow may take bytes for: formats that it decodes itself. For others it starts programs (EPS), or they are rare.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

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


# --- Processors ---


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


# --- Decoding ---


def decode_image(encoded: bytes, where: str) -> Image:
    """Decode an image to RGB, upright.

    Grey and palette images become RGB, transparency is laid on white (as transformers does), 16 bits a value are
    rounded to 8, and the orientation that a camera noted is applied. Of an animation the first picture is taken.

    Args:
        encoded: The file's content.
        where: The dataset and the row or the file, for messages.

    Raises:
        UserError: It is no image, or a damaged one.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    # Pillow's plug-ins raise whatever their format's parser does, on data that are not as they should be.
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error,
            Image.DecompressionBombError) as error:  # fmt: skip
        raise UserError(
            where=where,
            found=f"{len(encoded)} bytes that cannot be decoded ({type(error).__name__}: {first_line(error)})",
            expected=f"an image in one of the formats {', '.join(_FORMATS)}",
            mend="fetch the file again, or remove it from the data",
        ) from error
    image = _eight_bit(image, where)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _eight_bit(image: Image, where: str) -> Image:
    """Round grey values of 16 bits to 8, which Pillow would cut off at 255.

    Raises:
        UserError: Grey values of 32 bits, whose range is not known.
    """
    from PIL import Image

    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(grey.round().astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise UserError(
            where=where,
            found=f"an image with grey values of 32 bits (Pillow's mode {image.mode})",
            expected="8 or 16 bits a value",
            mend="convert the image, since nothing says which of its values is white",
        )
    return image


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


# --- Where images come from ---


def image_bytes(column: pd.Series, place: Callable[[int], str]) -> list[bytes]:
    """Return the content of the images of a table's column, as bytes.

    Args:
        column: Plain bytes, or what the hub stores: mappings with ``bytes`` and ``path``.
        place: Returns where the image of a row, counted from 0, is from, for messages.

    Raises:
        UserError: A row holds no bytes.
    """
    contents = []
    for row, value in enumerate(column):
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes) or not content:
            path = value.get("path") if isinstance(value, dict) else None
            outside = f"only the path '{path}'" if path else f"{type(value).__name__} ({str(value)[:40]!r})"
            raise UserError(
                where=place(row),
                found=outside if not isinstance(content, bytes) else "an image of no bytes",
                expected="an image's content as bytes, or a mapping with `bytes`, as the hub stores them",
                mend="name the column that holds images, store their content in the table, or use `format: images` "
                "with a folder of files",
            )
        contents.append(content)
    return contents


def image_folder(root: Path, where: str) -> pd.DataFrame:
    """Read a folder of images with a folder for each class, perhaps within a folder for each split.

    Hidden files and folders are not looked at. Rows are in the order of split, class and file name.

    Args:
        root: ``<root>/<class>/<image>``, or ``<root>/<split>/<class>/<image>`` with the splits ``train``,
            ``validation`` and ``test``; with splits there must be ``train``.
        where: The registry key, for messages.

    Returns:
        Columns ``image`` (bytes), ``label``, ``split`` and ``file`` (path below ``root``).

    Raises:
        UserError: A file that is no image, a file outside the classes, an empty class, fewer than two classes, or a
            class that one split has and ``train`` has not.
    """
    if not root.is_dir():
        raise UserError(where, f"no folder {root}", "a folder with a folder for each class", "correct the path")
    top = _folders(root, where)
    splits = {name: root / name for name in SPLITS if name in top}
    if "train" in splits and (others := [name for name in top if name not in SPLITS]):
        raise UserError(
            where=f"{where}, folder {root}",
            found=f"{quoted(others)} beside 'train'",
            expected=f"only {quoted(SPLITS)} where there is a folder for each split",
            mend=did_you_mean(others[0], SPLITS),
        )
    # Classes may be called 'test' or 'validation', as long as none is called 'train'.
    found = splits if "train" in splits else {"train": root}
    rows: list[dict[str, Any]] = []
    classes: dict[str, list[str]] = {}
    for split, folder in found.items():
        classes[split] = _folders(folder, where)
        for name in classes[split]:
            rows += [
                {"image": content, "label": name, "split": split, "file": file.relative_to(root).as_posix()}
                for file, content in _images(folder / name, where)
            ]
    if len(classes["train"]) < 2:
        raise UserError(
            where=f"{where}, folder {found['train']}",
            found=f"{len(classes['train'])} class ({quoted(classes['train'])})",
            expected="a folder for each of at least two classes",
            mend="put the images of each class into a folder with its name",
        )
    for split, names in classes.items():
        if unknown := sorted(set(names) - set(classes["train"])):
            raise UserError(
                where=f"{where}, folder {found[split]}",
                found=f"the classes {quoted(unknown[:5])}, which 'train' does not have",
                expected=f"classes of 'train', such as {quoted(classes['train'][:5])}",
                mend=did_you_mean(unknown[0], classes["train"]),
            )
    return pd.DataFrame(rows, columns=["image", "label", "split", "file"])


def _visible(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def _folders(folder: Path, where: str) -> list[str]:
    """Return the names of the folders in a folder of classes or splits.

    Raises:
        UserError: There is a file beside them.
    """
    entries = _visible(folder)
    if files := [p for p in entries if not p.is_dir()]:
        raise UserError(
            where=f"{where}, file {files[0]}",
            found="a file outside the folders of the classes",
            expected="images in a folder with the name of their class",
            mend="move the file into the folder of its class, or away",
        )
    return [p.name for p in entries]


def _images(folder: Path, where: str) -> Iterator[tuple[Path, bytes]]:
    """Yield the files of a class with their content, sorted.

    Raises:
        UserError: There is none, or one that is no image.
    """
    files = _visible(folder)
    if not files:
        raise UserError(
            where=f"{where}, folder {folder}",
            found="no image",
            expected="at least one image of each class",
            mend="put images into the folder, or remove it",
        )
    for file in files:
        if file.is_dir() or file.suffix.lower() not in SUFFIXES:
            raise UserError(
                where=f"{where}, file {file}",
                found="a folder among the images" if file.is_dir() else f"a file that ends in '{file.suffix}'",
                expected=f"images, whose names end in {quoted(sorted(SUFFIXES))}",
                mend="move it away, or convert it",
            )
        content = file.read_bytes()
        check_header(content, f"{where}, file {file}")
        yield file, content


def check_header(encoded: bytes, where: str) -> None:
    """Check that bytes begin as an image does, without decoding it: cheap enough for every file of a large folder.

    Raises:
        UserError: They do not.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS):
            return
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            where=where,
            found=f"{len(encoded)} bytes that are no image that Pillow knows",
            expected="an image such as PNG or JPEG",
            mend="fetch the file again, or move it away",
        ) from error
