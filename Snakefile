"""essential-sparsity: how many weights of a pre-trained transformer can be removed in one shot before it breaks.

Every path starts at the working directory: `results/` for what is made, `results/studies/<study>/` for what one study
alone needs. The study is `config/config.yaml`, or the file given with `--configfile`, which then stands alone.
"""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/start.smk"


if not seam.study_files(workflow):

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "workflow/rules/study.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/adaptive.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/findings.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/run.smk"


rule all:
    default_target: True
    input:
        f"results/studies/{study.name}/report.html",
