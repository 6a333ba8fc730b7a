"""The model hub: repositories at a commit, fetched through huggingface_hub's cache and checked against its hashes.

Endpoint, cache, token and offline mode are huggingface_hub's own (``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN``,
``HF_HUB_OFFLINE``). It is imported inside functions: it reads them once, and takes a while to import.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from essential_sparsity.checkpoint_files import CONFIG, choose_weights, companions, is_index, shards_of
from essential_sparsity.errors import UserError, first_line, quoted
from essential_sparsity.files import atomic_path, read_json, sha256_of, write_json
from essential_sparsity.hub_errors import explaining, not_cached, wrong_bytes
from essential_sparsity.progress import progress
from essential_sparsity.remote_code import check_remote_code

T = TypeVar("T")

_CHUNK = 1 << 20
_TRIES = 6
_LONGEST_PAUSE = 300.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def git_blob_id(path: Path) -> str:
    """Return the id that git gives to a file's content: the SHA-1 of a header with its size, and of its bytes."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_like(expected: str, path: Path) -> str:
    """Return a file's digest of the kind that ``expected`` is: SHA-256 (64 digits) or git blob id (40 digits)."""
    return sha256_of(path) if len(expected) == 64 else git_blob_id(path)


def is_below(path: str) -> bool:
    """Say whether the path of a file in a repository leads nowhere else."""
    parts = path.replace("\\", "/").split("/")
    return not {"", ".", ".."} & set(parts) and ":" not in parts[0] and "\0" not in path


