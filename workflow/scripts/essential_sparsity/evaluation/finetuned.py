"""Fine-tuning with the mask fixed as an evaluation: train, then test."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.data.batches import Ints, run_by_length
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import Finetuning
from essential_sparsity.errors import UserError
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.metrics.registry import chance_of, compute_metric
from essential_sparsity.pruning.masks import Pruning
from essential_sparsity.training.fit import train_masked
from essential_sparsity.training.kinds import TASK_KINDS, TaskKind
from essential_sparsity.training.loop import Training


def evaluate_finetuned(
    checkpoint: Path, pruning: Pruning, data: Prepared, rows: Callable[[], pd.DataFrame], training: Training, where: str
) -> tuple[Outcome, float]:
    """Fine-tune a masked checkpoint and test it.

    Args:
        checkpoint: The checkpoint's folder.
        pruning: What is removed of the encoder.
        data: The prepared inputs, with rows of ``train`` and ``test``, and perhaps others such as ``test-mismatched``.
        rows: Returns the rows that the inputs were made of; called where an answer is text.
        training: How it is trained.
        where: What is evaluated, for messages.

    Returns:
        The outcome on ``test``, and the sparsity counted in the model that was tested.

    Raises:
        UserError: A loss that is not finite, or a pattern that freezes nothing.
    """
    task, device = training.task, training.device
    kind = TASK_KINDS[data.about["kind"]]
    model, applied = train_masked(checkpoint, pruning, data, training, where)
    realised = applied.realised_sparsity()
    return test(model, data, kind, rows, task, device, where), realised


def test(
    model: nn.Module, data: Prepared, kind: TaskKind, rows: Callable[[], pd.DataFrame], task: Finetuning,
    device: torch.device, where: str,
) -> Outcome:  # fmt: skip
    """Test a model on every split whose name begins with ``test``; the headline is the metric on ``test`` itself."""
    parts, counts = [], {"train": len(data.split("train"))}
    for split in data.splits():
        counts[split] = len(data.split(split))
        if split.startswith("test"):
            outputs = predict(model, data, data.split(split), kind, task.evaluation_batch_size, device, where)
            found = kind.examples(data, data.split(split), outputs, rows, task)
            parts.append(found.assign(group=split.removeprefix("test").removeprefix("-")))
    examples = pd.concat(parts, ignore_index=True)
    whole = examples[examples["group"] == ""]
    metric, positive = task.metric, task.positive
    value = compute_metric(metric, whole, where, positive)
    others = {name: compute_metric(name, whole, where, positive).value for name in task.also}
    for group in sorted(set(examples["group"]) - {""}):
        part = examples[examples["group"] == group]
        for name in (metric, *task.also):
            others[f"{group}/{name}"] = compute_metric(name, part, where, positive).value
    logging.info("%s %.4f on %d rows; others %s", metric, value.value, len(whole), json.dumps(others))
    chance = chance_of(metric, whole["label"], where, positive)
    notes = [*value.notes, *kind.notes(data.about, counts)]
    return Outcome(value.value, len(whole), chance, examples, others, notes)


@torch.no_grad()
def predict(
    model: nn.Module, data: Prepared, rows: Ints, kind: TaskKind, batch_size: int, device: torch.device, where: str
) -> list[Tensor]:
    """Return what the model says of rows, on the CPU in float32: logits, or start and end logits.

    Args:
        model: The model.
        data: The prepared inputs.
        rows: Numbers of the rows, (rows,).
        kind: What the rows are.
        batch_size: Rows of a forward pass; halved where memory does not suffice.
        device: Where to compute.
        where: What is evaluated, for messages.

    Raises:
        UserError: An output is NaN.
    """
    model.eval()

    def run(places: Ints) -> list[Tensor]:
        inputs = kind.batch(data, rows[places])
        inputs.pop("labels")
        outputs = model(**{key: value.to(device) for key, value in inputs.items()})
        parts = [part.float() for part in kind.outputs(outputs, data.about)]
        # An answer could be read off it, too.
        if any(bool(torch.isnan(part).any()) for part in parts):
            raise UserError(
                where=where,
                found="outputs that are NaN in the test",
                expected="numbers",
                mend="lower the task's `learning_rate`, or check the checkpoint's weights",
            )
        return parts

    return run_by_length(kind.lengths(data)[rows], batch_size, run, "testing")
