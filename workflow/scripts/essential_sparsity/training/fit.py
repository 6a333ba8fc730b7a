"""Fine-tuning with the mask fixed: removed weights stay zero from the first step to the evaluation."""

from __future__ import annotations

import fnmatch
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from essential_sparsity.checkpoints.extract import read_config
from essential_sparsity.checkpoints.loading import load_model
from essential_sparsity.data.batches import draw_training_rows, halving
from essential_sparsity.data.prepared import Prepared
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.pruning.masks import AppliedMasks, Pruning
from essential_sparsity.run.processes import run_in_processes
from essential_sparsity.training.kinds import TASK_KINDS, Options
from essential_sparsity.training.loop import Data, Rows, Training, last_state, train, train_from


class MeanPoolingClassifier(nn.Module):
    """An encoder, run by its own forward, with a linear layer on the mean of its last hidden states.

    Args:
        encoder: A transformers model without a head.
        classes: Number of classes.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr,arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return logits, (batch, classes), for token ids and their mask, both (batch, length)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (batch, length, 1)
        pooled = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)  # (batch, hidden)
        return SequenceClassifierOutput(logits=self.classifier(pooled))


# A model to train, and the part of it that the checkpoint's masks are of.
Headed = tuple[nn.Module, nn.Module]


def mean_pooling(checkpoint: Path, options: Options, where: str) -> Headed:
    """Load a checkpoint's encoder under a mean-pooling classifier."""
    from transformers import AutoModel

    encoder = load_model(AutoModel, checkpoint, where, attn_implementation="eager", dtype=torch.float32)
    return MeanPoolingClassifier(encoder, options["num_labels"]), encoder


def leave_head_behind(model: Any, auto_class: Any) -> None:
    """Draw the parameters outside the encoder anew, in place, as those of a model that never was trained."""
    fresh, inside = auto_class.from_config(model.config), f"{model.base_model_prefix}."
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(inside):
                parameter.copy_(fresh.get_parameter(name))


def own_head(auto_class: str) -> Callable[[Path, Options, str], Headed]:
    """Return what loads a checkpoint under its architecture's own head, as the paper does."""

    def load(checkpoint: Path, options: Options, where: str) -> Headed:
        import transformers

        chosen, classes = getattr(transformers, auto_class), options.get("id2label")
        # In float32 whatever is stored: AdamW's small steps are lost in half precision.
        model: Any = load_model(chosen, checkpoint, where, dtype=torch.float32, **options)
        # A head for another number of classes does not fit; one for as many others would, and start from those.
        if classes is not None and dict(read_config(checkpoint).id2label) != classes:
            leave_head_behind(model, chosen)
        return model, model

    return load


HEADS: dict[str, Callable[[Path, Options, str], Headed]] = {
    "mean_pooling": mean_pooling,
    "sequence_classification": own_head("AutoModelForSequenceClassification"),
    "question_answering": own_head("AutoModelForQuestionAnswering"),
    "image_classification": own_head("AutoModelForImageClassification"),
}


def freeze(model: nn.Module, encoder: nn.Module, patterns: Sequence[str], where: str) -> list[str]:
    """Stop the training of the encoder's parameters whose names match a pattern; return their names.

    Args:
        model: What is trained.
        encoder: The part of it, or all of it, that the checkpoint holds.
        patterns: Patterns with wildcards.
        where: What is trained, for messages.

    Raises:
        UserError: A pattern matches nothing, or nothing is left to train.
    """
    frozen = []
    names = dict(encoder.named_parameters())
    for pattern in patterns:
        matched = [name for name in names if fnmatch.fnmatch(name, pattern)]
        if not matched:
            raise UserError(
                where=f"{where}.freeze",
                found=f"the pattern '{pattern}', which matches no parameter",
                expected=f"a pattern for names such as {', '.join(list(names)[:6])}",
                mend="correct the pattern",
            )
        for name in matched:
            names[name].requires_grad_(False)
        frozen += matched
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(
            where=f"{where}.freeze",
            found=f"{quoted(patterns)}, which leave no parameter to train",
            expected="at least one parameter that no pattern matches",
            mend="remove a pattern",
        )
    return frozen


