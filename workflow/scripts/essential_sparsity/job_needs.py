"""What each job of a study needs, by its rule and wildcards, as far as files and registry entries tell."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from essential_sparsity import resources
from essential_sparsity.model_size import ModelSize, counted_size, registered_size, size_of_file
from essential_sparsity.resources import Need
from essential_sparsity.study import Study

Job = Mapping[str, str]

# Of a file read wholly: text, columns and converted weights in memory, times its size.
_WHOLE = 2.5
# 4-bit weights become floats, of which the larger part is there once more while they are renamed.
_FOUR_BIT = 10.0
# As floats they take so many times what they take in the file.
_FOUR_BIT_SHARE = 6.0
# Weights a byte of files: float32, and 4 bits with their scales.
_WEIGHTS = {".safetensors": 0.25, ".bin": 0.25, ".gguf": 1.6}
# A repository, and a package without a model, of which nothing is known.
USUAL_DOWNLOAD_MB = 1000.0
USUAL_PACKAGE_MB = 20.0


def megabytes(paths: Iterable[str | Path]) -> float | None:
    """Return the size of files together; None if one of them is not there."""
    try:
        return sum(os.path.getsize(path) for path in paths) / 1e6
    except OSError:
        return None


def model_size(study: Study, job: Job) -> ModelSize:
    """Return the sizes of a job's model: of its checkpoint once that is there, else of its registry entry or source.

    Raises:
        FileNotFoundError: Neither says it; Snakemake asks again when the job's inputs are there.
    """
    name = job["model"]
    checkpoint = job.get("checkpoint") or study.checkpoints_of(name)[-1]
    file = Path(f"results/checkpoints/{name}/{checkpoint}/model.safetensors")
    try:
        return size_of_file(file)
    except FileNotFoundError:
        size = registered_size(study.models[name]) or _size_of_source(study, {**job, "checkpoint": checkpoint})
    if size is None:
        raise FileNotFoundError(errno.ENOENT, "the size of the model is not known yet", str(file))
    return size


def _size_of_source(study: Study, job: Job) -> ModelSize | None:
    """Return the sizes of a model whose weights are there, but not extracted yet; None if they are not."""
    source = study.models[job["model"]]["source"]
    files = source_files(source, f"models/{job['model']}/{job['checkpoint']}")
    stored = sum(os.path.getsize(file) * weights for file in files if (weights := _WEIGHTS.get(file.suffix, 0.0)))
    return counted_size(round(stored), 4) if stored else None


def rows_file(study: Study, dataset: str) -> str:
    """Return the rows of a dataset."""
    return f"results/datasets/{dataset}.parquet"


def inputs_file(job: Job) -> str:
    """Return the prepared inputs of an evaluation."""
    return f"results/inputs/{job['model']}/{job['task']}.arrow"


def source_files(source: Mapping[str, Any], place: str) -> list[Path]:
    """Return what there is of the files of a source.

    Args:
        source: That of a registry entry.
        place: Where a download of it lies below ``results/sources/hub``, or a pre-training below ``results``.
    """
    if source["kind"] == "wheel":
        return list(Path("results/sources").glob(f"{source['package']}-{source['version']}.whl"))
    if source["kind"] == "path":
        path = Path(source["path"]).expanduser()
        return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if source["kind"] == "hub":
        return [file for file in Path(f"results/sources/hub/{place}/files").rglob("*") if file.is_file()]
    return []


def _downloaded_package(study: Study, job: Job) -> Need:
    packaged = [
        size.stored_mb / (_FOUR_BIT_SHARE if model["source"]["member"].endswith(".gguf") else 1)
        for model in study.models.values()
        if model["source"].get("package") == job["package"] and (size := registered_size(model))
    ]
    return resources.download(max(packaged, default=USUAL_PACKAGE_MB))


def _downloaded_repository(study: Study, job: Job) -> Need:
    name, checkpoint = study.downloads()[job["place"]]
    size = registered_size(study.models[name]) if checkpoint else None
    return resources.download(size.stored_mb if size else USUAL_DOWNLOAD_MB)


def _dataset(study: Study, job: Job) -> Need:
    source = study.datasets[job["dataset"]]["source"]
    return resources.dataset_rows(megabytes(source_files(source, f"datasets/{job['dataset']}")) or 10.0)


def _prepared(study: Study, job: Job) -> Need:
    return resources.prepared_inputs(megabytes([rows_file(study, study.tasks[job["task"]]["dataset"])]) or 10.0)


def _extraction(study: Study, job: Job) -> Need:
    model = study.models[job["model"]]
    source = study.model(job["model"], job["checkpoint"])["source"]
    files = source_files(source, f"models/{job['model']}/{job['checkpoint']}")
    # Of these a tensor at a time is read.
    whole = megabytes(file for file in files if file.suffix != ".safetensors") or 0.0
    size = registered_size(model) or counted_size(round((megabytes(files) or USUAL_DOWNLOAD_MB) * 1e6 / 4), 4)
    expansion = _FOUR_BIT if str(source.get("member", source.get("path", ""))).endswith(".gguf") else _WHOLE
    return resources.extraction(size, whole, expansion)


def _pretraining(study: Study, job: Job) -> Need:
    recipe, size = study.recipe(job["model"]), registered_size(study.models[job["model"]])
    assert size is not None, "a recipe says how large its model is"
    kept = len(study.measured_of(job["model"]))
    return resources.pretraining(size, recipe, megabytes([rows_file(study, recipe["corpus"])]), kept)


def _measured_pretraining(study: Study, job: Job) -> Need:
    return resources.measurement(model_size(study, job), len(study.measured_of(job["model"])))


def _round(study: Study, job: Job) -> Need:
    rounds = study.method(job["method"]).rounds
    return _trained(study, {**job, "task": rounds["task"]})


def _trained(study: Study, job: Job) -> Need:
    task = study.tasks[job["task"]]
    return resources.fine_tuning(model_size(study, job), task, megabytes([inputs_file(job)]))


def _language_model(study: Study, job: Job) -> Need:
    return resources.language_model(model_size(study, job), study.tasks[job["task"]], megabytes([inputs_file(job)]))


def _benchmark(study: Study, job: Job) -> Need:
    return resources.benchmark(model_size(study, job), study.tasks[job["task"]])


def _representation(study: Study, job: Job) -> Need:
    task = study.tasks[job["task"]]
    return resources.representation(model_size(study, job), task, megabytes([rows_file(study, task["dataset"])]))


def _calibrated(study: Study, job: Job) -> Need:
    name = job.get("calibration") or study.method(job["method"]).calibration
    return resources.calibration(model_size(study, job), study.calibrations[name])


def _of_model(need: Callable[[ModelSize], Need], study: Study, job: Job) -> Need:
    return need(model_size(study, job))


_NEEDS: dict[str, Callable[[Study, Job], Need]] = {
    "download_package": _downloaded_package,
    "download_repository": _downloaded_repository,
    "prepare_dataset": _dataset,
    "prepare_inputs": _prepared,
    "pretrain_model": _pretraining,
    "extract_checkpoint": _extraction,
    "list_matrices": lambda study, job: resources.listing(),
    "measure_weights": partial(_of_model, resources.measurement),
    "measure_pretraining": _measured_pretraining,
    "calibrate_model": _calibrated,
    "plan_pruning": partial(_of_model, resources.pruning_plan),
    "prune_weights": partial(_of_model, resources.mask),
    "prune_blocks": _calibrated,
    "prune_iteratively": _round,
    "evaluate_language_model": _language_model,
    "evaluate_benchmark": _benchmark,
    "evaluate_representation": _representation,
    "finetune_model": _trained,
}


def need_of(study: Study, rule: str, job: Job) -> Need:
    """Return what a job needs.

    Args:
        study: The study, whose registries say what its wildcards stand for.
        rule: The job's rule; of one that is not named here, what tables and plots need.
        job: Its wildcards.

    Raises:
        FileNotFoundError: It depends on the size of a model that is not known yet.
    """
    need = _NEEDS.get(rule)
    return need(study, job) if need else resources.bookkeeping()
