"""Jobs that an earlier run has left in Slurm's queue are found before they are submitted again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.run.slurm import refuse_to_submit_twice

PREFIX = "essential-sparsity"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of which jobs are in the queue, beside those of other folders."""
    named = f"{PREFIX}_0b2f"
    rows = [("7", "here", named), ("8", "here", "my shell"), ("9_3", "here/a b", named), ("11", "here", named)]
    text = "".join(f"{number}\t{tmp_path}/{where}\t{name}\n" for number, where, name in rows)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=text))
    return tmp_path / "here"


def test_only_jobs_of_snakemake_in_this_folder_stop_a_run(here: Path) -> None:
    refuse_to_submit_twice(here / "another", PREFIX)
    refuse_to_submit_twice(here, "another")
    with pytest.raises(UserError, match=r"jobs of another run in Slurm's queue \(1\); .*\(scancel 9_3\)"):
        refuse_to_submit_twice(here / "a b", PREFIX)
    with pytest.raises(UserError, match=r"queue \(2\); .*\(scancel 7 11\)"):
        refuse_to_submit_twice(here, PREFIX)
    # Without a prefix any job of the folder may be Snakemake's.
    with pytest.raises(UserError, match=r"scancel 7 8 11\)"):
        refuse_to_submit_twice(here, "")


def test_a_folder_is_the_same_by_whatever_name(here: Path) -> None:
    here.mkdir()
    link = here.with_name("link")
    link.symlink_to(here)
    with pytest.raises(UserError):
        refuse_to_submit_twice(link, PREFIX)


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
        refuse_to_submit_twice(Path(), PREFIX)
    assert said in str(stopped.value)
