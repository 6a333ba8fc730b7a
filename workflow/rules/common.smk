"""The study, the constraints of every wildcard, and what rules share. Nothing here computes a result."""

import json
import math
import os
import re
import subprocess
import sys
import time
from functools import cache
from itertools import chain, count
import pandas as pd
from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from essential_sparsity.claims import (
    TABLES_OF,
    last_checkpoints,
    parts_of,
    places_of,
)
from essential_sparsity.clocks import (
    check_times,
    file_system_time,
    set_back,
)
from essential_sparsity.digest_cache import script_digests
from essential_sparsity.digests import canonical
from essential_sparsity.errors import UserError
from essential_sparsity.files import sha256_of
from essential_sparsity.integrity import damaged_files, restore_times
from essential_sparsity.permissions import Permissions, check_without_code
from essential_sparsity.needs import AROUND_MB, NEEDS, Read, read_by
from essential_sparsity.run.slurm_queue import (
    comment_of,
    queued_jobs,
    refuse_to_submit_twice,
)
from essential_sparsity.run.gpus import visible_gpus
from essential_sparsity.run.leases import check_enough, wanted_gpus
from essential_sparsity.object_storage import StudyElsewhere, check_study
from essential_sparsity.provenance import workflow_commit
from essential_sparsity.side_files import PACKED
from essential_sparsity.sources import local_files, local_tables
from essential_sparsity.study import Study
from essential_sparsity.study_jobs import cost_files, measured_places

STARTED = time.time()
SCRIPTS = ROOT / "workflow" / "scripts"
CODE = script_digests(SCRIPTS, Path(".snakemake/essential-sparsity/digests.json"))
TEMPLATE_PARTS = [
    ROOT / "workflow" / "report" / f"report.{suffix}"
    for suffix in ("html.j2", "css", "js")
]

# Where jobs see nothing but the inputs that they declare.
OBJECT_STORAGE = workflow.storage_settings.default_storage_provider not in (
    None,
    "none",
)

# A job on another machine is sent the study, and not the user's files that the study reads.
ELSEWHERE = OBJECT_STORAGE and workflow.remote_exec
# What a user may set, and what jobs elsewhere have no other way to know.
PASSED_ON = [
    "ESSENTIAL_SPARSITY_COMMIT",
    "ESSENTIAL_SPARSITY_PATHS",
    "ESSENTIAL_SPARSITY_TRUSTED_MODELS",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "PIP_INDEX_URL",
]
if OBJECT_STORAGE:
    if workflow.is_main_process and (commit := workflow_commit(ROOT)):
        os.environ.update(ESSENTIAL_SPARSITY_COMMIT=commit)
    workflow.register_envvars(*os.environ.keys() & set(PASSED_ON))

STUDY_FILES = list(map(Path, workflow.overwrite_configfiles))

try:
    check_without_code(STUDY_FILES)
    read_study = StudyElsewhere if ELSEWHERE else Study
    study = read_study(
        config,
        ROOT,
        ", ".join(map(str, STUDY_FILES)) or "config/config.yaml",
        Permissions.of_run(STUDY_FILES),
    )
except UserError as error:
    raise WorkflowError(str(error)) from None

# Not in the processes of single jobs, which read this file, too.
if workflow.is_main_process and study.sweeps:
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
    return CODE[script]


def side_files(folder, *others):
    """Return what else is read of a folder of which one file is declared; nothing where files beside it are seen."""
    return [f"{folder}/{name}" for name in (PACKED, *others)] if OBJECT_STORAGE else []


def checkpoint_files(folder):
    """Return what is read of a checkpoint besides its weights."""
    return side_files(folder, "config.json", "provenance.json")


def user_files(paths):
    """Return files of the user as inputs; in object storage, too, they are where Snakemake was started."""
    return [local(str(path)) if OBJECT_STORAGE else str(path) for path in paths]


