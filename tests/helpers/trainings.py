"""Pre-trainings of tests, and what befalls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import entries
from essential_sparsity.pretraining.loop import _PreTrainer, pretrain

WHERE = "config/models.yaml, m.source.recipe"


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
