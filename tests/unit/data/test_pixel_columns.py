"""Images from tables with a column a pixel: the pixels themselves, and the row and column of one that is none."""

from __future__ import annotations

import gzip
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import yaml
from PIL import Image

import entries
from essential_sparsity.data.images import decode_image
from essential_sparsity.data.kinds import Dataset
from essential_sparsity.data.rows import prepare_rows
from essential_sparsity.errors import UserError
from essential_sparsity.study.validation import validate

WHERE = "config/datasets.yaml, mine"
LAYOUT = {"first_column": 1, "height": 2, "width": 3, "white": 16}


def grey(encoded: bytes) -> np.ndarray:
    """Return the values of a grey image, by another way than the workflow's."""
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.fixture(scope="module")
def digits() -> Path:
    """scikit-learn's own file of digits, which its wheel holds."""
    return Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"


@pytest.fixture(scope="module")
def halves(root: Path) -> list[Dataset]:
    registry = yaml.safe_load((root / "config" / "datasets.yaml").read_text())
    return [entries.dataset(**registry[name]) for name in ("digits-low", "digits-high")]


def test_every_digit_is_scikit_learns(digits: Path, halves: list[Dataset]) -> None:
    rows = prepare_rows({"train": [digits]}, replace(halves[0], where=None), WHERE)
    expected = sklearn.datasets.load_digits()
    assert rows["label"].tolist() == [str(label) for label in expected.target]
    # 256 greys tell 17 apart: the values come back.
    images = np.stack([grey(content) for content in rows["image"]])
    assert np.array_equal(np.round(images * (16 / 255)), expected.images)
    assert images.max() == 255
    red, green, blue = decode_image(rows["image"].iloc[0], WHERE).split()
    assert red == green == blue == Image.fromarray(images[0])


def test_the_two_halves_of_the_digits_share_no_class_and_no_row(digits: Path, halves: list[Dataset]) -> None:
    low, high = (prepare_rows({"train": [digits]}, entry, WHERE) for entry in halves)
    assert set(low["label"]) == set("01234")
    assert set(high["label"]) == set("56789")
    assert len(low) + len(high) == 1797
    for rows in (low, high):
        assert set(rows["split"]) == {"train", "test"}
        assert rows.groupby("split")["label"].nunique().eq(5).all()
    assert (high["split"] == "test").sum() == pytest.approx(450, abs=20)


def table(folder: Path, header: bool = True, **changes: Any) -> dict[str, list[Path]]:
    """Write two rows of a label and six pixels."""
    rows: list[list[Any]] = [["cat", 0, 1, 2, 8, 15, 16], ["dog", 16, 0, 0, 0, 0, 0.5]]
    frame = pd.DataFrame(rows, columns=["label", *[f"pixel{i}" for i in range(6)]]).astype(object)
    for column, value in changes.items():
        frame.loc[1, column] = value
    path = folder / "images.csv.gz"
    with gzip.open(path, "wt") as file:
        frame.to_csv(file, index=False, header=header)
    return {"train": [path]}


def test_pixels_are_read_row_by_row_between_black_and_white(tmp_path: Path) -> None:
    expected = [[[0, 16, 32], [128, 239, 255]], [[255, 0, 0], [0, 0, 8]]]
    named = prepare_rows(table(tmp_path), entries.dataset(image=LAYOUT, label="label"), WHERE)
    entry = entries.dataset(format="csv-without-header", image=LAYOUT, label="0")
    numbered = prepare_rows(table(tmp_path, header=False), entry, WHERE)
    for rows in (named, numbered):
        assert rows["label"].tolist() == ["cat", "dog"]
        assert [grey(content).tolist() for content in rows["image"]] == expected


@pytest.mark.parametrize(
    ("changes", "layout", "says"),
    [
        ({"pixel4": 17}, {}, r"row 1, column 'pixel4': found '17'; expected a number from 0 \(black\) to 16 \(white\)"),
        ({"pixel0": -1}, {}, r"row 1, column 'pixel0': found '-1'"),
        ({"pixel0": "black"}, {}, r"row 1, column 'pixel0': found 'black'; expected a number"),
        ({"pixel3": None}, {}, r"row 1, column 'pixel3': found 'nan'"),
        ({}, {"first_column": 0}, r"row 0, column 'label': found 'cat'"),
        ({}, {"first_column": 2}, r"found 5 columns from column 2 on, of 7 in all; expected 6, one for each"),
        ({}, {"height": 3}, r"found 6 columns from column 1 on"),
    ],
)
def test_what_is_no_image_is_named_with_its_place(
    tmp_path: Path, changes: dict[str, Any], layout: dict[str, int], says: str
) -> None:
    entry = entries.dataset(image=LAYOUT | layout, label="label")
    with pytest.raises(UserError, match=rf"mine\.image.*{says}.*To mend"):
        prepare_rows(table(tmp_path, **changes), entry, WHERE)


def test_a_header_where_none_is_expected_is_named(tmp_path: Path) -> None:
    entry = entries.dataset(format="csv-without-header", image=LAYOUT, label="0")
    with pytest.raises(UserError, match=r"row 0, column '1': found 'pixel0'.*write `format: csv`"):
        prepare_rows(table(tmp_path), entry, WHERE)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"first_column": 0, "height": 8}, "image: found no key 'width'"),
        ({**LAYOUT, "levels": 16}, "image.levels: found the unknown key 'levels'"),
        ({**LAYOUT, "white": 0}, "image.white: found 0; expected a number above 0"),
        (["a"], "image: found a list; expected string or object"),
    ],
)
def test_a_mistyped_layout_is_named(root: Path, image: Any, says: str) -> None:
    entry = {"source": {"kind": "path", "path": "t.csv"}, "licence": "MIT", "format": "csv", "image": image}
    with pytest.raises(UserError, match=says):
        validate({"mine": entry}, root / "workflow" / "schemas" / "datasets.schema.yaml", "datasets.yaml")
