"""Text datasets: from the file of a source to rows of ``id, text, label, split`` in Parquet."""

from __future__ import annotations

import itertools
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from essential_sparsity.errors import UserError, did_you_mean, quoted

# The end of a sentence: closing punctuation, perhaps a quote, then white space before a capital, digit or quote.
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(\s+)(?=[\"'(\[A-Z0-9])")

# A name that no table uses, for the split while rows are chosen.
_SPLIT = "essential_sparsity split"

# What reading a table may raise: pandas' own errors, and those of each compression.
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)

COLUMNS = ("id", "text", "label", "split")


def read_table(file: Path, file_format: str, where: str) -> pd.DataFrame:
    """Read a table; compression is recognised by the file's suffix.

    Args:
        file: The file.
        file_format: ``csv``, ``jsonl`` or ``parquet``.
        where: The registry key, for messages.

    Raises:
        UserError: The file is not what the format says.
    """
    try:
        frame = READERS[file_format](file)
    except _UNREADABLE as error:
        raise UserError(
            where=f"{where}, file {file.name}",
            found=f"a file that cannot be read as {file_format} ({type(error).__name__}: {str(error)[:200]})",
            expected=f"a table in the format {file_format}",
            mend="correct `format`, or fetch the file again",
        ) from error
    return frame


def _read_json_lines(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "csv": pd.read_csv,
    "jsonl": _read_json_lines,
    "parquet": pd.read_parquet,
}


def require_column(frame: pd.DataFrame, column: str, where: str) -> None:
    """Check that a column exists.

    Raises:
        UserError: It does not; names the columns that do.
    """
    if column not in frame.columns:
        raise UserError(
            where=where,
            found=f"column '{column}', which the data do not have",
            expected=f"one of {quoted(frame.columns)}",
            mend=did_you_mean(column, frame.columns),
        )


def filter_rows(frame: pd.DataFrame, conditions: Mapping[str, list[str]], where: str) -> pd.DataFrame:
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


def split_by_group(groups: pd.Series, test_fraction: float, seed: int) -> pd.Series:
    """Assign whole groups to ``train`` or ``test``, so that no group (a film, an author) is in both.

    Args:
        groups: The group of each row; rows without one form a group of their own.
        test_fraction: Fraction of the groups to hold out.
        seed: Seed of the draw.
    """
    written = groups.astype(str).fillna("")
    names = np.array(sorted(written.unique()))
    held_out = np.random.default_rng(seed).permutation(names)[: round(test_fraction * len(names))]
    return pd.Series(np.where(written.isin(held_out), "test", "train"), index=groups.index)


def sentences(text: str) -> list[str]:
    """Split a text into sentences at closing punctuation."""
    gaps = [(0, 0), *(match.span(1) for match in _SENTENCE_END.finditer(text)), (len(text), len(text))]
    parts = [text[end:start] for (_, end), (start, _) in itertools.pairwise(gaps)]
    return [part.strip() for part in parts if part.strip()]


def split_sentences(frame: pd.DataFrame, classes: list[str], per_text: int) -> pd.DataFrame:
    """Replace the texts of some classes by their first ``per_text`` sentences, a row each; other rows stay."""
    units = frame["text"].where(~frame["label"].isin(classes), frame["text"].map(lambda t: sentences(t)[:per_text]))
    return frame.assign(text=units).explode("text", ignore_index=True).dropna(subset=["text"])