def source_inputs(kind, name, checkpoint=None):
    """Return the files that the source of a registry entry is read from."""
    source = getattr(study, kind)[name]["source"]
    if source["kind"] == "hub":
        place = "/".join(filter(None, (kind, name, checkpoint)))
        folder = f"results/sources/hub/{place}"
        return [f"{folder}/index.json", *side_files(folder)]
    if source["kind"] == "wheel":
        return [f"results/sources/{source['package']}-{source['version']}.whl"]
    if source["kind"] == "path" and ELSEWHERE:
        # What is made of them was made where they are.
        return []
    if source["kind"] == "path" and kind == "datasets":
        found = local_tables(source, study.where(kind, name))
        return user_files(list(chain.from_iterable(found.values())))
    if source["kind"] == "path":
        return user_files(local_files(source, study.where(kind, name)))
    folder = f"results/pretraining/{name}"
    return [f"{folder}/index.json", *side_files(folder)]


def gpus_of(rule_name):
    """Return how many GPUs the profile gives to a job of a rule; a share of one counts as one."""
    given = workflow.resource_settings.overwrite_resources.get(rule_name, {}).get("gpu")
    return max(0, math.ceil(float(getattr(given, "value", given) or 0)))


def check_object_storage():
    """Stop if jobs could not be asked for, or not run, with results in object storage."""
    if OBJECT_STORAGE:
        or_stop(lambda: check_study(study))


def check_batches(rule_name, tasks):
    """Stop if the GPUs that the profile gives to a rule cannot share the batches of tasks."""
    or_stop(lambda: study.check_batches(rule_name, tasks, gpus_of(rule_name)))


def needs(rule_name="tables", settings=lambda wildcards: {}):
    """Return the resources of a rule: functions of what a job reads, and twice as much when it is tried again.

    Settings are what else needs depend on (needs.py): the task, calibration, recipe or source that wildcards stand for.
    """
    need, gpus = NEEDS[rule_name], gpus_of(rule_name)

    def read(input):
        if not need.times:
            return Read(0)
        # Of object storage Snakemake knows how large files are.
        return (
            Read(input.size_mb)
            if OBJECT_STORAGE
            else read_by(input, input.get("weights"))
        )

    def memory(wildcards, input, attempt):
        own = need.memory(settings(wildcards), read(input), gpus)
        return attempt * (own + AROUND_MB * (not workflow.local_exec))

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


def opened_json(path):
    """Return what an output of a checkpoint says; Snakemake brings it from object storage when it is opened like this."""
    with path.open(encoding="utf-8") as file:
        return json.load(file)


def missing_steps(model):
    """Return the checkpoints of a trajectory that the hub does not have; Snakemake plans anew once they are known."""
    steps = opened_json(checkpoints.find_steps.get(model=model).output.steps)
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
    with table.open("rb") as file:
        placed = pd.read_parquet(file).groupby(
            ["model", "checkpoint", "method", "task"]
        )
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
        return next(path for path in paths if opened_json(path)["reason"])

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
    rounds = [opened_json(path)["rounds"] for path in earlier_rounds(wildcards)]
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
            inputs["config"] = f"{folder}/config.json"
            inputs["beside"] = checkpoint_files(folder)
            inputs["rows"] = (
                f"results/datasets/{study.calibrations[slots.calibration]['dataset']}.parquet"
            )
    return inputs


def round_inputs(wildcards):
    """Return what a round of iterative pruning trains: the checkpoint under the mask of the round before, on its task."""
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    task = study.method(wildcards.method).rounds["task"]
    inputs = {
        "weights": f"{folder}/model.safetensors",
        "provenance": f"{folder}/provenance.json",
        "manifest": f"results/matrices/{wildcards.model}.json",
        "inputs": f"results/inputs/{wildcards.model}/{task}.arrow",
        "beside": checkpoint_files(folder),
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
        "weights": f"{folder}/model.safetensors",
        "provenance": f"{folder}/provenance.json",
        "manifest": f"results/matrices/{wildcards.model}.json",
        "beside": checkpoint_files(folder),
    }
    if study.preparation(wildcards.task):
        inputs["inputs"] = f"results/inputs/{wildcards.model}/{wildcards.task}.arrow"
        # Answers that are text are read off the texts themselves.
        inputs["rows"] = rows_path(wildcards.task)
    else:
        # Files that are read as they are: those of a folder, or, by their index, of a download.
        files = source_inputs("datasets", study.tasks[wildcards.task]["dataset"])
        if study.dataset_of(wildcards.task)["source"]["kind"] == "hub":
            inputs["index"], inputs["dataset"] = files[0], files[1:]
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


