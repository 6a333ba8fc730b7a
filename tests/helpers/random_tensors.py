"""Tensors of every type, of random bits, and what files of safetensors begin with."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def as_bytes(tensor: Tensor) -> bytes:
    """Return the bits of a tensor: NaN equals NaN, and -0.0 is not 0.0."""
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return a tensor of random bits; of truth values, random ones."""
    draw = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel()
    if dtype == torch.bool:
        return (torch.rand(shape, generator=draw) < 0.5).reshape(shape)
    bits = torch.randint(0, 256, (size * dtype.itemsize,), generator=draw, dtype=torch.uint8)
    return bits.view(dtype).reshape(shape) if size else torch.zeros(shape, dtype=dtype)


shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header of a file, and the bytes behind it."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]
