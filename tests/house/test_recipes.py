"""The two recipes of CONTRIBUTING.md that are patches: each applies, its tests pass, and it reruns what it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from essential_sparsity.methods.method import Method
from essential_sparsity.planning.digests import code_digest

ROOT = Path(__file__).resolve().parents[2]
TAKEN = ("config", "profiles", "tests", "workflow", "Snakefile", "pyproject.toml")


def recipe(heading: str) -> str:
    """Return the patch below a heading."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"\n### {heading}\n")[1]
    (patch,) = re.findall(r"```diff\n(.*?)```", section.split("\n### ")[0], flags=re.DOTALL)
    return patch


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files of the repository that a recipe touches, runs and tests."""
    for name in TAKEN:
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, tmp_path / name)
    return tmp_path


def applied(heading: str, copy: Path) -> set[str]:
    """Apply a recipe; return the files that it touches."""
    patch = recipe(heading)
    command = ["git", "-C", str(copy), "apply", "--unidiff-zero", "-"]
    done = subprocess.run(command, input=patch, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^\+\+\+ b/(.*)$", patch, flags=re.MULTILINE))


def passes(copy: Path, *arguments: str) -> None:
    """Run tests of the copy, some at least."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=copy, text=True, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout


def digests(copy: Path, entries: tuple[tuple[str, str], ...] | None = None) -> dict[str, str]:
    scripts = copy / "workflow" / "scripts"
    return {path.name: code_digest(path, scripts, entries) for path in sorted(scripts.glob("*.py"))}


def changed(copy: Path, before: dict[str, str]) -> set[str]:
    return {name for name, digest in digests(copy).items() if digest != before[name]}


def test_a_score(copy: Path) -> None:
    others = Method(score="wanda", scope="row", calibration="c").entries
    before = digests(copy, others)
    assert len(applied("A score", copy)) + 1 <= 4, "the issue's four files, with an entry in the changelog"
    passes(copy, "tests/unit/pruning/test_prune.py", "-k", "oracles and standardised and (layer or row)")
    assert digests(copy, others) == before, "no mask of another method, and nothing that follows, is made again"


def test_a_knee_rule(copy: Path) -> None:
    before = digests(copy)
    applied("A knee rule", copy)
    passes(copy, "tests/unit/knees/test_rules.py", "-k", "cliff or documentation or flat")
    rerun = {"find_knees.py", "judge_findings.py", "plot.py", "write_report.py"}
    # The last is no rule's: it prints the findings of several studies.
    assert changed(copy, before) == rerun | {"gather_findings.py"}
