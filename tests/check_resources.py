"""Compare the memory that jobs were given with what they used: never less, and less than twice as much.

Its argument is the folder of costs, ``results/costs``, of jobs that have run with these estimates. Prints a line for
each rule and for each job that is out of bounds; the exit status is 1 if there is one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow" / "scripts"))

from essential_sparsity.costs import read_costs
from essential_sparsity.resources import FORKED_MB


def compared(folder: Path) -> pd.DataFrame:
    """Return the jobs below a folder of costs with ``ratio``, of what was given to what was used.

    Whether a job is forked from a process that has the library imported is chance: what was used is taken to be no less
    than such a process has from the start.
    """
    costs = read_costs(folder, sorted(folder.rglob("*.json")))
    return costs.assign(ratio=costs["planned_mb"] / costs["max_rss_mb"].clip(lower=FORKED_MB))


def out_of_bounds(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return the jobs that were given less memory than they used, or more than twice as much."""
    return jobs[(jobs["planned_mb"] < jobs["max_rss_mb"]) | (jobs["ratio"] > 2) | jobs["ratio"].isna()]


def main() -> int:
    """Print the comparison; return the exit status."""
    jobs = compared(Path(sys.argv[1]))
    by_rule = jobs.groupby("rule").agg(
        jobs=("job", "size"), most_used_mb=("max_rss_mb", "max"), most_given_mb=("planned_mb", "max"),
        lowest_ratio=("ratio", "min"), highest_ratio=("ratio", "max"),
    )  # fmt: skip
    print(by_rule.round(2).to_string())
    wrong = out_of_bounds(jobs)
    for job in wrong.itertuples():
        print(f"OUT OF BOUNDS {job.rule}/{job.job}: given {job.planned_mb:.0f} MB, used {job.max_rss_mb:.0f} MB")
    return 1 if len(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
