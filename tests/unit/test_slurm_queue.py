"""Jobs that an earlier run has left in Slurm's queue are found before they are submitted again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from essential_sparsity.errors import UserError
from essential_sparsity.run.slurm_queue import comment_of, parse_queue, queued_jobs, refuse_to_submit_twice

COMMENT = "rule_finetune_model_wildcards_bert_final_dense_0.000_sst2_0"


def queue(folder: Path) -> str:
    other = f"8\tPENDING\t{folder}\trule_find_knees_wildcards_tiny\n9_3\tPENDING\t/\t(null)\n"
    return f"7\tRUNNING\t{folder}\t{COMMENT}\n{other}"


def test_a_comment_is_that_of_the_executor(tmp_path: Path) -> None:
    # As snakemake-executor-plugin-slurm forms it; tests/slurm compares with the plugin itself.
    assert comment_of("finetune_model", ["bert", "final", "dense", "0.000", "sst2", "0"]) == COMMENT
    assert comment_of("download_repository", ["models/bert"]) == "rule_download_repository_wildcards_models_bert"
    assert comment_of("all", []) == "rule_all"


def test_only_what_would_run_twice_here_stops_a_run(tmp_path: Path) -> None:
    jobs = parse_queue(queue(tmp_path))
    assert [job.number for job in jobs] == ["7", "8", "9_3"]
    refuse_to_submit_twice(jobs, tmp_path, {"rule_all"})
    refuse_to_submit_twice(jobs, tmp_path / "another", {COMMENT})
    with pytest.raises(UserError) as stopped:
        refuse_to_submit_twice(jobs, tmp_path, {COMMENT, "rule_all"})
    assert f"jobs of an earlier run still in Slurm's queue: 7 ({COMMENT}, running);" in str(stopped.value)
    assert "scancel 7)" in str(stopped.value)


def test_where_not_all_jobs_are_known_any_of_the_folder_stops_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scancel 7 8\)"):
        refuse_to_submit_twice(parse_queue(queue(tmp_path)), tmp_path, None)


def test_a_folder_is_the_same_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError):
        refuse_to_submit_twice(parse_queue(queue(tmp_path / "link")), tmp_path, {COMMENT})


def test_a_long_queue_is_named_in_part_and_cancelled_as_a_whole(tmp_path: Path) -> None:
    jobs = parse_queue("".join(f"{n}\tPENDING\t{tmp_path}\t{COMMENT}\n" for n in range(100, 125)))
    with pytest.raises(UserError) as stopped:
        refuse_to_submit_twice(jobs, tmp_path, {COMMENT})
    assert "109 (" in str(stopped.value) and "110 (" not in str(stopped.value) and "15 more" in str(stopped.value)
    assert f"scancel {' '.join(map(str, range(100, 125)))})" in str(stopped.value)


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
