"""`make plan`: it names the jobs that then run, knows what finished ones cost and share, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny


def plan(clone: Any) -> subprocess.CompletedProcess[str]:
    """Plan a clone's study."""
    script = clone.workflow / "workflow" / "scripts" / "plan_study.py"
    command = [sys.executable, str(script), "study.yaml", "--cores", "2"]
    return subprocess.run(command, cwd=clone.work, capture_output=True, text=True, timeout=300, check=False)


def rows(run: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Return the words of each rule's row."""
    assert run.returncode == 0, run.stdout + run.stderr
    table = run.stdout.split("\n\n")[0].splitlines()[1:]
    return {rule: words for rule, *words in map(str.split, table)}


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
    run = plan(clone)
    assert files(clone.work) == before
    assert not (clone.work / ".snakemake").exists()
    # The same study in another folder, where it has run.
    ran = Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", finished.log, flags=re.MULTILINE))
    assert {rule: int(words[0]) for rule, words in rows(run).items()} == dict(ran - Counter(all=ran["all"]))
    assert run.stdout.count("not measured yet") == len(rows(run))
    assert "There already" not in run.stdout


def test_a_second_study_shares_what_the_first_has_made(clone: Any) -> None:
    def extend(config: dict[str, Any]) -> None:
        config.update(study="second")
        config["curves"][1]["sparsities"] = [0.5, 0.7, 0.9]

    clone.configure(extend)
    before = files(clone.work)
    run = plan(clone)
    assert files(clone.work) == before
    planned = rows(run)
    # The new level: two methods, two seeds; the mask of magnitude is the same for both.
    assert (planned["finetune_model"][0], planned["prune_weights"][0]) == ("4", "3")
    assert not {"evaluate_language_model", "pretrain_model", "plan_pruning", "prepare_inputs"} & set(planned)
    assert not {"not"} & {*planned["finetune_model"], *planned["prune_weights"]}
    # A dense model and two methods at three levels; of each of two seeds a dense model and two methods at two levels.
    for shared in ("7 of evaluate_language_model", "10 of finetune_model", "1 of pretrain_model"):
        assert f"There already: {shared}, shared with tiny." in run.stdout


def test_a_study_that_is_wrong_is_not_planned(fresh: Any) -> None:
    fresh.configure(lambda config: config["curves"][0].update(models=["tiny-lama"]))
    run = plan(fresh)
    assert run.returncode == 1
    assert "tiny-llama" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read from /proc")
def test_jobs_have_no_more_memory_than_they_ask_for(fresh: Any) -> None:
    """All clones run under this limit, and finish; here a job takes what it is given besides what it began with."""
    before = "    matrices = list_matrices("
    fresh.edit("list_matrices.py", before, f"    bytearray(1_000_000 * snakemake.resources.mem_mb)\n{before}")
    result = fresh.snakemake("results/matrices/tiny-llama.json")
    assert result.returncode != 0
    assert "Error in list_matrices" in result.stderr and "the memory of this job" in result.stderr
