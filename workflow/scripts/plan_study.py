"""Say what a study will cost before anything starts: `make plan STUDY=...`. Nothing is downloaded, run or written."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from essential_sparsity.errors import UserError
from essential_sparsity.plan import longest_chain, measured_costs, plan_table, shared_results, wall_seconds
from essential_sparsity.plan_words import plan_text, plan_values
from essential_sparsity.planned_jobs import PlannedJob, hidden_jobs, known_study, read_planned, with_snakemakes_around
from essential_sparsity.study import Study
from essential_sparsity.validation import load_yaml

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("study", type=Path, nargs="?", help="a study file; the default study without one")
    top.add_argument("--profile", type=Path, help="a profile, such as config/profiles/slurm")
    top.add_argument("--cores", default="", help="CPU cores of the run; the profile's without it, or all there are")
    top.add_argument("--json", type=Path, help="write the plan to this file, too")
    return top


def planned(arguments: argparse.Namespace, cores: int) -> list[PlannedJob]:
    """Return the jobs that Snakemake would run, as its own dry run says."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--logger", "planner", "--snakefile", ROOT / "Snakefile"]
    command += ["--cores", str(cores), "--rerun-incomplete", "--nolock"]
    command += ["--configfile", arguments.study] if arguments.study else []
    command += ["--workflow-profile", arguments.profile] if arguments.profile else []
    path = os.pathsep.join(filter(None, [str(ROOT / "workflow" / "planner"), os.environ.get("PYTHONPATH", "")]))
    had_records = Path(".snakemake").exists()
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    finally:
        if not had_records:
            shutil.rmtree(".snakemake", ignore_errors=True)
    if run.returncode:
        sys.exit(run.returncode)
    return read_planned(run.stdout.splitlines())


def main() -> int:
    """Print the plan; return the exit status."""
    arguments = parser().parse_args()
    try:
        file = arguments.study or ROOT / "config" / "config.yaml"
        study = known_study(Study(load_yaml(file), ROOT, str(file)), RESULTS)
        profile: dict[str, Any] = load_yaml(arguments.profile / "config.yaml") if arguments.profile else {}
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    # Of a cluster, what so many jobs at once can have.
    most = profile.get("jobs", 0) * max(profile.get("set-threads", {}).values(), default=1)
    asked = arguments.cores or str(profile.get("cores", most or "all"))
    cores = int(asked) if asked.isdigit() else os.cpu_count() or 1
    jobs = with_snakemakes_around(planned(arguments, cores), profile)
    table = plan_table(study, jobs := [*jobs, *hidden_jobs(study, jobs, RESULTS, profile)], measured_costs(RESULTS))
    chain = longest_chain(jobs, table["seconds"].fillna(0.0).tolist())
    wall = wall_seconds(table, chain, cores, float(profile.get("resources", {}).get("gpu", "inf")))
    shared = shared_results(study, {(job.rule, job.name) for job in jobs}, RESULTS)
    values = plan_values(table, shared, wall, cores)
    print(plan_text(study.name, table, values))
    if arguments.json:
        arguments.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
