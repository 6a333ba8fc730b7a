"""The study, the constraints of every wildcard, and what rules share. Nothing here computes a result."""

import os
import re
import sys
from functools import cache
from itertools import chain, count
import pandas as pd
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from essential_sparsity.findings.claims import TABLES_OF
from essential_sparsity.study.claims import last_checkpoints
from essential_sparsity.files import canonical
from essential_sparsity.planning.digests import code_digest
from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json, sha256_of
from essential_sparsity.planning.needs import AROUND_MB, NEEDS, Read, read_by
from essential_sparsity.run.slurm import refuse_to_submit_twice
from essential_sparsity.run.leases import check_enough, usable_gpus, wanted_gpus
from essential_sparsity.sources.fetch import local_files, local_tables
from essential_sparsity.study import checks
from essential_sparsity.study.resolve import resolve
from essential_sparsity.planning.jobs import measured_places, other_costs

SCRIPTS = ROOT / "workflow" / "scripts"
TEMPLATE_PARTS = [
    ROOT / "workflow" / "report" / f"report.{suffix}"
    for suffix in ("html.j2", "css", "js")
]

STUDY_FILES = seam.study_files(workflow)

try:
    study = resolve(
        config,
        ROOT,
        ", ".join(map(str, STUDY_FILES)) or "config/config.yaml",
    )
except UserError as error:
    raise WorkflowError(str(error)) from None

SUMMARY = Path(f"results/studies/{study.name}/summary.txt")
SUMMARY_BEFORE = SUMMARY.stat().st_mtime_ns if SUMMARY.is_file() else None

# Not in the processes of single jobs, which read this file, too.
if seam.is_main(workflow) and study.sweeps:
    logger.info(study.worst_case())


def one_of(names):
    """Return the pattern of a wildcard that takes one of these values; one that matches nothing if there are none."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


def methods_with(rounds=False, by_block=False):
    """Return the pattern of the methods that prune in rounds or in one shot, block by block or by scores alone."""
    slots = {name: study.method(name) for name in study.methods}
    kinds = {name: (bool(s.rounds), s.by_block) for name, s in slots.items()}
    return one_of(name for name, kind in kinds.items() if kind == (rounds, by_block))


def mask_path(model, checkpoint, method, seed, sparsity):
    """Return the file of a mask."""
    return f"results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors"


@cache
def method_entry(method, sparsity="1"):
    """Return what defines a method up to a level, as a parameter; the thousands of jobs of a study share a few."""
    return canonical(study.slots(method, sparsity))


@cache
def task_entry(task):
    """Return what defines a task, as a parameter."""
    return canonical(study.task(task))


def code(script):
    """Return the digest of a rule's script and of all modules that it imports: a change in it reruns the rule."""
    return code_digest(SCRIPTS / script, SCRIPTS)


def checkpoint_inputs(folder):
    """Return what a checkpoint consists of, as inputs of a rule that loads it."""
    return {
        "weights": f"{folder}/model.safetensors",
        "companions": f"{folder}/companions",
    }


def source_inputs(kind, name, checkpoint=None):
    """Return the files that the source of a registry entry is read from."""
    source = getattr(study, kind)[name]["source"]
    if source["kind"] == "hub":
        place = "/".join(filter(None, (kind, name, checkpoint)))
        folder = f"results/sources/hub/{place}"
        return [f"{folder}/index.json", f"{folder}/files"]
    if source["kind"] == "wheel":
        return [f"results/sources/{source['package']}-{source['version']}.whl"]
    if source["kind"] == "path" and kind == "datasets":
        found = local_tables(source, study.where(kind, name))
        return list(map(str, chain.from_iterable(found.values())))
    if source["kind"] == "path":
        return list(map(str, local_files(source, study.where(kind, name))))
    folder = f"results/pretraining/{name}"
    return [f"{folder}/index.json", f"{folder}/files"]


def given_gpus(rule_name):
    """Return what the profile gives a rule of GPUs; numbers that no job can have end the run before it starts."""
    given = seam.given_resources(workflow, rule_name)
    return or_stop(lambda: wanted_gpus(given, rule_name))


def check_batches(rule_name, tasks):
    """Stop if the GPUs that the profile gives to a rule cannot share the batches of tasks."""
    or_stop(lambda: checks.check_batches(study, rule_name, tasks, given_gpus(rule_name).gpus))


