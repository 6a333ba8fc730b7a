"""Progress of a long stage: a bar where a person watches a terminal, plain lines in the job's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE_EVERY_SECONDS = 5.0

_terminal: TextIO | None = None


def draw_bars_on(terminal: TextIO | None) -> None:
    """Draw the bars of this process on ``terminal`` if it is one; a job's own standard error is its log file."""
    global _terminal
    _terminal = terminal


def progress(items: Iterable[T], description: str, total: int, unit: str, start: int = 0) -> Iterator[T]:
    """Yield ``items`` and report how far it is.

    A bar is drawn where :func:`draw_bars_on` said, if a person watches; a line is logged about every five seconds and
    at the end.

    Args:
        items: What to go through.
        description: What is being done, as a phrase.
        total: The number of items, counting the ``start`` that were done before.
        unit: The name of an item, in the plural.
        start: How many items were done by an earlier run.
    """
    began = last = time.monotonic()
    with tqdm(
        total=total, initial=start, desc=description, unit=f" {unit}", leave=False,
        file=_terminal, disable=_terminal is None or not _terminal.isatty(),
    ) as bar:  # fmt: skip
        done = start
        for item in items:
            yield item
            done += 1
            bar.update()
            now = time.monotonic()
            if done == total or now - last >= _LINE_EVERY_SECONDS:
                last = now
                rate = (done - start) / max(now - began, 1e-9)
                logging.info(
                    "%s: %d of %d %s (%.0f %%), %.1f %s/s, %.0f s left",
                    description, done, total, unit, 100 * done / total, rate, unit, (total - done) / rate,
                )  # fmt: skip
