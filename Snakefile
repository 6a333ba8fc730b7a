"""essential-sparsity: how many weights of a pre-trained transformer can be removed in one shot before it breaks.

Every path starts at the working directory: `results/` for what is made, `results/studies/<study>/` for what one study
alone needs. The study is `config/config.yaml`, or the file given with `--configfile`, which then stands alone.
"""

import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow" / "scripts"))

# Snakemake starts scripts by the interpreter's path without quoting it (snakemake issue 2645): without this, nothing
# runs in a folder with a space in its name. A path that is quoted already does not exist.
if Path(sys.executable).exists():
    sys.executable = shlex.quote(sys.executable)

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


rule all:
    default_target: True
    input:
        f"results/studies/{study.name}/report.html",


onsuccess:
    print_summary()
