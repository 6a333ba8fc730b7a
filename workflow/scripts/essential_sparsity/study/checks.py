"""What is refused before any job starts: entries and studies that contradict themselves, or name what there is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

from essential_sparsity.checkpoints.steps import hub_steps
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.methods.method import check_method
from essential_sparsity.methods.rounds import Rounds, check_rounds
from essential_sparsity.sources.checks import check_local_model
from essential_sparsity.sources.fetch import local_tables
from essential_sparsity.sources.kinds import Hub, Local
from essential_sparsity.study.asked import similarities
from essential_sparsity.study.models import HubSteps, Pretraining, check_recipe
from essential_sparsity.study.pairs import pair_masks
from essential_sparsity.study.protocols import PROTOCOLS
from essential_sparsity.study.registries import DENSE, Registries
from essential_sparsity.study.study import Study
from essential_sparsity.study.tasks import check_dataset, check_task

# Planning takes some 40 kB a job.
_MOST_COMBINATIONS = 200_000


def check_references(known: Registries) -> None:
    """Refuse names that there are not, and entries of the registries that contradict themselves."""
    for part in ("curves", "weights", "similarities"):
        for i, entry in enumerate(known.config[part]):
            for kind in ("models", "methods", "tasks"):
                for j, name in enumerate(entry.get(kind, [])):
                    known.require(kind, name, f"{known.file}, key {part}[{i}].{kind}[{j}]")
    for name, dataset in known.datasets.items():
        check_dataset(dataset, known.place("datasets", name))
    for name, task in known.tasks.items():
        known.require("datasets", task.dataset, f"{known.place('tasks', name)}.dataset")
        check_task(task, known.datasets[task.dataset], known.place("tasks", name))
    for name, calibration in known.calibrations.items():
        known.require("datasets", calibration.dataset, f"{known.place('calibrations', name)}.dataset")
    for name, method in known.methods.items():
        if method.calibration:
            known.require("calibrations", method.calibration, f"{known.place('methods', name)}.calibration")
        check_method(method, known.place("methods", name))
        if method.rounds:
            _check_rounds(known, method.rounds, f"{known.place('methods', name)}.rounds")
    for name, model in known.models.items():
        where, source = f"{known.place('models', name)}.source", model.source
        if isinstance(source, Pretraining):
            known.require("datasets", source.recipe.corpus, f"{where}.recipe.corpus")
            check_recipe(source.recipe, known.datasets[source.recipe.corpus], f"{where}.recipe")
        if isinstance(source, Hub | Local) and source.files is not None:
            raise UserError(
                f"{where}.files", "`files` of a model", "`files` of datasets only",
                "remove it: what a checkpoint needs is found by the names of its files",
            )  # fmt: skip
        if isinstance(source, HubSteps):
            hub_steps(source.trajectory, f"{where}.trajectory")


def _check_rounds(known: Registries, rounds: Rounds, where: str) -> None:
    known.require("tasks", rounds.task, f"{where}.task")
    protocol = known.tasks[rounds.task].protocol
    if not PROTOCOLS[protocol].trains:
        training = [name for name, other in PROTOCOLS.items() if other.trains]
        raise UserError(
            f"{where}.task", f"'{rounds.task}', a task of the protocol '{protocol}'",
            f"one of the protocol {quoted(training)}: every round trains the model",
            "name a task that the model is trained on",
        )  # fmt: skip
    check_rounds(rounds, where)


def check_counts(known: Registries) -> None:
    """Count what each entry asks for, at most, before it is listed: a typing error may ask for millions."""
    for part in ("curves", "weights", "similarities"):
        for i, entry in enumerate(known.config[part]):
            counts_of = {name: len(known.measured_of(name)) for name in set(entry["models"])}
            sparsities = entry.get("sparsities", ())
            levels = sparsities["adaptive"]["budget"] if "adaptive" in sparsities else len(sparsities)
            per_model = math.prod(
                (
                    len(entry.get("methods", "1")) ** (2 if part == "similarities" else 1), 1 + levels,
                    len(entry.get("tasks", "1")), len(entry.get("seeds", "1")),
                )
            )  # fmt: skip
            checkpoints = (counts_of[m] if c == "all" else 1 for m in entry["models"] for c in entry["checkpoints"])
            count = sum(checkpoints) * per_model
            if count > _MOST_COMBINATIONS:
                raise UserError(
                    f"{known.file}, key {part}[{i}]", f"{count:,} combinations", f"at most {_MOST_COMBINATIONS:,}",
                    "ask for fewer, or divide the study",
                )  # fmt: skip


def check_similarities(study: Study) -> None:
    """Refuse comparisons of masks that the study does not make."""
    made = {(model, checkpoint, method) for model, checkpoint, method, _, _ in study.masks()}
    for i, (entry, compared) in enumerate(similarities(study)):
        key = f"{study.file}, key similarities[{i}]"
        if len(set(entry["methods"])) < 2:
            raise UserError(f"{key}.methods", quoted(entry["methods"]), "two methods or more", "name another method")
        for model, checkpoint in compared:
            lacking = [m for m in entry["methods"] if (model, checkpoint, m) not in made]
            if lacking:
                raise UserError(
                    f"{key}.methods", f"'{lacking[0]}', of which the study has no mask of {model}, {checkpoint}",
                    "methods that `curves` evaluates on this checkpoint",
                    "add the method to an entry of `curves`, or take it out here",
                )  # fmt: skip
        if not pair_masks(study.masks(), [(compared, entry["methods"])], study.mask_draws):
            raise UserError(
                f"{key}.methods", f"{quoted(entry['methods'])}, which have no level and seed in common",
                "levels and seeds at which there are masks of two of them", "give their `curves` the same levels",
            )  # fmt: skip


def check_sources(study: Study) -> None:
    """Look for local files before any job starts."""
    for model, _ in study.used_checkpoints():
        source = study.models[model].source
        if isinstance(source, Local):
            check_local_model(source, f"{study.place('models', model)}.source")
    for name in study.used_datasets():
        files = study.datasets[name].source
        if isinstance(files, Local):
            local_tables(files, f"{study.place('datasets', name)}.source")


def check_batches(study: Study, rule: str, tasks: Iterable[str], gpus: int) -> None:
    """Refuse a number of GPUs that does not share the batches of what is trained on them.

    Args:
        study: The study.
        rule: The rule that trains.
        tasks: What it trains on.
        gpus: How many GPUs a profile gives to a job of it.
    """
    for task in tasks:
        batch = study.tasks[task].batch_size
        if gpus > 1 and batch % gpus:
            raise UserError(
                f"{study.place('tasks', task)}.batch_size", f"{batch} rows for {gpus} GPUs",
                "a batch that can be shared evenly",
                f"give {rule} a number of GPUs that divides {batch} (set-resources in the profile), or change it",
            )  # fmt: skip


def check_calibration_texts(study: Study) -> None:
    """Refuse methods that calibrate on the very texts that a task evaluates."""
    for e in study.evaluations:
        calibration = "" if e.method == DENSE else study.method(e.method).calibration
        dataset = study.tasks[e.task].dataset
        shared = calibration and study.calibrations[calibration].dataset == dataset
        if shared and "test" not in study.datasets[dataset].held_out_splits:
            raise UserError(
                f"{study.place('calibrations', calibration)}.dataset",
                f"'{dataset}', whose texts the task '{e.task}' evaluates too, as it has no test split",
                "texts that are not evaluated", "add a `split` to the dataset, or calibrate on another",
            )  # fmt: skip
