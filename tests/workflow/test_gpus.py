"""A profile's GPUs reach its jobs, and what no machine has stops a run: with fake GPUs, on which nothing computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.run.leases import FOLDER

RULE = "evaluate_language_model"


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the two GPUs that a machine has."""
    names = [f"GPU-test-{os.getpid()}-{number}" for number in "12"]
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU: Fake (UUID: {name})'\n" for name in names))
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield names
    for name in names:
        (FOLDER / f"essential-sparsity-{name}.lock").unlink(missing_ok=True)


def test_jobs_have_gpus_of_their_own(clone: Any, finished: Any, gpus: list[str]) -> None:
    # What CUDA would be asked is replaced; the rest of a job is as it is.
    asked = "    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0\n"
    clone.edit("essential_sparsity/run/devices.py", asked, '    return torch.device("cpu")\n')
    rows = sorted((clone.work / "results/evaluations/tiny-llama/final").glob("*/*/*/0.parquet"))[:2]
    again = ["--rerun-triggers", "mtime", "--forcerun", RULE, "--set-resources", f"{RULE}:gpu=1"]
    assert len(clone.executed(*again, "--", *(str(row.relative_to(clone.work)) for row in rows))) == 2
    for row in rows:
        job = row.relative_to(clone.work / "results/evaluations").with_suffix(".log")
        log = (clone.work / f"results/logs/{RULE}" / job).read_text()
        assert any(f"GPUs: {name} (100 % of each)" in log for name in gpus)
        known, found = (pd.read_parquet(work / row.relative_to(clone.work)) for work in (finished.work, clone.work))
        assert found["value"].item() == known["value"].item()


def test_a_run_stops_before_any_job_where_its_profile_gives_what_is_not_there(clone: Any, gpus: list[str]) -> None:
    stopped = clone.snakemake("--forcerun", RULE, "--set-resources", f"{RULE}:gpu=3")
    assert stopped.returncode != 0
    assert f"resources.gpu of rule {RULE}" in stopped.stderr and "gpu=3, but 2 GPUs to use" in stopped.stderr
    assert "Language modelling of" not in stopped.stdout + stopped.stderr
    assert not list((clone.work / ".snakemake").glob("locks/*")), "the next run can start"
    nonsense = clone.snakemake("--dry-run", "--set-resources", f"{RULE}:gpu=1", f"{RULE}:gpu_percent=120")
    assert nonsense.returncode != 0
    assert f"resources.gpu_percent of rule {RULE}: found 120 with gpu: 1" in nonsense.stdout + nonsense.stderr
