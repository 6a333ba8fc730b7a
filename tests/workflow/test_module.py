"""The workflow as a module of another one, as `snakedeploy` writes it: from a clone, and from GitHub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tiny
from essential_sparsity.files import read_json
from tiny import ROOT

SNAKEFILE = """
configfile: "config/config.yaml"

module essential_sparsity:
    snakefile:
        {source}
    config:
        config

use rule * from essential_sparsity
"""
REPOSITORY = "owner/essential-sparsity"


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=n@n", *arguments], check=True)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A repository of git with the workflow, tagged."""
    folder = tmp_path / "published"
    for name in ("workflow", "config", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    # Jobs that start by themselves, as on clusters, find the library, too.
    start = folder / "workflow" / "rules" / "start.smk"
    warm = "    seam.start_jobs_warm()\n"
    assert warm in start.read_text()
    start.write_text(start.read_text().replace(warm, "    pass\n"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "publish")
    git(folder, "tag", "v1")
    return folder


@pytest.mark.parametrize("source", ["clone", "github"])
def test_a_deployed_workflow_runs_by_the_registries_that_were_deployed(
    tmp_path: Path, published: Path, source: str
) -> None:
    declared = {
        "clone": f'"{published}/Snakefile"', "github": f'github("{REPOSITORY}", path="Snakefile", tag="v1")',
    }  # fmt: skip
    work = tmp_path / "deployed"
    shutil.copytree(published / "config", work / "config")
    (work / "workflow").mkdir()
    (work / "workflow" / "Snakefile").write_text(SNAKEFILE.format(source=declared[source]))
    study = tiny.study(work)
    # What a user has changed of the files that were deployed counts.
    models = work / "config" / "models.yaml"
    moved = {"tiny-llama": study["registries"]["models"].pop("tiny-llama")}
    models.write_text(models.read_text() + "\n" + yaml.safe_dump(moved))
    tiny.write_study(study, work / "config" / "config.yaml")
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{published}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{REPOSITORY}",
    }  # fmt: skip
    target = "results/matrices/tiny-llama.json"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", target]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(matrix["pruned"] for matrix in read_json(work / target)["matrices"]) == 14
