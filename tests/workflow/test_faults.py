"""Faults: what is finished stays, one rerun makes the rest, and the tables are those of a study that nothing befell.

`docs/faults.md` lists every fault with the test that stands for it. With `FAULTS=all` every stage is killed in every
way, each in a study of its own, and a table is cut short.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from essential_sparsity.tickets import read_note, ticket_of

ALL = os.environ.get("FAULTS") == "all"
PATIENCE = 300.0
DAY = 24 * 3600 * 10**9

BERT = "tiny-bert/step000012"
TRAINING = "results/pretraining/tiny-bert/index.json"
WEIGHTS = f"results/checkpoints/{BERT}/model.safetensors"
MASK = f"results/masks/{BERT}/magnitude-layer/0/0.500.safetensors"
DENSE = f"results/evaluations/{BERT}/dense/0.000/tiny-kind/0.parquet"
TUNED = f"results/evaluations/{BERT}/magnitude-layer/0.500/tiny-kind/0.parquet"
TABLES = "results/studies/tiny/tables"
TABLE = f"{TABLES}/evaluations.parquet"
REPORT = "results/studies/tiny/report.html"
# A stage each, and an output of one of its jobs.
STAGES = {
    "pre-training": TRAINING,
    "extraction": WEIGHTS,
    "pruning": MASK,
    "fine-tuning": TUNED,
    "collection": TABLE,
    "report": REPORT,
}
# As files are told that are too large for Snakemake to look into.
BY_TIMES = ["--max-checksum-file-size", "0"]
# What a job spent differs from run to run, and so do the tables that hold it.
SPENT = ["seconds", "peak_memory_mb"]

TUNING = "Fine-tuning tiny-bert, step000012, magnitude-layer at 0.500 on tiny-kind, seed 0"
TUNING_DENSE = "Fine-tuning tiny-bert, step000012, dense at 0.000 on tiny-kind, seed 0"
COLLECTING = "Collecting the evaluations of tiny"


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


def writer(clone: Any, output: str) -> int | None:
    """Return the process that is writing an output."""
    note = read_note(clone.work / ticket_of(Path(output)))
    return int(note["process"]) if "process" in note and "did" not in note else None


def finished(clone: Any) -> dict[str, int]:
    """Return which process made each output that is finished, also in Snakemake's books."""
    marks = (clone.work / ".snakemake" / "incomplete").glob("*")
    cut_off = {base64.b64decode(mark.name, altchars=b"-_").decode() for mark in marks if mark.is_file()}
    notes = map(read_note, (clone.work / "results/.locks").glob("*"))
    return {note["path"]: note["process"] for note in notes if "did" in note and note["path"] not in cut_off}


def kill_job(clone: Any, run: subprocess.Popen[str], output: str) -> None:
    """Kill the job that writes an output, and let the run come to its end."""
    os.kill(waited_for(lambda: writer(clone, output)), signal.SIGKILL)
    assert run.wait(timeout=PATIENCE) != 0


def kill_main(clone: Any, run: subprocess.Popen[str], output: str) -> None:
    """Kill the main process while a job writes an output."""
    waited_for(lambda: writer(clone, output))
    run.kill()
    run.wait()


VICTIMS = {"job": kill_job, "main": kill_main}
FEW = [[("job", "pre-training"), ("main", "pruning"), ("job", "fine-tuning")]]
TWICE = [[("main" if stage in ("pruning", "report") else "job", stage) for stage in STAGES]]
EACH = [[(victim, stage)] for stage in STAGES for victim in VICTIMS]


@pytest.mark.parametrize("kills", TWICE + EACH if ALL else FEW, ids=str)
def test_a_study_survives_kills(new: Any, whole: Any, kills: list[tuple[str, str]]) -> None:
    kept: dict[str, int] = {}
    for victim, stage in kills:
        with running(new) as run:
            VICTIMS[victim](new, run, STAGES[stage])
        # What was finished at the last kill is what it was then; so it stays to the end.
        assert kept.items() <= finished(new).items()
        kept = finished(new)
        if victim == "main":
            new.run("--unlock")
        else:
            assert STAGES[stage] not in kept
    new.run()
    assert kept.items() <= finished(new).items()
    assert_whole(new, whole)


def forget(clone: Any, *outputs: str) -> None:
    """Remove outputs, and what a study ends with: else nobody would ask for them."""
    for output in (*outputs, TABLE, REPORT):
        (clone.work / output).unlink()


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file, whose time stays."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_flipped_bits_are_found_and_what_they_are_in_is_made_again_alone(study: Any, whole: Any) -> None:
    for damaged in (MASK, WEIGHTS):
        flip_a_bit(study.work / damaged)
    forget(study, TUNED)
    result = study.snakemake()
    printed = result.stdout + result.stderr
    assert result.returncode != 0
    assert all(name in printed for name in (MASK, WEIGHTS)) and "other bytes than were written" in printed
    assert "run the same command once more" in printed
    # Both were made anew as they were; of what was made of them, only what had not been finished is left to do.
    for mended in (MASK, WEIGHTS):
        assert (study.work / mended).read_bytes() == (whole.work / mended).read_bytes()
    done = study.executed(*BY_TIMES)
    assert TUNING in done
    assert not [job for job in done if re.match("Pre-training|Extracting|Pruning|Measuring|Preparing", job)]
    assert TUNING_DENSE not in done
    assert_whole(study, whole)


