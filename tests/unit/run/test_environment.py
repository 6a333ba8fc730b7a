"""The environment of a result is named package by package, and in a line that tells two apart."""

from __future__ import annotations

from importlib.metadata import version

from essential_sparsity.run.environment import environment_lines, environment_summary


def test_an_environment_in_a_line_is_another_where_a_package_is() -> None:
    lines = environment_lines()
    assert f"numpy=={version('numpy')}" in lines and f"typing-extensions=={version('typing_extensions')}" in lines
    first = environment_summary(lines)
    assert first == environment_summary(list(lines))
    assert first != environment_summary([line.replace("numpy==", "numpy==9.") for line in lines])
    assert first.startswith("Python 3.")
