"""What planning costs does not grow with what a study repeats: counted calls and files, never seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny import ROOT

METHODS, LEVELS = ["magnitude-global", "random-layer"], [0.3, 0.5, 0.7]

# Runs Snakemake and counts what of ours is called, and which files are opened, while it plans.
COUNTING = """
import json, os, sys
from collections import Counter
from snakemake.cli import main
sys.path.insert(0, sys.argv[1])
from essential_sparsity.methods.method import Method
from essential_sparsity.study.study import Study
counts, opened = Counter(), Counter()

def counted(owner, name):
    function = getattr(owner, name)
    def count(*arguments, **options):
        counts[name] += 1
        return function(*arguments, **options)
    setattr(owner, name, count)

for owner, name in [(Study, "slots"), (Study, "defining"), (Method, "to_dict")]:
    counted(owner, name)
sys.addaudithook(lambda event, details: opened.update([os.fspath(details[0])])
                 if event == "open" and isinstance(details[0], (str, os.PathLike)) else None)
try:
    status = main(sys.argv[3:])
finally:
    loaded = set(sys.modules) & {"torch", "transformers", "scipy", "sklearn", "matplotlib"}
    results = sorted(path for path in opened if "results/" in path)
    with open(sys.argv[2], "w") as file:
        json.dump({"counts": counts, "results": results, "modules": sorted(loaded)}, file)
"""


def planned(folder: Path, seeds: int) -> dict[str, Any]:
    """Return what was counted while a study with so many seeds was planned, and its evaluations."""
    folder.mkdir()
    curves = {"models": ["bert-base"], "methods": METHODS, "sparsities": LEVELS, "tasks": ["sst2"]}
    study = {"study": "counted", "curves": [{**curves, "seeds": list(range(seeds))}]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    counts = folder / "counts.json"
    command = [
        sys.executable, "-c", COUNTING, str(ROOT / "workflow" / "scripts"), str(counts), "--dry-run", "--cores", "2",
        "--snakefile", str(ROOT / "Snakefile"), "--configfile", "study.yaml", "--quiet", "rules", "--nocolor",
        "--workflow-profile", str(ROOT / "profiles" / "default"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert counts.is_file(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(counts.read_text())
    evaluations = re.search(r"^finetune_model +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    assert evaluations is not None, done.stdout + done.stderr
    return {**found, "evaluations": int(evaluations[1])}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("planned")
    return planned(folder / "one", 1), planned(folder / "four", 4)


def test_parameters_are_made_once_for_all_jobs_that_share_them(plans: Any) -> None:
    one, four = plans
    assert four["evaluations"] == 4 * one["evaluations"] == 4 * (1 + len(METHODS) * len(LEVELS))
    assert four["counts"] == one["counts"]
    # A method up to a level, once without one (plans and masks), the dense model, and the task.
    assert one["counts"]["slots"] <= len(METHODS) * (len(LEVELS) + 1) + 1
    assert one["counts"]["defining"] == 2, "of the task and of its dataset"


def test_planning_opens_no_result_of_a_job(plans: Any) -> None:
    assert [plan["results"] for plan in plans] == [[], []]


def test_planning_imports_nothing_that_computes(plans: Any) -> None:
    assert plans[0]["modules"] == []
