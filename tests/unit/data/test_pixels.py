"""Images: what a model gets is what its own processor makes, bit for bit; the oracle is the processor itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from encoded import encoded, picture
from essential_sparsity.data.images import decode_image
from essential_sparsity.data.pixels import (
    PROCESSOR,
    PixelSettings,
    load_processor,
    normalise,
    pixel_settings,
    prepare_pixels,
)
from essential_sparsity.errors import UserError

WHERE = "config/datasets.yaml, pictures"
ODD = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}

# Sizes, filters and ways to crop that differ; each as transformers names its settings.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 33, "width": 19}}),
    "vit-odd": ("ViTImageProcessorPil", {"size": {"height": 8, "width": 8}, "resample": 0, **ODD}),
    "vit-lanczos": ("ViTImageProcessorPil", {"size": {"height": 17, "width": 17}, "resample": 1, **ODD}),
    "vit-scale": ("ViTImageProcessorPil", {"size": {"height": 9, "width": 9}, "rescale_factor": 0.0123}),
    "vit-one-mean": ("ViTImageProcessorPil", {"size": {"height": 9, "width": 9}, "image_mean": 0.3, "image_std": 0.7}),
    "vit-raw": ("ViTImageProcessorPil", {"size": {"height": 9, "width": 9}, "do_rescale": False, **ODD}),
    "vit-scaled-only": ("ViTImageProcessorPil", {"size": {"height": 9, "width": 9}, "do_normalize": False}),
    "vit-bytes": (
        "ViTImageProcessorPil",
        {"size": {"height": 9, "width": 9}, "do_normalize": False, "do_rescale": False},
    ),
    "deit": (
        "DeiTImageProcessorPil",
        {"size": {"height": 23, "width": 23}, "crop_size": {"height": 16, "width": 15}, **ODD},
    ),
    # A crop larger than the image is padded.
    "deit-padded": (
        "DeiTImageProcessorPil",
        {"size": {"height": 12, "width": 12}, "crop_size": {"height": 16, "width": 16}},
    ),
    "dino": ("BitImageProcessorPil", {"size": {"shortest_edge": 20}, "crop_size": 16, **ODD}),
    "beit": ("BeitImageProcessorPil", {"size": {"height": 16, "width": 16}, "do_center_crop": False}),
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}),
    "convnext": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 16}, "crop_pct": 0.8}),
    "convnext-large": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
}  # fmt: skip


def saved(folder: Path, name: str) -> Any:
    """Save a processor as a checkpoint holds it, and load it as a job does."""
    kind, options = PROCESSORS[name]
    getattr(transformers, kind)(**options).save_pretrained(folder)
    return load_processor(folder, WHERE)


SIZES = [(40, 31), (16, 16), (9, 70), (1, 1), (33, 19)]


# --- Processors ---


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_model_gets_what_its_processor_makes_bit_for_bit(tmp_path: Path, name: str) -> None:
    processor = saved(tmp_path, name)
    # An image of one pixel in height cannot keep its shape where a processor does.
    sizes = SIZES if name.startswith(("vit", "deit", "beit")) else SIZES[:2] + SIZES[4:]
    images = [picture(*size) for size in sizes]
    pixels = prepare_pixels([encoded(i) for i in images], processor, range(len(images)), WHERE)
    assert pixels.dtype == np.uint8
    expected = np.stack([np.asarray(processor(images=i)["pixel_values"][0], dtype=np.float32) for i in images])
    found = normalise(torch.from_numpy(pixels), pixel_settings(processor, WHERE))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), expected)
    assert expected.std() > 0


def test_chunks_leave_no_trace(tmp_path: Path) -> None:
    processor = saved(tmp_path, "dino")
    images = [encoded(picture(20 + i % 7, 25, seed=i)) for i in range(150)]
    pixels = prepare_pixels(images, processor, range(150), WHERE)
    for row in (0, 63, 64, 127, 128, 149):
        assert np.array_equal(pixels[row], prepare_pixels([images[row]], processor, [row], WHERE)[0])


def test_settings_are_json_and_the_same_after_it(tmp_path: Path) -> None:
    settings = pixel_settings(saved(tmp_path, "vit-odd"), WHERE)
    read = json.loads(json.dumps(asdict(settings)))
    assert PixelSettings(read["scale"], tuple(read["mean"]), tuple(read["std"])) == settings


def test_values_are_those_of_the_formula() -> None:
    settings = PixelSettings(1 / 255, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    expected = (np.arange(256) / 255 - np.array([[0.1], [0.2], [0.3]])) / np.array([[0.4], [0.5], [0.6]])
    np.testing.assert_allclose(normalise(pixels, settings).numpy().reshape(3, 256), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("EfficientNetImageProcessorPil", {}, "float32"),
        # Makes a video of the images.
        ("VideoMAEImageProcessorPil", {}, r"uint8 of shape \(2, 3, 224, 224\)"),
        # Pads the images of a batch to the largest, with zeros after normalising.
        ("DetrImageProcessorPil", {}, "does more to pixels"),
    ],
)
def test_a_processor_whose_bytes_cannot_be_kept_is_refused(kind: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}, image processor {kind}: found .*{says}.*To mend"):
        pixel_settings(getattr(transformers, kind)(**options), WHERE)


def test_loading_says_nothing_of_torchvision(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert type(saved(tmp_path, "vit")).__name__ == "ViTImageProcessorPil"
    assert not caplog.records


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, f"no {PROCESSOR}"),
        ("{ not json", "cannot read"),
        ("{}", "cannot read"),
        ('{"image_processor_type": "Nonsense"}', "cannot read"),
    ],
)
def test_a_processor_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / PROCESSOR).write_text(content)
    with pytest.raises(UserError, match=rf"{WHERE}.*{says}.*To mend: put the model's own {PROCESSOR}"):
        load_processor(tmp_path, WHERE)


# --- Decoding ---


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(7, 5), (1, 1)])
def test_formats_without_loss_are_decoded_to_the_same_pixels(form: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(np.asarray(decode_image(encoded(image, form, **options), WHERE)), np.asarray(image))


def test_a_jpeg_is_decoded_as_pillow_does() -> None:
    content = encoded(picture(16, 16), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(decode_image(content, WHERE)), expected)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_every_mode_becomes_rgb_as_transformers_does(mode: str) -> None:
    image = picture(6, 5).convert("RGBA") if "A" in mode else picture(6, 5)
    if "A" in mode:
        image.putalpha(Image.fromarray(np.linspace(0, 255, 30).astype(np.uint8).reshape(6, 5)))
    image = image.convert(mode)
    content = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    expected = convert_to_rgb(Image.open(io.BytesIO(content)), return_numpy=True)
    found = decode_image(content, WHERE)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), expected)


def test_transparency_is_white() -> None:
    for image in (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), Image.new("LA", (2, 2), (10, 0))):
        assert (np.asarray(decode_image(encoded(image), WHERE)) == 255).all()
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert (np.asarray(decode_image(encoded(palette), WHERE)) == [9, 8, 7]).all()
    assert (np.asarray(decode_image(encoded(palette, transparency=1), WHERE)) == 255).all()


def test_sixteen_bits_are_rounded_to_eight() -> None:
    values = np.array([[0, 128, 129, 257, 30_000, 65_535]], dtype=np.uint16)
    found = np.asarray(decode_image(encoded(Image.fromarray(values)), WHERE))[0, :, 0]
    np.testing.assert_array_equal(found, np.round(values[0] / 65_535 * 255))


def test_grey_values_without_a_known_range_are_refused() -> None:
    image = Image.fromarray(np.array([[0, 1_000_000]], dtype=np.int32))
    with pytest.raises(UserError, match=rf"{WHERE}: found an image with grey values of 32 bits.*To mend: convert"):
        decode_image(encoded(image, "TIFF"), WHERE)


# What each orientation does to an upright image so that it must be undone (EXIF 2.3, table of tag 274).
ORIENTATIONS: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_orientation_of_the_camera_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    image = picture(3, 5)
    found = np.asarray(decode_image(encoded(image, exif=exif), WHERE))
    assert np.array_equal(found, ORIENTATIONS[orientation](np.asarray(image)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut", "header"])
def test_a_damaged_image_is_named_with_its_row(tmp_path: Path, form: str, damage: str) -> None:
    content = encoded(picture(40, 40), form)
    damaged = {"empty": b"", "text": b"no image", "cut": content[: len(content) // 2], "header": content[:20]}[damage]
    images = [encoded(picture(5, 5)), damaged]
    with pytest.raises(UserError, match=rf"{WHERE}, row 71: found \d+ bytes that cannot be decoded.*To mend: fetch"):
        prepare_pixels(images, saved(tmp_path, "vit"), [70, 71], WHERE)


def test_images_that_stay_of_different_size_are_refused(tmp_path: Path) -> None:
    transformers.ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    processor = load_processor(tmp_path, WHERE)
    images = [encoded(picture(6, 5)), encoded(picture(6, 5)), encoded(picture(5, 6))]
    assert prepare_pixels(images[:2], processor, [3, 4], WHERE).shape == (2, 3, 6, 5)
    with pytest.raises(UserError, match=rf"{WHERE}, row 5: found an image of 5 x 6 .* but 6 x 5 of row 3.*{PROCESSOR}"):
        prepare_pixels(images, processor, [3, 4, 5], WHERE)


def test_an_image_that_the_processor_refuses_is_named(tmp_path: Path) -> None:
    # 1 x 70 pixels, the shorter side to 16: fine; 70 to 1 becomes no pixel where the longer side is bound.
    transformers.ViTImageProcessorPil(size={"shortest_edge": 2, "longest_edge": 2}).save_pretrained(tmp_path)
    processor = load_processor(tmp_path, WHERE)
    images = [encoded(picture(4, 4)), encoded(picture(1, 90))]
    with pytest.raises(UserError, match=rf"{WHERE}, row 9: found an image of 1 x 90 pixels that ViTImageProcessorPil"):
        prepare_pixels(images, processor, [8, 9], WHERE)
