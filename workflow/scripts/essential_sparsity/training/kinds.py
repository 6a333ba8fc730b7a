"""What the rows of a task are in fine-tuning: their batches, their loss, and what is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.data.batches import Ints, attention, padded
from essential_sparsity.data.prepared import About, Prepared
from essential_sparsity.data.tasks import Finetuning

Rows = Callable[[], pd.DataFrame]
# What a model is loaded with.
Options = dict[str, Any]


@dataclass(frozen=True)
class TaskKind:
    """The functions of one kind of rows.

    Attributes:
        model_options: From what holds for all rows: what the model is loaded with, such as its number of classes.
        lengths: The length of each row, (rows,), by which batches are put together.
        batch: The inputs of some rows and their ``labels``.
        loss: Of what the model returned, the labels and the number of labels of a whole step; it adds up over the
            parts of a step.
        outputs: From what the model returned, and what holds for all rows: the tensors, a row for each input, that
            answers are read from.
        examples: From the inputs, the numbers of the rows, the outputs, the dataset's rows and the task: columns
            ``id, label, prediction, score, loss, n``.
        notes: From what holds for all rows, and the number of rows of each split: what a reader should know.
    """

    model_options: Callable[[About], Options]
    lengths: Callable[[Prepared], Ints]
    batch: Callable[[Prepared, Ints], dict[str, Tensor]]
    loss: Callable[[Any, Tensor, int], Tensor]
    outputs: Callable[[Any, About], list[Tensor]]
    examples: Callable[[Prepared, Ints, list[Tensor], Rows, Finetuning], pd.DataFrame]
    notes: Callable[[About, Mapping[str, int]], list[str]]


# --- Texts with a class or a number ---------------------------------------------------------------------------------


def sequence_lengths(data: Prepared) -> Ints:
    """Return the number of tokens of each row."""
    return data.ragged("input_ids").lengths


def sequence_batch(data: Prepared, rows: Ints) -> dict[str, Tensor]:
    """Return padded token ids, which of them are tokens, and segment ids where the model has segments."""
    ids, side = data.ragged("input_ids"), data.about["padding_side"]
    inputs = {"input_ids": padded(ids, rows, data.about["pad"], side), "attention_mask": attention(ids, rows, side)}
    if data.has("token_type_ids"):
        inputs["token_type_ids"] = padded(data.ragged("token_type_ids"), rows, 0, side)
    return inputs


def labelled_batch(data: Prepared, rows: Ints) -> dict[str, Tensor]:
    """Return :func:`sequence_batch` with the labels."""
    return sequence_batch(data, rows) | {"labels": _labels(data, rows)}


def cut_notes(about: About, counts: Mapping[str, int]) -> list[str]:
    """Say how many texts of each split were cut.

    Args:
        about: What :func:`data.tokens.prepare_sequences` returned.
        counts: The number of texts of each split.
    """
    return [
        f"{cut:,} of {counts[split]:,} texts of {split} cut to {about['max_length']} tokens"
        for split, cut in sorted(about.get("cut", {}).items())
        if cut
    ]


def _labels(data: Prepared, rows: Ints) -> Tensor:
    labels = torch.from_numpy(data.numbers("label")[rows])
    return labels.float() if labels.is_floating_point() else labels


def class_loss(outputs: Any, labels: Tensor, count: int) -> Tensor:
    """Return the cross-entropy, its sum divided by ``count``."""
    return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / count


def score_loss(outputs: Any, labels: Tensor, count: int) -> Tensor:
    """Return the squared error, its sum divided by ``count``."""
    return nn.functional.mse_loss(outputs.logits[:, 0], labels, reduction="sum") / count


def _logits(outputs: Any, about: About) -> list[Tensor]:
    return [outputs.logits]


def class_examples(data: Prepared, rows: Ints, outputs: list[Tensor], _rows: Rows, _task: Finetuning) -> pd.DataFrame:
    """Return each row's class, the predicted one, whether they agree, and the cross-entropy."""
    (logits,), classes, labels = outputs, data.about["classes"], _labels(data, rows)
    predictions = logits.argmax(dim=1)
    losses = nn.functional.cross_entropy(logits, labels, reduction="none").double()
    return pd.DataFrame(
        {
            "id": data.numbers("id")[rows],
            "label": [classes[i] for i in labels.tolist()],
            "prediction": [classes[i] for i in predictions.tolist()],
            "score": (predictions == labels).double().numpy(),
            "loss": losses.numpy(),
            "n": 1,
        }
    )


def score_examples(data: Prepared, rows: Ints, outputs: list[Tensor], _rows: Rows, _task: Finetuning) -> pd.DataFrame:
    """Return each row's number, the predicted one, and the squared error as its loss."""
    labels, predictions = data.numbers("label")[rows], outputs[0][:, 0].double().numpy()
    return pd.DataFrame(
        {
            "id": data.numbers("id")[rows],
            "label": [repr(float(x)) for x in labels],
            "prediction": [repr(float(x)) for x in predictions],
            "score": np.nan,
            "loss": np.square(labels - predictions),
            "n": 1,
        }
    )


