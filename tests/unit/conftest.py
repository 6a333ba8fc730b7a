"""What holds for all unit tests: tiny models compute on one thread, which is faster for them and the same everywhere."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
