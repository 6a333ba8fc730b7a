"""What lies beside a job's outputs is packed into one of them, and put back beside an input."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from essential_sparsity.side_files import PACKED, pack, unpack


def make(folder: Path) -> list[Path]:
    """Write a checkpoint's folder; return its outputs."""
    (folder / "code").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("words")
    (folder / "code" / "model.py").write_text("pass")
    return [folder / "model.safetensors", folder / "config.json", folder / PACKED]


def test_side_files_come_back_where_they_were(tmp_path: Path) -> None:
    outputs = make(tmp_path / "made")
    pack(outputs)
    read = tmp_path / "read" / PACKED
    read.parent.mkdir()
    os.rename(outputs[-1], read)
    (read.parent / "tokenizer.json").write_text("old words")
    unpack([read.parent / "model.safetensors", read])
    found = {str(path.relative_to(read.parent)): path.read_text() for path in read.parent.rglob("*") if path.is_file()}
    assert found.pop(PACKED)
    assert found == {"tokenizer.json": "words", "code/model.py": "pass"}
    assert (read.parent / "tokenizer.json").stat().st_mode & 0o444 == 0o444


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        outputs = make(tmp_path / name)
        os.utime(outputs[0].with_name("tokenizer.json"), (len(name), len(name)))
        pack(outputs)
    assert (tmp_path / "one" / PACKED).read_bytes() == (tmp_path / "other" / PACKED).read_bytes()


def test_a_job_that_declares_no_such_output_packs_nothing(tmp_path: Path) -> None:
    outputs = make(tmp_path)[:2]
    before = sorted(tmp_path.rglob("*"))
    pack(outputs)
    unpack(outputs)
    assert sorted(tmp_path.rglob("*")) == before


def test_links_are_packed_as_what_they_point_to(tmp_path: Path) -> None:
    outputs = make(tmp_path / "made")
    (tmp_path / "cached").write_text("from the cache")
    (tmp_path / "made" / "linked").symlink_to(tmp_path / "cached")
    pack(outputs)
    with tarfile.open(outputs[-1]) as archive:
        assert all(member.isfile() for member in archive)


def test_no_member_leaves_the_folder(tmp_path: Path) -> None:
    packed = tmp_path / "inside" / PACKED
    packed.parent.mkdir()
    with tarfile.open(packed, "w") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(tarfile.OutsideDestinationError):
        unpack([packed])
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", PACKED]
