"""Progress of a long stage: a bar where a person watches a terminal, plain lines in the job's log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, redirect_stderr
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_LINE_EVERY_SECONDS = 5.0

_terminal: TextIO | None = None


def draw_bars_on(terminal: TextIO | None) -> None:
    """Draw the bars of this process on ``terminal`` if it is one; a job's own standard error is its log file."""
    global _terminal
    _terminal = terminal


def bars_on_terminal() -> AbstractContextManager[TextIO]:
    """Let the bars of a library, too, be drawn there within the block."""
    return redirect_stderr(_terminal or sys.stderr)


class Meter:
    """How far a stage is, for what cannot be gone through with :func:`progress`; takes the same arguments."""

    def __init__(self, description: str, total: int, unit: str, start: int = 0) -> None:
        self._description, self._total, self._unit, self._start = description, total, unit, start
        self._done = start
        self._began = self._last = time.monotonic()
        self._bar = tqdm(
            total=total, initial=start, desc=description, unit=f" {unit}", leave=False,
            file=_terminal, disable=_terminal is None or not _terminal.isatty(),
        )  # fmt: skip

    def advance(self) -> None:
        """Count one more item."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._done == self._total or now - self._last >= _LINE_EVERY_SECONDS:
            self._last = now
            rate = (self._done - self._start) / max(now - self._began, 1e-9)
            logging.info(
                "%s: %d of %d %s (%.0f %%), %.1f %s/s, %.0f s left",
                self._description, self._done, self._total, self._unit, 100 * self._done / self._total, rate,
                self._unit, (self._total - self._done) / rate,
            )  # fmt: skip

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


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
    meter = Meter(description, total, unit, start)
    try:
        for item in items:
            yield item
            meter.advance()
    finally:
        meter.close()
