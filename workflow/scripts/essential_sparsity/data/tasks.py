"""Tasks: what is evaluated, by which protocol and settings, as a registry entry says.

A protocol has a class here; its attributes are the keys of `workflow/schemas/tasks.schema.yaml`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all tasks have.

    Attributes:
        label: What plots and the report call it; empty in a job, which does not depend on it.
        protocol: How it is evaluated.
        dataset: A name of the registry.
        metric: The headline's.
        batch_size: Rows of an optimiser's step, or of a forward pass.
        positive: The class that f1 is of.
    """

    label: str = ""
    protocol: str
    dataset: str
    metric: str = ""
    batch_size: int
    positive: str | None = None


@dataclass(frozen=True, kw_only=True)
class Windows(Task):
    """Texts in windows.

    Attributes:
        window: Tokens that the model is given at once.
        windows: How many windows, or texts for word perplexity; None for all.
    """

    window: int
    windows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Perplexity(Windows):
    """Language modelling."""

    protocol: Literal["perplexity"]


@dataclass(frozen=True, kw_only=True)
class MaskedTokens(Windows):
    """Masked language modelling.

    Attributes:
        mask_probability: Share of the tokens that are masked.
        seed: Of the places that are masked.
    """

    protocol: Literal["masked_tokens"]
    mask_probability: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Benchmark(Task):
    """A task or group of lm-eval.

    Attributes:
        lm_eval_task: Its name there.
        shots: Solved examples; None for the task's own.
        split: What is evaluated, where it is not what lm-eval's task says.
        limit: Items of each task; None for all.
        max_length: Tokens; None for the model's own.
    """

    protocol: Literal["lm_eval"]
    lm_eval_task: str
    shots: int | None = None
    split: str | None = None
    limit: int | None = None
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Probe(Task):
    """A classifier on frozen features of images.

    Attributes:
        pooling: ``cls`` or ``mean``.
        train_examples: Rows drawn by the seed.
    """

    pooling: str
    train_examples: int


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Probe):
    """Logistic regression.

    Attributes:
        inverse_regularisation: C of scikit-learn: the larger, the weaker.
        max_iterations: Of the solver.
    """

    protocol: Literal["linear_probe"]
    inverse_regularisation: float
    max_iterations: int


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours(Probe):
    """A vote of the nearest neighbours.

    Attributes:
        neighbours: How many vote.
        temperature: Of their votes.
    """

    protocol: Literal["knn"]
    neighbours: int
    temperature: float


@dataclass(frozen=True)
class EarlyStopping:
    """When a training stops early.

    Attributes:
        every: Steps between two looks at the loss on ``validation``.
        patience: Looks without a lower loss.
    """

    every: int
    patience: int


@dataclass(frozen=True, kw_only=True)
class Finetuning(Task):
    """Fine-tuning with the mask fixed.

    Attributes:
        also: Further metrics of the same predictions.
        head: A key of ``training.fit.HEADS``.
        freeze: Patterns of the encoder's parameters that are not trained.
        train_examples: Rows drawn by the seed.
        epochs: Passes through the rows.
        batches: ``shuffled``, or ``by_length``.
        max_length: Tokens of a text.
        stride: Tokens that two windows of a context share.
        answer_length: Most tokens of an answer.
        null_threshold: By how much no answer must beat the best one; None where every question has one.
        learning_rate: Peak of the schedule.
        schedule: Of the learning rate.
        warmup: Share of the steps.
        weight_decay: AdamW's.
        clip: Largest norm of the gradient; 0 for any.
        precision: Of the matrix products.
        micro_batch: Rows of a forward pass; None for the whole batch.
        early_stopping: None for all epochs.
        save_every: Steps after which the state is saved; None for never.
        evaluation_batch_size: Rows of a forward pass of the test.
    """

    protocol: Literal["finetune"]
    also: Sequence[str]
    head: str = ""
    freeze: Sequence[str]
    train_examples: int
    epochs: int
    batches: str
    max_length: int
    stride: int
    answer_length: int
    null_threshold: float | None = None
    learning_rate: float
    schedule: str
    warmup: float
    weight_decay: float
    clip: float
    precision: str
    micro_batch: int | None = None
    early_stopping: EarlyStopping | None = None
    save_every: int | None = None
    evaluation_batch_size: int


AnyTask = Perplexity | MaskedTokens | Benchmark | LinearProbe | NearestNeighbours | Finetuning