def examples_path(e):
    """Return the file of the examples of one evaluation."""
    return f"{evaluation_path(e).removesuffix('.parquet')}.examples.parquet"


def claimed_tables(wildcards):
    """Return the tables besides evaluations that the study's claims are judged by."""
    needed = {TABLES_OF.get(claim["statistic"]) for claim in study.claims} - {None}
    folder = f"results/studies/{study.name}/tables"
    return {name: f"{folder}/{name}.parquet" for name in sorted(needed)}


def claimed_evaluations(study):
    """Return the evaluations of the curves that the study's claims are about, and of their dense models."""
    if any(claim["statistic"] == "variance-share" for claim in study.claims):
        return study.evaluations
    last = last_checkpoints(study)
    curves = {
        place
        for claim in study.claims
        for part in parts_of(claim)
        for place in places_of(part, last)
    }
    dense = {(model, checkpoint, task) for model, checkpoint, _, task in curves}
    return [
        e
        for e in study.evaluations
        if (e.model, e.checkpoint, e.method, e.task) in curves
        or (e.method == "dense" and (e.model, e.checkpoint, e.task) in dense)
    ]


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


def plot_paths(study, kind, suffix):
    """Return the plots of a kind, without those that the study has no data for."""
    folder = f"results/studies/{study.name}/plots/{kind}"
    if kind == "losses":
        return [f"{folder}/{model}.{suffix}" for model in study.pretrained_models()]
    if kind == "emergence":
        return [f"{folder}/{model}.{suffix}" for model in study.changing_models()]
    if kind == "ages":
        return [f"{folder}/{model}/{task}.{suffix}" for model, task in study.ageing()]
    if kind == "weights":
        return [
            f"{folder}/{model}.{suffix}"
            for model in sorted({model for model, _ in study.weights})
        ]
    if kind == "findings":
        names = dict.fromkeys(claim["finding"] for claim in study.claims)
        return [f"{folder}/{name}.{suffix}" for name in names]
    if kind == "similarities":
        return [
            f"{folder}/{model}.{suffix}"
            for model in sorted({pair.model for pair in study.mask_pairs()})
        ]
    pairs = sorted(
        {
            (e.model, e.task)
            for e in study.evaluations
            if kind == "curves" or e.method != "dense"
        }
    )
    return [f"{folder}/{model}/{task}.{suffix}" for model, task in pairs]


def refuse_to_run_beside_orphans():
    """Stop a run on Slurm if jobs of an earlier one, whose main process was killed, are still there and would run twice."""
    if not workflow.is_main_process or workflow.executor_plugin.name != "slurm":
        return
    jobs = list(workflow.dag.needrun_jobs())
    planned = {comment_of(job.rule.name, job.wildcards) for job in jobs}
    # What follows a checkpoint is not planned yet: then any job of this folder may be one of this run's.
    unknown = any(job.is_checkpoint for job in jobs)
    or_stop(
        lambda: refuse_to_submit_twice(
            queued_jobs(), Path.cwd(), None if unknown else planned
        )
    )


def given_gpus(rules):
    """Return what the profile gives each rule of GPUs; rules whose resources are only known with their jobs are left out.

    Numbers that no job can have end the run before it starts.
    """
    given = {}
    for each in rules:
        found = {name: each.resources.get(name) for name in ("gpu", "gpu_percent")}
        found = {name: value for name, value in found.items() if value is not None}
        if not any(value.is_evaluable() for value in found.values()):
            numbers = {name: value.value for name, value in found.items()}
            given[each.name] = or_stop(lambda: wanted_gpus(numbers, each.name))
    return given


