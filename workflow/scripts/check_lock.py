"""Check that the environment of this interpreter is the pinned one, file by file; needs no Snakemake."""

import argparse
import os
import platform
import re
import sys
from pathlib import Path

from essential_sparsity.environment import check_environment, read_pins

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("requirements", type=Path, nargs="+", help="files that pin packages, such as requirements.txt")
    top.add_argument("--folder", action="append", help="where to look; the interpreter's path without it")
    return top


def python_is_old() -> str | None:
    """Return the least version of Python, if this one is older."""
    found = re.search(r'^requires-python = ">=(\d+)\.(\d+)"', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    return f"{found[1]}.{found[2]}" if found and sys.version_info < (int(found[1]), int(found[2])) else None


def main() -> int:
    """Print every difference; return the exit status, 1 if there is one."""
    arguments = parser().parse_args()
    found = check_environment(read_pins(arguments.requirements), arguments.folder)
    lines = [str(error) for error in found.differences]
    if least := python_is_old():
        lines.append(f"Python: found {platform.python_version()}; expected {least} or newer. To mend: make PYTHON=...")
    if path := os.environ.get("PYTHONPATH"):
        lines.append(f"PYTHONPATH: found '{path}'; expected nothing. To mend: unset PYTHONPATH: it hides packages.")
    for note in found.notes:
        print(f"note: {note}")
    for line in lines:
        print(line, file=sys.stderr)
    state = "not as in" if lines else "as in"
    names = ", ".join(file.name for file in arguments.requirements)
    print(f"Python {platform.python_version()}, {found.packages} packages, {found.files} files: {state} {names}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
