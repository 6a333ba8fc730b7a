"""What the model hub's errors mean for the person who runs the workflow; a token never stands in a message."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from essential_sparsity.errors import UserError, first_line

_LOG_IN = "set HF_TOKEN, or run `hf auth login`"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
_AGAIN = "run the same command again: what was downloaded is kept, and it goes on from there"


@contextmanager
def explaining(repository: str, revision: str, where: str) -> Iterator[None]:
    """Turn what huggingface_hub raises within the block into a :class:`UserError`.

    Args:
        repository: ``org/name``.
        revision: What was asked for.
        where: The registry key of the source.
    """
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except (
        httpx2.HTTPError, errors.EntryNotFoundError, errors.RevisionResolutionError, errors.OfflineModeIsEnabled,
        errors.HFValidationError, errors.FileMetadataError,
    ) as error:  # fmt: skip
        raise explain(error, repository, revision, where) from error
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise UserError(
            where, f"that '{repository}' cannot be written to the hub's cache ({first_line(error)})",
            "room for its files, and leave to write them", "free some room, or let HF_HOME name another folder",
        ) from error  # fmt: skip


def _reason(error: Exception) -> str:
    """Return what a library says, without the query of an address: it may hold a signature that gives access."""
    return f"{type(error).__name__}: {re.sub(r'[?][^ ]+', '?...', first_line(error))}"


def explain(error: Exception, repository: str, revision: str, where: str) -> UserError:
    """Return the message for an error of huggingface_hub: what is wrong, and what to do about it."""
    from huggingface_hub import constants, errors

    # Where the library looked into its cache after a request had failed, the cause is what went wrong.
    root = error.__cause__ if isinstance(error.__cause__, Exception) else error
    root = error if isinstance(error, errors.HfHubHTTPError) else root
    response = root.response if isinstance(root, errors.HfHubHTTPError) else None
    status = response.status_code if response is not None else None
    name = f"{where}.repository"
    if isinstance(root, errors.GatedRepoError):
        return UserError(
            name, f"'{repository}', which is gated: its owners give access to those who accept its licence",
            "a repository that you may read",
            f"accept the licence at {constants.ENDPOINT}/{repository}, then {_LOG_IN}",
        )  # fmt: skip
    if isinstance(root, errors.RevisionNotFoundError):
        return UserError(
            f"{where}.revision", f"'{revision}', which '{repository}' does not have",
            "a branch, a tag or a commit of the repository",
            f"choose one of those at {constants.ENDPOINT}/{repository}/tree/main",
        )  # fmt: skip
    if isinstance(root, errors.RepositoryNotFoundError):
        # The hub answers 401 alike for what is private and what does not exist.
        private = " that you may read: it does not exist, or it is private" if status in {401, 403} else ""
        mend = f"; for a private repository, {_LOG_IN}" if private else ""
        return UserError(
            name, f"'{repository}', but the hub has no such repository{private}",
            "the name of a repository, such as org/name", f"correct the name{mend}",
        )  # fmt: skip
    if isinstance(root, errors.DisabledRepoError):
        return UserError(
            name, f"'{repository}', which the hub has disabled", "another repository", "choose another repository"
        )
    if status in {401, 403}:
        return UserError(
            name, f"that the hub refuses access to '{repository}' ({status})", "a token that may read it",
            f"check that your token is valid and may read this repository: {_LOG_IN}",
        )  # fmt: skip
    if status == 429:
        return UserError(
            name, f"that the hub refuses more requests for now, also after waiting (429, '{repository}')",
            "fewer requests in a short time",
            f"wait some minutes and {_AGAIN}. Those who are logged in may send more: {_LOG_IN}",
        )  # fmt: skip
    if isinstance(root, errors.OfflineModeIsEnabled):
        return not_cached(repository, revision, where)
    if isinstance(root, errors.RemoteEntryNotFoundError):
        return UserError(
            name, f"that a file of '{repository}' at {revision} is not there ({_reason(root)})",
            "every file that the hub lists", "name another revision",
        )  # fmt: skip
    return UserError(
        name, f"that the connection to {constants.ENDPOINT} failed ({_reason(root)})",
        f"a hub that answers and holds '{repository}'",
        f"check the network, its proxy and HF_ENDPOINT, then {_AGAIN}. Without a network, fill the hub's cache "
        "elsewhere and set HF_HUB_OFFLINE=1, or use `kind: path`",
    )  # fmt: skip


def not_cached(repository: str, revision: str, where: str, file: str = "") -> UserError:
    """Return the error of a repository, or of one of its files, that is asked for offline and not in the cache."""
    from huggingface_hub import constants

    part = f"{file} of " if file else ""
    return UserError(
        f"{where}.repository",
        f"no network (or HF_HUB_OFFLINE), and {part}'{repository}' at {revision} is not in the hub's cache",
        f"its files in {constants.HF_HUB_CACHE}",
        "run once with a network and without HF_HUB_OFFLINE, or let HF_HOME name the cache that holds them",
    )


def wrong_bytes(repository: str, commit: str, file: str, found: str, expected: str, where: str) -> UserError:
    """Return the error of a file that is not what the hub says it is."""
    kind = "SHA-256" if len(expected) == 64 else "git blob id"
    return UserError(
        f"{where}.repository",
        f"{kind} {found} for {file} of '{repository}' at {commit}",
        expected,
        "run the same command again; if it happens again, do not trust the file: find out what stands between this "
        "machine and the hub (a proxy, or the mirror that HF_ENDPOINT names)",
    )
