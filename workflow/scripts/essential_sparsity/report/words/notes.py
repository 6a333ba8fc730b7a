"""What a reader should know: departures from the paper, and notes of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from essential_sparsity.report.words.numbers import PAPER, capitalised


def departures(tasks: Mapping[str, Any]) -> list[str]:
    """Say where a study's tasks depart from the paper, and on how much text a perplexity rests.

    Args:
        tasks: The registry's entries of the tasks that the study evaluates.
    """
    sentences = []
    for name, task in tasks.items():
        label = task.get("label", name)
        if task["protocol"] == "finetune":
            if task.get("freeze"):
                patterns = ", ".join(f"`{pattern}`" for pattern in task["freeze"])
                sentences.append(
                    f"{capitalised(label)}: the parameters that match {patterns} are frozen while fine-tuning. This "
                    f"departs from the paper ({PAPER}), which fine-tunes all weights."
                )
            if task.get("head") == "mean_pooling":
                sentences.append(
                    f"{capitalised(label)}: the classifier is a linear layer on the mean of the last hidden states. "
                    f"This departs from the paper ({PAPER}), which uses the model's own classifier."
                )
        elif task["protocol"] == "perplexity" and task["windows"] is not None:
            part = (
                f"the first {task['windows'] * task['window']:,} tokens ({task['windows']:,} windows of "
                f"{task['window']:,})"
                if task["metric"] == "perplexity"
                else f"the first {task['windows']:,} texts"
            )
            sentences.append(f"{capitalised(label)}: perplexity is computed on {part}, not on all of the data.")
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
