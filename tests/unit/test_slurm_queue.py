"""Jobs that an earlier run has left in Slurm's queue are found before they are submitted again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.run.slurm_queue import parse_queue, queued_jobs, refuse_to_submit_twice

PREFIX = "essential-sparsity"


def queue(folder: Path) -> str:
    named = f"{PREFIX}_0b2f"
    rows = [("7", folder, named), ("8", folder, "my shell"), ("9_3", f"{folder}/a b", named), ("11", folder, named)]
    return "".join(f"{number}\t{where}\t{name}\n" for number, where, name in rows)


def test_only_jobs_of_snakemake_in_this_folder_stop_a_run(tmp_path: Path) -> None:
    jobs = parse_queue(queue(tmp_path))
    refuse_to_submit_twice(jobs, tmp_path / "another", PREFIX)
    refuse_to_submit_twice(jobs, tmp_path, "another")
    with pytest.raises(UserError, match=r"jobs of another run in Slurm's queue \(1\); .*\(scancel 9_3\)"):
        refuse_to_submit_twice(jobs, tmp_path / "a b", PREFIX)
    with pytest.raises(UserError, match=r"queue \(2\); .*\(scancel 7 11\)"):
        refuse_to_submit_twice(jobs, tmp_path, PREFIX)


def test_without_a_prefix_all_jobs_of_the_folder_stop_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scancel 7 8 11\)"):
        refuse_to_submit_twice(parse_queue(queue(tmp_path)), tmp_path, "")


def test_a_folder_is_the_same_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError):
        refuse_to_submit_twice(parse_queue(queue(tmp_path / "link")), tmp_path, PREFIX)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file", "squeue"), "No such file"),
        (subprocess.CalledProcessError(1, "squeue", stderr="slurm_load_jobs error\n"), "slurm_load_jobs error;"),
        (subprocess.TimeoutExpired("squeue", 60), "timed out"),
    ],
)
def test_a_queue_that_cannot_be_read_stops_a_run(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserError, match="squeue --me") as stopped:
        queued_jobs()
    assert said in str(stopped.value)
