"""Tables of datasets as they came: reading, columns, filters and splits."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from essential_sparsity.data.kinds import Split
from essential_sparsity.errors import UserError, did_you_mean, quoted

# Names that no table uses: the split, the file and the row in it, while rows are chosen.
SPLIT = "essential_sparsity split"
FILE = "essential_sparsity file"
ROW = "essential_sparsity row"

# What reading a table may raise: pandas' own errors, and those of each compression; the last two where an archive
# holds no plain file.
_UNREADABLE = (
    ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    tarfile.TarError, KeyError, AssertionError,
)  # fmt: skip


def read_table(file: Path, file_format: str, where: str) -> pd.DataFrame:
    """Read a table; pandas knows compression by the file's suffix, and reads the one file of an archive in memory.

    Args:
        file: The file.
        file_format: A key of :data:`READERS`.
        where: The registry key, for messages.

    Raises:
        UserError: The file is not what the format says.
    """
    try:
        return READERS[file_format](file)
    except _UNREADABLE as error:
        raise UserError(
            where=f"{where}, file {file.name}",
            found=f"a file that cannot be read as {file_format} ({type(error).__name__}: {str(error)[:200]})",
            expected=f"a table in the format {file_format}",
            mend="correct `format`, or fetch the file again",
        ) from error


def _read_json_lines(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True)


def _read_headless(file: Path) -> pd.DataFrame:
    frame = pd.read_csv(file, header=None)
    return frame.set_axis([str(place) for place in frame.columns], axis=1)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": pd.read_csv,
    "csv-without-header": _read_headless,
    "jsonl": _read_json_lines,
    "parquet": pd.read_parquet,
}


def read_splits(files: Mapping[str, Sequence[Path]], file_format: str, where: str) -> pd.DataFrame:
    """Read the tables of every split, one below the other; columns of its own say where each row is from.

    Args:
        files: The files of ``train`` and, perhaps, of other splits.
        file_format: A key of :data:`READERS`.
        where: The registry key, for messages.

    Raises:
        UserError: A file is not what the format says.
    """
    tables = []
    for split, parts in files.items():
        for file in parts:
            table = read_table(file, file_format, where)
            table[SPLIT], table[FILE], table[ROW] = split, file.name, range(len(table))
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def place_of(row: pd.Series) -> str:
    """Return the file and the number of a row, from 0, for messages."""
    return f"file {row[FILE]}, row {row[ROW]}"


def require_column(frame: pd.DataFrame, column: str, where: str) -> None:
    """Check that a column exists.

    Raises:
        UserError: It does not; names the columns that do.
    """
    own = [name for name in frame.columns if name not in {SPLIT, FILE, ROW}]
    if column not in own:
        raise UserError(
            where=where,
            found=f"column '{column}', which the data do not have",
            expected=f"one of {quoted(own)}",
            mend=did_you_mean(column, own),
        )


def filter_rows(frame: pd.DataFrame, conditions: Mapping[str, Sequence[str]], where: str) -> pd.DataFrame:
    """Keep the rows whose columns hold one of the listed values.

    Raises:
        UserError: A column or a value does not occur.
    """
    for column, values in conditions.items():
        require_column(frame, column, f"{where}.where")
        # As text, since the registry's values are: a column of numbers is compared by how its numbers are written.
        written = frame[column].dropna().astype(str)
        present = written.unique()
        for value in values:
            if value not in present:
                raise UserError(
                    where=f"{where}.where.{column}",
                    found=f"value '{value}', which no row has",
                    expected=f"one of {quoted(sorted(map(str, present))[:20])}",
                    mend=did_you_mean(value, present),
                )
        frame = frame.loc[written.index[written.isin(values)]]
    return frame


def hold_out(groups: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    """Assign whole groups to splits, so that no group (a film, an author) is in two; the rest is ``train``.

    Args:
        groups: The group of each row; rows without one form a group of their own.
        fractions: The fraction of the groups that each split takes, in the order in which they are drawn.
        seed: Seed of the draw.
    """
    written = groups.astype(str).fillna("")
    names = np.random.default_rng(seed).permutation(np.array(sorted(written.unique())))
    splits, start = pd.Series("train", index=groups.index), 0
    for split, fraction in fractions.items():
        count = round(fraction * len(names))
        splits[written.isin(names[start : start + count])] = split
        start += count
    return splits


def assign_splits(frame: pd.DataFrame, split: Split, where: str) -> pd.Series:
    """Return the split of each row: as a column says, or by holding out groups, or rows.

    Args:
        frame: Rows, with the split of their file.
        split: How they are held out. Rows of other files than those of ``train`` stay.
        where: The registry key, for messages.

    Raises:
        UserError: An unknown column, or a value of it that is no split.
    """
    if split.column is not None:
        require_column(frame, split.column, f"{where}.column")
        written = frame[split.column].astype(str)
        unknown = ~written.isin(["train", "validation", "test"])
        if unknown.any():
            row = frame[unknown].iloc[0]
            raise UserError(
                where=f"{where}.column, {place_of(row)}",
                found=f"'{row[split.column]}' in the column '{split.column}'",
                expected="'train', 'validation' or 'test'",
                mend="rename the values, or leave rows out with `where`",
            )
        return pd.Series(written)
    if split.group is not None:
        require_column(frame, split.group, f"{where}.group")
    drawn = frame[SPLIT] == "train"
    # Without a group every row is one; numbers of one length, whose order as texts is their own.
    width = len(str(len(frame)))
    rows = pd.Series([f"{i:0{width}}" for i in range(int(drawn.sum()))], index=frame.index[drawn])
    groups = rows if split.group is None else frame.loc[drawn, split.group]
    found = frame[SPLIT].copy()
    found[drawn] = hold_out(groups, split.fractions, split.seed)
    return found
