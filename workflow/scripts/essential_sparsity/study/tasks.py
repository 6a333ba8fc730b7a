"""What of a task follows from its dataset, and what of the two does not go together: known before any job starts."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from essential_sparsity.data.kinds import FILES, Dataset, Split
from essential_sparsity.data.tasks import Finetuning, Task
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.metrics.registry import check_metric
from essential_sparsity.records import plain
from essential_sparsity.sources.kinds import Hub
from essential_sparsity.study.protocols import KEYS, PROTOCOLS

# What a dataset may have to predict.
_TARGETS = ("label", "score", "answers")


def heads_for(dataset: Dataset) -> tuple[str, ...]:
    """Return the heads that fit what a dataset has to predict, the architecture's own first."""
    if dataset.kind == "spans":
        return ("question_answering",)
    return ("image_classification",) if dataset.has_images else ("sequence_classification", "mean_pooling")


def completed(task: Task, dataset: Dataset) -> Task:
    """Return a task with the head and metric that its dataset suggests, where it names none."""
    if not isinstance(task, Finetuning):
        return task
    metric = task.metric or PROTOCOLS[task.protocol].metrics.get(dataset.kind, "")
    return replace(task, head=task.head or heads_for(dataset)[0], metric=metric)


def preparation(task: Task, dataset: Dataset) -> dict[str, Any] | None:
    """Return the kind of a task's prepared inputs and the keys that they depend on; None if it reads files."""
    protocol = PROTOCOLS[task.protocol]
    if protocol.reads == "files":
        return None
    kind = protocol.inputs.get(task.metric, "images" if dataset.has_images else dataset.kind)
    found = {"kind": kind, **{key: getattr(task, key) for key in KEYS[kind]}}
    if isinstance(task, Finetuning) and kind == "spans":
        found["unanswerable"] = task.null_threshold is not None
    return found


def check_dataset(dataset: Dataset, where: str) -> None:
    """Check that the keys of a dataset go together.

    Args:
        dataset: The registry entry.
        where: Its place, for messages.

    Raises:
        UserError: They do not.
    """
    if dataset.documents is not None:
        try:
            re.compile(dataset.documents)
        except re.error as error:
            raise UserError(
                f"{where}.documents", f"'{dataset.documents}' ({error})", "a regular expression", "correct it"
            ) from error
    if dataset.split:
        _check_split(dataset.split, dataset.named_splits, where)
    _check_columns(dataset, where)


def _check_split(split: Split, files: Collection[str], where: str) -> None:
    both = [part for part in split.fractions if part in files]
    if both or (split.column is not None and set(files) - {"train"}):
        part = both[0] if both else min(set(files) - {"train"})
        raise UserError(
            f"{where}.source.files.{part}", f"files for `{part}` beside the dataset's `split`", "one of the two",
            f"remove it from `split`, or the files for `{part}`",
        )  # fmt: skip
    total = sum(split.fractions.values())
    if (split.column is not None) == bool(split.fractions):
        raise UserError(
            f"{where}.split", quoted(plain(split)),
            "either `column`, or `test_fraction` or `validation_fraction` or both",
            "keep what says which rows are held out",
        )  # fmt: skip
    if total >= 1:
        raise UserError(
            f"{where}.split", f"fractions that add up to {total:g}", "less than 1, so that rows are left",
            "lower them",
        )  # fmt: skip


