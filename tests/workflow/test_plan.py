"""`make plan`: it names the jobs that then run, knows what finished ones cost and share, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from check_resources import compared, out_of_bounds


def plan(clone: Any, to: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Plan a clone's study; return the plan as values and as text."""
    script = clone.workflow / "workflow" / "scripts" / "plan_study.py"
    command = [sys.executable, str(script), "study.yaml", "--cores", "2", "--json", str(to), *arguments]
    run = subprocess.run(command, cwd=clone.work, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(to.read_text()), run.stdout


def jobs_of(values: dict[str, Any]) -> dict[str, int]:
    return {row["rule"]: row["jobs"] for row in values["rules"] if row["jobs"]}


def files(folder: Path) -> dict[str, int]:
    """Return every file below a folder with when it was written, Snakemake's own records left out."""
    found = (path for path in folder.rglob("*") if ".snakemake" not in path.parts)
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_a_plan_names_the_jobs_that_then_run_and_writes_nothing(
    finished: Any, make_clone: Callable[[Path], Any], tmp_path: Path
) -> None:
    clone = make_clone(tmp_path / "new")
    clone.configure(lambda config: config.update(findings=tiny.findings()))
    before = files(clone.work)
    values, text = plan(clone, tmp_path / "plan.json")
    assert files(clone.work) == before
    assert not (clone.work / ".snakemake").exists()
    # The same study in another folder, where it has run.
    ran = Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", finished.log, flags=re.MULTILINE))
    assert jobs_of(values) == dict(ran - Counter(all=ran["all"]))
    assert values["totals"]["later"] == values["totals"]["measured"] == values["unknown_jobs"] == 0
    assert values["shared"] == []
    assert 0 < values["wall_hours"]["least"] < values["wall_hours"]["most"]
    for row in values["rules"]:
        assert row["rule"] in text


def test_a_second_study_shares_what_the_first_has_made(clone: Any, tmp_path: Path) -> None:
    def extend(config: dict[str, Any]) -> None:
        config.update(study="second")
        config["curves"][1]["sparsities"] = [0.5, 0.7, 0.9]

    clone.configure(extend)
    before = files(clone.work)
    values, text = plan(clone, tmp_path / "plan.json")
    assert files(clone.work) == before
    jobs = jobs_of(values)
    # The new level: two methods, two seeds; the mask of magnitude is the same for both.
    assert (jobs["finetune_model"], jobs["prune_weights"]) == (4, 3)
    assert not {"evaluate_language_model", "pretrain_model", "plan_pruning", "prepare_inputs"} & set(jobs)
    measured = {row["rule"]: row["measured"] for row in values["rules"]}
    assert (measured["finetune_model"], measured["prune_weights"]) == (4, 3)
    shared = {row["rule"]: (row["jobs"], row["studies"]) for row in values["shared"]}
    # A dense model and two methods at three levels; of each of two seeds a dense model and two methods at two levels.
    assert shared["evaluate_language_model"] == (7, "tiny")
    assert shared["finetune_model"] == (10, "tiny")
    assert shared["pretrain_model"] == (1, "tiny")
    assert "There already: 10 of finetune_model, shared with tiny." in text


def test_levels_that_are_placed_later_are_counted_at_their_most(
    make_clone: Callable[[Path], Any], tmp_path: Path
) -> None:
    clone = make_clone(tmp_path / "new")

    def place(config: dict[str, Any]) -> None:
        config["curves"][1]["sparsities"] = {"adaptive": {"start": [0.5, 0.9], "budget": 6, "per_round": 2}}

    clone.configure(place)
    values, _ = plan(clone, tmp_path / "plan.json")
    rows = {row["rule"]: row for row in values["rules"]}
    # Of each seed: the dense model, and five levels of two methods, of which two are known.
    assert rows["finetune_model"]["jobs"] == 2 * (1 + 2 * 2)
    assert rows["finetune_model"]["jobs"] + rows["finetune_model"]["later"] == 2 * (1 + 2 * 5)
    # Three levels: a mask for magnitude, and one a seed for random removal.
    assert rows["prune_weights"]["later"] == 3 * (1 + 2)


def test_a_study_that_is_wrong_is_not_planned(fresh: Any, tmp_path: Path) -> None:
    fresh.configure(lambda config: config["curves"][0].update(models=["tiny-lama"]))
    script = fresh.workflow / "workflow" / "scripts" / "plan_study.py"
    run = subprocess.run(
        [sys.executable, str(script), "study.yaml"], cwd=fresh.work, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "tiny-llama" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are compared where jobs are forked from a warm process")
def test_jobs_are_given_the_memory_that_they_use(finished: Any) -> None:
    jobs = compared(finished.work / "results" / "costs")
    assert len(jobs) > 20
    wrong = out_of_bounds(jobs)
    assert wrong.empty, wrong.to_string()
