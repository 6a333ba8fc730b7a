"""Kept digests are those that would be made anew, whatever happened to the code or to the file they are kept in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from essential_sparsity import digest_cache, digests
from essential_sparsity.digest_cache import script_digests
from essential_sparsity.digests import code_digest

SCRIPT = "from essential_sparsity.one import VALUE\nprint(VALUE)\n"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Two scripts, one of which imports a module."""
    root = tmp_path / "scripts"
    (root / "essential_sparsity").mkdir(parents=True)
    (root / "essential_sparsity" / "one.py").write_text("VALUE = 1\n")
    (root / "script.py").write_text(SCRIPT)
    (root / "other.py").write_text("print(2)\n")
    return root


def anew(root: Path) -> dict[str, str]:
    return {name: code_digest(root / name, root) for name in ("script.py", "other.py")}


def test_what_is_kept_is_what_would_be_made(scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "kept" / "digests.json"
    assert script_digests(scripts, cache) == anew(scripts)
    expected = anew(scripts)
    # The second time nothing is parsed.
    monkeypatch.setattr(digest_cache, "code_digest", lambda *_: pytest.fail("parsed again"))
    assert script_digests(scripts, cache) == expected


def test_an_edit_counts_even_if_size_and_time_stamp_stay(scripts: Path, tmp_path: Path) -> None:
    cache, module = tmp_path / "digests.json", scripts / "essential_sparsity" / "one.py"
    before, times = script_digests(scripts, cache), module.stat()
    module.write_text("VALUE = 2\n")
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    # As in another process.
    digests._parse.cache_clear()
    after = script_digests(scripts, cache)
    assert after == anew(scripts)
    assert (after["script.py"] != before["script.py"], after["other.py"]) == (True, before["other.py"])


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"made_of": 1}', '{"made_of": "x", "digests": {}}'])
def test_a_damaged_file_is_made_anew(scripts: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "digests.json"
    cache.write_text(damage)
    assert script_digests(scripts, cache) == anew(scripts)
    assert script_digests(scripts, cache) == anew(scripts)


def test_it_does_without_a_place_to_keep_them(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert script_digests(scripts, tmp_path / "file" / "digests.json") == anew(scripts)
