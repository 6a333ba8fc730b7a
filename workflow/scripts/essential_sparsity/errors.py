"""The one exception whose message is written for the person who runs the workflow."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: bad configuration, missing data, a failed download.

    Args:
        where: The file and the key, row or matrix that is at fault.
        found: What is there.
        expected: What would be accepted.
        mend: What to do about it.
    """

    def __init__(self, where: str, found: str, expected: str, mend: str) -> None:
        super().__init__(f"{where}: found {found}; expected {expected}. To mend: {mend}.")
        self.where = where
        self.found = found
        self.expected = expected
        self.mend = mend


def quoted(names: Iterable[object]) -> str:
    """Join names for a message, each in quotes: ``'a', 'b'``."""
    return ", ".join(f"'{name}'" for name in names)


def did_you_mean(name: object, allowed: Iterable[object]) -> str:
    """Return the mend for a misspelt name: the closest allowed one, or the instruction to choose one."""
    close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1)
    return f"write '{close[0]}' instead of '{name}'" if close else f"replace '{name}' by one of the allowed names"


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, 200 characters at most; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
