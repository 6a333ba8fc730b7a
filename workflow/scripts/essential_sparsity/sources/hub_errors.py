"""What the model hub's errors mean for the person who runs the workflow; no token or signature stands in a message."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from essential_sparsity.errors import UserError, first_line

_LOG_IN = "set HF_TOKEN, or run `hf auth login`"
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


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
    except (httpx2.HTTPError, errors.EntryNotFoundError, errors.RevisionResolutionError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise UserError(
                where, f"that '{repository}' cannot be written to the hub's cache ({first_line(error)})",
                "room for its files, and leave to write them",
                "free some room, or let HF_HOME name another folder",
            ) from error  # fmt: skip
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise explain(error, repository, revision, where) from error


def unsigned(text: str) -> str:
    """Return a text without the queries of its addresses: they may hold a signature that gives access for a while."""
    return re.sub(r"[?]\S+", "?...", text)


def explain(error: Exception, repository: str, revision: str, where: str) -> UserError:
    """Return the message for an error of huggingface_hub: what is wrong, and what to do about it."""
    from huggingface_hub import constants, errors

    # Where the library looked into its cache after a request had failed, the cause is what went wrong.
    root = error.__cause__ if isinstance(error.__cause__, Exception) else error
    root = error if isinstance(error, errors.HfHubHTTPError) else root
    status = root.response.status_code if isinstance(root, errors.HfHubHTTPError) else None
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
    if isinstance(root, errors.RepositoryNotFoundError) or status in {401, 403}:
        # The hub answers 401 alike for what is private and what does not exist.
        private = (
            " that you may read: it does not exist, it is private, or your token is not valid" if status != 404 else ""
        )
        return UserError(
            name, f"'{repository}', but the hub has no such repository{private}",
            "the name of a repository, such as org/name",
            f"correct the name{f'; for a private repository, {_LOG_IN}' if private else ''}",
        )  # fmt: skip
    if isinstance(root, errors.OfflineModeIsEnabled):
        return not_cached(repository, revision, where)
    refused = " Those who are logged in may ask more often." if status == 429 else ""
    return UserError(
        name, f"that the connection to {constants.ENDPOINT} failed for '{repository}' "
        f"({type(root).__name__}: {unsigned(first_line(root))})", "a hub that answers",
        f"check the network, its proxy and HF_ENDPOINT, then run the same command again.{refused} Without a network, "
        "fill the hub's cache elsewhere and set HF_HUB_OFFLINE=1, or use `kind: path`",
    )  # fmt: skip


def not_cached(repository: str, revision: str, where: str) -> UserError:
    """Return the error of a repository whose files are asked for offline and not all in the cache."""
    from huggingface_hub import constants

    return UserError(
        f"{where}.repository",
        f"no network (or HF_HUB_OFFLINE), and '{repository}' at {revision} is not, or not whole, in the hub's cache",
        f"its files in {constants.HF_HUB_CACHE}",
        "run once with a network and without HF_HUB_OFFLINE, or let HF_HOME name the cache that holds them",
    )


def quieten() -> None:
    """Keep the queries of addresses out of what the libraries log, and what is said here in better words."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub._snapshot_download").setLevel(logging.ERROR)
    for name in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        logging.getLogger(name).addFilter(_unsign)


def _unsign(record: logging.LogRecord) -> bool:
    record.msg, record.args = unsigned(record.getMessage()), ()
    return True
