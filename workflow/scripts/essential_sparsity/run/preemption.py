"""Pre-emption: a training that is told to end (SIGTERM) saves its state first; run again, it goes on from there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from essential_sparsity.errors import UserError


@contextmanager
def told_to_end() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether this process was told to end since the block began.

    Within the block SIGTERM does not end the process: whoever asks the function does, after saving what there is. Where
    a signal cannot be caught (outside the main thread), nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def preempted(where: str, step: int, steps: int) -> UserError:
    """Return the error that a training ends with once its state is saved.

    Args:
        where: What is trained.
        step: Steps that are done.
        steps: Steps of the whole training.
    """
    return UserError(
        where=where,
        found=f"a request to end (SIGTERM) after step {step} of {steps}",
        expected="time for the whole training",
        mend="run again: its state is saved, and it goes on from there",
    )
