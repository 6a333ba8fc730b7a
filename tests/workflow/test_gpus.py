"""Two studies in two folders beside each other on one machine, with fake GPUs: jobs compute on the CPU all the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.run.leases import FOLDER
from gpu_jobs import Use, most_in_use

GPUS = (f"GPU-test-{os.getpid()}-1", f"GPU-test-{os.getpid()}-2")
RULE = "evaluate_language_model"
# What CUDA would be asked is replaced; the rest of the job is as it is. Each writes when it surely had its devices.
PRETENCE = """
    import os, time
    begin = time.monotonic_ns()
    time.sleep(0.5)
    line = [os.getpid(), os.getcwd(), os.environ["CUDA_VISIBLE_DEVICES"], begin, time.monotonic_ns()]
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (__import__("json").dumps(line) + "\\n").encode())
    return torch.device("cpu")
"""


@pytest.fixture
def clones(finished: Any, tmp_path: Path) -> list[Any]:
    """Two copies of the finished study, whose jobs take fake GPUs for theirs."""
    copies = []
    for name in ("one", "other"):
        shutil.copytree(finished.workflow.parent, tmp_path / name, symlinks=True)
        copy = type(finished)(tmp_path / name / finished.workflow.name, tmp_path / name / finished.work.name)
        copy.edit(
            "essential_sparsity/run/devices.py",
            "    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0\n",
            PRETENCE,
        )
        copies.append(copy)
    return copies


@pytest.fixture
def journal(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with two GPUs, and a file that jobs write in. The path of a run's socket has to be short."""
    folder = tmp_path_factory.mktemp("g")
    driver = folder / "nvidia-smi"
    listing = "\n".join(f"GPU {number}: Fake (UUID: {uuid})" for number, uuid in enumerate(GPUS))
    driver.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("JOURNAL", str(folder / "journal"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield folder / "journal"
    for uuid in GPUS:
        (FOLDER / f"essential-sparsity-{uuid}.lock").unlink(missing_ok=True)


def test_two_studies_share_a_machines_gpus(finished: Any, clones: list[Any], journal: Path) -> None:
    folder = "results/evaluations/tiny-llama/final"
    rows = sorted(path.relative_to(finished.work) for path in (finished.work / folder).glob("*/*/*/0.parquet"))
    assert len(rows) == 7
    again = ["--rerun-triggers", "mtime", "--forcerun", RULE, "--resources", "gpu=2", "--nocolor"]

    def run(clone: Any, *given: str) -> str:
        resources = ["--set-resources", *(f"{RULE}:{setting}" for setting in given)]
        return str(clone.run(*again, *resources, "--", *map(str, rows)))

    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(run, clones[0], "gpu=1")
        shared = pool.submit(run, clones[1], "gpu=1", "gpu_percent=50")
        whole.result(), shared.result()
    uses = []
    for job, (_, cwd, devices, begin, end) in enumerate(map(json.loads, journal.read_text().splitlines())):
        percent = 100 if cwd == str(clones[0].work) else 50
        assert devices in GPUS, "each has one device, by its own name"
        uses.append(Use(devices, job, percent, begin, end))
    assert sorted(use.percent for use in uses) == [50] * 7 + [100] * 7
    assert max(most_in_use(uses).values()) <= 100
    for clone in clones:
        logs = list((clone.work / f"results/logs/{RULE}").rglob("*.log"))
        assert len(logs) == 7 and all("GPUs: GPU-" in log.read_text() for log in logs)
        for row in rows:
            known, found = (pd.read_parquet(work / row)["value"].item() for work in (finished.work, clone.work))
            assert found == known


def test_a_run_stops_before_any_job_where_its_profile_gives_what_is_not_there(clone: Any, journal: Path) -> None:
    stopped = clone.snakemake("--forcerun", RULE, "--set-resources", f"{RULE}:gpu=3")
    assert stopped.returncode != 0
    assert f"resources.gpu of rule {RULE}" in stopped.stderr and "gpu=3, but 2 GPUs to use" in stopped.stderr
    assert "Language modelling of" not in stopped.stdout + stopped.stderr
    assert not list((clone.work / ".snakemake").glob("locks/*")), "the next run can start"
    nonsense = clone.snakemake("--dry-run", "--set-resources", f"{RULE}:gpu=1", f"{RULE}:gpu_percent=120")
    assert nonsense.returncode != 0
    assert f"resources.gpu_percent of rule {RULE}: found 120 with gpu: 1" in nonsense.stdout + nonsense.stderr
