"""What Snakemake needs to plan a study of 10,000 evaluations, and to find that one which is finished needs nothing.

The study is of the paper's shape: one model, eight methods, 25 levels, ten tasks and five seeds. Each measurement is a
process of its own, `snakemake` as a user calls it, on two cores at most. `ours_seconds` and `ours_peak_mb` are those
of a dry run in an empty folder. For the finished study every output that the dry run names is made as an empty file,
and Snakemake records each job as done (`--touch`, without the tenth of a second that it sleeps at each job):
`noop_seconds` and `noop_peak_mb` are those of the run after that, which must find nothing to do.

With `--table` studies of 1,000, 10,000 and 50,000 evaluations are measured, or of those numbers of them that follow,
and a row of a Markdown table is printed of each. It has a further column: what the main process spends on each job (ms
of CPU time) while that many others are ready, to choose it, record it and go on; the job itself is a touch.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from harness import ROOT, report

CORES = 2
METHODS = [
    "magnitude-global", "magnitude-layer", "magnitude-row", "random-global", "random-layer", "alpha-magnitude",
    "wanda-dense", "ria",
]  # fmt: skip
LEVELS = [round(0.038 * i, 3) for i in range(1, 26)]
TASKS = ["sst2", "cola", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "squad"]
# Tasks and seeds of a study of so many evaluations, without those of dense models.
SIZES = {1_000: (5, 1), 10_000: (10, 5), 50_000: (10, 25)}

# Snakemake as its command line is, but that recording a job as done takes no pause.
RECORD = """
import sys
from snakemake.cli import main
from snakemake.executors import touch
touch.Executor.SLEEPING_TIME = 0
main(sys.argv[1:])
"""
# Jobs whose overhead is measured, once so many evaluations are finished that all others are ready.
WARM, MEASURED = 30, 100


@dataclass(frozen=True)
class Spent:
    """What a run of Snakemake spent: wall and CPU seconds, and its peak of resident memory in MB (10^6 bytes)."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def write_study(evaluations: int, file: Path) -> None:
    """Write a study of so many evaluations of pruned models."""
    tasks, seeds = SIZES[evaluations]
    curves = {
        "models": ["bert-base"], "methods": METHODS, "sparsities": LEVELS, "tasks": TASKS[:tasks],
        "seeds": list(range(seeds)),
    }  # fmt: skip
    file.write_text(yaml.safe_dump({"study": "scale", "title": "Scale", "curves": [curves]}), encoding="utf-8")


def arguments(folder: Path, *more: str) -> list[str]:
    """Return the arguments of Snakemake for the study in a folder."""
    return [
        "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--configfile", str(folder / "study.yaml"),
        "--workflow-profile", str(ROOT / "profiles" / "default"), "--nocolor", *more,
    ]  # fmt: skip


def start(command: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a process on :data:`CORES` cores, whose output goes to a file."""
    output = folder / "output.txt"
    chosen = sorted(os.sched_getaffinity(0))[:CORES]
    with open(output, "wb") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
    os.sched_setaffinity(process.pid, chosen)
    return process, output


def run(command: list[str], folder: Path) -> tuple[Spent, str]:
    """Run a command to its end; return what it spent and what it printed."""
    began = time.perf_counter()
    process, output = start(command, folder)
    _, status, used = os.wait4(process.pid, 0)
    seconds, text = time.perf_counter() - began, output.read_text(encoding="utf-8")
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return Spent(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6), text


def snakemake(folder: Path, *more: str) -> tuple[Spent, str]:
    """Run Snakemake on the study in a folder."""
    return run([sys.executable, "-m", "snakemake", *arguments(folder, *more)], folder)


def finish(folder: Path) -> None:
    """Make every output of the study as an empty file or folder, and let Snakemake record every job as done."""
    _, planned = snakemake(folder, "--dry-run", "--cores", str(CORES))
    lists = re.findall(r"Missing output files: ([^;\n]*)", planned)
    for path in {path for paths in lists for path in paths.split(", ")}:
        file = folder / path.strip()
        file.parent.mkdir(parents=True, exist_ok=True)
        # Folders alone have names without a suffix.
        file.touch() if file.suffix else file.mkdir()
    # Many at once, and few to choose from: here only what is recorded counts.
    run(recorder(folder, "--cores", "500", "--scheduler-subsample", "500", "--quiet", "all"), folder)


def recorder(folder: Path, *more: str) -> list[str]:
    """Return the command that records all jobs of the study as done."""
    return [sys.executable, "-c", RECORD, *arguments(folder, "--touch", "--forceall", "--nolock", *more)]


def overhead(folder: Path) -> float:
    """Return what the main process spends on a job while nearly all others are ready, in seconds of CPU time."""
    process, output = start(recorder(folder, "--cores", str(CORES)), folder)
    try:
        main = psutil.Process(process.pid)
        marks: list[tuple[int, float]] = []
        for wanted in (WARM, WARM + MEASURED):
            while (done := output.read_text(encoding="utf-8").count("(Rule: finetune_model)")) < wanted:
                if process.poll() is not None:
                    raise RuntimeError(output.read_text(encoding="utf-8")[-3000:])
                time.sleep(0.05)
            used = main.cpu_times()
            marks.append((done, used.user + used.system))
        ((first, before), (last, after)) = marks
        return float((after - before) / (last - first))
    finally:
        process.kill()
        process.wait()


def measure(evaluations: int, folder: Path) -> tuple[int, Spent, Spent]:
    """Return the jobs of a study, what planning it spends, and what a run of it spends once it is finished."""
    write_study(evaluations, folder / "study.yaml")
    plan, text = snakemake(folder, "--dry-run", "--quiet", "rules", "--cores", str(CORES))
    jobs = int(re.findall(r"^total +(\d+)$", text, flags=re.MULTILINE)[0])
    finish(folder)
    noop, text = snakemake(folder, "--cores", str(CORES))
    if "Nothing to be done" not in text:
        raise RuntimeError(f"the finished study has something to do:\n{text[-3000:]}")
    return jobs, plan, noop


def main() -> None:
    """Print the figures of 10,000 evaluations, or with ``--table`` a row of each size as it is measured."""
    if sys.argv[1:2] == ["--table"]:
        print("| Evaluations | Jobs | Plan | Peak | No-op | Peak | Per job |\n" + "|---" * 7 + "|", flush=True)
        for evaluations in map(int, sys.argv[2:] or SIZES):
            with tempfile.TemporaryDirectory() as name:
                jobs, plan, noop = measure(evaluations, Path(name))
                cells = [f"{evaluations:,}", f"{jobs:,}", *spent(plan), *spent(noop)]
                print(f"| {' | '.join(cells)} |", end="", flush=True)
                print(f" {1000 * overhead(Path(name)):.0f} ms |", flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        jobs, plan, noop = measure(10_000, Path(name))
    report(
        "plan-10k", ours_seconds=plan.seconds, ours_peak_mb=plan.peak_mb, ours_cpu_seconds=plan.cpu_seconds, jobs=jobs,
        noop_seconds=noop.seconds, noop_peak_mb=noop.peak_mb, noop_cpu_seconds=noop.cpu_seconds, limit_seconds=22.0,
        limit_mb=500.0,
    )  # fmt: skip


def spent(run: Spent) -> tuple[str, str]:
    """Return what the table says of a run."""
    return f"{run.seconds:.0f} s ({run.cpu_seconds:.0f} s CPU)", f"{run.peak_mb:.0f} MB"


if __name__ == "__main__":
    main()