def needs(rule_name="tables", settings=lambda wildcards: {}):
    """Return the resources of a rule: functions of what a job reads, and twice as much when it is tried again.

    Settings are what else needs depend on (needs.py): the task, calibration, recipe or source that wildcards stand for.
    """
    need, gpus = NEEDS[rule_name], given_gpus(rule_name).gpus

    def read(input):
        return read_by(input, input.get("weights")) if need.times else Read(0)

    def memory(wildcards, input, attempt):
        own = need.memory(settings(wildcards), read(input), gpus)
        return attempt * (own + AROUND_MB * (not seam.runs_jobs_here(workflow)))

    def gpu_memory(wildcards, input, attempt):
        return attempt * need.gpu_memory(settings(wildcards), read(input))

    def runtime(wildcards, input, attempt, threads):
        return attempt * need.runtime(read(input), threads, gpus)

    return {
        "mem_mb": memory,
        "runtime": runtime,
        **({"gpu": 0} if need.gpu else {}),
        **({"gpu_mem_mb": gpu_memory} if gpus else {}),
    }


def of_task(wildcards):
    """Return the task of an evaluation."""
    return study.tasks[wildcards.task]


def of_calibration(wildcards):
    """Return the calibration of statistics, or of a method."""
    name = wildcards.get("calibration") or study.method(wildcards.method).calibration
    return study.calibrations[name]


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


def rounds_path(sweep, number):
    """Return what a round of a sweep writes, if the checkpoint is done that does."""
    axes = dict(zip(("model", "checkpoint", "method", "task"), sweep.curve))
    done = checkpoints.place_levels.get(study=study.name, round=number, **axes)
    return done.output.levels


def last_round(sweep):
    """Return the input function that asks for one round of a sweep after the other, and returns the last."""

    def asked(wildcards):
        trajectory = sweep.model in study.trajectories()
        if trajectory and (sweep.model, sweep.checkpoint) in missing_steps(sweep.model):
            return []
        paths = (rounds_path(sweep, number) for number in count(1))
        return next(path for path in paths if read_json(path)["reason"])

    return asked


def first_rounds(wildcards):
    """Return the table of placed levels and the first round of each curve; nothing where no levels are placed.

    A job that waits for a checkpoint is not run for that alone where its output exists: rules that wait for none name
    these files, so that curves which are new in a finished study are seen.
    """
    sweeps = existing().sweeps
    folder = f"results/studies/{study.name}"
    rounds = [f"{folder}/levels/{'/'.join(sweep.curve)}/1.json" for sweep in sweeps]
    return [f"{folder}/tables/levels.parquet", *rounds] if sweeps else []


def sweep_of(wildcards):
    """Return the sweep of a curve."""
    return study.sweep(
        wildcards.model, wildcards.checkpoint, wildcards.method, wildcards.task
    )


def earlier_rounds(wildcards):
    """Return what the round before wrote; nothing of the first."""
    number = int(wildcards.round)
    return [rounds_path(sweep_of(wildcards), number - 1)] if number > 1 else []


def known_rows(wildcards):
    """Return the evaluations of all levels of a curve that were placed before a round, those of all seeds."""
    sweep = sweep_of(wildcards)
    rounds = [read_json(path)["rounds"] for path in earlier_rounds(wildcards)]
    levels = chain(*rounds[0]) if rounds else map(float, sweep.settings["start"])
    return [evaluation_path(e) for e in study.sweep_evaluations(sweep, levels)]


def last_checkpoint(model):
    """Return the folder of a model's last checkpoint that exists."""
    names = study.checkpoints_of(model)
    if model in study.trajectories():
        lost = missing_steps(model)
        names = [name for name in names if (model, name) not in lost]
    return f"results/checkpoints/{model}/{names[-1]}"


def statistics_path(model, checkpoint, method):
    """Return the file of the dense model's statistics that a method needs; None if it needs none."""
    slots = study.method(method)
    if slots.dense_needs == "nothing":
        return None
    return f"results/statistics/{model}/{checkpoint}/{slots.calibration}/{slots.dense_needs}.safetensors"


