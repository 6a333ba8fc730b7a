"""Writing safetensors tensor by tensor, so that memory holds one of them and not the file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from essential_sparsity.checkpoints.tensors import DTYPES
from essential_sparsity.files import atomic_path

_CODES = {dtype: code for code, dtype in DTYPES.items()}
# Bytes that an entry of the header may take besides its name: type, shape and offsets.
_ENTRY = 160


class TensorWriter:
    """A safetensors file that grows by a tensor at a time; its header, at the front, is written last.

    Args:
        stream: The opened file.
        reserved: Bytes kept for the header, a multiple of 8.
    """

    def __init__(self, stream: BinaryIO, reserved: int) -> None:
        self._stream = stream
        self._reserved = reserved
        self._entries: dict[str, dict[str, Any]] = {}
        self._end = 0
        self.finished = False
        stream.seek(8 + reserved)

    def put(self, name: str, tensor: Tensor) -> None:
        """Append a tensor."""
        if name in self._entries:
            raise RuntimeError(f"{name} was written before")
        # A tensor of one element counts as contiguous whatever its stride, and cannot be viewed as bytes then.
        flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
        self._stream.write((flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)).data)
        size = flat.numel() * flat.element_size()
        self._entries[name] = {
            "dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [self._end, self._end + size],
        }  # fmt: skip
        self._end += size

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header, padded with spaces, as the format allows."""
        header = json.dumps({"__metadata__": dict(metadata), **self._entries}).encode()
        if len(header) > self._reserved:
            raise RuntimeError(f"a header of {len(header)} bytes does not fit into {self._reserved} that were reserved")
        self._stream.seek(0)
        self._stream.write(struct.pack("<Q", self._reserved) + header.ljust(self._reserved))
        self.finished = True


def header_room(names: Iterator[str] | list[str], metadata: int) -> int:
    """Return how many bytes to reserve for a header with these tensors and so many bytes of metadata."""
    room = metadata + 64 + sum(len(json.dumps(name)) + _ENTRY for name in names)
    return -(-room // 8) * 8


@contextmanager
def writing_tensors(path: Path, reserved: int) -> Iterator[TensorWriter]:
    """Yield a writer whose file appears whole at the end of the block, or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        writer = TensorWriter(stream, reserved)
        yield writer
        if not writer.finished:
            raise RuntimeError(f"{path}: a file without its header")
        stream.flush()
        os.fsync(stream.fileno())
