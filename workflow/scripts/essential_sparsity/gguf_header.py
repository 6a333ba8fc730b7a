"""The header of a GGUF file, checked before anything is made of it: its counts may say anything.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The ``gguf`` package reads as many entries as an
array claims to have, though the file ends before.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
# The types of values of a fixed size, as struct names them.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_BLOCKS = ".block_count"


class _Header:
    """The header as a stream that ends where the file ends."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size

    def count(self) -> int:
        """Read a count of things that follow, each of a byte or more."""
        return self._checked(int(self.number("Q")))

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def take(self, length: int) -> bytes:
        return self._stream.read(self._checked(length))

    def _checked(self, count: int) -> int:
        left = self._size - self._stream.tell()
        if count > left:
            raise ValueError(f"a header that names {count:,} bytes or values, where {left:,} bytes are left")
        return count

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.take(self.count())
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        inner, count = int(self.number("I")), self.count()
        if inner == _ARRAY:
            raise ValueError("an array of arrays")
        if inner != _STRING:
            return self.take(count * struct.calcsize(_NUMBERS[inner]))
        for _ in range(count):
            self.value(inner)
        return None


def check_gguf(file: Path) -> None:
    """Check that what the header of a GGUF file names is there, and that no model has more blocks than tensors.

    Raises:
        ValueError: It is not, or the file is no GGUF.
        KeyError: A value is of no known type.
        struct.error: The header ends too early.
    """
    with open(file, "rb") as stream:
        header = _Header(stream, file.stat().st_size)
        if header.take(4) != _MAGIC:
            raise ValueError("no GGUF")
        header.number("I")
        tensors, values = header.count(), header.count()
        for _ in range(values):
            key = header.take(header.count()).decode(errors="replace")
            value = header.value(int(header.number("I")))
            if key.endswith(_BLOCKS) and isinstance(value, int) and value > tensors:
                raise ValueError(f"{value:,} blocks with {tensors:,} tensors")
