"""The model hub: repositories at a commit, fetched by huggingface_hub and checked against the digests that it names.

Endpoint, cache, token and offline mode are huggingface_hub's own (``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``,
``HF_HUB_OFFLINE``). It is imported inside functions: it reads them once, and takes a while to import.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from essential_sparsity.checkpoints.files import CONFIG, choose_weights, companions, is_index, shards_of
from essential_sparsity.checkpoints.remote_code import check_remote_code
from essential_sparsity.checkpoints.steps import Place
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.files import atomic_path, read_json, sha256_of, write_json
from essential_sparsity.progress import bars_on_terminal, progress
from essential_sparsity.sources.hub_errors import explaining, not_cached, quieten
from essential_sparsity.sources.kinds import Files, Hub


def is_below(path: str) -> bool:
    """Say whether the path of a file in a repository leads nowhere else."""
    parts = path.replace("\\", "/").split("/")
    return not {"", ".", ".."} & set(parts) and ":" not in parts[0] and "\0" not in path


def resolve_commit(name: str, revision: str, kind: str, where: str) -> str:
    """Return the commit that a revision of a repository stands for; without a network, the one that the cache knows.

    Raises:
        UserError: There is no such repository or revision, or nobody can tell.
    """
    from huggingface_hub import HfApi

    quieten()
    with explaining(name, revision, where):
        return HfApi().resolve_revision(name, repo_type=kind, revision=revision).resolved


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one commit.

    Attributes:
        name: ``org/name``.
        revision: The branch, tag or commit that was asked for.
        kind: ``model`` or ``dataset``.
        where: The registry key of the source, for messages.
        commit: What the revision stands for.
    """

    name: str
    revision: str
    kind: str
    where: str
    commit: str

    def cached(self, names: Iterable[str]) -> Path:
        """Return the folder of the cache in which files of the repository are, fetched where they are not there."""
        from huggingface_hub import snapshot_download

        wanted = [glob.escape(name) for name in names]
        with explaining(self.name, self.revision, self.where), bars_on_terminal():
            return Path(snapshot_download(self.name, repo_type=self.kind, revision=self.commit, allow_patterns=wanted))

    def files(self) -> list[str]:
        """Return the paths of all files of the repository.

        Raises:
            UserError: A path leads elsewhere, or the hub cannot be reached and the cache does not tell.
        """
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        # The list comes with the first file.
        folder = self.cached([CONFIG])
        try:
            names = [file.path for file in get_cached_repo_tree(self.name, repo_type=self.kind, revision=self.commit)]
        except CachedRepoTreeNotFoundError as error:
            # Other tools fetch the files of models one by one, without the list. Whether all of a model are there, its
            # configuration and the index of its shards tell; of a table's files nothing does.
            if self.kind != "model":
                raise not_cached(self.name, self.revision, self.where) from error
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        if outside := next((name for name in names if not is_below(name)), None):
            raise UserError(
                f"{self.where}.repository", f"the file '{outside}' in the list of files of '{self.name}'",
                "paths within the repository", "do not trust this repository, or the hub that HF_ENDPOINT names",
            )  # fmt: skip
        return names

    def put(self, names: Iterable[str], folder: Path) -> None:
        """Put files into ``folder``, with the digests that the hub names; what is damaged is fetched once more.

        Raises:
            UserError: The download failed, or the bytes are not those that the hub names.
        """
        wanted = list(names)
        logging.info("getting %s of %s", quoted(wanted), self.name)
        for _ in range(2):
            cached = self.cached(wanted)
            for name in wanted:
                place(cached / name, folder / name)
            wrong = self._wrong(folder)
            if not wrong:
                return
            wanted = list(wrong)
            logging.warning("damaged, and deleted from %s: %s", cached, quoted(wanted))
            for name in wanted:
                (cached / name).resolve().unlink()
                (cached / name).unlink(missing_ok=True)
        shutil.rmtree(folder)
        name, digests = next(iter(wrong.items()))
        raise UserError(
            f"{self.where}.repository", f"{name} of '{self.name}' at {self.commit} with the {digests[0]}",
            digests[1], "run the same command again; if it happens again, do not trust the file: find out what stands "
            "between this machine and the hub (a proxy, or the mirror that HF_ENDPOINT names)",
        )  # fmt: skip

    def _wrong(self, folder: Path) -> dict[str, tuple[str, str]]:
        """Return the files of a folder that are not what the hub says, with the digests found and expected."""
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import OfflineModeIsEnabled

        with explaining(self.name, self.revision, self.where):
            try:
                found = HfApi().verify_repo_checksums(
                    self.name, repo_type=self.kind, revision=self.commit, local_dir=folder
                )
            except (httpx2.TransportError, OfflineModeIsEnabled):
                logging.warning(
                    "the hub cannot be reached: files of %s are taken from the cache unchecked. HF_HUB_OFFLINE=1 saves "
                    "the wait", self.name,
                )  # fmt: skip
                return {}
        return {m["path"]: (f"{m['algorithm']} {m['actual']}", m["expected"]) for m in found.mismatches}


