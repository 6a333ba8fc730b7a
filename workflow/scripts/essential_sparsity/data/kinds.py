"""What a dataset is, and what its rows are, as its registry entry says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from essential_sparsity.sources.kinds import DataSource, Wheel

# The column that makes the kind, in the order in which it is looked for.
_BY_COLUMN = {"answers": "spans", "score": "scores", "label": "classes"}
FILES = "files"
# The splits that may be held out.
HELD_OUT = ("test", "validation")


@dataclass(frozen=True, kw_only=True)
class PixelColumns:
    """Where the grey values are in a table with a column a pixel.

    Attributes:
        first_column: Place of the column of the upper left pixel, from 0; the others follow, row by row.
        height: Pixels.
        width: Pixels.
        white: The value of a white pixel; 0 is black.
    """

    first_column: int
    height: int
    width: int
    white: float


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which rows are held out.

    Attributes:
        column: The column that says it.
        group: The column whose values are held out as a whole.
        test_fraction: Of the groups, or of the rows.
        validation_fraction: Likewise.
        seed: Of the draw.
    """

    column: str | None = None
    group: str | None = None
    test_fraction: float | None = None
    validation_fraction: float | None = None
    seed: int

    @property
    def fractions(self) -> dict[str, float]:
        """The fractions that are drawn, by their split."""
        drawn = zip(HELD_OUT, (self.test_fraction, self.validation_fraction), strict=True)
        return {part: fraction for part, fraction in drawn if fraction is not None}


@dataclass(frozen=True)
class Sentences:
    """Texts that are split into sentences.

    Attributes:
        classes: Those of the texts.
        per_text: Sentences kept of one text.
    """

    classes: Sequence[str]
    per_text: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An entry of the registry of datasets; names of columns are those of the source's files.

    Attributes:
        source: Where its files come from.
        licence: Of the data; empty in a job, which does not depend on it.
        note: What a user should know.
        format: Of the tables; ``images`` for a folder of images, :data:`FILES` for what is kept as it is.
        text: The column with the text, or the question.
        text_pair: The column with the second text of a pair, or the text with the answer.
        image: The column with the encoded image, or where the grey values are.
        where: Columns and the values that a row must have in them.
        label: The column with the class.
        classes: The class that each value of the label stands for.
        score: The column with a number to predict.
        answers: The column with the answers, laid out as SQuAD's.
        split: Rows that are held out; None for what the source's files say.
        sentences: None for whole texts.
        words: Fewest and most words of a text.
        documents: A regular expression: a line that matches it begins a new text.
        balance: Whether equally many rows of each class are drawn in each split.
        seed: Of that draw.
    """

    source: DataSource
    licence: str = ""
    note: str | None = None
    format: str
    text: str | None = None
    text_pair: str | None = None
    image: str | PixelColumns | None = None
    where: Mapping[str, Sequence[str]] | None = None
    label: str | None = None
    classes: Mapping[str, str] | None = None
    score: str | None = None
    answers: str | None = None
    split: Split | None = None
    sentences: Sentences | None = None
    words: Sequence[int] | None = None
    documents: str | None = None
    balance: bool | None = None
    seed: int

    @property
    def kind(self) -> str:
        """The kind of its rows.

        ``spans`` (questions with answers inside a text), ``scores`` (numbers), ``classes``, ``texts`` (nothing to
        predict), ``images`` (without a class), or ``files`` that are kept as they are.
        """
        # The folders of a folder of images are its classes.
        given = {FILES: "files", "images": "classes"}.get(self.format)
        found = next((kind for column, kind in _BY_COLUMN.items() if getattr(self, column) is not None), None)
        return given or found or ("images" if self.has_images else "texts")

    @property
    def has_images(self) -> bool:
        """Whether it holds images, and not texts."""
        return self.image is not None or self.format == "images"

    @property
    def named_splits(self) -> set[str]:
        """The splits that its source names files of."""
        return set() if isinstance(self.source, Wheel) else set(self.source.files or ())

    @property
    def held_out_splits(self) -> set[str]:
        """The splits besides ``train`` that it may have."""
        named = self.named_splits
        if self.split:
            named.update(HELD_OUT if self.split.column is not None else self.split.fractions)
        if self.format == "images":
            named.update(HELD_OUT)
        return named - {"train", "all"}