class Repository:
    """A repository of the hub at one commit.

    Args:
        name: ``org/name``.
        revision: A branch, tag or commit; it is resolved once, here.
        kind: ``model`` or ``dataset``.
        where: The registry key of the source, for messages.

    Attributes:
        commit: What the revision stands for, 40 hexadecimal digits.
        files: The digest that the hub names for every file, by its path: the SHA-256 of large files, the git blob
            id of others; an empty text where a file that is in the cache alone tells none.

    Raises:
        UserError: Missing, gated or private repository, missing revision, or no network and nothing in the cache.
    """

    def __init__(self, name: str, revision: str, kind: str, where: str) -> None:
        self.name = name
        self.revision = revision
        self.kind = kind
        self.where = where
        self.commit = resolve_commit(name, revision, kind, where)
        self.sizes: dict[str, int] = {}
        self._checked: set[str] = set()
        self.files = self._list_files()

    def _list_files(self) -> dict[str, str]:
        import httpx2
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.hf_api import RepoFile

        with explaining(self.name, self.revision, self.where):
            try:
                tree = list(
                    HfApi().list_repo_tree(self.name, recursive=True, revision=self.commit, repo_type=self.kind)
                )
            except (httpx2.TransportError, OfflineModeIsEnabled, HfHubHTTPError) as error:
                if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                    raise
                cached = self._list_cached()
                if not cached:
                    raise
                logging.warning("the hub cannot be reached: using the files of %s in its cache", self.name)
                return cached
        found = [file for file in tree if isinstance(file, RepoFile)]
        self.sizes = {file.path: file.size for file in found}
        digests = {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in found}
        # They become names of files in the cache.
        if unknown := next((path for path, digest in digests.items() if not _DIGEST.fullmatch(digest)), None):
            raise UserError(
                f"{self.where}.repository", f"no hash of {unknown} in the list of files of '{self.name}'",
                "a SHA-256 or git blob id of every file", "let HF_ENDPOINT name a hub that lists them",
            )  # fmt: skip
        # And of files below results/.
        if outside := next((path for path in digests if not is_below(path)), None):
            raise UserError(
                f"{self.where}.repository", f"the file '{outside}' in the list of files of '{self.name}'",
                "paths within the repository", "do not trust this repository, or the hub that HF_ENDPOINT names",
            )  # fmt: skip
        return digests

    def _list_cached(self) -> dict[str, str]:
        """Return the files as the cache knows them; none if it cannot tell what the repository holds."""
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        folder = self._cache() / "snapshots" / self.commit
        try:
            names = [file.path for file in get_cached_repo_tree(self.name, repo_type=self.kind, revision=self.commit)]
        except CachedRepoTreeNotFoundError:
            # Other tools fetch the files of models one by one. Whether all of a model are there, its configuration and
            # the index of its shards tell; of a table's files nothing does.
            present = [path for path in folder.rglob("*") if path.is_file()] if self.kind == "model" else []
            names = [path.relative_to(folder).as_posix() for path in present]
        # The cache names content by its digest, and links to it.
        targets = {name: (folder / name).resolve().name for name in names}
        return {name: target if _DIGEST.fullmatch(target) else "" for name, target in targets.items()}

    def _cache(self) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.name, repo_type=self.kind)

    def fetch(self, path: str) -> Path:
        """Return the place of a file in the cache, downloaded if it is not there, with the digest that the hub names.

        Raises:
            UserError: The download failed, or the bytes are not those that the hub names.
        """
        link, expected = self._cache() / "snapshots" / self.commit / path, self.files[path]
        if path in self._checked:
            return link
        if link.is_file() and expected and digest_like(expected, link) != expected:
            logging.warning("%s in the cache is damaged: it is fetched again", link)
            _discard(link)
        if not link.is_file():
            if path not in self.sizes:
                raise not_cached(self.name, self.revision, self.where, path)
            with explaining(self.name, self.revision, self.where):
                blob = self._download(path, expected)
                self._link(path)
            # What huggingface_hub fetched after all (a mirror names content differently) is not checked yet.
            if link.resolve() != blob.resolve() and (found := digest_like(expected, link)) != expected:
                _discard(link)
                raise wrong_bytes(self.name, self.commit, path, found, expected, self.where)
        self._checked.add(path)
        return link

    def _download(self, path: str, expected: str) -> Path:
        """Put a file's content into the cache under its digest, going on where an earlier download broke off.

        huggingface_hub resumes a connection that drops, but drops what it has when the process ends: its partial file
        has a random name. Here it has the digest's name, so that the next run asks for the rest only.
        """
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import WeakFileLock, build_hf_headers

        size, blob = self.sizes[path], self._cache() / "blobs" / expected
        if size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            # The library fetches these by another protocol, in `_link`.
            return blob
        partial = blob.with_name(f"{expected}.incomplete")
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / self._cache().name / f"{expected}.lock"
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        url = hf_hub_url(self.name, path, repo_type=self.kind, revision=self.commit)
        # Compressed on the way, a part of a file could not be asked for.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        with WeakFileLock(lock):
            if blob.is_file() and digest_like(expected, blob) == expected:
                return blob
            while True:
                begun = partial.stat().st_size if partial.is_file() else 0
                if begun > size:
                    partial.unlink()
                    begun = 0
                logging.info("fetching %s, %.1f MB, from byte %d on", path, size / 1e6, begun)
                with open(partial, "ab") as stream:
                    try:
                        http_get(url, stream, resume_size=begun, headers=headers, expected_size=size)
                    except OSError as error:
                        if error.errno is not None or isinstance(error, HfHubHTTPError):
                            raise
                        # Other bytes than expected, by their number: the digest says so.
                        logging.warning("%s", first_line(error))
                found = digest_like(expected, partial)
                if found == expected:
                    break
                partial.unlink()
                if not begun:
                    raise wrong_bytes(self.name, self.commit, path, found, expected, self.where)
                logging.warning("the earlier part of %s was damaged: fetching it whole", path)
            os.replace(partial, blob)
        return blob

    def _link(self, path: str) -> None:
        """Let huggingface_hub file the content under its path and commit, and keep the list of the commit's files."""
        from huggingface_hub import snapshot_download

        snapshot_download(
            self.name, repo_type=self.kind, revision=self.commit, allow_patterns=[glob.escape(path)], max_workers=1
        )


def _discard(link: Path) -> None:
    """Remove a file from the cache: its content, and the link to it."""
    link.resolve().unlink(missing_ok=True)
    link.unlink(missing_ok=True)


def resolve_commit(name: str, revision: str, kind: str, where: str) -> str:
    """Return the commit that a revision of a repository stands for; without a network, the one that the cache knows.

    Raises:
        UserError: There is no such repository or revision, or nobody can tell.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    # A request's address may hold a signature that gives access for some minutes: addresses are not logged.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    disable_progress_bars()
    with explaining(name, revision, where):
        commit = patiently(lambda: HfApi().resolve_revision(name, repo_type=kind, revision=revision).resolved)
    # It becomes the name of a folder in the cache.
    if not _COMMIT.fullmatch(commit):
        raise UserError(
            f"{where}.revision", f"'{commit}' in place of the commit of '{name}'", "40 hexadecimal digits",
            "let HF_ENDPOINT name a hub that names commits",
        )  # fmt: skip
    return commit


def patiently(ask: Callable[[], T]) -> T:
    """Ask the hub, again after a while where it has had too many requests: huggingface_hub waits with files only."""
    from huggingface_hub.errors import HfHubHTTPError

    for tried in range(1, _TRIES):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code != 429:
                raise
            pause = pause_of(error.response.headers, tried)
            logging.warning("the hub has had too many requests: waiting %.0f s", pause)
            time.sleep(pause)
    return ask()


def pause_of(headers: Mapping[str, str], tried: int) -> float:
    """Return the seconds to wait after a refusal: as the hub says, or twice as long with every try."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit, asked = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    seconds = limit.reset_in_seconds if limit and limit.remaining == 0 else int(asked) if asked.isdigit() else 0
    return float(min(max(seconds + 1, 2 ** (tried - 1)), _LONGEST_PAUSE))


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


