"""What the rows of a dataset are, as its registry entry says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The column that makes the kind, in the order in which it is looked for.
_BY_COLUMN = {"answers": "spans", "score": "scores", "label": "classes"}
FILES = "files"


def kind_of(dataset: Mapping[str, Any]) -> str:
    """Return the kind of a dataset's rows.

    Returns:
        ``spans`` (questions with answers inside a text), ``scores`` (numbers), ``classes``, ``texts`` (nothing to
        predict), ``images`` (without a class), or ``files`` that are kept as they are.
    """
    # The folders of a folder of images are its classes.
    given = {FILES: "files", "images": "classes"}.get(dataset["format"])
    found = next((kind for column, kind in _BY_COLUMN.items() if column in dataset), None)
    return given or found or ("images" if has_images(dataset) else "texts")


def has_images(dataset: Mapping[str, Any]) -> bool:
    """Say whether a dataset holds images, and not texts."""
    return "image" in dataset or dataset["format"] == "images"


def held_out_splits(dataset: Mapping[str, Any]) -> set[str]:
    """Return the splits besides ``train`` that a dataset may have by its registry entry."""
    named = set(dataset["source"].get("files", {}))
    split = dataset.get("split", {})
    if "column" in split or dataset["format"] == "images":
        named |= {"test", "validation"}
    return (named | {part for part in ("test", "validation") if f"{part}_fraction" in split}) - {"train", "all"}
