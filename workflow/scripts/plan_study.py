"""Say what a study will cost before anything starts: `make plan STUDY=...`. Nothing is downloaded, run or written."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from essential_sparsity.errors import UserError
from essential_sparsity.planning.plan import (
    downloads,
    finished_costs,
    plan_table,
    plan_text,
    planned_jobs,
    shared_results,
)
from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.validation import load_yaml

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("study", type=Path, nargs="?", help="a study file; the default study without one")
    top.add_argument("--profile", type=Path, help="a profile, such as config/profiles/slurm")
    top.add_argument("--cores", help="CPU cores of the run; the profile's without it, or all there are")
    return top


def dry_run(arguments: argparse.Namespace) -> list[str]:
    """Return what Snakemake's own dry run says of each job that it would run."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--logger", "planner"]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--rerun-incomplete", "--nolock"]
    cores = arguments.cores or (None if arguments.profile else "all")
    command += ["--cores", cores] if cores else []
    command += ["--configfile", str(arguments.study)] if arguments.study else []
    command += ["--workflow-profile", str(arguments.profile)] if arguments.profile else []
    path = os.pathsep.join(filter(None, [str(ROOT / "workflow" / "planner"), os.environ.get("PYTHONPATH", "")]))
    had_records = Path(".snakemake").exists()
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    finally:
        if not had_records:
            shutil.rmtree(".snakemake", ignore_errors=True)
    if run.returncode:
        sys.exit(run.returncode)
    return str(run.stdout).splitlines()


def main() -> int:
    """Print the plan; return the exit status."""
    arguments = parser().parse_args()
    file = arguments.study or ROOT / "config" / "config.yaml"
    try:
        study = resolve(load_yaml(file), ROOT, str(file))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    jobs = planned_jobs(dry_run(arguments))
    table = plan_table(jobs, finished_costs(RESULTS))
    print(plan_text(study, table, downloads(study, jobs), shared_results(study, jobs, RESULTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
