"""Before a run, what it refuses; after it, what it says."""

from essential_sparsity.run.leases import check_enough, usable_gpus
from essential_sparsity.run.slurm import refuse_to_submit_twice

SUMMARY = Path(f"results/studies/{study.name}/summary.txt")
SUMMARY_BEFORE = SUMMARY.stat().st_mtime_ns if SUMMARY.is_file() else None


def refuse_to_run_beside_orphans():
    """Stop a run on Slurm if jobs of an earlier one, whose main process was killed, are still there and may run twice."""
    prefix = seam.slurm_prefix(workflow)
    if seam.is_main(workflow) and prefix is not None:
        or_stop(lambda: refuse_to_submit_twice(Path.cwd(), prefix))


def check_gpus():
    """Stop the run where a job that it is to run on this machine wants more GPUs than there are."""
    wanted = {name: given_gpus(name) for name in sorted(seam.rules_to_run(workflow))}
    if seam.runs_jobs_here(workflow) and any(given.gpus for given in wanted.values()):
        usable = len(or_stop(usable_gpus))
        for name, given in wanted.items():
            or_stop(lambda: check_enough(given, usable, name))


def print_summary():
    """Print the knees and where the report is, if this run wrote the report."""
    if SUMMARY.is_file() and SUMMARY.stat().st_mtime_ns != SUMMARY_BEFORE:
        print(f"\n{SUMMARY.read_text(encoding='utf-8')}", file=sys.stderr)


onstart:
    refuse_to_run_beside_orphans()
    check_gpus()


onsuccess:
    print_summary()


# The last file that is included: all rules are there.
seam.remember_parameters(workflow)
