"""What the loop of pre-training asks of an objective; each objective has a module of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

# What one step learns from: inputs and what is to be predicted, on the CPU until the loop moves them.
Batch = tuple[Tensor, Tensor]


class Objective(Protocol):
    """A corpus made ready, and what a model learns from it.

    It is made from the corpus, the recipe and a place for messages, and draws nothing but what the generators say that
    it is given: the same training must come out of a second run, and of one that was cut off.

    Attributes:
        size: How many training examples there are; batches are drawn from their numbers.
    """

    size: int

    def build(self) -> Any:
        """Return a new model of transformers, whose weights are drawn from torch's own generator."""

    def save(self, folder: Path) -> None:
        """Write what a checkpoint needs beside weights and configuration: tokenizer or processor, as ``*.json``."""

    def draw(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Return the batch of these examples, masked or augmented by the generator's draws."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean loss of a batch on the model's device: nats, or what the objective says."""

    def held_out(self, model: Any) -> dict[str, float]:
        """Return ``held_out_loss`` and other figures on the split ``test``, NaN without one; training ignores them."""
