"""Pre-trainings of tests, and what befalls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import entries
from essential_sparsity.pretraining.loop import _PreTrainer, pretrain

WHERE = "config/models.yaml, m.source.recipe"
# A BERT that is trained in a second.
RECIPE: dict[str, Any] = {
    "corpus": "texts",
    "architecture": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    },
    "tokenizer": {"vocab_size": 80, "min_frequency": 1}, "sequence_length": 12, "steps": 12, "batch_size": 8,
    "learning_rate": 0.01, "weight_decay": 0.01, "warmup": 0.1, "dropout": 0.1, "mask_probability": 0.15,
    "checkpoints": 3, "first_checkpoint": 4, "log_every": 5, "seed": 0,
}  # fmt: skip
WORDS = [
    "the",
    "hero",
    "travels",
    "to",
    "a",
    "village",
    "and",
    "finds",
    "war",
    "storm",
    "secret",
    "train",
    "daughter",
    "returns",
    "home",
    "again",
]


def corpus(rows: int = 80, seed: int = 0) -> pd.DataFrame:
    """Return texts of words in no order; one in five is held out."""
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(WORDS, size=10)) for _ in range(rows)]
    return pd.DataFrame({"text": texts, "split": ["test" if i % 5 == 0 else "train" for i in range(rows)]})


def tied_texts() -> list[str]:
    """Return texts with many words of equal frequency: a trainer of `tokenizers` may break such ties at random."""
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("aeinorst"), size=draw.integers(2, 8))) for _ in range(400)]
    return [" ".join(words[i : i + 8]) for i in range(0, 400, 8)]


def states_of(folder: Path) -> Path:
    """Return where the states of a training into a folder are."""
    return folder.with_name(f"{folder.name}-states")


def trained(corpus: pd.DataFrame, recipe: Mapping[str, Any], folder: Path, code: str = "code") -> dict[str, bytes]:
    """Train and return the content of every file."""
    pretrain(corpus, entries.recipe(**recipe), folder, states_of(folder), torch.device("cpu"), code, WHERE)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def acting_in(step: int = -1, act: Callable[[], Any] = list) -> Iterator[list[int]]:
    """Do something before a step is computed, or nothing; yields the steps that are taken."""
    real, taken = _PreTrainer.compute_loss, []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            act()
        taken.append(self.state.global_step)
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_PreTrainer, "compute_loss", watched)
        yield taken


class KilledError(Exception):
    """What a killed job looks like from inside."""


@contextmanager
def killed_in(step: int) -> Iterator[None]:
    """Within the block, a training dies in a step."""

    def die() -> None:
        raise KilledError

    with acting_in(step, die), pytest.raises(KilledError):
        yield
