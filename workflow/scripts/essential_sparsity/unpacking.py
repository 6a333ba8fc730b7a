"""How much compressed files may become: small ones that fill a disk or the memory are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from essential_sparsity.errors import UserError

# Texts shrink to a tenth or so, tables of few values to a fiftieth.
MOST_TIMES = 200
# What may come out of any file, however small.
ALWAYS = 1 << 30


def largest_unpacked(size: int) -> int:
    """Return how many bytes may come out of a compressed file of so many bytes."""
    return max(ALWAYS, MOST_TIMES * size)


def check_unpacked_size(unpacked: int, size: int, where: str) -> None:
    """Check how many bytes come out of a file.

    Args:
        unpacked: What comes out, as the file says, or as was counted.
        size: The bytes of the file.
        where: The file, or what names it, for messages.

    Raises:
        UserError: Too many.
    """
    if unpacked > largest_unpacked(size):
        raise UserError(
            where=where,
            found=f"{unpacked:,} bytes that come out of a file of {size:,}",
            expected=f"at most {largest_unpacked(size):,}: {MOST_TIMES} times the file, or {ALWAYS:,}",
            mend="do not trust the file; if it is what it should be, unpack it by hand and use `kind: path`",
        )


class BoundedReader(io.RawIOBase):
    """A stream of bytes that ends with an error once there are too many.

    Args:
        stream: What is read.
        size: The bytes of the compressed file.
        where: The file, for messages.
    """

    def __init__(self, stream: IO[bytes], size: int, where: str) -> None:
        self._stream = stream
        self._size = size
        self._where = where
        self._count = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer.

        Raises:
            UserError: More has come out than the file may become.
        """
        part = self._stream.read(len(buffer))
        buffer[: len(part)] = part
        self._count += len(part)
        check_unpacked_size(self._count, self._size, self._where)
        return len(part)


@contextmanager
def _zip_member(file: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise ValueError(f"{len(names)} files in an archive, of which one table is read")
        with archive.open(names[0]) as member:
            yield member


@contextmanager
def _tar_member(file: Path) -> Iterator[IO[bytes]]:
    """Open the only member of an archive; what is no plain file (a link, a device) is not followed."""
    with tarfile.open(file) as archive:
        first = archive.next()
        if first is None or not first.isreg() or archive.next() is not None:
            raise ValueError("an archive that does not hold one plain file")
        member = archive.extractfile(first)
        if member is None:
            raise ValueError("an archive whose member cannot be read")
        with member:
            yield member


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _zip_member, ".tar": _tar_member,
    ".tar.gz": _tar_member, ".tgz": _tar_member, ".tar.bz2": _tar_member, ".tar.xz": _tar_member,
}  # fmt: skip


def _opener(file: Path) -> Callable[[Path], Any] | None:
    name = file.name.lower()
    # The longest suffix that fits: an archive that is compressed as a whole is an archive.
    return next((_OPENERS[s] for s in sorted(_OPENERS, key=len, reverse=True) if name.endswith(s)), None)


@contextmanager
def open_bounded(file: Path, where: str) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed by its suffix; of an archive, its only member.

    Nothing is written anywhere. Reading ends with a :class:`UserError` where far more comes out than went in.

    Args:
        file: The file.
        where: What it is named by, for messages.
    """
    opener = _opener(file)
    if opener is None:
        with open(file, "rb") as stream:
            yield stream
        return
    with opener(file) as stream, io.BufferedReader(BoundedReader(stream, file.stat().st_size, where)) as bounded:
        yield bounded
