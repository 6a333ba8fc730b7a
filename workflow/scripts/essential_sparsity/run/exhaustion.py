"""What a job lacked when memory, room or permission ran out, as a message instead of a traceback."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from essential_sparsity.errors import UserError, first_line
from essential_sparsity.run.usage import peak_resident_mb

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)
# Less than this counts as nothing: libraries that write files themselves do not say why they failed.
_LEAST_FREE = 1 << 20


def explain(error: Exception, results: Path, given: Mapping[str, Any]) -> UserError | None:
    """Return what a job lacked; None where an error has another cause.

    Args:
        error: What ended the job.
        results: The folder that it wrote to.
        given: The job's resources: ``mem_mb``.
    """
    if any(map(is_out_of_memory, _causes(error))):
        return _out_of_memory(error, given)
    refused = next((cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno), None)
    if refused is not None and refused.errno in _NO_PERMISSION:
        return UserError(
            where=str(refused.filename or results),
            found=f"no permission ({refused.strerror})",
            expected="permission to read what the job reads, and to write its results and its log",
            mend="correct the permissions, or mount the file system for writing, then run again",
        )
    free = shutil.disk_usage(results).free if results.exists() else 0
    if (refused is not None and refused.errno in _NO_ROOM) or (results.exists() and free < _LEAST_FREE):
        return UserError(
            where=str(results),
            found=f"no room for another file ({refused.strerror if refused else first_line(error)}; "
            f"{free / 1e6:.0f} MB are free)",
            expected="a file system with room, and a quota or limit of file sizes that suffices",
            mend="make room or raise the limit, then run again: what is finished stays",
        )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came of."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory was refused: by Python, NumPy and Arrow, or by torch, which is not imported for that."""
    by_torch = "OutOfMemoryError" in {kind.__name__ for kind in type(error).__mro__}
    refused = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    by_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or by_torch or refused or by_system


def _out_of_memory(error: Exception, given: Mapping[str, Any]) -> UserError:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    limited = "" if limit == resource.RLIM_INFINITY else f", and a limit of {limit / 1e6:.0f} MB of address space"
    return UserError(
        where="the memory of this job",
        found=f"too little ({first_line(error)}): the job had {peak_resident_mb():.0f} MB and asked for more",
        expected=f"to do with what it was given: mem_mb={given.get('mem_mb')}{limited}",
        mend="give the rule more mem_mb (set-resources in the profile), or let the profile's `retries` do so: every "
        "further attempt is given more",
    )
