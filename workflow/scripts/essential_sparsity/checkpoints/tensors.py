"""Reading weights from safetensors, one file or shards, part by part, without mapping files into memory.

A mapped file counts as resident memory page by page; reading into a buffer keeps memory at the size of the buffer. The
safetensors library reads the headers; of tensors that it does not map, it reads the whole for every slice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from essential_sparsity.checkpoints.files import shards_of
from essential_sparsity.errors import UserError, first_line
from essential_sparsity.files import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

# https://huggingface.co/docs/safetensors: what the header calls each type.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "C64": torch.complex64,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: The safetensors file.
        dtype: Its type.
        shape: Its shape.
        begin: The offset of its first byte in the file.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class WeightFiles:
    """The tensors of a checkpoint by name; a context manager that closes its files.

    Args:
        tensors: Where each tensor lies.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self.tensors = dict(tensors)
        files = {stored.file for stored in self.tensors.values()}
        self._descriptors = {file: os.open(file, os.O_RDONLY) for file in files}

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def read(self, name: str) -> Tensor:
        """Return a tensor in memory of its own."""
        stored = self.tensors[name]
        return self.read_part(name, 0, stored.size).reshape(stored.shape)

    def read_part(self, name: str, start: int, stop: int) -> Tensor:
        """Return the values of a tensor from one flat index to another, flat, in memory of their own.

        Several threads may read at once.
        """
        stored = self.tensors[name]
        if start == stop:
            return torch.empty(0, dtype=stored.dtype)
        width = stored.dtype.itemsize
        # Torch's memory is aligned as its kernels like it.
        values = torch.empty((stop - start) * width, dtype=torch.uint8)
        _read_into(
            self._descriptors[stored.file], memoryview(values.numpy().data), stored.begin + start * width, stored.file
        )
        return values.view(stored.dtype)


def _read_into(descriptor: int, buffer: memoryview, offset: int, file: Path) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            raise _damaged(file, f"a file that ends at byte {offset + done}")
        done += count


def _damaged(file: Path, found: str) -> UserError:
    return UserError(str(file), found, "a whole safetensors file", "fetch or make the file again")


def file_tensors(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file.

    Raises:
        UserError: It is missing or damaged.
    """
    tensors = {}
    try:
        with open(file, "rb") as stream:
            begin = 8 + int.from_bytes(stream.read(8), "little")
        # Without mapping the file, of which the header alone is read. The library refuses tensors that share bytes or
        # leave some out: each begins where the one before ends.
        with safe_open(file, "pt", backend="pread") as header:
            for name in header.offset_keys():
                entry = header.get_slice(name)
                tensors[name] = StoredTensor(file, DTYPES[entry.get_dtype()], tuple(entry.get_shape()), begin)
                begin += tensors[name].size * tensors[name].dtype.itemsize
    except (OSError, SafetensorError, KeyError) as error:
        raise _damaged(file, f"a file that cannot be read ({type(error).__name__}: {first_line(error)})") from error
    return tensors


def shard_files(index: Path) -> list[Path]:
    """Return the shards that an index names.

    Raises:
        UserError: One is missing.
    """
    try:
        content = read_json(index)
    except (OSError, ValueError) as error:
        raise _damaged(index, f"an index that cannot be read ({type(error).__name__}: {first_line(error)})") from error
    names = shards_of(content, {path.name for path in index.parent.iterdir()}, str(index))
    return [index.parent / name for name in names]


def open_weights(path: Path) -> WeightFiles:
    """Open a safetensors file, an index of shards, or a folder that holds one of the two.

    Raises:
        UserError: There is none, a file is damaged, or a shard or a tensor that the index names is missing.
    """
    if path.is_dir():
        # In transformers' own order: a folder may hold both.
        found = next((path / name for name in (WEIGHTS, INDEX) if (path / name).is_file()), None)
        if found is None:
            raise UserError(str(path), f"neither {WEIGHTS} nor {INDEX}", "one of the two", "name a checkpoint's folder")
        path = found
    if path.suffix != ".json":
        return WeightFiles(file_tensors(path))
    tensors = {name: stored for file in shard_files(path) for name, stored in file_tensors(file).items()}
    absent = [name for name in read_json(path)["weight_map"] if name not in tensors]
    if absent:
        raise UserError(
            where=f"{path}, matrix {absent[0]}",
            found=f"no such tensor in its shards ({len(absent)} are missing)",
            expected="every tensor that the index names",
            mend="fetch the shards and the index again, all of one revision",
        )
    return WeightFiles(tensors)


def chunks(size: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of consecutive parts of a flat tensor, ``length`` values each, the last one shorter."""
    for start in range(0, size, length):
        yield start, min(start + length, size)
