"""What a study file may ask for by itself: the folders that it may read, and models whose code may run.

The registries in ``config/`` belong to whoever set up the workflow and are trusted. A study file may come from a
stranger: what its own ``registries`` name is kept to the project, unless whoever starts the run allows more by
variables of the environment, which no file can set.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from essential_sparsity.errors import UserError, quoted

PATHS = "ESSENTIAL_SPARSITY_PATHS"
MODELS = "ESSENTIAL_SPARSITY_TRUSTED_MODELS"


@dataclass(frozen=True)
class Permissions:
    """What the entries of a study file may do.

    Attributes:
        project: Folders below which they may read what is not hidden: that of the run, and that of the study file.
        allowed: Folders below which they may read everything, as the user says.
        models: Names of models that the user trusts to run code of their own.
    """

    project: tuple[Path, ...]
    allowed: tuple[Path, ...] = ()
    models: frozenset[str] = frozenset()

    @classmethod
    def of_run(cls, study_files: Iterable[Path], environment: Mapping[str, str] = os.environ) -> Permissions:
        """Return the permissions of a run in the working directory.

        A study file that lies in the user's home folder, or above it, does not open all that is below; nor does a run
        from above it.
        """
        home, here = _home(), Path.cwd().resolve()
        folders = (file.resolve().parent for file in study_files)
        own = (folder for folder in folders if not home.is_relative_to(folder))
        given = (Path(text).expanduser().resolve() for text in environment.get(PATHS, "").split(os.pathsep) if text)
        models = (name.strip() for name in environment.get(MODELS, "").split(","))
        project = dict.fromkeys([*([] if here in home.parents else [here]), *own])
        return cls(tuple(project), tuple(given), frozenset(filter(None, models)))

    def check_paths(self, files: Sequence[Path], where: str) -> None:
        """Check that files may be read, wherever links on the way to them lead.

        Raises:
            UserError: Names the first that lies outside, and how to allow it.
        """
        outside = next((file for file in files if not self._may_read(file)), None)
        if outside is None:
            return
        leads = f", which is '{found}'" if (found := outside.resolve()) != outside.absolute() else ""
        raise UserError(
            where=where,
            found=f"'{outside}'{leads}, outside the project",
            expected=f"a path below {quoted(self.project)} that is not hidden: a study file may come from a stranger",
            mend=f"move the data there, put the entry into the registry in config/, or, if you trust the study, run "
            f"with {PATHS}='{found.parent}'",
        )

    def check_folder(self, path: Path, where: str) -> None:
        """Check a file or folder, and every link below it.

        Raises:
            UserError: As :meth:`check_paths`.
        """
        self.check_paths([path], where)
        if path.is_dir():
            self.check_paths(list(_links_below(path)), where)

    def _may_read(self, file: Path) -> bool:
        found = file.expanduser().resolve()
        if any(found.is_relative_to(folder) for folder in self.allowed):
            return True
        below = (found.relative_to(folder) for folder in self.project if found.is_relative_to(folder))
        return any(not any(part.startswith(".") for part in path.parts) for path in below)

    def check_model(self, name: str, where: str) -> None:
        """Check that a model may run code of its own.

        Raises:
            UserError: The user has not said so.
        """
        if name not in self.models:
            raise UserError(
                where=where,
                found="`true` in a study file, which may come from a stranger",
                expected="a model that runs no code of its own, or the word of whoever starts the run",
                mend=f"read the model's code; then put the entry into config/models.yaml, or run with {MODELS}={name}",
            )


def _home() -> Path:
    try:
        return Path.home().resolve()
    except RuntimeError:
        # A user without one, as in some containers; what lies above nothing is the root of the file system.
        return Path(os.devnull)


def _links_below(folder: Path) -> Iterator[Path]:
    """Yield the links below a folder, and below the folders that they lead to."""
    pending, seen = [folder], set[Path]()
    while pending:
        place = pending.pop().resolve()
        if place in seen:
            continue
        seen.add(place)
        for link in (path for path in place.rglob("*") if path.is_symlink()):
            yield link
            if link.is_dir():
                pending.append(link)


def check_without_code(study_files: Iterable[Path]) -> None:
    """Refuse a study file that asks Snakemake to run Python in it (YTE, which renders YAML by its expressions).

    The profiles keep Snakemake from doing so; a run without any has done it by now.

    Raises:
        UserError: Names the file.
    """
    for file in study_files:
        if "__use_yte__" in file.read_text(encoding="utf-8", errors="replace"):
            raise UserError(
                where=f"{file}, key __use_yte__",
                found="a study with Python code, which Snakemake would run while it reads the file",
                expected="plain YAML: a study file may come from a stranger",
                mend="remove the key, and write out what the code makes; do not trust the file",
            )