def model_files(repository: Repository, source: Mapping[str, Any], trusted: bool) -> dict[str, str]:
    """Fetch what a model's checkpoint is made of: configuration, tokenizer or processor, then its weights.

    Args:
        repository: Where from.
        source: The registry's mapping, which says nothing more of a model.
        trusted: Whether code that comes with the model may run, and is fetched.

    Returns:
        The path of each file, and an empty text, which of a dataset's file names the split.

    Raises:
        UserError: No weights that can be read, a model that needs code of its own, or a failed download.
    """
    names, where = set(repository.files), repository.where
    weights = choose_weights(names, f"{where}.repository")
    beside = companions(names, trusted)
    # Before gigabytes of weights: a model that is refused is refused at once.
    if CONFIG in beside:
        check_remote_code(repository.fetch(CONFIG), trusted, where)
    shards = (
        shards_of(read_json(repository.fetch(weights)), names, f"{where}, file {weights}") if is_index(weights) else []
    )
    wanted = [*beside, weights, *shards]
    for name in progress(wanted, f"downloading {repository.name}", len(wanted), "files"):
        repository.fetch(name)
    return dict.fromkeys(wanted, "")


def table_files(repository: Repository, source: Mapping[str, Any], trusted: bool) -> dict[str, str]:
    """Fetch the tables of a dataset.

    Args:
        repository: Where from.
        source: The registry's mapping: ``files`` has the patterns of each split.
        trusted: Not asked of a dataset, whose files are only read.

    Returns:
        The path of each file, and its split.

    Raises:
        UserError: A pattern fits no file, or a failed download.
    """
    wanted: dict[str, str] = {}
    for split, patterns in source["files"].items():
        for pattern in patterns:
            found = sorted(fnmatch.filter(repository.files, pattern))
            if not found:
                near = [name for name in sorted(repository.files) if name.endswith((".parquet", ".csv", ".jsonl"))]
                raise UserError(
                    f"{repository.where}.files.{split}",
                    f"'{pattern}', which no file of '{repository.name}' matches",
                    f"a pattern of its files, such as {quoted(near[:10])}",
                    "correct the pattern",
                )
            wanted |= dict.fromkeys(found, split)
    for name in progress(wanted, f"downloading {repository.name}", len(wanted), "files"):
        repository.fetch(name)
    return wanted


FILES = {"model": model_files, "dataset": table_files}


def download(source: Mapping[str, Any], kind: str, trusted: bool, folder: Path, where: str) -> None:
    """Put the files of a repository that are needed below ``folder/files``, and at last write ``folder/index.json``.

    The index says which repository, revision and commit they are of, and of each file the SHA-256 and the split.

    Args:
        source: The registry's mapping: ``repository``, ``revision``, and of a dataset ``files``.
        kind: ``model`` or ``dataset``.
        trusted: Whether the model's own code may run.
        folder: Where to put them.
        where: The source's key, for messages.

    Raises:
        UserError: Whatever keeps the files from being there, and what to do about it.
    """
    repository = Repository(source["repository"], source["revision"], kind, where)
    logging.info("%s at %s is commit %s", repository.name, repository.revision, repository.commit)
    wanted = FILES[kind](repository, source, trusted)
    shutil.rmtree(folder / "files", ignore_errors=True)
    for name in wanted:
        place(repository.fetch(name), folder / "files" / name)
    write_json(
        folder / "index.json",
        {
            "repository": repository.name,
            "revision": repository.revision,
            "commit": repository.commit,
            "files": {
                name: {"sha256": sha256_of(folder / "files" / name), "split": split} for name, split in wanted.items()
            },
        },
    )


def find_steps(steps: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, dict[str, str]]:
    """Look up which steps of a trajectory the hub has.

    Args:
        steps: The repository and revision of each checkpoint, by its name.
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
    for name, source in progress(steps.items(), "looking up steps", len(steps), "steps"):
        try:
            found[name] = resolve_commit(source["repository"], source["revision"], "model", where)
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
