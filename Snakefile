"""essential-sparsity: how many weights of a pre-trained transformer can be removed in one shot before it breaks.

Every path starts at the working directory: `results/` for what is made, `results/studies/<study>/` for what one study
alone needs. The study is `config/config.yaml`, or the file given with `--configfile`, which then stands alone.
"""

import gc
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

# Thousands of jobs are millions of objects that stay: to look through them for garbage again and again took a tenth of
# the time in which they are planned.
gc.set_threshold(200_000, 20, 50)

ROOT = Path(workflow.basedir)
sys.path[:0] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "workflow")]

import seam

if sys.platform == "linux" and seam.is_main(workflow):
    seam.start_jobs_warm()
seam.escape_interpreter()

if not seam.study_files(workflow):

    configfile: str(ROOT / "config" / "config.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/adaptive.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/findings.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


seam.remember_parameters(workflow)


rule all:
    default_target: True
    input:
        f"results/studies/{study.name}/report.html",


onstart:
    refuse_to_run_beside_orphans()
    check_gpus()


onsuccess:
    print_summary()