def _class_options(about: About) -> Options:
    return {"num_labels": len(about["classes"])} | _padding(about)


def _score_options(about: About) -> Options:
    return {"num_labels": 1} | _padding(about)


def _padding(about: About) -> Options:
    # Models that read the last token need to know which tokens only fill up.
    return {"pad_token_id": about["pad"]} if "pad" in about else {}


# --- Images with a class --------------------------------------------------------------------------------------------


def image_lengths(data: Prepared) -> Ints:
    """Return ones: images are of one size."""
    return np.ones(len(data), dtype=np.int64)


def image_batch(data: Prepared, rows: Ints) -> dict[str, Tensor]:
    """Return pixels as the model takes them, (batch, channels, height, width), and labels."""
    from essential_sparsity.data.pixels import PixelSettings, normalise

    bytes_ = torch.from_numpy(data.blocks("pixels", tuple(data.about["shape"]))[rows])
    return {"pixel_values": normalise(bytes_, PixelSettings(**data.about["pixels"])), "labels": _labels(data, rows)}


def _image_options(about: About) -> Options:
    names = dict(enumerate(about["classes"]))
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}, "ignore_mismatched_sizes": True}


# --- Questions with an answer inside a text -------------------------------------------------------------------------


def span_batch(data: Prepared, rows: Ints) -> dict[str, Tensor]:
    """Return :func:`sequence_batch` with the first and last token of each answer, (batch, 2)."""
    ends = np.stack([data.numbers("start_position")[rows], data.numbers("end_position")[rows]], axis=1)
    return sequence_batch(data, rows) | {"labels": torch.from_numpy(ends)}


def answer_loss(outputs: Any, labels: Tensor, count: int) -> Tensor:
    """Return the cross-entropies of starts and ends, their sum divided by ``count``, which counts both."""
    from essential_sparsity.data.spans import span_loss

    return span_loss(outputs.start_logits, outputs.end_logits, labels[:, 0], labels[:, 1], count // 2)


def _span_logits(outputs: Any, about: About) -> list[Tensor]:
    # Batches are of different length, and are put together.
    room = about["max_length"]
    ends = (outputs.start_logits, outputs.end_logits)
    return [nn.functional.pad(part, (0, room - part.shape[1]), value=-torch.inf) for part in ends]


def span_examples(
    data: Prepared, rows: Ints, outputs: list[Tensor], dataset_rows: Rows, task: Finetuning
) -> pd.DataFrame:
    """Return each question's answers as JSON, the text that the model answers, and the F1 of the words of the two.

    The loss is the mean over the windows of the context, in each of which it is that of starts and ends.
    """
    from essential_sparsity.data.spans import best_spans, span_loss
    from essential_sparsity.metrics.squad import gold_label, squad_scores, squad_v2_scores

    ids = data.numbers("id")[rows]
    questions = dataset_rows().set_index("id", drop=False).loc[pd.unique(ids)]
    tokens, offsets = data.ragged("input_ids"), data.ragged("offsets")
    starts, ends = (
        [line[: len(tokens[int(r)])] for line, r in zip(part.numpy(), rows, strict=True)] for part in outputs
    )
    features: dict[str, Any] = {
        "id": ids,
        "input_ids": [tokens[int(r)] for r in rows],
        "offsets": [offsets[int(r)] for r in rows],
        "null_position": data.numbers("null_position")[rows],
    }
    answers = best_spans(
        starts, ends, features, questions, f"task with {len(questions)} questions",
        max_answer_length=task.answer_length, null_threshold=task.null_threshold,
    )  # fmt: skip
    gold = span_batch(data, rows)["labels"]
    losses = [
        span_loss(s[None], e[None], g[None, 0], g[None, 1], 1).item() for s, e, g in zip(*outputs, gold, strict=True)
    ]
    score = squad_scores if task.null_threshold is None else squad_v2_scores
    return pd.DataFrame(
        {
            "id": questions["id"].to_numpy(),
            "label": [gold_label(list(golds)) for golds in questions["answers"]],
            "prediction": answers,
            "score": [score(given, list(golds))[1] for given, golds in zip(answers, questions["answers"], strict=True)],
            "loss": pd.Series(losses).groupby(ids).mean().loc[questions["id"]].to_numpy(),
            "n": 1,
        }
    )


def _lost_notes(about: About, counts: Mapping[str, int]) -> list[str]:
    return [f"{about['lost']:,} answers that are whole in no window"] if about["lost"] else []


def _no_notes(about: About, counts: Mapping[str, int]) -> list[str]:
    return []


TASK_KINDS = {
    "classes": TaskKind(
        _class_options, sequence_lengths, labelled_batch, class_loss, _logits, class_examples, cut_notes
    ),
    "scores": TaskKind(
        _score_options, sequence_lengths, labelled_batch, score_loss, _logits, score_examples, cut_notes
    ),
    "spans": TaskKind(_padding, sequence_lengths, span_batch, answer_loss, _span_logits, span_examples, _lost_notes),
    "images": TaskKind(_image_options, image_lengths, image_batch, class_loss, _logits, class_examples, _no_notes),
}
