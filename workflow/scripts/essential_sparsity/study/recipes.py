"""What of a pre-training recipe is checked before any job starts: sizes, and the kind of its corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from essential_sparsity.data.kinds import Dataset
from essential_sparsity.errors import UserError
from essential_sparsity.records import plain

# What each objective reads of its corpus, in words and as the keys of a dataset.
_READS = {
    "masked-language-modelling": ("texts", ("text",)),
    "causal-language-modelling": ("texts", ("text",)),
    "supervised-images": ("images with classes", ("image", "label")),
    "masked-image-modelling": ("images", ("image",)),
}


def check_recipe(recipe: Mapping[str, Any], corpus: Dataset, where: str) -> None:
    """Check a recipe against the registry entry of its corpus, and its sizes against each other.

    Args:
        recipe: The recipe, with its defaults.
        corpus: The registry entry of its dataset.
        where: The recipe's place, for messages.

    Raises:
        UserError: The corpus lacks what the objective learns from, the width is no whole number of heads, or an image
            is no more than one patch where some of them are masked.
    """
    words, needed = _READS[recipe["objective"]]
    # The folders of a folder of images are its classes.
    has = {"image", "label"} if corpus.format == "images" else set(plain(corpus))
    if missing := [key for key in needed if key not in has]:
        kind = "images" if corpus.has_images else "texts" if "text" in has else "neither texts nor images"
        raise UserError(
            f"{where}.corpus", f"'{recipe['corpus']}', a dataset of {kind} without `{'` and `'.join(missing)}`",
            f"a dataset of {words}, which the objective {recipe['objective']} learns from",
            "choose another dataset or another objective",
        )  # fmt: skip
    sizes = recipe["architecture"]
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise UserError(
            f"{where}.architecture.hidden_size", repr(sizes["hidden_size"]),
            f"a multiple of num_attention_heads ({sizes['num_attention_heads']})", "correct one of the two",
        )  # fmt: skip
    if recipe["objective"] == "masked-image-modelling" and sizes["image_size"] < 2 * sizes["patch_size"]:
        raise UserError(
            f"{where}.architecture.patch_size", f"{sizes['patch_size']} in an image of {sizes['image_size']} pixels",
            "several patches, some of which stay visible", "make patches smaller",
        )  # fmt: skip
