"""The precision that matrix products are computed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 matrix products in float32, whatever is set around."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def mixed_precision(device: torch.device, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Compute matrix products in bfloat16, as ``torch.autocast`` does; these parameters are rounded once."""
    # Autocast keeps what it has rounded only of parameters that want gradients. None are computed here.
    rounded = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in rounded:
        parameter.requires_grad_(True)
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    finally:
        for parameter in rounded:
            parameter.requires_grad_(False)