def train_masked(
    checkpoint: Path, pruning: Pruning, data: Prepared, training: Training, where: str
) -> tuple[nn.Module, AppliedMasks]:
    """Fine-tune a masked checkpoint in as many processes as the training has; as :func:`evaluate_finetuned` does."""
    fitted = fit if training.processes == 1 else fit_in_processes
    return fitted(checkpoint, pruning, data, training, where)


def fit(
    checkpoint: Path, pruning: Pruning, data: Prepared, training: Training, where: str
) -> tuple[nn.Module, AppliedMasks]:
    """Fine-tune a masked checkpoint in this process; the arguments are those of :func:`evaluate_finetuned`."""
    build = partial(build_model, checkpoint, pruning, data, training, where)
    return train(build, training_data(data, training), training, where)


def fit_in_processes(
    checkpoint: Path, pruning: Pruning, data: Prepared, training: Training, where: str
) -> tuple[nn.Module, AppliedMasks]:
    """Fine-tune a masked checkpoint in several processes that share each batch and average their gradients.

    A step takes the rows that it takes in one process. Only the last batch of an epoch, if it is not full, is filled up
    with rows from the epoch's beginning.

    Raises:
        UserError: The task's batch cannot be shared evenly, or one of the processes raised it.
    """
    task, processes = training.task, training.processes
    share = task.batch_size // processes
    if share * processes != task.batch_size:
        raise UserError(
            where=f"{where}.batch_size",
            found=f"{task.batch_size} rows for {processes} GPUs",
            expected="a batch that can be shared evenly",
            mend=f"give the rule a number of GPUs that divides {task.batch_size}, or change the task's `batch_size`",
        )

    def attempt(micro_batch: int) -> tuple[nn.Module, AppliedMasks]:
        state = last_state(training, micro_batch)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trained.pt"
            work = partial(
                _train_one_of_several, checkpoint, pruning, data.path, training, where, state, micro_batch, file
            )
            run_in_processes(work, processes)
            model, applied = build_model(checkpoint, pruning, data, training, where)
            model.load_state_dict(torch.load(file, map_location=training.device, weights_only=True))
        return model, applied

    return halving(math.gcd(task.micro_batch or share, share), attempt, "fine-tuning")


def _train_one_of_several(
    checkpoint: Path, pruning: Pruning, inputs: Path, training: Training, where: str, state: str | None,
    micro_batch: int, file: Path, rank: int,
) -> None:  # fmt: skip
    """Train in one of several processes; the first writes the trained parameters."""
    device = torch.device("cuda", rank) if training.device.type == "cuda" else training.device
    own, data = replace(training, device=device), Prepared(inputs)
    build = partial(build_model, checkpoint, pruning, data, own, where)
    model, _ = train_from(build, training_data(data, own), own, state, micro_batch, where)
    if rank == 0:
        torch.save(model.state_dict(), file)


def build_model(
    checkpoint: Path, pruning: Pruning, data: Prepared, training: Training, where: str
) -> tuple[nn.Module, AppliedMasks]:
    """Return the model under its new head, on its device, with its masks applied and what is frozen frozen."""
    options = TASK_KINDS[data.about["kind"]].model_options(data.about)
    model, encoder = HEADS[training.task.head](checkpoint, options, where)
    model.to(training.device)
    freeze(model, encoder, training.task.freeze, where)
    return model, pruning.apply(encoder)


def training_data(data: Prepared, training: Training) -> Data:
    """Return the rows that a model is trained on, the same for every sparsity of a seed."""
    kind = TASK_KINDS[data.about["kind"]]
    lengths = kind.lengths(data)
    chosen = draw_training_rows(data.split("train"), training.task.train_examples, training.seed)
    validation = data.split("validation") if training.task.early_stopping else None
    return Data(
        Rows(chosen, lengths[chosen]),
        None if validation is None else Rows(validation, lengths[validation]),
        lambda batch: kind.batch(data, batch),
        kind.loss,
    )