def balance_classes(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw the same number of rows of each class within each split: that of the rarest class."""
    parts = []
    for _, rows in frame.groupby("split", sort=True):
        fewest = rows["label"].value_counts().min()
        parts += [group.sample(n=fewest, random_state=seed) for _, group in rows.groupby("label", sort=True)]
    return pd.concat(parts).sort_index()


def read_splits(files: Mapping[str, Sequence[Path]], file_format: str, where: str) -> pd.DataFrame:
    """Read the tables of every split, one below the other; a column of its own says which split a row is of.

    Args:
        files: The files of ``train`` and, perhaps, of ``test``.
        file_format: ``csv``, ``jsonl`` or ``parquet``.
        where: The registry key, for messages.

    Raises:
        UserError: A file is not what the format says.
    """
    tables = [
        read_table(file, file_format, where).assign(**{_SPLIT: split})
        for split, parts in files.items()
        for file in parts
    ]
    return pd.concat(tables, ignore_index=True)


def prepare_texts(files: Mapping[str, Sequence[Path]], dataset: Mapping[str, Any], where: str) -> pd.DataFrame:
    """Apply a registry entry to the files of its source.

    Args:
        files: The data as they came, by their split.
        dataset: The registry entry: ``format, text`` and optionally ``where, label, classes, split, sentences,
            words, balance, seed``.
        where: The entry's place, for messages.

    Returns:
        Columns ``id`` (row number), ``text``, ``label`` (missing without a label column) and ``split``.

    Raises:
        UserError: Unknown column or value, no row left, an empty split, or fewer than two classes.
    """
    frame = read_splits(files, dataset["format"], where)
    if "split" in dataset:
        # Before rows are left out: datasets of one source hold out the same groups, whatever else they ask for.
        split = dataset["split"]
        require_column(frame, split["group"], f"{where}.split.group")
        frame[_SPLIT] = split_by_group(frame[split["group"]], split["test_fraction"], split["seed"])
    frame = filter_rows(frame, dataset.get("where", {}), where)
    require_column(frame, dataset["text"], f"{where}.text")
    rows = pd.DataFrame({"text": frame[dataset["text"]], "label": None, "split": frame[_SPLIT]})
    if "label" in dataset:
        require_column(frame, dataset["label"], f"{where}.label")
        rows["label"] = map_labels(frame[dataset["label"]], dataset.get("classes"), where)
    # A row without a class has nothing to be learnt or tested on.
    rows = rows.dropna(subset=["text", *(["label"] if "label" in dataset else [])]).astype({"text": str})
    if "sentences" in dataset:
        for name in dataset["sentences"]["classes"]:
            if name not in set(rows["label"]):
                raise UserError(
                    where=f"{where}.sentences.classes",
                    found=f"class '{name}', which no text has",
                    expected=f"one of {quoted(sorted(rows['label'].unique()))}",
                    mend=did_you_mean(name, rows["label"].unique()),
                )
        rows = split_sentences(rows, dataset["sentences"]["classes"], dataset["sentences"]["per_text"])
    if "words" in dataset:
        count = rows["text"].map(lambda text: len(text.split()))
        rows = rows[count.between(dataset["words"][0], dataset["words"][1])]
    if rows.empty:
        raise UserError(
            where=where,
            found="no row that passes `where` and `words`",
            expected="at least one text",
            mend="widen the filters of this dataset",
        )
    splits = {"train", "test"} if "split" in dataset else set(files)
    if empty := splits - set(rows["split"]):
        raise UserError(
            where=f"{where}.split" if "split" in dataset else f"{where}.source.files",
            found=f"no text in {quoted(sorted(empty))}",
            expected=f"texts in {quoted(sorted(splits))}",
            mend="choose another `test_fraction` or other files, or widen the filters of this dataset",
        )
    if "label" in dataset:
        check_classes(rows, where)
    if dataset.get("balance"):
        rows = balance_classes(rows, dataset.get("seed", 0))
    return rows.reset_index(drop=True).reset_index(names="id")[list(COLUMNS)]


def map_labels(values: pd.Series, classes: Mapping[str, str] | None, where: str) -> pd.Series:
    """Rename label values to classes.

    Raises:
        UserError: A value has no class.
    """
    if classes is None:
        return values.astype(str)
    unknown = sorted(set(values.dropna().astype(str)) - set(classes))
    if unknown:
        raise UserError(
            where=f"{where}.classes",
            found=f"label {quoted(unknown[:5])} in the data, which no class is given for",
            expected=f"a label among {quoted(classes)}",
            mend="add it to `classes`, or leave its rows out with `where`",
        )
    return values.astype(str).map(dict(classes))


def check_classes(rows: pd.DataFrame, where: str) -> None:
    """Check that there is something to learn and to test.

    Raises:
        UserError: A split has fewer than two classes.
    """
    for split in ("train", "test"):
        present = sorted(rows.loc[rows["split"] == split, "label"].dropna().unique())
        if len(present) < 2:
            raise UserError(
                where=f"{where}, split '{split}'",
                found=f"{len(present)} class(es) ({quoted(present)})",
                expected="at least two classes in both splits",
                mend="correct `label`, `classes`, `where` or `split` so that every split holds two classes",
            )
