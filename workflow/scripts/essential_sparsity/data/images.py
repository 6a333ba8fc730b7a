"""Images in files: folders, formats, and their bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from essential_sparsity.errors import UserError, did_you_mean, first_line, quoted
from essential_sparsity.tables import Row

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
SPLITS = ("train", "validation", "test")

# What Pillow may take bytes for: formats that it decodes itself. For others it starts programs (EPS), or they are rare.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


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
    rows: list[Row] = []
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