@pytest.mark.skipif(not ALL, reason="the same code finds flipped bits; set FAULTS=all to run it")
def test_a_truncated_table_is_found_and_made_again(study: Any, whole: Any) -> None:
    row = study.work / DENSE
    row.write_bytes(row.read_bytes()[:-100])
    forget(study)
    result = study.snakemake()
    assert result.returncode != 0
    assert DENSE in result.stdout + result.stderr
    done = study.executed()
    assert COLLECTING in done
    assert not [job for job in done if re.match("Pre-training|Extracting|Pruning|Measuring|Preparing|Fine-tuning", job)]
    assert_whole(study, whole)


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


def set_ahead(path: Path, by: int) -> None:
    """Give a file a time that is later."""
    later = path.stat().st_mtime_ns + by
    os.utime(path, ns=(later, later))


def results_of(clone: Any) -> list[Path]:
    return [path for path in (clone.work / "results").rglob("*") if path.is_file() and ".locks" not in path.parts]


def test_times_that_were_set_ahead_make_nothing_again(study: Any, whole: Any) -> None:
    for path in results_of(study):
        set_ahead(path, 2 * DAY if path == study.work / MASK else DAY)
    assert study.planned(*BY_TIMES) == set()
    # What is made of them is not older than they are.
    forget(study, TUNED)
    done = study.executed(*BY_TIMES)
    assert TUNING in done
    assert not [job for job in done if re.match("Pre-training|Extracting|Pruning|Measuring|Preparing", job)]
    assert TUNING_DENSE not in done
    assert study.planned(*BY_TIMES) == set()
    assert_whole(study, whole)


def test_what_was_made_by_a_clock_that_was_ahead_is_kept(new: Any, whole: Any) -> None:
    # A user's file keeps the time that it has: nothing begins before that is mended.
    texts = new.work / "texts.csv"
    set_ahead(texts, DAY)
    refused = new.snakemake(*BY_TIMES)
    assert refused.returncode != 0
    assert all(text in refused.stderr for text in ("texts.csv", "in the future", "touch")), refused.stderr
    assert not results_of(new)
    os.utime(texts)
    with running(new) as run:
        kill_job(new, run, TUNED)
    kept = finished(new)
    for path in results_of(new):
        set_ahead(path, DAY)
    # So do the notes of the jobs that made them.
    for ticket in (new.work / "results/.locks").glob("*"):
        note = read_note(ticket)
        ticket.write_text(json.dumps(note | {key: note[key] + DAY for key in ("modified", "began") if key in note}))
    new.run(*BY_TIMES)
    assert WEIGHTS in kept and kept.items() <= finished(new).items()
    assert max(path.stat().st_mtime for path in results_of(new)) <= time.time()
    assert new.planned(*BY_TIMES) == set()
    assert_whole(new, whole)


def test_two_runs_in_one_folder_train_once(new: Any, whole: Any) -> None:
    with running(new, TRAINING) as first:
        job = waited_for(lambda: writer(new, TRAINING))
        # Slower than any other.
        os.kill(job, signal.SIGSTOP)
        refused = new.snakemake(TRAINING)
        assert refused.returncode != 0
        assert "cannot be locked" in refused.stdout + refused.stderr
        # A main process that is told to end waits for its jobs: to unlock its folder does not end them.
        first.send_signal(signal.SIGINT)
        new.run("--unlock")
        with running(new, TRAINING) as second:
            waited_for(lambda: "waiting until it ends" in second.log.read_text())
            assert f"process {job} on" in second.log.read_text()
            os.kill(job, signal.SIGCONT)
            first.wait(timeout=PATIENCE)
            assert second.wait(timeout=PATIENCE) == 0, second.log.read_text()
    training = Path("results/pretraining/tiny-bert")
    for path in sorted((whole.work / training).rglob("*.*")):
        assert (new.work / path.relative_to(whole.work)).read_bytes() == path.read_bytes()


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


def test_the_notes_of_a_finished_study_are_complete(whole: Any) -> None:
    notes = [read_note(path) for path in (whole.work / "results/.locks").glob("*") if path.is_file()]
    assert all("checksum" in note for note in notes)
    assert {MASK, WEIGHTS, TUNED, TABLE, REPORT} <= {note["path"] for note in notes}
    assert json.dumps(notes)