def _check_columns(dataset: Dataset, where: str) -> None:
    kept, source = dataset.format == FILES, dataset.source
    columns = [key for key in ("text", "image", *_TARGETS) if getattr(dataset, key) is not None]
    if kept or dataset.format == "images":
        if columns:
            raise UserError(
                f"{where}.{columns[0]}", f"a column in a dataset with `format: {dataset.format}`",
                "columns of tables only", "remove it, or correct `format`",
            )  # fmt: skip
        sources = ["path", "hub"] if kept else ["path"]
        if source.kind not in sources:
            raise UserError(
                f"{where}.source.kind", f"'{source.kind}'", f"{quoted(sources)} with `format: {dataset.format}`",
                "put the files into a local folder and name it",
            )  # fmt: skip
    elif ("text" in columns) == ("image" in columns):
        raise UserError(
            where, "both `text` and `image`" if "text" in columns else "neither `text` nor `image`",
            "the column with the text or that with the image", "name one of them",
        )  # fmt: skip
    if len(targets := [key for key in _TARGETS if key in columns]) > 1:
        raise UserError(where, f"{quoted(targets)} at once", "one thing to predict", "keep one of them")
    if ("all" in dataset.named_splits) != (kept and isinstance(source, Hub)):
        raise UserError(
            f"{where}.source.files", "`all`" if not kept else "no `all`",
            "`all` with `format: files` of the hub, and splits with every other format",
            "name the files under `all`" if kept else "name the files by their split",
        )  # fmt: skip


def check_task(task: Task, dataset: Dataset, where: str) -> None:
    """Check that a task's protocol, dataset and metric go together.

    Args:
        task: The registry entry, completed.
        dataset: The entry of its dataset.
        where: The task's place, for messages.

    Raises:
        UserError: They do not.
    """
    protocol, kind, name = PROTOCOLS[task.protocol], dataset.kind, task.dataset
    if (protocol.reads == "files") != (kind == "files"):
        fitting = ", ".join(known for known, other in PROTOCOLS.items() if other.reads == "files")
        raise UserError(
            f"{where}.dataset", f"dataset '{name}' with `format: {dataset.format}`",
            f"`format: files` for the protocol {fitting}, and for no other", "choose another dataset or protocol",
        )  # fmt: skip
    if protocol.reads == "texts" and dataset.has_images:
        raise UserError(f"{where}.dataset", f"dataset '{name}' of images", "one of texts", "choose another dataset")
    if protocol.reads == "images" and not dataset.has_images:
        raise UserError(
            f"{where}.dataset", f"dataset '{name}' of texts", f"one of images, which {task.protocol} needs",
            "choose another dataset or protocol",
        )  # fmt: skip
    if protocol.metrics:
        labelled = kind in protocol.metrics
        if not (labelled and "test" in dataset.held_out_splits):
            raise UserError(
                f"{where}.dataset", f"dataset '{name}' without {'a test split' if labelled else 'label'}",
                "a dataset with `label`, `score` or `answers`, and `split` or files for `test`: it trains and tests",
                "add them to the dataset or choose another",
            )  # fmt: skip
    if isinstance(task, Finetuning):
        _check_training(task, dataset, where)
    if protocol.reads != "files":
        predicted = protocol.predicted or ("classes" if dataset.has_images else kind)
        check_metric(task.metric, predicted, where)
        for metric in task.also if isinstance(task, Finetuning) else ():
            check_metric(metric, predicted, f"{where}.also")


def _check_training(task: Finetuning, dataset: Dataset, where: str) -> None:
    fitting = heads_for(dataset)
    if task.head not in fitting:
        raise UserError(
            f"{where}.head", f"'{task.head}'", f"one of {quoted(fitting)} for dataset '{task.dataset}'",
            f"write '{fitting[0]}', or leave it out",
        )  # fmt: skip
    if task.head == "mean_pooling" and dataset.kind == "scores":
        raise UserError(f"{where}.head", "'mean_pooling' for numbers", "'sequence_classification'", "leave `head` out")
    if task.early_stopping and "validation" not in dataset.held_out_splits:
        raise UserError(
            f"{where}.early_stopping", f"dataset '{task.dataset}' without the split `validation`",
            "rows that are neither trained nor tested on",
            "add `validation_fraction` to the dataset's `split`, or files for `validation`",
        )  # fmt: skip
    if task.micro_batch and task.batch_size % task.micro_batch:
        raise UserError(
            f"{where}.micro_batch", str(task.micro_batch), f"a divisor of `batch_size`, {task.batch_size}",
            "correct one of the two",
        )  # fmt: skip
    if "f1" in (task.metric, *task.also) and task.positive is None:
        raise UserError(
            f"{where}.positive", "no class that `f1` is of", "the name of a class", "add 'positive:' with a class"
        )
