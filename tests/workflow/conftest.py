"""A clone of the workflow with a finished tiny study, which each test gets its own copy of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

import tiny
from limited import hold_jobs
from tiny import ROOT

WORKFLOW_PARTS = ("Snakefile", "workflow", "config", "profiles", "envs")


@dataclass
class Clone:
    """A copy of the workflow and a working directory with a study in it.

    Attributes:
        workflow: The folder with the Snakefile.
        work: The working directory, which holds ``results`` and the study file.
    """

    workflow: Path
    work: Path

    @property
    def study_file(self) -> Path:
        return self.work / "study.yaml"

    def configure(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the study file by a function on its content."""
        config = yaml.safe_load(self.study_file.read_text())
        change(config)
        tiny.write_study(config, self.study_file)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the workflow on this clone's study."""
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(self.workflow / "Snakefile"),
            "--configfile", "study.yaml", "--cores", "2", "--nocolor", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, cwd=self.work, capture_output=True, text=True, timeout=600, check=False)

    def run(self, *arguments: str) -> str:
        """Run the workflow, expect success, return what it printed."""
        result = self.snakemake(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def planned(self, *arguments: str) -> set[str]:
        """Return the messages of the jobs that a run would execute: what it would do, in words."""
        output = self.run("--dry-run", *arguments)
        return set(re.findall(r"^Job \d+: (.*)$", output, flags=re.MULTILINE))

    def executed(self, *arguments: str) -> set[str]:
        """Run the workflow and return the messages of the jobs that it executed."""
        return set(re.findall(r"^Job \d+: (.*)$", self.run(*arguments), flags=re.MULTILINE))

    def edit(self, module: str, old: str, new: str) -> None:
        """Replace text in a file of the workflow."""
        path = self.workflow / "workflow" / "scripts" / module
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def new_clone(folder: Path) -> Clone:
    """Copy the workflow, hold its jobs to the memory that they ask for, and write the tiny study; nothing is run."""
    clone = Clone(folder / "workflow copy", folder / "work")
    for part in WORKFLOW_PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, clone.workflow / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            clone.workflow.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, clone.workflow / part)
    hold_jobs(clone.workflow)
    tiny.write_study(tiny.study(clone.work), clone.study_file)
    return clone


@pytest.fixture(scope="session")
def make_clone() -> Callable[[Path], Clone]:
    """Make a clone in a folder, for modules with a study of their own."""
    return new_clone


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Clone:
    """The tiny study, run to its end once for all tests, whatever process they run in; never change it."""
    base = tmp_path_factory.getbasetemp()
    # The processes of one run of pytest have their folders side by side.
    folder = (base if worker_id == "master" else base.parent) / "finished"
    clone, log = Clone(folder / "workflow copy", folder / "work"), folder / "log"
    with FileLock(folder.with_suffix(".lock")):
        if not log.exists():
            shutil.rmtree(folder, ignore_errors=True)
            new_clone(folder).configure(lambda config: config.update(findings=tiny.findings()))
            log.write_text(clone.run(), encoding="utf-8")
    clone.log = log.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    return clone


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    """A copy of the finished study, to change and run again."""
    target = tmp_path / "copy"
    shutil.copytree(finished.workflow.parent, target, symlinks=True)
    return Clone(target / finished.workflow.name, target / finished.work.name)


@pytest.fixture
def fresh(tmp_path: Path) -> Clone:
    """A clone in which nothing has run."""
    return new_clone(tmp_path / "fresh")
