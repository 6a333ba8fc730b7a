"""Hold jobs to the memory that they ask for: the address space that a job adds to what it began with is limited.

`python tests/tools/limited.py make demo` runs a command under these limits. They are written into what carries a job,
which is in no digest of code, so that nothing reruns for them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

JOB = Path("workflow/scripts/essential_sparsity/run/job.py")
BEFORE = "    main(snakemake)\n"
# What the warm process has imported counts as resident, as it does for Slurm; what nobody can touch does not.
LIMIT = """\
    import resource
    lines = [line.split() for line in open("/proc/self/status")]
    had = {words[0]: 1024 * int(words[1]) for words in lines if words[0] in ("VmData:", "VmRSS:")}
    limit = had["VmData:"] + 1_000_000 * snakemake.resources.mem_mb - had["VmRSS:"]
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
"""


def hold_jobs(workflow: Path) -> None:
    """Have each job of a copy of the workflow fail when it takes more than its ``mem_mb``."""
    if sys.platform == "linux":
        # Arrow's own allocator takes a thousand MB of addresses, whatever it holds.
        os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
        text = (workflow / JOB).read_text(encoding="utf-8")
        assert text.count(BEFORE) == 1
        (workflow / JOB).write_text(text.replace(BEFORE, LIMIT + BEFORE), encoding="utf-8")


def main() -> int:
    """Run a command on this workflow under the limits; return its exit status."""
    root = Path(__file__).resolve().parents[2]
    before = (root / JOB).read_bytes()
    hold_jobs(root)
    try:
        return subprocess.call(sys.argv[1:])
    finally:
        (root / JOB).write_bytes(before)


if __name__ == "__main__":
    sys.exit(main())
