"""The environment is the pinned one: every way in which a doctored one differs is named with its mend."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from essential_sparsity.environment import (
    check_environment,
    environment_lines,
    environment_summary,
    installed,
    read_pins,
)
from tiny import ROOT

PINS = {"one-package": "1.0", "two": "2.5"}


def install(folder: Path, name: str, version: str, requires: str = "", code: str = "VALUE = 1\n") -> None:
    """Put a package into a folder as pip does, with the digests of its files."""
    module = f"{name.lower().replace('-', '_')}/__init__.py"
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / module).parent.mkdir(exist_ok=True)
    (folder / module).write_text(code)
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
    digest = base64.urlsafe_b64encode(hashlib.sha256(code.encode()).digest()).rstrip(b"=").decode()
    (info / "RECORD").write_text(
        f"{module},sha256={digest},{len(code)}\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment as it is pinned."""
    install(tmp_path, "One_Package", "1.0", 'extra-one>=1; extra == "fast"')
    install(tmp_path, "two", "2.5", 'system-library>=1; sys_platform == "linux"')
    return tmp_path


def test_the_pinned_environment_has_no_differences(site: Path) -> None:
    found = check_environment(PINS, [str(site), str(site)])
    assert (found.differences, found.notes, found.packages, found.files) == ([], [], 2, 2)


def remove_two(site: Path) -> None:
    (site / "two-2.5.dist-info").rename(site / "gone")


def upgrade_two(site: Path) -> None:
    remove_two(site)
    install(site, "two", "2.6")


def change_a_file(site: Path) -> None:
    (site / "two/__init__.py").write_text("VALUE = 2\n")


def lose_a_file(site: Path) -> None:
    (site / "two/__init__.py").unlink()


@pytest.mark.parametrize(
    ("doctor", "says"),
    [
        (remove_two, ["package two", "found none", "version 2.5", "pip install --force-reinstall two==2.5"]),
        (upgrade_two, ["package two", "found version 2.6", "version 2.5", "two==2.5"]),
        (lambda site: install(site, "Two", "2.4"), ["package two", "2 times", "2.4", "pip uninstall two"]),
        (change_a_file, ["package two", "two/__init__.py has been changed", "--no-deps two==2.5"]),
        (lose_a_file, ["package two", "two/__init__.py is missing", "--no-deps two==2.5"]),
        (lambda site: (site / "two-2.5.dist-info/RECORD").unlink(), ["package two", "no record of its files"]),
        (lambda site: install(site, "extra-one", "3.0"), ["package extra-one", "version 3.0", "'One_Package'"]),
        (lambda site: (site / "strange.pth").write_text("import os\n"), ["strange.pth", "came with no package"]),
        (lambda site: (site / "sitecustomize.py").write_text(""), ["sitecustomize.py", "whenever it starts"]),
    ],
)
def test_a_difference_is_named_with_its_mend(site: Path, doctor: Callable[[Path], object], says: list[str]) -> None:
    doctor(site)
    found = check_environment(PINS, [str(site)])
    assert len(found.differences) == 1
    message = str(found.differences[0])
    assert "To mend: " in message
    for text in says:
        assert text in message


def test_what_does_no_harm_is_a_note(site: Path) -> None:
    install(site, "system-library", "9.0")
    install(site, "unrelated", "0.1")
    remove_two(site)
    install(site, "two", "2.5+cpu", 'system-library>=1; sys_platform == "linux"')
    found = check_environment(PINS, [str(site)])
    assert not found.differences
    assert found.notes == [
        "two 2.5+cpu is a local build of the pinned 2.5", "system-library 9.0 is not pinned (needed by two)",
        "unrelated 0.1 is not pinned (used by no pinned package)",
    ]  # fmt: skip


def test_the_command_exits_with_one_where_something_differs(site: Path) -> None:
    pins = site / "pins.txt"
    pins.write_text("# pinned\n-r other.txt\nOne.Package==1.0\ntwo==2.5  # with a comment\n")
    assert read_pins([pins]) == PINS
    command = [sys.executable, str(ROOT / "workflow/scripts/check_lock.py"), str(pins), "--folder", str(site)]
    good = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    assert "2 packages, 2 files: as in pins.txt" in good.stdout
    change_a_file(site)
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert "package two: found two/__init__.py has been changed" in bad.stderr


def test_an_environment_in_a_line_is_another_where_a_package_is() -> None:
    lines = environment_lines()
    assert f"numpy=={installed()['numpy'][0].version}" in lines
    first = environment_summary(lines)
    assert first == environment_summary(list(lines))
    assert first != environment_summary([line.replace("numpy==", "numpy==9.") for line in lines])
    assert first.startswith("Python 3.")
