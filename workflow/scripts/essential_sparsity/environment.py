"""The packages that the workflow runs with: which there are, and whether they are the pinned ones, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import platform
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from essential_sparsity.errors import UserError, quoted

# Read by every interpreter before anything else: what they hold is run.
_STARTERS = ("*.pth", "sitecustomize.py", "usercustomize.py")
_MOST_FILES = 3


def canonical_name(name: str) -> str:
    """Return a package's name as the Python index compares them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(files: Iterable[Path]) -> dict[str, str]:
    """Return the version of every package that requirement files pin, by its canonical name."""
    lines = (line.split("#")[0].strip() for file in files for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonical_name(name): version for name, version in pairs}


def installed(folders: Sequence[str] | None = None) -> dict[str, list[Distribution]]:
    """Return the packages that are installed, by their canonical names; of one that is there twice, both.

    Args:
        folders: Where to look; the interpreter's own path without it.
    """
    found: dict[str, list[Distribution]] = defaultdict(list)
    for distribution in distributions(path=list(folders or sys.path)):
        name = canonical_name(distribution.metadata["Name"] or "a package without a name")
        # Folders may be named twice on a path.
        known = {(_place(one), one.version) for one in found[name]}
        if (_place(distribution), distribution.version) not in known:
            found[name].append(distribution)
    return dict(found)


def environment_lines() -> list[str]:
    """Return what a result was computed with: the interpreter, the system, and every package with its version."""
    packages = sorted(f"{name}=={one.version}" for name, found in installed().items() for one in found)
    system = f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return [system, *packages]


def environment_summary(lines: Sequence[str]) -> str:
    """Return an environment in a line: two are the same if their digests are.

    Args:
        lines: As :func:`environment_lines` returns them.
    """
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    return f"{lines[0].removeprefix('# ')}, {len(lines) - 1} packages, digest {digest}"


@dataclass(frozen=True)
class Findings:
    """What was found in an environment.

    Attributes:
        differences: What is not as it is pinned.
        notes: What is not pinned, and does no harm.
        packages: How many packages are as they are pinned.
        files: How many of their files have the content that was installed.
    """

    differences: list[UserError]
    notes: list[str]
    packages: int
    files: int


def check_environment(pins: Mapping[str, str], folders: Sequence[str] | None = None) -> Findings:
    """Compare the installed packages with the pinned ones: their versions, and their files with their records.

    A package that is not pinned is a difference if a pinned package uses it where it is there (an optional dependency):
    it changes what is computed. One that a pinned package needs on this system alone, such as the libraries that
    PyTorch's builds for GPUs bring, is a note, as is a local build of the pinned version (``2.9.0+cpu``).

    Args:
        pins: The version of each package, by its canonical name.
        folders: Where to look; the interpreter's own path without it.
    """
    found = installed(folders)
    differences = [error for name in sorted(pins) if (error := _wrong_version(name, pins[name], found.get(name, [])))]
    pinned = {name: found[name][0] for name in sorted(pins) if name in found}
    notes = [
        f"{name} {one.version} is a local build of the pinned {pins[name]}"
        for name, one in pinned.items()
        if "+" in one.version and one.version.partition("+")[0] == pins[name]
    ]
    needed, optional = _dependencies(pinned.values())
    for name in sorted(found.keys() - pins.keys()):
        version = found[name][0].version
        if name in optional:
            differences.append(_unpinned(name, version, optional[name]))
        else:
            reason = f"needed by {', '.join(sorted(needed[name]))}" if name in needed else "used by no pinned package"
            notes.append(f"{name} {version} is not pinned ({reason})")
    files = 0
    for name, one in pinned.items():
        count, error = _check_files(name, one)
        files += count
        differences += [error] if error else []
    differences += _strange_starters(found)
    return Findings(differences, notes, len(pinned), files)


def _wrong_version(name: str, pin: str, found: Sequence[Distribution]) -> UserError | None:
    versions = [one.version for one in found]
    if len(versions) == 1 and versions[0].partition("+")[0] == pin:
        return None
    mend = f"install the pinned one: python -m pip install --force-reinstall {name}=={pin}"
    if len(versions) > 1:
        places = ", ".join(str(_place(one)) for one in found)
        return UserError(
            f"package {name}", f"it installed {len(versions)} times ({', '.join(versions)}: {places})",
            f"version {pin}, once", f"remove all of them (python -m pip uninstall {name}, until there is none); {mend}",
        )  # fmt: skip
    return UserError(f"package {name}", f"version {versions[0]}" if versions else "none", f"version {pin}", mend)


def _unpinned(name: str, version: str, users: Iterable[str]) -> UserError:
    return UserError(
        f"package {name}",
        f"version {version}, which is not pinned and which {quoted(sorted(users))} would use",
        "pinned packages, and others only that these do not use",
        f"remove it (python -m pip uninstall {name}), or pin it with all that it needs",
    )


def _dependencies(packages: Iterable[Distribution]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return which packages need each other package, and which would use it if it is there."""
    needed: dict[str, set[str]] = defaultdict(set)
    optional: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        for requirement in package.requires or []:
            name = re.match(r"[A-Za-z0-9._-]+", requirement)
            if name:
                kind = optional if re.search(r"\bextra\b", requirement) else needed
                kind[canonical_name(name[0])].add(package.metadata["Name"])
    return needed, {name: users for name, users in optional.items() if name not in needed}


def _place(distribution: Distribution) -> Path:
    return Path(str(distribution.locate_file("")))


def _check_files(name: str, package: Distribution) -> tuple[int, UserError | None]:
    """Return how many files of a package are as they were installed, and what is wrong with the others."""
    mend = f"install it again: python -m pip install --force-reinstall --no-deps {name}=={package.version}"
    recorded = [file for file in package.files or [] if file.hash is not None]
    if not recorded:
        return 0, UserError(f"package {name}", "no record of its files", "the RECORD that pip writes", mend)
    wrong = [f"{file} {why}" for file in recorded if (why := _wrong_content(Path(str(file.locate())), file.hash))]
    if not wrong:
        return len(recorded), None
    shown = ", ".join(wrong[:_MOST_FILES]) + (
        f" and {len(wrong) - _MOST_FILES} more" if len(wrong) > _MOST_FILES else ""
    )
    return len(recorded) - len(wrong), UserError(f"package {name}", shown, "the files that were installed", mend)


def _wrong_content(file: Path, recorded: object) -> str:
    """Return what is wrong with a file; an empty text if it has the recorded digest."""
    mode, value = getattr(recorded, "mode", ""), getattr(recorded, "value", "")
    if mode not in hashlib.algorithms_guaranteed:
        return f"has a digest of the unknown kind {mode}"
    if not file.is_file():
        return "is missing"
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, mode).digest()
    return "" if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == value else "has been changed"


def _strange_starters(found: Mapping[str, Sequence[Distribution]]) -> Iterator[UserError]:
    """Yield the files that every interpreter runs and that came with no package."""
    packages = [one for several in found.values() for one in several]
    owned = {Path(str(file.locate())).resolve() for one in packages for file in one.files or []}
    for folder in sorted({_place(one) for one in packages}):
        for file in sorted(path for pattern in _STARTERS for path in folder.glob(pattern)):
            if file.resolve() not in owned:
                yield UserError(
                    str(file), "a file that Python runs whenever it starts, and that came with no package",
                    "no such file", "remove it, if you did not put it there",
                )  # fmt: skip
