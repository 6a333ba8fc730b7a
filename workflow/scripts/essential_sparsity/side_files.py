"""Files beside a job's outputs, such as a tokenizer, where only outputs are kept: packed into one of them.

A checkpoint, a pre-training and a download are folders of which a few files are declared. On a file system that is
shared, or the job's own, whoever reads a declared file finds the others beside it. From object storage a job gets what
it declares and nothing else, so there the rules declare a further output, :data:`PACKED`, which holds all others.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from essential_sparsity.files import atomic_path

PACKED = "beside.tar"


def pack(outputs: Iterable[Path]) -> None:
    """Write those outputs that are called :data:`PACKED`: all files below their folders that are not outputs.

    Args:
        outputs: What a job wrote, and what it is to pack.
    """
    declared = set(outputs)
    for target in (path for path in declared if path.name == PACKED):
        beside = sorted(path for path in target.parent.rglob("*") if path.is_file() and path not in declared)
        with atomic_path(target) as temporary, tarfile.open(temporary, "w", dereference=True) as archive:
            for path in beside:
                archive.add(path, path.relative_to(target.parent), filter=_timeless)


def unpack(inputs: Iterable[Path]) -> None:
    """Put what those inputs hold that are called :data:`PACKED` beside them, where it was when they were packed.

    Another job may be doing the same: a file is either as it was, or whole.
    """
    for packed in (path for path in inputs if path.name == PACKED):
        with tempfile.TemporaryDirectory(dir=packed.parent, prefix=".beside-") as folder:
            with tarfile.open(packed) as archive:
                archive.extractall(folder, filter="data")
            for path in (path for path in Path(folder).rglob("*") if path.is_file()):
                target = packed.parent / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


def _timeless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member without what differs from run to run."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    member.mode = 0o644
    return member
