"""Faults: what is finished stays, one rerun makes the rest, and the tables are those of a study that nothing befell.

`docs/faults.md` lists every fault with the test that stands for it.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from waiting import is_running, until

PATIENCE = 300.0

BERT = "tiny-bert/step000012"
TRAINING = "results/pretraining/tiny-bert/index.json"
WEIGHTS = f"results/checkpoints/{BERT}/model.safetensors"
MASK = f"results/masks/{BERT}/magnitude-layer/0/0.500.safetensors"
TUNED = f"results/evaluations/{BERT}/magnitude-layer/0.500/tiny-kind/0.parquet"
TABLES = "results/studies/tiny/tables"
TABLE = f"{TABLES}/evaluations.parquet"
REPORT = "results/studies/tiny/report.html"
# The logs of the jobs that are killed.
LOGS = {
    "pre-training": "results/logs/pretrain_model/tiny-bert.log",
    "pruning": f"results/logs/prune_weights/{BERT}/magnitude-layer/0/0.500.log",
}
# What a job spent differs from run to run, and so do the tables that hold it.
SPENT = ["seconds", "peak_memory_mb"]

TUNING = "Fine-tuning tiny-bert, step000012, magnitude-layer at 0.500 on tiny-kind, seed 0"


def shrink(config: dict[str, Any]) -> None:
    """Leave of the tiny study one job of every stage, and one level."""
    config.pop("findings", None)
    config["curves"] = [config["curves"][1] | {"methods": ["magnitude-layer"], "sparsities": [0.5], "seeds": [0]}]


@pytest.fixture(scope="module")
def whole(make_clone: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study that nothing befell; never change it."""
    clone = make_clone(tmp_path_factory.mktemp("whole"))
    clone.configure(shrink)
    clone.run()
    return clone


@pytest.fixture
def study(whole: Any, tmp_path: Path) -> Any:
    """A copy of the finished study."""
    shutil.copytree(whole.work, tmp_path / "work", symlinks=True)
    return type(whole)(whole.workflow, tmp_path / "work")


@pytest.fixture
def new(whole: Any, tmp_path: Path) -> Any:
    """The same study before its first run."""
    shutil.copytree(whole.work, tmp_path / "work", ignore=shutil.ignore_patterns("results", ".snakemake"))
    return type(whole)(whole.workflow, tmp_path / "work")


def tables(clone: Any) -> dict[str, Any]:
    """Return a study's tables: their bytes, or their content without what the jobs spent."""
    found: dict[str, Any] = {}
    for path in sorted((clone.work / TABLES).glob("*.parquet")):
        if path.stem == "evaluations":
            found[path.stem] = pd.read_parquet(path).drop(columns=SPENT).to_csv(index=False)
        elif path.stem != "costs":
            found[path.stem] = path.read_bytes()
    assert len(found) > 5
    return found


def assert_whole(clone: Any, whole: Any) -> None:
    """The tables are those of the study that nothing befell, and nothing is left to do."""
    assert tables(clone) == tables(whole)
    assert clone.planned() == set()


