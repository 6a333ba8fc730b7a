"""Recipes that contradict themselves, or their corpus, are named before any job starts."""

from __future__ import annotations

from typing import Any

import pytest

import entries
from essential_sparsity.errors import UserError
from essential_sparsity.study.models import check_recipe

WHERE = "config/models.yaml, m.source.recipe"
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE_SIZES = {**SIZES, "model": "vit", "image_size": 8, "patch_size": 4}


def check(objective: str, corpus: dict[str, Any], **sizes: Any) -> None:
    """Check a recipe whose sizes fit, but for those that are given."""
    architecture = (IMAGE_SIZES if "image" in objective else SIZES) | sizes
    recipe = entries.recipe(objective=objective, corpus="c", architecture=architecture)
    check_recipe(recipe, entries.dataset(**corpus), WHERE)


@pytest.mark.parametrize(
    ("objective", "corpus", "says"),
    [
        ("masked-language-modelling", {"format": "csv", "image": "i"}, "a dataset of images without `text`"),
        ("causal-language-modelling", {"format": "images"}, "a dataset of images without `text`"),
        ("supervised-images", {"format": "parquet", "image": "i"}, "a dataset of images without `label`"),
        ("masked-image-modelling", {"format": "csv", "text": "t"}, "a dataset of texts without `image`"),
        ("causal-language-modelling", {"format": "files"}, "a dataset of neither texts nor images without `text`"),
    ],
)
def test_a_corpus_of_the_wrong_kind(objective: str, corpus: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=rf"recipe\.corpus: found 'c', {says}; expected .*{objective}"):
        check(objective, corpus)


@pytest.mark.parametrize(
    ("objective", "corpus"),
    [
        ("masked-language-modelling", {"format": "csv", "text": "t"}),
        ("supervised-images", {"format": "images"}),
        ("masked-image-modelling", {"format": "csv", "image": {"first_column": 0, "height": 8, "width": 8}}),
    ],
)
def test_a_corpus_that_fits(objective: str, corpus: dict[str, Any]) -> None:
    check(objective, corpus)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"image_size": 10}, r"image_size: found 10; expected a multiple of patch_size \(4\)"),
        ({"num_attention_heads": 3}, r"hidden_size: found 16; expected a multiple of num_attention_heads \(3\)"),
    ],
)
def test_sizes_that_do_not_fit(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=rf"{WHERE}\.architecture\.{says}"):
        check("supervised-images", {"format": "images"}, **sizes)


def test_masked_images_of_one_patch() -> None:
    with pytest.raises(UserError, match="patch_size: found 8 in an image of 8 pixels"):
        check("masked-image-modelling", {"format": "images"}, patch_size=8)
    check("supervised-images", {"format": "images"}, patch_size=8)