def check_gpus():
    """Stop the run where a job that it is to run on this machine wants more GPUs than there are."""
    given = given_gpus({job.rule for job in workflow.dag.needrun_jobs()})
    wanted = {name: gpus for name, gpus in given.items() if gpus.gpus}
    if wanted and workflow.local_exec and not workflow.touch:
        usable = len(or_stop(lambda: visible_gpus(os.environ)))
        for name in sorted(wanted):
            or_stop(lambda: check_enough(wanted[name], usable, name))


def local_sources():
    """Return the study's own files, which no rule makes."""
    used = {("models", model) for model, _ in study.used_checkpoints()}
    used |= {("datasets", name) for name in study.used_datasets()}
    return [
        Path(path)
        for kind, name in sorted(used)
        if getattr(study, kind)[name]["source"]["kind"] == "path"
        for path in source_inputs(kind, name)
    ]


def check_sources():
    """Stop if the workflow or its sources lie in the future: it may be the clock that is wrong, not their times."""
    own = [Path(workflow.main_snakefile), *STUDY_FILES, *or_stop(local_sources)]
    or_stop(lambda: check_times(own, file_system_time(Path(".snakemake"))))


def set_back_times():
    """Give results from the future times that are past: nothing could be made of them before that moment."""
    found = or_stop(lambda: set_back(Path("results")))
    if found.mended:
        logger.warning(
            f"{len(found.mended)} results, such as {found.mended[0]}, lay in the future: a clock was ahead, or has been "
            "set back. Their times were set back, in their order."
        )
    if found.left:
        logger.warning(
            f"{len(found.left)} results, such as {found.left[0]}, lie in the future, and their times cannot be set back: "
            "they are another user's, or being written."
        )


def or_stop(function):
    """Return what a function returns; end the run with the message of what the user has to mend."""
    try:
        return function()
    except UserError as error:
        raise WorkflowError(str(error)) from None


def print_summary():
    """Print the knees and where the report is, if this run wrote the report; in object storage, where it is."""
    made = {job.rule.name for job in workflow.dag.finished_jobs}
    if OBJECT_STORAGE and "write_report" in made:
        prefix = workflow.storage_settings.default_storage_prefix
        folder = f"{prefix.rstrip('/')}/results/studies/{study.name}"
        print(f"\nReport: {folder}/report.html", file=sys.stderr)
    summary = Path(f"results/studies/{study.name}/summary.txt")
    if summary.is_file() and summary.stat().st_mtime >= STARTED:
        print(f"\n{summary.read_text(encoding='utf-8')}", file=sys.stderr)


def make_damaged_anew():
    """Make files anew that jobs of this run found damaged, and nothing else: the next run then finds them as they were.

    Were that left to the next run itself, it would also make again whatever was made of them, since Snakemake does not
    look whether a job's output has changed.
    """
    damaged = damaged_files(Path("results"))
    # As often as a file may itself be made of a damaged one.
    depth = int(os.environ.get("ESSENTIAL_SPARSITY_DEPTH", 0))
    # Another program that runs workflows has arguments of its own.
    by_command = "snakemake" in sys.argv[0] and workflow.is_main_process
    if not (damaged and by_command and depth < 4):
        return
    targets = {*get_argument_parser().parse_known_args(sys.argv[1:])[0].targets, "--"}
    command = [argument for argument in sys.orig_argv if argument not in targets]
    logger.error(f"Making anew what is damaged: {', '.join(damaged)}")
    # The locks on outputs guard them; that on the folder is this run's.
    subprocess.run(
        [*command, "--nolock", "--", *damaged],
        env={**os.environ, "ESSENTIAL_SPARSITY_DEPTH": str(depth + 1)},
    )
    restore_times(Path("results"))
    if not damaged_files(Path("results")):
        logger.error("It is whole again: run the same command once more")


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
