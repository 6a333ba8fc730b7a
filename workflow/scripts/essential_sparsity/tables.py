"""Schemas of tables: typed columns with what their values must be, checked whenever a table is written.

In place of a library for schemas, importing which takes longer than all else that a small job does with its row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from essential_sparsity.files import atomic_path

# A row by its columns; the schema of its table says what each of them holds.
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        dtype: Its type in pandas.
        description: What it holds.
        nullable: Whether values may be missing.
        least: The smallest value allowed, where there is one.
        most: The largest value allowed, where there is one.
        among: The only values allowed; empty for any.
    """

    dtype: Any
    description: str
    nullable: bool = False
    least: float | None = None
    most: float | None = None
    among: tuple[str, ...] = ()

    def faults(self, values: pd.Series) -> list[str]:
        """Say what is wrong with the values of a column, each with the first row at fault."""
        present = values.dropna()
        rules = {
            "missing": pd.Series(False, index=values.index) if self.nullable else values.isna(),
            f"below {self.least}": None if self.least is None else present < self.least,
            f"above {self.most}": None if self.most is None else present > self.most,
            f"none of {list(self.among)}": ~present.isin(self.among) if self.among else None,
        }
        return [
            f"{what} in row {wrong.index[wrong.astype(bool)][0]}"
            for what, wrong in rules.items()
            if wrong is not None and wrong.any()
        ]


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in their order.

    Attributes:
        name: The table's name.
        columns: Its columns by their name.
        unique: Columns whose values together occur once.
    """

    name: str
    columns: Mapping[str, Column]
    unique: Sequence[str]

    def without(self, column: str) -> Schema:
        """Return the schema of the table without a column."""
        return replace(self, columns={name: c for name, c in self.columns.items() if name != column})

    def typed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Bring a table to these columns, their order and types, and check it.

        Raises:
            ValueError: A column is missing or unknown, or a value breaks the schema.
        """
        missing, unknown = set(self.columns) - set(frame.columns), set(frame.columns) - set(self.columns)
        if missing or unknown:
            raise ValueError(f"table {self.name}: missing {sorted(missing)}, unknown {sorted(unknown)}")
        try:
            typed = frame[list(self.columns)].astype({name: c.dtype for name, c in self.columns.items()})
        except (ValueError, TypeError) as error:
            raise ValueError(f"table {self.name} breaks its schema: {error}") from error
        typed = typed.reset_index(drop=True)
        faults = [f"{name}: {fault}" for name, c in self.columns.items() for fault in c.faults(typed[name])]
        twice = typed.duplicated(list(self.unique))
        if twice.any():
            row = typed[twice].iloc[0]
            faults.append(f"twice the same {', '.join(f'{name} {row[name]}' for name in self.unique)}")
        if faults:
            raise ValueError(f"table {self.name} breaks its schema: {'; '.join(faults)}")
        return typed


def write_table(frame: pd.DataFrame, schema: Schema, path: Path) -> pd.DataFrame:
    """Check a table against its schema and write it as Parquet, atomically.

    Returns:
        The table as written.

    Raises:
        ValueError: As :meth:`Schema.typed` says; nothing is written.
    """
    try:
        typed = schema.typed(frame)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with atomic_path(path) as temporary:
        typed.to_parquet(temporary, index=False)
    return typed


text = partial(Column, str)
number = partial(Column, float)
fraction = partial(Column, float, least=0.0, most=1.0)
count = partial(Column, "Int64")
flag = partial(Column, bool)
# What tables of checkpoints, and of curves, begin with.
CHECKPOINT = {
    "model": text(description="Name in the registry of models."),
    "checkpoint": text(description="`final` or the step of pre-training."),
}
CURVE = CHECKPOINT | {
    "method": text(description="Name in the registry of methods."),
    "task": text(description="Name in the registry of tasks."),
}


def stack(frames: Iterable[pd.DataFrame], schema: Schema) -> pd.DataFrame:
    """Put tables of one kind below each other; an empty table with the schema's columns where there are none."""
    parts = list(frames)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(schema.columns))
