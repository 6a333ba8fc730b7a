"""What a reader should know: departures from the paper, and notes of evaluations."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from essential_sparsity.data.tasks import AnyTask, Finetuning, Perplexity
from essential_sparsity.report.words.numbers import PAPER, capitalised


def departures(tasks: Mapping[str, AnyTask]) -> list[str]:
    """Say where a study's tasks depart from the paper, and on how much text a perplexity rests.

    Args:
        tasks: The registry's entries of the tasks that the study evaluates.
    """
    sentences = []
    for task in tasks.values():
        label = capitalised(task.label)
        if isinstance(task, Finetuning) and task.freeze:
            patterns = ", ".join(f"`{pattern}`" for pattern in task.freeze)
            sentences.append(
                f"{label}: the parameters that match {patterns} are frozen while fine-tuning. This departs from the "
                f"paper ({PAPER}), which fine-tunes all weights."
            )
        if isinstance(task, Finetuning) and task.head == "mean_pooling":
            sentences.append(
                f"{label}: the classifier is a linear layer on the mean of the last hidden states. This departs from "
                f"the paper ({PAPER}), which uses the model's own classifier."
            )
        if isinstance(task, Perplexity) and task.windows is not None:
            part = f"{task.windows * task.window:,} tokens ({task.windows:,} windows of {task.window:,})"
            if task.metric != "perplexity":
                part = f"{task.windows:,} texts"
            sentences.append(f"{label}: perplexity is computed on the first {part}, not on all of the data.")
    return sentences


def evaluation_notes(evaluations: pd.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """Say what the evaluations of a task note, such as how many texts were cut; each note once for a model.

    Args:
        evaluations: The study's table.
        labels: What plots call each task.
    """
    noted = evaluations[evaluations["notes"] != ""]
    return [
        f"{capitalised(labels.get(str(task), str(task)))}, {model}: {note}."
        for (task, model), rows in noted.groupby(["task", "model"], sort=True)
        for note in dict.fromkeys("; ".join(rows["notes"]).split("; "))
    ]
