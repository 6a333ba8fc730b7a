"""Waiting for processes, in tests that start some."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something holds; fail after so many seconds."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.01)


def is_running(process: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
