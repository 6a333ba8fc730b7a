"""A seal: the SHA-256 of every result at one moment, so that damage and edits can be found later.

Comes in: the folder of results. Goes out: one file, and what differs from it. Nothing is changed or removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from essential_sparsity.files import read_json, sha256_of, write_json

SEAL = "seal.json"


@dataclass(frozen=True)
class Sealed:
    """What is known of a file.

    Attributes:
        sha256: The digest of its bytes.
        size: How many these are.
        modified: When it was last written, ns since 1970.
    """

    sha256: str
    size: int
    modified: int


def seal(results: Path) -> tuple[int, int]:
    """Write :data:`SEAL` into a folder of results; files whose size and time are as they were are not read again.

    Returns:
        How many files are sealed, and how many of them were read.
    """
    before = read_seal(results) if (results / SEAL).exists() else {}
    sealed: dict[str, Sealed] = {}
    for name, path in _files(results):
        found, old = path.stat(), before.get(name)
        same = old and (old.size, old.modified) == (found.st_size, found.st_mtime_ns)
        sealed[name] = old if old and same else Sealed(sha256_of(path), found.st_size, found.st_mtime_ns)
    write_json(results / SEAL, {name: asdict(one) for name, one in sealed.items()})
    return len(sealed), sum(one is not before.get(name) for name, one in sealed.items())


def read_seal(results: Path) -> dict[str, Sealed]:
    """Return what is known of each file, by its path below the folder of results."""
    return {name: Sealed(**one) for name, one in read_json(results / SEAL).items()}


def check(results: Path) -> dict[str, str]:
    """Read every sealed file again.

    Returns:
        What is wrong with each that differs, in words, by its path below the folder of results.
    """
    return {name: wrong for name, one in read_seal(results).items() if (wrong := _difference(results / name, one))}


def _difference(path: Path, sealed: Sealed) -> str:
    if not path.is_file():
        return "is missing"
    if sha256_of(path) == sealed.sha256:
        return ""
    # Whoever writes a file leaves another time; a disk that fails does not.
    written = path.stat().st_mtime_ns != sealed.modified
    return "was written after it was sealed" if written else "is damaged: other bytes under the same time"


def _files(results: Path) -> Iterator[tuple[str, Path]]:
    """Yield results by their paths below the folder; nothing hidden, such as what is being written."""
    for path in sorted(results.rglob("*")):
        parts = path.relative_to(results).parts
        passing = parts[0] in (SEAL, "states") or "logs" in parts or any(part.startswith(".") for part in parts)
        if path.is_file() and not passing:
            yield "/".join(parts), path
