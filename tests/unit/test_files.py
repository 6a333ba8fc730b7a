"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from essential_sparsity.files import atomic_path, sha256_of


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "data.csv.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent, "a rename within one file system is atomic"
        assert temporary.suffixes[-2:] == target.suffixes, "writers choose a format by them"
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_what_was_there(tmp_path: Path, before: str | None, error: type[BaseException]) -> None:
    target = tmp_path / "data.txt"
    if before:
        target.write_text(before)

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == (["data.txt"] if before else [])
    assert not before or target.read_text() == before


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "data.txt"
    target.write_text("old")
    code = f"""
        import os
        from essential_sparsity.files import atomic_path
        with atomic_path({str(target)!r}) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), 9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": _LIBRARY})
    assert done.returncode == -9
    assert target.read_text() == "old"


_LIBRARY = str(Path(__file__).resolve().parents[2] / "workflow" / "scripts")


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "f") as temporary:
            descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600)  # as some writers do
            os.close(descriptor)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~umask


def test_the_digest_is_that_of_hashlib(tmp_path: Path) -> None:
    for size in (0, 1, 1 << 20, (1 << 20) + 1):
        content = os.urandom(size)
        (tmp_path / "f").write_bytes(content)
        assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()