def pruning_inputs(wildcards):
    """Return what a plan or a mask is made of: the checkpoint, and what its method needs besides."""
    slots = study.method(wildcards.method)
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    statistics = statistics_path(
        wildcards.model, wildcards.checkpoint, wildcards.method
    )
    inputs = {
        "weights": f"{folder}/model.safetensors",
        "manifest": f"results/matrices/{wildcards.model}.json",
    }
    if statistics:
        inputs["statistics"] = statistics
    # A plan itself has no sparsity, and no text to read.
    if "sparsity" in wildcards.keys():
        if slots.planned:
            inputs["plan"] = (
                f"results/plans/{wildcards.model}/{wildcards.checkpoint}/{wildcards.method}/{wildcards.seed}.json"
            )
        if slots.by_block:
            inputs |= checkpoint_inputs(folder)
            inputs["rows"] = (
                f"results/datasets/{study.calibrations[slots.calibration]['dataset']}.parquet"
            )
    return inputs


def round_inputs(wildcards):
    """Return what a round of iterative pruning trains: the checkpoint under the mask of the round before, on its task."""
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    task = study.method(wildcards.method).rounds["task"]
    inputs = {
        **checkpoint_inputs(folder),
        "manifest": f"results/matrices/{wildcards.model}.json",
        "inputs": f"results/inputs/{wildcards.model}/{task}.arrow",
    }
    before = study.level_before(wildcards.method, wildcards.sparsity)
    if before:
        inputs["mask"] = mask_path(
            wildcards.model,
            wildcards.checkpoint,
            wildcards.method,
            wildcards.seed,
            before,
        )
    return inputs


def calibration_of(method):
    """Return the calibration of a method that prunes block by block; None for others, which read statistics."""
    slots = study.method(method)
    return study.calibration(slots.calibration) if slots.by_block else None


def rows_path(task):
    """Return the rows of a task's dataset."""
    return f"results/datasets/{study.tasks[task]['dataset']}.parquet"


def evaluation_inputs(wildcards):
    """Return what an evaluation reads: the checkpoint, the prepared inputs, and the mask unless the model is dense."""
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    inputs = {
        **checkpoint_inputs(folder),
        "manifest": f"results/matrices/{wildcards.model}.json",
    }
    if study.preparation(wildcards.task):
        inputs["inputs"] = f"results/inputs/{wildcards.model}/{wildcards.task}.arrow"
        if study.tasks[wildcards.task].get("head") == "question_answering":
            # Answers that are text are read off the texts themselves.
            inputs["rows"] = rows_path(wildcards.task)
    else:
        # Files that are read as they are: those of a folder, or, by their index, of a download.
        files = source_inputs("datasets", study.tasks[wildcards.task]["dataset"])
        if study.dataset_of(wildcards.task)["source"]["kind"] == "hub":
            inputs["index"], inputs["dataset"] = files
        else:
            inputs["files"] = files
    if wildcards.method != "dense":
        seed = study.mask_seed(wildcards.method, int(wildcards.seed))
        inputs["mask"] = mask_path(
            wildcards.model,
            wildcards.checkpoint,
            wildcards.method,
            seed,
            wildcards.sparsity,
        )
    return inputs


def evaluation_path(e):
    """Return the file of one evaluation."""
    return f"results/evaluations/{e.model}/{e.checkpoint}/{e.method}/{e.sparsity}/{e.task}/{e.seed}.parquet"


def claimed_tables(wildcards):
    """Return the tables besides evaluations that the study's claims are judged by."""
    needed = {TABLES_OF.get(claim["statistic"]) for claim in study.claims} - {None}
    folder = f"results/studies/{study.name}/tables"
    return {name: f"{folder}/{name}.parquet" for name in sorted(needed)}


def finding_table(wildcards):
    """Return the table of findings, as an input of a rule; nothing where the study makes no claim."""
    path = f"results/studies/{study.name}/tables/findings.parquet"
    return [path] if study.claims else []


def measured_paths(study, kind):
    """Return the files of one kind of the study's measurements of weights."""
    return [
        f"results/weights/{place}{kind}.parquet" for place in measured_places(study)
    ]


def used_methods():
    """Return what plots call the study's methods; their order gives each its colour in all figures."""
    used = {e.method for e in study.evaluations}
    return {
        name: label for name, label in study.labels("methods").items() if name in used
    }


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


def or_stop(function):
    """Return what a function returns; end the run with the message of what the user has to mend."""
    try:
        return function()
    except UserError as error:
        raise WorkflowError(str(error)) from None


def print_summary():
    """Print the knees and where the report is, if this run wrote the report."""
    if SUMMARY.is_file() and SUMMARY.stat().st_mtime_ns != SUMMARY_BEFORE:
        print(f"\n{SUMMARY.read_text(encoding='utf-8')}", file=sys.stderr)


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
    finding=one_of({claim["finding"] for claim in study.claims}),
