"""Texts of a dataset: their sentences, their length in words, and as many of each class."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pandas as pd

# The end of a sentence: closing punctuation, perhaps a quote, then white space before a capital, digit or quote.
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(\s+)(?=[\"'(\[A-Z0-9])")


def sentences(text: str) -> list[str]:
    """Split a text into sentences at closing punctuation."""
    gaps = [(0, 0), *(match.span(1) for match in _SENTENCE_END.finditer(text)), (len(text), len(text))]
    parts = [text[end:start] for (_, end), (start, _) in itertools.pairwise(gaps)]
    return [part.strip() for part in parts if part.strip()]


def split_sentences(frame: pd.DataFrame, classes: Sequence[str], per_text: int) -> pd.DataFrame:
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
