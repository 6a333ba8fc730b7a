"""Messages of other libraries, as they stand in ours."""

from __future__ import annotations

import pytest

from essential_sparsity.errors import first_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\ntwo"), "one"),
        (OSError("\n  spaced \nmore"), "spaced "),
        (ValueError("x" * 500), "x" * 200),
        (ValueError(""), "ValueError"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_first_line_is_short_and_never_empty(error: Exception, text: str) -> None:
    assert first_line(error) == text
