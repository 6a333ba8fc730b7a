"""Damage is told by checksums; what is whole is believed, and what is made again is as old as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.integrity import check_all, check_inputs, checksum, damaged_files, modified, restore_times
from essential_sparsity.sole_writer import sole_writer
from essential_sparsity.tickets import read_note, ticket_of

MASK = Path("results/masks/a.safetensors")
ROW = Path("results/evaluations/a.parquet")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(path: Path, content: bytes, inputs: Sequence[Path] = ()) -> Path:
    """Write a file as a job does."""
    with sole_writer([str(path)], map(str, inputs), f"makes {path}", print):
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def set_time(path: Path, time: int) -> None:
    os.utime(path, ns=(time, time))


def test_the_checksum_is_that_of_the_reference_program(tmp_path: Path) -> None:
    # https://github.com/Cyan4973/xxHash, tests of XXH3_128bits without a seed: the empty input.
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert checksum(file) == "99aa06d3014798d86001c324468d497f"
    # Whatever the parts in which it is read.
    file.write_bytes(bytes(range(256)) * (1 << 15))
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes()[:-1])
    assert checksum(file) != checksum(other)


@pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "longer"])
def test_any_damage_is_found_and_the_file_is_removed(damage: str) -> None:
    content = bytes(range(256)) * 10
    make(MASK, content)
    make(ROW, b"whole")
    check_inputs([MASK, ROW])
    flipped = bytes([*content[:1000], content[1000] ^ 4, *content[1001:]])
    damaged = {"bit": flipped, "truncated": content[:-1], "empty": b"", "longer": content + b"\0"}[damage]
    before = modified(MASK)
    MASK.write_bytes(damaged)
    # A disk that loses bits leaves the time as it was.
    set_time(MASK, before)
    with pytest.raises(UserError, match=str(MASK)) as raised:
        check_inputs([ROW, MASK])
    assert "was removed and is made again" in raised.value.mend
    assert not MASK.exists() and ROW.exists()
    assert damaged_files(Path("results")) == [str(MASK)]
    make(MASK, content)
    check_inputs([ROW, MASK])
    assert damaged_files(Path("results")) == []


def test_what_no_job_has_written_is_not_judged(tmp_path: Path) -> None:
    own = tmp_path / "texts.csv"
    own.write_text("a user's own")
    unknown = Path("results/sources/before.whl")
    unknown.parent.mkdir(parents=True)
    unknown.write_bytes(b"of a version that noted nothing")
    check_inputs([own, unknown, Path("results/missing")])


def test_a_writer_that_was_killed_leaves_no_checksum_to_judge_by() -> None:
    make(MASK, b"first")
    code = (
        "import os, signal, pathlib\n"
        "from essential_sparsity.sole_writer import sole_writer\n"
        f"with sole_writer(['{MASK}'], [], '', print):\n"
        f"    pathlib.Path('{MASK}').write_bytes(b'second')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert MASK.read_bytes() == b"second"
    check_inputs([MASK])
    # What was last finished is still known.
    assert read_note(ticket_of(MASK))["before"]["modified"] > 0


def remade(path: Path, content: bytes, inputs: Sequence[Path] = ()) -> int:
    """Make a file again, let its time be set as Snakemake does, and return the time that it is given back."""
    make(path, content, inputs)
    set_time(path, time.time_ns())
    restore_times(Path("results"))
    return modified(path)


def test_the_same_bytes_made_again_are_as_old_as_before() -> None:
    make(MASK, b"mask")
    first = modified(MASK)
    time.sleep(0.01)
    assert remade(MASK, b"mask") == first
    assert remade(MASK, b"another mask") > first


def test_the_same_bytes_are_no_older_than_what_they_were_made_of() -> None:
    make(MASK, b"mask")
    make(ROW, b"row", [MASK])
    newer = time.time_ns()
    set_time(MASK, newer)
    assert remade(ROW, b"row", [MASK]) >= newer


def test_all_results_are_checked_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(MASK, b"mask")
    make(ROW, b"row")
    monkeypatch.chdir("/")
    assert check_all(tmp_path / "results") == (2, [])
    (tmp_path / ROW).write_bytes(b"raw")
    assert check_all(tmp_path / "results") == (2, [str(ROW)])
    assert not (tmp_path / ROW).exists()
    assert check_all(tmp_path / "results") == (1, [])
