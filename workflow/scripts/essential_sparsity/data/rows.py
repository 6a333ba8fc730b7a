"""Datasets: from the files of a source to rows in Parquet, by the column mapping of a registry entry."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from essential_sparsity.data.kinds import Dataset, PixelColumns
from essential_sparsity.data.tables import (
    FILE,
    ROW,
    SPLIT,
    assign_splits,
    filter_rows,
    place_of,
    read_splits,
    require_column,
)
from essential_sparsity.data.texts import balance_classes, split_sentences
from essential_sparsity.errors import UserError, did_you_mean, quoted

# The columns of a registry entry that are taken over under their key.
_TEXTS = ("text", "text_pair")


def prepare_rows(files: Mapping[str, Sequence[Path]], dataset: Dataset, where: str) -> pd.DataFrame:
    """Apply a registry entry to the files of its source.

    Args:
        files: The data as they came, by their split.
        dataset: The registry entry.
        where: The entry's place, for messages.

    Returns:
        Columns ``id`` (row number), ``split``, and by what the entry names: ``text`` and ``text_pair``; ``image``
        (encoded, as it came); ``label`` (a class, missing without one); ``score`` (a number); ``answers`` and
        ``answer_starts`` (lists; starts are numbers of characters).

    Raises:
        UserError: Unknown column or value, no row left, an empty split, or fewer than two classes.
    """
    frame = _read(files, dataset, where)
    if dataset.split:
        # Before rows are left out: datasets of one source hold out the same groups, whatever else they ask for.
        frame[SPLIT] = assign_splits(frame, dataset.split, f"{where}.split")
    frame = filter_rows(frame, dataset.where or {}, where)
    rows = _mapped(frame, dataset, where)
    if dataset.documents is not None:
        rows = join_documents(rows, dataset.documents, where)
    if dataset.sentences:
        for name in dataset.sentences.classes:
            if name not in set(rows["label"]):
                raise UserError(
                    where=f"{where}.sentences.classes",
                    found=f"class '{name}', which no text has",
                    expected=f"one of {quoted(sorted(rows['label'].unique()))}",
                    mend=did_you_mean(name, rows["label"].unique()),
                )
        rows = split_sentences(rows, dataset.sentences.classes, dataset.sentences.per_text)
    if dataset.words:
        count = rows["text"].map(lambda text: len(text.split()))
        rows = rows[count.between(dataset.words[0], dataset.words[1])]
    asked = set(dataset.split.fractions if dataset.split else ())
    _check_splits(rows, asked | set(files) | set(frame[SPLIT]), dataset, where)
    if dataset.label is not None or dataset.format == "images":
        check_classes(rows, where)
    if dataset.balance:
        rows = balance_classes(rows, dataset.seed)
    return rows.reset_index(drop=True).reset_index(names="id")


def _read(files: Mapping[str, Sequence[Path]], dataset: Dataset, where: str) -> pd.DataFrame:
    if dataset.format != "images":
        return read_splits(files, dataset.format, where)
    from essential_sparsity.data.images import image_folder

    frame: pd.DataFrame = image_folder(files["train"][0], where)
    return frame.rename(columns={"split": SPLIT, "file": FILE}).assign(**{ROW: 0})


def _mapped(frame: pd.DataFrame, dataset: Dataset, where: str) -> pd.DataFrame:
    """Return the columns that an entry names, under their key, without rows that lack one of them."""
    named = {key: getattr(dataset, key) for key in ("text", "text_pair", "image", "label", "score", "answers")}
    columns = {key: column for key, column in named.items() if isinstance(column, str)}
    for key, column in columns.items():
        require_column(frame, column, f"{where}.{key}")
    texts = [key for key in _TEXTS if key in columns]
    rows = pd.DataFrame({"split": frame[SPLIT], **{key: frame[columns[key]] for key in texts}})
    if dataset.has_images:
        rows["image"] = _images(frame, dataset, where)
    rows["label"] = None
    if dataset.label is not None or dataset.format == "images":
        rows["label"] = map_labels(frame[dataset.label or "label"], dataset.classes, frame, where)
    if dataset.score is not None:
        rows["score"] = _numbers(frame, dataset.score, f"{where}.score")
    # A row without a class or a text has nothing to be learnt or tested on.
    needed = [key for key in ("text", "text_pair", "label", "score") if key in columns]
    if dataset.answers is not None:
        rows["answers"], rows["answer_starts"] = _answers(frame, dataset.answers, f"{where}.answers")
    return rows.dropna(subset=needed).astype(dict.fromkeys(texts, str))


def _images(frame: pd.DataFrame, dataset: Dataset, where: str) -> list[bytes]:
    if isinstance(dataset.image, PixelColumns):
        from essential_sparsity.data.pixel_columns import images_of_columns

        return images_of_columns(frame, dataset.image, f"{where}.image")
    from essential_sparsity.data.images import image_bytes

    return image_bytes(frame[dataset.image or "image"], lambda row: f"{where}.image, {place_of(frame.iloc[row])}")


def _numbers(frame: pd.DataFrame, column: str, where: str) -> pd.Series:
    numbers = pd.to_numeric(frame[column], errors="coerce").astype(float)
    wrong = (numbers.isna() & frame[column].notna()) | np.isinf(numbers)
    if wrong.any():
        row = frame[wrong].iloc[0]
        raise UserError(
            where=f"{where}, {place_of(row)}",
            found=f"'{row[column]}' in the column '{column}'",
            expected="a finite number",
            mend="correct the row, name another column, or use `label` for classes",
        )
    return numbers


def _answers(frame: pd.DataFrame, column: str, where: str) -> tuple[list[list[str]], list[list[int]]]:
    """Return the texts of the answers and where they start, of a column laid out as SQuAD's."""
    texts, starts = [], []
    for i, value in enumerate(frame[column]):
        if not isinstance(value, Mapping) or not {"text", "answer_start"} <= set(value):
            raise UserError(
                where=f"{where}, {place_of(frame.iloc[i])}",
                found=repr(value)[:80],
                expected="a struct of the lists `text` and `answer_start`, as SQuAD has it",
                mend="correct the row, or name the column with the answers",
            )
        texts.append([str(text) for text in value["text"]])
        starts.append([int(start) for start in value["answer_start"]])
    return texts, starts


