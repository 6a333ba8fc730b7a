"""What differs from a seal is found and named; nothing is changed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from essential_sparsity.planning.seal import check, seal
from tiny import ROOT


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for name in (
        "masks/a b.safetensors",
        "tables/knees.parquet",
        "costs/x/1.json",
        "logs/x/1.log",
        ".hidden/half",
        "states/1",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}")
    return folder


def flip_a_bit(path: Path) -> None:
    """Change one bit of a file, whose time stays."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[0] ^= 16
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_seal_holds_the_digest_size_and_time_of_every_result(results: Path) -> None:
    assert seal(results) == (3, 3)
    sealed = json.loads((results / "seal.json").read_text())
    assert sealed.keys() == {"masks/a b.safetensors", "tables/knees.parquet", "costs/x/1.json"}
    path = results / "masks/a b.safetensors"
    expected = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": 29,
        "modified": path.stat().st_mtime_ns,
    }
    assert sealed["masks/a b.safetensors"] == expected
    assert check(results) == {}


def test_only_what_changed_is_read_again(results: Path) -> None:
    seal(results)
    assert seal(results) == (3, 0)
    (results / "masks/a b.safetensors").write_text("another")
    (results / "masks/new").write_text("new")
    (results / "costs/x/1.json").unlink()
    assert seal(results) == (3, 2)
    assert check(results) == {}


def test_damage_edits_and_losses_are_told_apart(results: Path) -> None:
    seal(results)
    flip_a_bit(results / "masks/a b.safetensors")
    (results / "tables/knees.parquet").write_text("mended by hand")
    (results / "costs/x/1.json").unlink()
    os.utime(results / "logs/x/1.log", ns=(0, 0))
    assert check(results) == {
        "masks/a b.safetensors": "is damaged: other bytes under the same time",
        "tables/knees.parquet": "was written after it was sealed",
        "costs/x/1.json": "is missing",
    }
    # Sealed again, damage stays damage, and what was edited stays as it is.
    seal(results)
    assert check(results).keys() == {"masks/a b.safetensors"}
    assert (results / "tables/knees.parquet").read_text() == "mended by hand"


def test_the_command_names_what_differs_and_what_makes_it_again(results: Path) -> None:
    script = str(ROOT / "workflow" / "scripts" / "seal_results.py")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script, *arguments], cwd=results.parent, capture_output=True, text=True, check=False
        )

    assert "make seal" in run("check").stderr
    assert run("seal").returncode == run("check").returncode == 0
    for name in ("masks/a b.safetensors", "tables/knees.parquet"):
        flip_a_bit(results / name)
    (results / "tables/.snakemake_timestamp").touch()
    found = run("check", "studies/mine.yaml")
    assert found.returncode == 1
    assert "--configfile studies/mine.yaml --force -- 'results/masks/a b.safetensors' results/tables\n" in found.stdout
