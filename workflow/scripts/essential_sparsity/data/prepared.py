"""Inputs that are prepared once for all sparsities of a model and task: an Arrow file that is mapped, not read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from essential_sparsity.errors import UserError, first_line
from essential_sparsity.files import atomic_path

_ABOUT = b"essential_sparsity"

Ints = npt.NDArray[np.int64]
# What holds for all rows, as plain values: the kind, the classes, the token that fills up a batch.
About = dict[str, Any]


@dataclass(frozen=True)
class Ragged:
    """Rows of different length in one array.

    Attributes:
        values: All rows, one behind the other.
        offsets: Where each row starts, and at last where the last one ends, (rows + 1,).
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Ints:
        """Length of each row, (rows,)."""
        return np.diff(self.offsets).astype(np.int64)


def ragged_column(rows: list[Any], dtype: pa.DataType) -> pa.Array:
    """Return lists of numbers as a column."""
    return pa.array(rows, type=pa.large_list(dtype))


def write_prepared(columns: Mapping[str, Any], about: About, path: Path) -> None:
    """Write columns, and what is to be said of all of them, as one Arrow file.

    Args:
        columns: Arrays of Arrow or NumPy by name, all of one length.
        about: What holds for all rows.
        path: The file, which appears whole.
    """
    arrays = {name: column if isinstance(column, pa.Array) else pa.array(column) for name, column in columns.items()}
    table = pa.table(arrays).replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        # One batch, so that every column is one array when it is mapped.
        writer.write_table(table.combine_chunks(), max_chunksize=max(table.num_rows, 1))


class Prepared:
    """Prepared inputs, mapped into memory: jobs on one machine share them.

    Args:
        path: What :func:`write_prepared` wrote.

    Attributes:
        path: The file.
        about: Plain values that hold for all rows.

    Raises:
        UserError: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            self.about: About = json.loads(table.schema.metadata[_ABOUT])
        except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                where=str(path),
                found=f"a file that cannot be read ({first_line(error)})",
                expected="the prepared inputs of a task",
                mend="delete this file and run again: it will be made afresh",
            ) from error
        self._table = table

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def has(self, name: str) -> bool:
        """Say whether there is a column."""
        return name in self._table.column_names

    def column(self, name: str) -> pa.Array:
        """Return a column."""
        chunks = self._table.column(name).chunks
        return chunks[0] if chunks else pa.array([], type=self._table.schema.field(name).type)

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Return a column of numbers, (rows,), without a copy."""
        return np.asarray(self.column(name).to_numpy())

    def ragged(self, name: str) -> Ragged:
        """Return a column of lists of numbers, without a copy."""
        column = self.column(name)
        return Ragged(column.values.to_numpy(), column.offsets.to_numpy())

    def blocks(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return a column of equally long byte strings as an array, (rows, ...), without a copy."""
        column = self.column(name)
        size = column.type.byte_width
        start = column.offset * size
        data = np.frombuffer(column.buffers()[1], dtype=np.uint8)[start : start + len(column) * size]
        return data.reshape(len(column), *shape)

    def split(self, name: str) -> Ints:
        """Return the rows of a split, in their order."""
        return np.flatnonzero(pa.compute.equal(self.column("split"), name).to_numpy(zero_copy_only=False))

    def splits(self) -> list[str]:
        """Return the names of the splits, sorted."""
        return sorted(pa.compute.unique(self.column("split")).to_pylist())
