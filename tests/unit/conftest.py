"""What unit tests share: one thread, and the checkpoints of tiny models, which are saved once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import families


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models compute on one thread: faster for them, and the same everywhere."""
    torch.set_num_threads(1)


@pytest.fixture
def threads() -> Iterator[None]:
    """Give back the number of threads that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a family's checkpoint, made once; never change it."""
    folder, made = tmp_path_factory.mktemp("families"), {}

    def checkpoint(name: str, dtype: torch.dtype = torch.float32) -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = families.save(name, folder / str(dtype) / name, dtype)
        return made[name, dtype]

    return checkpoint
