"""How jobs start: where they import from, and from which process they are forked."""

import gc
import sys
from pathlib import Path

# Thousands of jobs are millions of objects that stay: to look through them for garbage again and again took a tenth of
# the time in which they are planned.
gc.set_threshold(200_000, 20, 50)


def root_of(rules):
    """Return where the workflow lies; as a module from a host of git, a checkout of the clone that Snakemake keeps."""
    if not hasattr(rules, "hosted_repo"):
        return Path(str(rules)).parents[1]
    clone = rules.hosted_repo.repo
    commit = clone.commit(rules.ref).hexsha
    tree = Path(f"{clone.git_dir}.trees") / commit
    if not tree.is_dir():
        clone.git.worktree("add", "--detach", str(tree), commit)
    return tree


# Not `workflow.basedir`, which is that of the workflow whose module this one may be.
ROOT = root_of(workflow.current_basedir)
sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "workflow")]

import seam

if sys.platform == "linux" and seam.is_main(workflow):
    seam.start_jobs_warm()
seam.let_scripts_import(ROOT / "workflow" / "scripts")
seam.escape_interpreter()