def join_documents(rows: pd.DataFrame, start: str, where: str) -> pd.DataFrame:
    """Join lines to documents: a line that matches the pattern, white space stripped, begins one.

    Raises:
        UserError: No line matches.
    """
    matches = [re.fullmatch(start, text) is not None for text in rows["text"].str.strip()]
    begins = pd.Series(matches, index=rows.index, dtype=bool)
    if not begins.any():
        raise UserError(
            where=f"{where}.documents",
            found=f"the pattern '{start}', which no text matches",
            expected="a regular expression that the first line of every document matches",
            mend="correct the pattern",
        )
    number = begins.groupby(rows["split"]).cumsum().rename("number")
    joined = rows.groupby(["split", number], sort=False)["text"].agg("".join).reset_index()
    joined = joined[joined["number"] > 0]
    return joined[["split", "text"]].assign(label=None)


def _check_splits(rows: pd.DataFrame, wanted: set[str], dataset: Dataset, where: str) -> None:
    if rows.empty:
        raise UserError(
            where=where,
            found="no row that passes `where` and `words`",
            expected="at least one",
            mend="widen the filters of this dataset",
        )
    if empty := wanted - set(rows["split"]):
        raise UserError(
            where=f"{where}.split" if dataset.split else f"{where}.source.files",
            found=f"no row in {quoted(sorted(empty))}",
            expected=f"rows in {quoted(sorted(wanted))}",
            mend="choose another fraction or other files, or widen the filters of this dataset",
        )


def map_labels(values: pd.Series, classes: Mapping[str, str] | None, frame: pd.DataFrame, where: str) -> pd.Series:
    """Rename label values to classes.

    Args:
        values: The column with the labels.
        classes: The class that each value stands for; None where the values are the classes.
        frame: The rows with their place, for messages.
        where: The registry key, for messages.

    Raises:
        UserError: A value has no class.
    """
    if classes is None:
        return values.astype(str).where(values.notna())
    outside = ~values.astype(str).isin(classes) & values.notna()
    if outside.any():
        unknown = sorted(set(values[outside].astype(str)))
        raise UserError(
            where=f"{where}.classes, {place_of(frame[outside].iloc[0])}",
            found=f"label {quoted(unknown[:5])} in the data, which no class is given for",
            expected=f"a label among {quoted(classes)}",
            mend="add it to `classes`, or leave its rows out with `where`",
        )
    return values.astype(str).map(dict(classes))


def check_classes(rows: pd.DataFrame, where: str) -> None:
    """Check that there is something to learn and to test.

    Raises:
        UserError: A split has fewer than two classes, or a class that training does not see.
    """
    trained = set(rows.loc[rows["split"] == "train", "label"].dropna())
    for split in sorted(set(rows["split"]), key=lambda name: (name != "train", name)):
        present = sorted(rows.loc[rows["split"] == split, "label"].dropna().unique())
        if len(present) < 2:
            raise UserError(
                where=f"{where}, split '{split}'",
                found=f"{len(present)} class(es) ({quoted(present)})",
                expected="at least two classes in every split",
                mend="correct `label`, `classes`, `where` or `split` so that every split holds two classes",
            )
        if unseen := sorted(set(present) - trained):
            raise UserError(
                where=f"{where}, split '{split}'",
                found=f"the class {quoted(unseen[:5])}, which no row of 'train' has",
                expected=f"the classes of 'train': {quoted(sorted(trained)[:20])}",
                mend="correct `label`, `classes` or the files of this split",
            )
