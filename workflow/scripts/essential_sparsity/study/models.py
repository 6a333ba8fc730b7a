"""What a model is, as its registry entry says, and what of a recipe is checked before any job starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from essential_sparsity.checkpoints.steps import Trajectory
from essential_sparsity.data.kinds import Dataset
from essential_sparsity.errors import UserError
from essential_sparsity.pretraining.recipe import AnyRecipe, ImageSizes, MaskedImagesRecipe
from essential_sparsity.records import plain
from essential_sparsity.sources.kinds import Hub, Local, Wheel


@dataclass(frozen=True, kw_only=True)
class HubSteps:
    """The steps of a pre-training on the model hub."""

    kind: Literal["hub"]
    trajectory: Trajectory


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A model that the workflow trains from scratch."""

    kind: Literal["pretrain"]
    recipe: AnyRecipe


@dataclass(frozen=True, kw_only=True)
class Model:
    """An entry of the registry of models.

    Attributes:
        source: Where the bytes come from.
        licence: SPDX identifier of the weights' licence.
        dtype: What the extracted checkpoint stores.
        trust_remote_code: Whether code that comes with the model may run.
        parameters: How many weights it has, where that is known before the download.
        note: What a user should know.
        spectra: Whether singular values are computed where its weights are measured.
        include: Patterns of matrices that are pruned besides those of linear layers in the transformer blocks.
        exclude: Patterns of tensors that stay dense; they come before ``include``.
    """

    source: Wheel | Hub | HubSteps | Local | Pretraining
    licence: str
    dtype: str
    trust_remote_code: bool
    parameters: int | None = None
    note: str | None = None
    spectra: bool
    include: Sequence[str]
    exclude: Sequence[str]


def check_recipe(recipe: AnyRecipe, corpus: Dataset, where: str) -> None:
    """Check a recipe against the registry entry of its corpus, and its sizes against each other.

    Args:
        recipe: The recipe.
        corpus: The registry entry of its dataset.
        where: The recipe's place, for messages.

    Raises:
        UserError: The corpus lacks what the objective learns from, the width is no whole number of heads or the image
            of patches, or an image is no more than one patch where some of them are masked.
    """
    words, needed = recipe.reads
    # The folders of a folder of images are its classes.
    has = {"image", "label"} if corpus.format == "images" else set(plain(corpus))
    if missing := [key for key in needed if key not in has]:
        kind = "images" if corpus.has_images else "texts" if "text" in has else "neither texts nor images"
        raise UserError(
            f"{where}.corpus", f"'{recipe.corpus}', a dataset of {kind} without `{'` and `'.join(missing)}`",
            f"a dataset of {words}, which the objective {recipe.objective} learns from",
            "choose another dataset or another objective",
        )  # fmt: skip
    sizes = recipe.architecture
    _check_multiple("hidden_size", sizes.hidden_size, "num_attention_heads", sizes.num_attention_heads, where)
    if isinstance(sizes, ImageSizes):
        _check_multiple("image_size", sizes.image_size, "patch_size", sizes.patch_size, where)
    if isinstance(recipe, MaskedImagesRecipe) and recipe.architecture.patches < 2:
        raise UserError(
            f"{where}.architecture.patch_size",
            f"{recipe.architecture.patch_size} in an image of {recipe.architecture.image_size} pixels",
            "several patches, some of which stay visible", "make patches smaller",
        )  # fmt: skip


def _check_multiple(whole: str, found: int, part: str, of: int, where: str) -> None:
    if found % of:
        raise UserError(
            f"{where}.architecture.{whole}", repr(found), f"a multiple of {part} ({of})", "correct one of the two"
        )
