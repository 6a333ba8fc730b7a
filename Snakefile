"""essential-sparsity: how many weights of a pre-trained transformer can be removed in one shot before it breaks.

Every path starts at the working directory: `results/` for what is made, `results/studies/<study>/` for what one study
alone needs. The study is `config/config.yaml`, or the file given with `--configfile`, which then stands alone.
"""

import atexit
import gc
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

# Thousands of jobs are millions of objects that stay: to look through them for garbage again and again took a tenth of
# the time in which they are planned.
gc.set_threshold(200_000, 20, 50)

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

# Scripts are started by a file of ours, which asks for a process that has its modules already (docs/design.md).
STARTER = ROOT / "workflow" / "starter" / "client.py"
HAS_SERVER = sys.platform == "linux"

# Snakemake takes the interpreter's path for words of a shell (snakemake issue 2645): as it is, nothing runs in a folder
# with a space in its name. Escaped, not quoted: the processes that it submits to clusters are given all but the last
# part of the path, in quotes again. A command that is escaped already is no path.
if Path(sys.executable).exists():
    started_by = ["-I", "-S", str(STARTER)] if HAS_SERVER else []
    sys.executable = " ".join(
        re.sub(r"([^\w@%+=:,./-])", r"\\\1", word)
        for word in [sys.executable, *started_by]
    )

# Processes of single jobs on this machine share the server of the run; those on another machine are runs of their own.
if HAS_SERVER and not workflow.subprocess_exec:
    run_folder = tempfile.mkdtemp(prefix="essential-sparsity-")
    atexit.register(shutil.rmtree, run_folder, ignore_errors=True)
    os.environ.update(ESSENTIAL_SPARSITY_RUN=f"{os.getpid()}:{run_folder}")

if not workflow.overwrite_configfiles:

    configfile: str(ROOT / "config" / "config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/adaptive.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/findings.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/planning.smk"


if workflow.is_main_process:
    given_gpus(workflow.rules)
    check_object_storage()
    check_sources()
    set_back_times()


rule all:
    default_target: True
    input:
        f"results/studies/{study.name}/report.html",


onstart:
    refuse_to_run_beside_orphans()
    check_gpus()


onsuccess:
    print_summary()


onerror:
    make_damaged_anew()
