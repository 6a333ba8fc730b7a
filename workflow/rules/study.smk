"""The study, the constraints of every wildcard, and what stands in the parameters of jobs. Nothing here computes."""

import os
import re
from functools import cache
import pandas as pd
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from essential_sparsity.errors import UserError
from essential_sparsity.files import canonical, read_json, sha256_of
from essential_sparsity.planning.digests import code_digest
from essential_sparsity.records import plain
from essential_sparsity.study.resolve import resolve

SCRIPTS = ROOT / "workflow" / "scripts"

# The registries: `config/` of a clone, or beside the folder of the Snakefile whose module this workflow is.
BESIDE = Path(workflow.basedir)
REGISTRIES = BESIDE if (BESIDE / "config").is_dir() else BESIDE.parent

STUDY_FILES = seam.study_files(workflow)

try:
    study = resolve(
        config,
        REGISTRIES,
        ", ".join(map(str, STUDY_FILES)) or "config/config.yaml",
    )
except UserError as error:
    raise WorkflowError(str(error)) from None

# Not in the processes of single jobs, which read this file, too.
if seam.is_main(workflow) and study.sweeps:
    logger.info(study.worst_case())


def one_of(names):
    """Return the pattern of a wildcard that takes one of these values; one that matches nothing if there are none."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


@cache
def method_entry(method, sparsity="1"):
    """Return what defines a method up to a level, as a parameter; the thousands of jobs of a study share a few."""
    return canonical(study.slots(method, sparsity))


@cache
def task_entry(task):
    """Return what defines a task, as a parameter."""
    return canonical(study.defining("tasks", task))


@cache
def code(script, method=None):
    """Return the digest of a script and of all that it imports, of a method what it uses: a change reruns the rule."""
    entries = study.method(method).entries if method else None
    return code_digest(SCRIPTS / script, SCRIPTS, entries)


def missing_steps(model):
    """Return the checkpoints of a trajectory that the hub does not have; Snakemake plans anew once they are known."""
    steps = read_json(checkpoints.find_steps.get(model=model).output.steps)
    return {(model, name) for name in steps["missing"]}


def existing():
    """Return the study without the steps that its trajectories lack."""
    missing = set().union(*map(missing_steps, study.used_trajectories()))
    return study.without(missing) if missing else study


def present():
    """Return the study as it is evaluated, with the levels that were placed: what rules that take all of it ask."""
    found = existing()
    if not found.sweeps:
        return found
    table = checkpoints.collect_levels.get(study=study.name).output.table
    placed = pd.read_parquet(table).groupby(["model", "checkpoint", "method", "task"])
    return found.with_levels(placed["sparsity"].agg(list).to_dict())


def or_stop(function):
    """Return what a function returns; end the run with the message of what the user has to mend."""
    try:
        return function()
    except UserError as error:
        raise WorkflowError(str(error)) from None


wildcard_constraints:
    model=one_of(study.models),
    dataset=one_of(study.datasets),
    checkpoint=r"final|step\d\d\d\d\d\d+",
    method=one_of([*study.methods, "dense"]),
    sparsity=r"0\.\d{3}",
    calibration=one_of(study.calibrations),
    statistics="moments|hessians",
    task=one_of(study.tasks),
    seed=r"\d+",
    round=r"\d+",
    study=re.escape(study.name),
    finding=one_of({claim.finding for claim in study.claims}),