def place(cached: Path, target: Path) -> None:
    """Put a file of the cache at ``target``: a second name of the same bytes, or a copy on another file system.

    A second name takes no room, and goes on to hold the bytes when the cache is cleared, which a link would not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(cached.resolve(), target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(cached, temporary)


def put_model(repository: Repository, trusted: bool, folder: Path) -> list[str]:
    """Put into ``folder`` what a model's checkpoint is made of: configuration, tokenizer or processor, and weights.

    Args:
        repository: Where from.
        trusted: Whether code that comes with the model may run, and is fetched.
        folder: Where to put it.

    Returns:
        The path of each file.

    Raises:
        UserError: No weights that can be read, a model that needs code of its own, or a failed download.
    """
    names, where = repository.files(), repository.where
    weights = choose_weights(names, f"{where}.repository")
    small = [*companions(names, trusted), *([weights] if is_index(weights) else [])]
    repository.put(small, folder)
    # Before gigabytes of weights: a model that is refused is refused at once.
    if CONFIG in small:
        check_remote_code(folder / CONFIG, trusted, where)
    large = [weights]
    if is_index(weights):
        large = shards_of(read_json(folder / weights), names, f"{where}, file {weights}")
    repository.put(large, folder)
    return [*small, *large]


def put_tables(repository: Repository, splits: Files, folder: Path) -> dict[str, str]:
    """Put the tables of a dataset into ``folder``.

    Args:
        repository: Where from.
        splits: The patterns of the files of each split.
        folder: Where to put them.

    Returns:
        The path of each file, and its split.

    Raises:
        UserError: A pattern fits no file, or a failed download.
    """
    names = sorted(repository.files())
    wanted: dict[str, str] = {}
    for split, patterns in splits.items():
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if not found:
                near = [name for name in names if name.endswith((".parquet", ".csv", ".jsonl"))]
                raise UserError(
                    f"{repository.where}.files.{split}",
                    f"'{pattern}', which no file of '{repository.name}' matches",
                    f"a pattern of its files, such as {quoted(near[:10])}",
                    "correct the pattern",
                )
            wanted |= dict.fromkeys(found, split)
    repository.put(wanted, folder)
    return wanted


def download(source: Hub, trusted: bool, folder: Path, where: str) -> None:
    """Put the files of a repository that are needed below ``folder/files``, and at last write ``folder/index.json``.

    The index says which repository, revision and commit they are of, and of each file the SHA-256 and the split.

    Args:
        source: Which repository; of a dataset it names files.
        trusted: Whether the model's own code may run.
        folder: Where to put them.
        where: The source's key, for messages.

    Raises:
        UserError: Whatever keeps the files from being there, and what to do about it.
    """
    name, revision, files = source.repository, source.revision, folder / "files"
    kind = "model" if source.files is None else "dataset"
    repository = Repository(name, revision, kind, where, resolve_commit(name, revision, kind, where))
    logging.info("%s at %s is commit %s", name, revision, repository.commit)
    shutil.rmtree(files, ignore_errors=True)
    if source.files is None:
        splits = dict.fromkeys(put_model(repository, trusted, files), "")
    else:
        splits = put_tables(repository, source.files, files)
    found = {path: {"sha256": sha256_of(files / path), "split": split} for path, split in splits.items()}
    index = {"repository": name, "revision": revision, "commit": repository.commit, "files": found}
    write_json(folder / "index.json", index)


def find_steps(steps: Mapping[str, Place], where: str) -> dict[str, dict[str, str]]:
    """Look up which steps of a trajectory the hub has.

    Args:
        steps: Where each checkpoint is, by its name.
        where: The trajectory's key, for messages.

    Returns:
        ``found``, the commit of each checkpoint that exists, and ``missing``, the reason for each that does not. With
        ``HF_HUB_OFFLINE`` a step that is not in the cache is missing, too.

    Raises:
        UserError: None of them exists, or the hub cannot be asked.
    """
    from huggingface_hub import constants, errors

    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    failed: UserError | None = None
    for name, place_ in progress(steps.items(), "looking up steps", len(steps), "steps"):
        try:
            found[name] = resolve_commit(place_.repository, place_.revision, "model", where)
        except UserError as error:
            cause = error.__cause__
            absent = isinstance(cause, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
            # Whoever asks to stay offline has the cache's steps and no others.
            uncached = constants.is_offline_mode() and isinstance(cause, errors.RevisionResolutionError)
            if not (absent or uncached) or isinstance(cause, errors.GatedRepoError):
                raise
            failed = error
            missing[name] = error.found
            logging.warning("%s: found %s; it is left out", name, error.found)
    if failed and not found:
        raise failed
    return {"found": found, "missing": missing}
