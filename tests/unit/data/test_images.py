"""Images of tables and of folders, and what is refused of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import transformers
from PIL import Image

from encoded import encoded, picture
from essential_sparsity.data.images import image_bytes, image_folder
from essential_sparsity.data.pixels import (
    load_processor,
    prepare_pixels,
)
from essential_sparsity.errors import UserError

WHERE = "config/datasets.yaml, pictures"


def place(row: int) -> str:
    return f"{WHERE}, row {row}"


def test_bytes_are_read_from_the_columns_of_the_hub(tmp_path: Path) -> None:
    contents = [encoded(picture(4, 4, seed=i)) for i in range(3)]
    frame = pd.DataFrame({"plain": contents, "img": [{"bytes": c, "path": None} for c in contents]})
    frame.to_parquet(tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    for column in ("plain", "img"):
        assert image_bytes(read[column], place) == contents


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"bytes": None, "path": "a/b.png"}, "only the path 'a/b.png'"),
        (None, "NoneType"),
        ("text", "str"),
        (b"", "no bytes"),
        ({"bytes": b"", "path": "x"}, "no bytes"),
    ],
)
def test_a_row_without_bytes_is_named(value: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}, row 1: found .*{says}"):
        image_bytes(pd.Series([b"x", value], dtype=object), place)


def test_cifar10_of_the_hub_is_read(root: Path, tmp_path: Path) -> None:
    file = root.parent / "shared/hub/datasets/uoft-cs/cifar10/plain_text/test-00000-of-00001.parquet"
    if not file.is_file():
        pytest.skip("needs CIFAR-10 below ../shared/hub, which is not there")
    frame = pd.read_parquet(file)
    contents = image_bytes(frame["img"], place)[:100]
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    pixels = prepare_pixels(contents, load_processor(tmp_path, WHERE), range(100), WHERE)
    assert pixels.shape == (100, 3, 32, 32)
    expected = np.asarray(Image.open(io.BytesIO(contents[7]))).transpose(2, 0, 1)
    assert np.array_equal(pixels[7], expected), "32 pixels are not resized to 32"


# --- Folders ---


def write(file: Path, content: bytes | None = None) -> bytes:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = encoded(picture(4, 4, seed=len(str(file)))) if content is None else content
    file.write_bytes(content)
    return content


def test_a_folder_of_classes_is_read_in_order(tmp_path: Path) -> None:
    written = {name: write(tmp_path / name) for name in ("dog/b.png", "cat/z.PNG", "dog/a.png", "cat/a.webp")}
    write(tmp_path / ".hidden" / "x.png")
    write(tmp_path / "cat" / ".DS_Store", b"nothing")
    frame = image_folder(tmp_path, WHERE)
    assert frame["file"].tolist() == ["cat/a.webp", "cat/z.PNG", "dog/a.png", "dog/b.png"]
    assert frame["label"].tolist() == ["cat", "cat", "dog", "dog"]
    assert set(frame["split"]) == {"train"}
    assert [written[f] for f in frame["file"]] == frame["image"].tolist()


def test_folders_of_splits_are_read(tmp_path: Path) -> None:
    for name in ("test/dog/1.png", "train/dog/2.png", "train/cat/3.png", "validation/cat/4.png"):
        write(tmp_path / name)
    frame = image_folder(tmp_path, WHERE)
    assert list(zip(frame["split"], frame["label"], strict=True)) == [
        ("train", "cat"),
        ("train", "dog"),
        ("validation", "cat"),
        ("test", "dog"),
    ]


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    write(tmp_path / "test/1.png")
    write(tmp_path / "other/1.png")
    assert image_folder(tmp_path, WHERE)["label"].tolist() == ["other", "test"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a/1.png": None, "b/notes.txt": b"x"}, r"file .*notes\.txt: found a file that ends in '\.txt'"),
        ({"a/1.png": None, "b/1.png": b"no image"}, r"file .*b/1\.png: found 8 bytes that are no image"),
        ({"a/1.png": None, "b/c/1.png": None}, "found a folder among the images"),
        ({"a/1.png": None, "b/.hidden": b"x"}, "folder .*b: found no image"),
        ({"a/1.png": None}, r"found 1 class \('a'\)"),
        ({}, "found 0 class"),
        ({"a/1.png": None, "b/1.png": None, "list.csv": b"x"}, r"list\.csv: found a file outside the folders"),
        ({"train/a/1.png": None, "train/b/1.png": None, "val/a/1.png": None}, "found 'val' .*'validation'"),
        ({"train/a/1.png": None, "train/b/1.png": None, "test/c/1.png": None}, "the classes 'c', which 'train'"),
        ({"train/a/1.png": None, "test/a/1.png": None}, r"train: found 1 class \('a'\)"),
    ],
)
def test_a_folder_that_is_not_so_is_refused(tmp_path: Path, files: dict[str, bytes | None], says: str) -> None:
    for name, content in files.items():
        write(tmp_path / "root" / name, content)
    (tmp_path / "root").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=says) as caught:
        image_folder(tmp_path / "root", WHERE)
    assert str(caught.value).startswith(WHERE)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}: found no folder .*absent"):
        image_folder(tmp_path / "absent", WHERE)
