"""Bounds of what a study file may hold: it is read before anything is known of it.

Each bound is far beyond what a study needs, and far below what planning could not take.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from essential_sparsity.errors import CONTROL, UserError

# Values, each counted wherever an alias of YAML repeats it.
MOST_VALUES = 1_000_000
MOST_DEPTH = 64
LONGEST_TEXT = 100_000
LARGEST_NUMBER = 2**63
# Planning takes about 17 kB a job (docs/design.md).
MOST_EVALUATIONS = 200_000
MOST_CHECKPOINTS = 100_000


def _values(config: Any, file: str) -> Iterator[tuple[Any, str]]:
    """Yield every value and key of a file that is no mapping and no list, and its place.

    Aliases make a small file a large one: values are counted wherever they are repeated, and the counting ends at the
    bound.

    Raises:
        UserError: More values, or deeper ones, than a study holds.
    """
    pending: list[tuple[Any, tuple[Any, ...]]] = [(config, ())]
    count = 0
    while pending:
        value, place = pending.pop()
        count += 1
        if count + len(pending) > MOST_VALUES:
            raise UserError(
                file, f"more than {MOST_VALUES:,} values, counted with what aliases (`*name`) repeat", "a study",
                "write out what is meant; do not trust a file in which aliases repeat aliases",
            )  # fmt: skip
        if len(place) > MOST_DEPTH:
            raise UserError(
                _where(file, place[:8]), f"values nested more than {MOST_DEPTH} deep", "a study",
                "write out what is meant; an alias may not contain itself",
            )  # fmt: skip
        if isinstance(value, Mapping):
            yield from ((key, f"{_where(file, place)}, one of its keys") for key in value)
            pending += [(part, (*place, key)) for key, part in value.items()]
        elif isinstance(value, list):
            pending += [(part, (*place, i)) for i, part in enumerate(value)]
        else:
            yield value, _where(file, place)


def _where(file: str, place: Sequence[Any]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")
    return f"{file}, key {text[:200]}" if text else file


def check_values(config: Any, file: str) -> None:
    """Check that a file holds plain values only: mappings, lists, texts, numbers, truth values and nothing.

    Args:
        config: What was read from ``file``.
        file: Its name, for messages.

    Raises:
        UserError: More or other values than a study holds; names the first.
    """
    for value, where in _values(config, file):
        if isinstance(value, str):
            _check_text(value, where)
        elif not isinstance(value, int | float | None):
            raise UserError(
                where, f"a value of the type {type(value).__name__}", "text, a number, true, false or nothing",
                "put it in quotes if it is a text",
            )  # fmt: skip
        elif isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
            raise UserError(where, "a number of more than 63 bits", "a smaller number", "correct the number")


def _check_text(text: str, where: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise UserError(where, f"a text of {len(text):,} characters", f"at most {LONGEST_TEXT:,}", "shorten the text")
    if bad := CONTROL.search(text):
        raise UserError(
            where, f"the control character {bad[0]!a} in a text", "text that can be printed",
            "remove the character",
        )  # fmt: skip


def check_finite(config: Any, file: str) -> None:
    """Check that all numbers are finite: NaN lies within all bounds of a schema.

    Raises:
        UserError: Names the first that is not.
    """
    for value, where in _values(config, file):
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(where, str(value), "a finite number", "write a number")


def check_count(count: int, most: int, what: str, where: str) -> None:
    """Check a number before as many things are listed.

    Raises:
        UserError: It is larger than ``most``.
    """
    if count > most:
        raise UserError(where, f"{count:,} {what}", f"at most {most:,}", "ask for fewer, or divide the study")
