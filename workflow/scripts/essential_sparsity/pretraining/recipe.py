"""What a training from scratch is told, as its registry entry says: a dataclass an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from essential_sparsity.checkpoints.steps import checkpoint_steps


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model, in the words of transformers' configurations."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True, kw_only=True)
class ImageSizes(Sizes):
    """Sizes of a ViT.

    Attributes:
        image_size: Pixels of the square that images become.
        patch_size: Pixels of a square patch.
        initializer_range: Standard deviation of the weights at step 0.
    """

    model: Literal["vit"]
    image_size: int
    patch_size: int
    initializer_range: float

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """How a tokenizer is trained on the texts.

    Attributes:
        vocab_size: Most tokens.
        min_frequency: Fewest occurrences of what is merged.
    """

    vocab_size: int
    min_frequency: int


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is drawn anew each time an image is seen.

    Attributes:
        flip: Whether half of the images are mirrored.
        crop_padding: Pixels of a shift at most.
    """

    flip: bool
    crop_padding: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all objectives share.

    Attributes:
        reads: What an objective learns from, in words and as the keys of a dataset.
        architecture: Sizes of the model.
        corpus: The dataset, of which training sees the split ``train``.
        corpus_share: Share of its rows that training sees, drawn by the seed; None for all.
        steps: Optimiser steps.
        batch_size: Sequences or images a step.
        learning_rate: Peak of the schedule.
        weight_decay: On matrices only.
        warmup: Share of the steps.
        dropout: Probability.
        checkpoints: How many are kept, step 0 and the last included.
        first_checkpoint: The first after step 0; the others are log-spaced.
        checkpoint_every: Besides, the weights of every so many steps are kept for measuring.
        log_every: Steps a row of the loss curve.
        seed: Of all draws.
    """

    reads: ClassVar[tuple[str, Sequence[str]]]
    architecture: Sizes
    corpus: str
    corpus_share: float | None = None
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: float
    dropout: float
    checkpoints: int
    first_checkpoint: int
    checkpoint_every: int | None = None
    log_every: int
    seed: int

    @property
    def checkpoint_steps(self) -> list[int]:
        """The steps that are checkpoints."""
        return checkpoint_steps(self.steps, self.checkpoints, self.first_checkpoint)

    @property
    def measured_steps(self) -> list[int]:
        """The steps whose weights are kept: the checkpoints, and every ``checkpoint_every`` steps besides."""
        evenly = range(0, self.steps + 1, self.checkpoint_every) if self.checkpoint_every else ()
        return sorted({*self.checkpoint_steps, *evenly})


@dataclass(frozen=True, kw_only=True)
class TextRecipe(Recipe):
    """A model of texts, with a tokenizer of its own.

    Attributes:
        tokenizer: How it is trained, on the same texts.
        sequence_length: Tokens.
    """

    reads = ("texts", ("text",))
    tokenizer: Vocabulary
    sequence_length: int

    @property
    def tokens(self) -> int:
        """Tokens of an example."""
        return self.sequence_length

    @property
    def vocabulary(self) -> int:
        """Most tokens that are told apart."""
        return self.tokenizer.vocab_size


@dataclass(frozen=True, kw_only=True)
class MaskedTextRecipe(TextRecipe):
    """Masked language modelling; ``mask_probability`` is the chance that a token is to be predicted."""

    objective: Literal["masked-language-modelling"]
    mask_probability: float


@dataclass(frozen=True, kw_only=True)
class CausalTextRecipe(TextRecipe):
    """Causal language modelling."""

    objective: Literal["causal-language-modelling"]


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """A model of images.

    Attributes:
        augment: How images vary.
    """

    vocabulary: ClassVar[int] = 0
    architecture: ImageSizes
    augment: Augment

    @property
    def tokens(self) -> int:
        """Tokens of an example: its patches, and one for the whole."""
        return 1 + self.architecture.patches


@dataclass(frozen=True, kw_only=True)
class LabelledImagesRecipe(ImageRecipe):
    """Classification of images; ``label_smoothing`` is the share of a target that is spread over all classes."""

    reads = ("images with classes", ("image", "label"))
    objective: Literal["supervised-images"]
    label_smoothing: float


@dataclass(frozen=True, kw_only=True)
class MaskedImagesRecipe(ImageRecipe):
    """Reconstruction of images; ``mask_ratio`` is the share of the patches that are masked."""

    reads = ("images", ("image",))
    objective: Literal["masked-image-modelling"]
    mask_ratio: float


AnyRecipe = MaskedTextRecipe | CausalTextRecipe | LabelledImagesRecipe | MaskedImagesRecipe
