"""The packages that a result was computed with."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Sequence
from importlib.metadata import distributions


def environment_lines() -> list[str]:
    """Return what a result was computed with: the interpreter, the system, and every package with its version."""
    names = ((re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(), one.version) for one in distributions())
    packages = sorted({f"{name}=={version}" for name, version in names})
    return [f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}", *packages]


def environment_summary(lines: Sequence[str]) -> str:
    """Return an environment in a line: two are the same if their digests are.

    Args:
        lines: As :func:`environment_lines` returns them.
    """
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    return f"{lines[0].removeprefix('# ')}, {len(lines) - 1} packages, digest {digest}"
