"""Progress: every item passes, plain lines in a log, a bar on a terminal only."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from tqdm import tqdm

from essential_sparsity import progress as module
from essential_sparsity.progress import bars_on_terminal, draw_bars_on, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _no_terminal() -> Iterator[None]:
    yield
    draw_bars_on(None)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def test_items_pass_in_order_one_at_a_time() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for i in range(5):
            taken.append(i)
            yield i

    passed = progress(source(), "x", total=5, unit="items")
    assert next(passed) == 0
    assert taken == [0], "nothing is read ahead"
    assert list(passed) == [1, 2, 3, 4]


def test_a_line_about_every_five_seconds_and_one_at_the_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in progress(range(100), "pruning", total=100, unit="steps"):
        clock.now += 1.0
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 20
    assert lines[0] == "pruning: 5 of 100 steps (5 %), 1.0 steps/s, 95 s left"
    assert lines[-1] == "pruning: 100 of 100 steps (100 %), 1.0 steps/s, 0 s left"


def test_a_resumed_stage_counts_what_was_done_but_not_its_speed(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in progress(range(90, 100), "x", total=100, unit="items", start=90):
        clock.now += 1.0
    assert caplog.records[0].getMessage() == "x: 95 of 100 items (95 %), 1.0 items/s, 5 s left"


@pytest.mark.parametrize(("stream", "drawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_bar_is_drawn_on_a_terminal_alone(stream: io.StringIO, drawn: bool) -> None:
    draw_bars_on(stream)
    list(progress(range(3), "counting", total=3, unit="things"))
    with bars_on_terminal():
        list(tqdm(range(3), "bytes of a library", disable=None))
    assert ("counting" in stream.getvalue()) is drawn
    assert ("bytes of a library" in stream.getvalue()) is drawn
