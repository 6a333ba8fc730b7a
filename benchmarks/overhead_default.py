"""What the workflow spends beside its work: the whole default study, against one plain script of the same evaluations.

Ours is `snakemake --cores 1` in an empty folder, from the packages' wheels to the report, with all that a study has
besides evaluations: weights measured at every step, masks kept, costs, knees and their intervals, figures. The peer is
`plain_study.py`: one process and a loop, for the evaluations alone. Downloads are left out; both are given the wheels.

Each side has one thread and one core of its own, and the two run beside each other, so that both see the same machine.
`ours_seconds` and `peer_seconds` are wall times; with `_cpu_` in their names they are the CPU seconds of all processes
of a side. All rows must agree: the same value, and the same sparsity counted in the model that was evaluated.

Another study is measured with `overhead_default.py STUDY.yaml`; its local files are taken relative to its folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from harness import ROOT, report

from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.validation import load_yaml

DEFAULT = ROOT / "config" / "config.yaml"
AXES = ["model", "checkpoint", "method", "sparsity", "task", "seed"]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def snakemake(study: Path, folder: Path, *more: str) -> list[str]:
    """Return the command that runs a study in a folder on one core."""
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--configfile", str(study), "--workflow-profile", str(ROOT / "profiles" / "default"), "--cores", "1",
        "--quiet", "all", *more,
    ]  # fmt: skip


def plain(study: Path, folder: Path, wheels: list[Path]) -> list[str]:
    """Return the command of the plain script, whose rows go to ``rows.json``."""
    script = Path(__file__).with_name("plain_study.py")
    return [sys.executable, *map(str, [script, study, folder / "files", folder / "rows.json", *wheels])]


def spend(core: int, command: list[str]) -> None:
    """Run a command on one core and print what it spent, all its processes together: also those that left it.

    The process that the workflow's jobs are forked from ends after Snakemake; here it becomes one of ours.
    """
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
    os.sched_setaffinity(0, {core})
    began = time.perf_counter()
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    seconds = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    print(json.dumps({"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime}))


def start(core: int, command: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a side on a core of its own."""
    environment = {**os.environ, **ONE_THREAD}
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "--spend", str(core), *command], cwd=folder, env=environment, stderr=log,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


def spent(process: subprocess.Popen[str], folder: Path) -> dict[str, float]:
    """Wait for a side; return what it spent."""
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError((folder / "log.txt").read_text(encoding="utf-8")[-3000:])
    found: dict[str, float] = json.loads(output)
    return found


def check_equal(table: Path, rows: Path) -> int:
    """Check that both sides found the same; return how many evaluations there are."""
    ours = pd.read_parquet(table).sort_values(AXES, ignore_index=True)
    found = json.loads(rows.read_text(encoding="utf-8"))
    peer = pd.DataFrame(found, columns=[*AXES, "value", "realised_sparsity"]).astype({"sparsity": float})
    compared = ours[[*AXES, "value", "realised_sparsity"]].round({"sparsity": 3})
    pd.testing.assert_frame_equal(
        compared, peer.sort_values(AXES, ignore_index=True), check_dtype=False, rtol=1e-6, atol=0
    )
    return len(ours)


def main() -> None:
    """Print the JSON line."""
    if sys.argv[1:2] == ["--spend"]:
        spend(int(sys.argv[2]), sys.argv[3:])
        return
    study = Path(sys.argv[1]).resolve() if sys.argv[1:] else DEFAULT
    if study != DEFAULT:
        os.chdir(study.parent)
    resolved = resolve(load_yaml(study), ROOT, str(study))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed, one for each side")
    with tempfile.TemporaryDirectory() as name:
        sides = [Path(name) / side for side in ("workflow", "script")]
        for side in sides:
            side.mkdir()
            if study != DEFAULT:
                shutil.copytree(study.parent, side, dirs_exist_ok=True)
        wheels = [f"results/sources/{s.release}.whl" for s in resolved.used_wheels()]
        if wheels:
            subprocess.run(snakemake(study, sides[0], "--", *wheels), cwd=sides[0], check=True)
        commands = [snakemake(study, sides[0]), plain(study, sides[1], [sides[0] / wheel for wheel in wheels])]
        running = [start(*side) for side in zip(cores[:2], commands, sides, strict=True)]
        ours, peer = (spent(*side) for side in zip(running, sides, strict=True))
        table = sides[0] / f"results/studies/{resolved.name}/tables/evaluations.parquet"
        evaluations = check_equal(table, sides[1] / "rows.json")
    report(
        "overhead-default", ours_seconds=ours["seconds"], peer_seconds=peer["seconds"],
        ours_cpu_seconds=ours["cpu_seconds"], peer_cpu_seconds=peer["cpu_seconds"],
        ratio=ours["seconds"] / peer["seconds"], limit_ratio=1.15, evaluations=evaluations,
    )  # fmt: skip


if __name__ == "__main__":
    main()