@contextmanager
def running(clone: Any, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run in a process group of its own; none of it outlives the block."""
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(clone.workflow / "Snakefile"), "--configfile",
        "study.yaml", "--cores", "2", "--nocolor", *arguments,
    ]  # fmt: skip
    log = clone.work / f"{len(list(clone.work.glob('*.run.log')))}.run.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=clone.work, stdout=file, stderr=file, text=True, start_new_session=True)
        process.log = log  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def waited_for(condition: Callable[[], Any]) -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.005)
    raise AssertionError("it did not come to that")


def job_of(clone: Any, run: subprocess.Popen[str], stage: str) -> int | None:
    """Return the process of the job of a stage, whose standard output is its log."""
    log = str(clone.work / LOGS[stage])
    for process in psutil.Process(run.pid).children(recursive=True):
        with suppress(OSError):
            if os.readlink(f"/proc/{process.pid}/fd/1") == log:
                return process.pid
    return None


def finished(clone: Any) -> dict[str, int]:
    """Return when each result was written that is finished, also in Snakemake's books."""
    marks = (clone.work / ".snakemake" / "incomplete").glob("*")
    cut_off = {base64.b64decode(mark.name, altchars=b"-_").decode() for mark in marks if mark.is_file()}
    files = (path for path in (clone.work / "results").rglob("*") if path.is_file() and "logs" not in path.parts)
    times = {str(path.relative_to(clone.work)): path.stat().st_mtime_ns for path in files}
    return {name: time for name, time in times.items() if not any(name.startswith(part) for part in cut_off)}


def kill_job(job: int, run: subprocess.Popen[str]) -> None:
    """Kill a job, and let the run come to its end."""
    os.kill(job, signal.SIGKILL)
    assert run.wait(timeout=PATIENCE) != 0


def kill_main(job: int, run: subprocess.Popen[str]) -> None:
    """Kill the main process while a job runs: the job ends with it."""
    run.kill()
    run.wait()
    until(lambda: not is_running(job))


@pytest.mark.skipif(sys.platform != "linux", reason="jobs end with their main process on Linux alone")
def test_a_study_survives_kills(new: Any, whole: Any) -> None:
    kept: dict[str, int] = {}
    for stage in ("pre-training", "pruning"):
        for kill in (kill_job, kill_main):
            with running(new) as run:
                kill(waited_for(partial(job_of, new, run, stage)), run)
            # What was finished at the last kill is what it was then; so it stays to the end.
            assert kept.items() <= finished(new).items()
            kept = finished(new)
            if kill is kill_main:
                new.run("--unlock")
    assert WEIGHTS in kept and MASK not in kept
    new.run()
    assert kept.items() <= finished(new).items()
    assert_whole(new, whole)


def forget(clone: Any, *outputs: str) -> None:
    """Remove outputs, and what a study ends with: else nobody would ask for them."""
    for output in (*outputs, TABLE, REPORT):
        (clone.work / output).unlink()


@contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """Put a file system of its own under a folder's content, or skip the test where that is not allowed."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    try:
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("mount"), reason="needs Linux's mount")
def test_a_full_or_read_only_disk_is_named_and_loses_nothing_that_is_finished(study: Any, whole: Any) -> None:
    results = study.work / "results"
    forget(study, TUNED)
    with disk(results, "64m"):
        filler = results / "filler"
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(results).free)
        full = study.snakemake()
        assert full.returncode != 0
        assert "no room for another file" in full.stdout + full.stderr, full.stdout + full.stderr
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(results)], check=True)
        refused = study.snakemake(TUNED)
        assert refused.returncode != 0
        assert "Read-only file system" in refused.stdout + refused.stderr, refused.stdout + refused.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(results)], check=True)
        done = study.executed()
        assert TUNING in done
        assert not [job for job in done if re.match("Pre-training|Extracting|Pruning|Measuring|Preparing", job)]
        assert_whole(study, whole)


def test_a_second_run_in_a_folder_is_refused(new: Any) -> None:
    with running(new, TRAINING) as first:
        # Slower than any other.
        os.kill(waited_for(partial(job_of, new, first, "pre-training")), signal.SIGSTOP)
        refused = new.snakemake(TRAINING)
        assert refused.returncode != 0
        assert "cannot be locked" in refused.stdout + refused.stderr


def test_what_somebody_edits_is_kept_and_what_is_made_of_it_made_again(study: Any) -> None:
    row = study.work / TABLES / "evaluations.parquet"
    table = pd.read_parquet(row)
    table.to_parquet(row, compression="gzip")
    edited = row.read_bytes()
    assert "Finding the knees of tiny" in study.executed()
    assert row.read_bytes() == edited


def test_a_job_without_memory_is_tried_again_with_more(study: Any, whole: Any, tmp_path: Path) -> None:
    shutil.copytree(whole.workflow, tmp_path / "workflow copy")
    greedy = type(study)(tmp_path / "workflow copy", study.work)
    # It asks for a fifth more than a first attempt is given; sizes are a tenth of what they are called.
    before = "    device = choose_device(snakemake.resources.gpu, snakemake.threads)\n"
    lines = """\
    import psutil, resource
    given, first = snakemake.resources.mem_mb, Path("first")
    first.exists() or first.write_text(str(given))
    limit = psutil.Process().memory_info().vms + 100_000 * given
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    bytearray(120_000 * int(first.read_text()))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    greedy.edit("finetune_model.py", before, before + lines)
    result = greedy.snakemake("--retries", "1", TUNED)
    assert result.returncode == 0, result.stdout + result.stderr
    printed = result.stdout + result.stderr
    assert "the memory of this job" in printed and "mem_mb=" in printed and "Traceback" not in printed
