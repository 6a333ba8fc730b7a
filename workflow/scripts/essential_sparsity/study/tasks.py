"""What of a task follows from its dataset, and what of the two does not go together: known before any job starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from essential_sparsity.data.kinds import FILES, has_images, held_out_splits, kind_of
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.metrics.registry import check_metric
from essential_sparsity.study.protocols import KEYS, PROTOCOLS


def heads_for(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the heads that fit what a dataset has to predict, the architecture's own first."""
    if kind_of(dataset) == "spans":
        return ("question_answering",)
    return ("image_classification",) if has_images(dataset) else ("sequence_classification", "mean_pooling")


def completed(task: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task with the head and metric that its dataset suggests, where it names none."""
    protocol = PROTOCOLS[task["protocol"]]
    if not protocol.trains:
        return dict(task)
    return {"head": heads_for(dataset)[0], "metric": protocol.metrics.get(kind_of(dataset), ""), **task}


def preparation(task: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the kind of a task's prepared inputs and the keys that they depend on; None if it reads files."""
    protocol = PROTOCOLS[task["protocol"]]
    if protocol.reads == "files":
        return None
    of_dataset = "images" if has_images(dataset) else kind_of(dataset)
    kind = protocol.inputs.get(task["metric"], of_dataset)
    found = {"kind": kind, **{key: task[key] for key in KEYS[kind]}}
    return {**found, "unanswerable": task["null_threshold"] is not None} if kind == "spans" else found


def check_dataset(dataset: Mapping[str, Any], where: str) -> None:
    """Check that the keys of a dataset go together.

    Args:
        dataset: The registry entry.
        where: Its place, for messages.

    Raises:
        UserError: They do not.
    """
    if "documents" in dataset:
        try:
            re.compile(dataset["documents"])
        except re.error as error:
            raise UserError(
                f"{where}.documents", f"'{dataset['documents']}' ({error})", "a regular expression", "correct it"
            ) from error
    files, split = dataset["source"].get("files", {}), dataset.get("split", {})
    both = [part for part in ("test", "validation") if f"{part}_fraction" in split and part in files]
    if both or ("column" in split and set(files) - {"train"}):
        part = both[0] if both else next(iter(set(files) - {"train"}))
        raise UserError(
            f"{where}.source.files.{part}", f"files for `{part}` beside the dataset's `split`", "one of the two",
            f"remove it from `split`, or the files for `{part}`",
        )  # fmt: skip
    fractions = [split[key] for key in ("test_fraction", "validation_fraction") if key in split]
    if split and ("column" in split) == bool(fractions):
        raise UserError(
            f"{where}.split", quoted(split), "either `column`, or `test_fraction` or `validation_fraction` or both",
            "keep what says which rows are held out",
        )  # fmt: skip
    if sum(fractions) >= 1:
        raise UserError(
            f"{where}.split", f"fractions that add up to {sum(fractions):g}", "less than 1, so that rows are left",
            "lower them",
        )  # fmt: skip
    _check_columns(dataset, where)


def _check_columns(dataset: Mapping[str, Any], where: str) -> None:
    kept, source = dataset["format"] == FILES, dataset["source"]
    columns = [key for key in ("text", "image", "label", "score", "answers") if key in dataset]
    if kept or dataset["format"] == "images":
        if columns:
            raise UserError(
                f"{where}.{columns[0]}", f"a column in a dataset with `format: {dataset['format']}`",
                "columns of tables only", "remove it, or correct `format`",
            )  # fmt: skip
        sources = ["path", "hub"] if kept else ["path"]
        if source["kind"] not in sources:
            raise UserError(
                f"{where}.source.kind", f"'{source['kind']}'", f"{quoted(sources)} with `format: {dataset['format']}`",
                "put the files into a local folder and name it",
            )  # fmt: skip
    elif ("text" in dataset) == ("image" in dataset):
        raise UserError(
            where, "both `text` and `image`" if "text" in dataset else "neither `text` nor `image`",
            "the column with the text or that with the image", "name one of them",
        )  # fmt: skip
    if len(targets := [key for key in ("label", "score", "answers") if key in dataset]) > 1:
        raise UserError(where, f"{quoted(targets)} at once", "one thing to predict", "keep one of them")
    if ("all" in source.get("files", {})) != (kept and source["kind"] == "hub"):
        raise UserError(
            f"{where}.source.files", "`all`" if not kept else "no `all`",
            "`all` with `format: files` of the hub, and splits with every other format",
            "name the files under `all`" if kept else "name the files by their split",
        )  # fmt: skip


def check_task(task: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> None:
    """Check that a task's protocol, dataset and metric go together.

    Args:
        task: The registry entry, completed.
        dataset: The entry of its dataset.
        where: The task's place, for messages.

    Raises:
        UserError: They do not.
    """
    protocol, kind, name = PROTOCOLS[task["protocol"]], kind_of(dataset), task["dataset"]
    if (protocol.reads == "files") != (kind == "files"):
        fitting = ", ".join(known for known, other in PROTOCOLS.items() if other.reads == "files")
        raise UserError(
            f"{where}.dataset", f"dataset '{name}' with `format: {dataset['format']}`",
            f"`format: files` for the protocol {fitting}, and for no other", "choose another dataset or protocol",
        )  # fmt: skip
    if protocol.reads == "texts" and has_images(dataset):
        raise UserError(f"{where}.dataset", f"dataset '{name}' of images", "one of texts", "choose another dataset")
    if protocol.reads == "images" and not has_images(dataset):
        raise UserError(
            f"{where}.dataset", f"dataset '{name}' of texts", f"one of images, which {task['protocol']} needs",
            "choose another dataset or protocol",
        )  # fmt: skip
    if protocol.metrics:
        labelled = kind in protocol.metrics
        if not (labelled and "test" in held_out_splits(dataset)):
            raise UserError(
                f"{where}.dataset", f"dataset '{name}' without {'a test split' if labelled else 'label'}",
                "a dataset with `label`, `score` or `answers`, and `split` or files for `test`: it trains and tests",
                "add them to the dataset or choose another",
            )  # fmt: skip
    if protocol.trains:
        _check_training(task, dataset, where)
    if protocol.reads != "files":
        predicted = protocol.predicted or ("classes" if has_images(dataset) else kind)
        for key, metric in [("metric", task["metric"]), *(("also", metric) for metric in task.get("also", []))]:
            check_metric(metric, predicted, f"{where}" if key == "metric" else f"{where}.also")


def _check_training(task: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> None:
    fitting = heads_for(dataset)
    if task["head"] not in fitting:
        raise UserError(
            f"{where}.head", f"'{task['head']}'", f"one of {quoted(fitting)} for dataset '{task['dataset']}'",
            f"write '{fitting[0]}', or leave it out",
        )  # fmt: skip
    if task["head"] == "mean_pooling" and kind_of(dataset) == "scores":
        raise UserError(f"{where}.head", "'mean_pooling' for numbers", "'sequence_classification'", "leave `head` out")
    if task["early_stopping"] and "validation" not in held_out_splits(dataset):
        raise UserError(
            f"{where}.early_stopping", f"dataset '{task['dataset']}' without the split `validation`",
            "rows that are neither trained nor tested on",
            "add `validation_fraction` to the dataset's `split`, or files for `validation`",
        )  # fmt: skip
    if task["micro_batch"] and task["batch_size"] % task["micro_batch"]:
        raise UserError(
            f"{where}.micro_batch", str(task["micro_batch"]), f"a divisor of `batch_size`, {task['batch_size']}",
            "correct one of the two",
        )  # fmt: skip
    if "f1" in (task["metric"], *task["also"]) and task["positive"] is None:
        raise UserError(
            f"{where}.positive", "no class that `f1` is of", "the name of a class", "add 'positive:' with a class"
        )
