"""Training with the mask fixed, on transformers' Trainer: what is removed is held at zero in the optimiser's step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from essential_sparsity.data.batches import Ints, halving
from essential_sparsity.data.tasks import Finetuning
from essential_sparsity.files import sha256_of
from essential_sparsity.pruning.masks import AppliedMasks
from essential_sparsity.training.trainer import StateTrainer, check_finite, run_trainer, state_of, trainer_arguments

# Takes what the model returned, the labels and the number of rows of all that one step accumulates.
Loss = Callable[[Any, Tensor, int], Tensor]
Collate = Callable[[Ints], dict[str, Tensor]]


class Rows(Dataset):  # type: ignore[type-arg]
    """Rows by their number: batches are put together where all rows are at hand.

    Args:
        chosen: The numbers of the rows, (rows,).
        lengths: The length of each of them, (rows,); what is not text has one length.
    """

    def __init__(self, chosen: Ints, lengths: Ints) -> None:
        self.chosen = chosen
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, i: int) -> int:
        return int(self.chosen[i])


@dataclass(frozen=True)
class Data:
    """What a model is trained on.

    Attributes:
        train: The training rows, in the same order for every sparsity.
        validation: Rows that early stopping looks at; None without.
        collate: Returns a batch of rows with ``labels``.
        loss: Returns the loss of a batch.
    """

    train: Rows
    validation: Rows | None
    collate: Collate
    loss: Loss


@dataclass(frozen=True)
class Training:
    """What one training is, besides its model and data.

    Attributes:
        task: The registry entry.
        seed: Draws the training rows, their order, the head and dropout.
        device: Where to compute.
        folder: Where states are kept, if the task saves any.
        key: What the training is of: states of another one are not taken up.
        processes: How many train together, each on a GPU of its own, or all on the CPU.
    """

    task: Finetuning
    seed: int
    device: torch.device
    folder: Path
    key: str
    processes: int = 1


def saves_states(task: Finetuning) -> bool:
    """Say whether a task's training saves states, from which it can go on."""
    return bool(task.save_every or task.early_stopping)


def state_key(task: Finetuning, about: Iterable[str], files: Iterable[Path]) -> str:
    """Return what a training is of: the key of its states; empty where its task saves none.

    Args:
        task: The registry entry.
        about: The code, the task's text and the seed.
        files: What the training reads.
    """
    if not saves_states(task):
        return ""
    return " ".join([*about, *map(sha256_of, files)])


class LengthSampler(Sampler[int]):
    """Rows such that a batch holds some of similar length; the draw depends on the seed and the epoch alone.

    So a training that was cut off finds its place again.

    Args:
        lengths: The length of each row, (rows,).
        batch_size: Rows of an optimiser's step.
        seed: Seed of the draw.
    """

    def __init__(self, lengths: Ints, batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths.tolist(), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the draw of an epoch; Trainer calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # Any two numbers to one: seeds and epochs are far below 2^32.
        generator = torch.Generator().manual_seed((self._seed << 32) + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._batch_size, generator=generator))


class MaskedTrainer(StateTrainer):
    """A Trainer whose batches hold rows of similar length, if its arguments ask for that."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)  # type: ignore[no-any-return]
        # The base class looks for lengths in the column of a table, and there is none.
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthSampler(self.train_dataset.lengths, batch_size, self.args.data_seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        return SequentialSampler(eval_dataset)


def hold_in_step(optimiser: torch.optim.Optimizer, applied: AppliedMasks, clip: float) -> None:
    """Make every step of an optimiser keep removed weights at zero.

    Before a step the gradients of removed weights are set to zero, and only then are gradients clipped: what is removed
    has no say in how far the kept weights move. A weight that is zero, and whose gradients always were, stays exactly
    zero in a step of AdamW, as of SGD: its moments are zero, and decay shrinks nothing. The sparsity is counted after
    the training, and a removed weight that is not zero then stops the job.

    Args:
        optimiser: The optimiser of the model's parameters.
        applied: The masks, bound to the model's parameters.
        clip: Largest norm of the gradient; 0 clips nothing.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]

    def before(*_: Any) -> None:
        applied.hold_gradients()
        if clip:
            torch.nn.utils.clip_grad_norm_(parameters, clip)

    optimiser.register_step_pre_hook(before)


def training_arguments(training: Training, micro_batch: int) -> TrainingArguments:
    """Return Trainer's arguments of a training.

    Args:
        training: What the training is.
        micro_batch: Rows of a forward pass of each process; gradients of several add up to the task's batch.
    """
    task, device = training.task, training.device
    stopping = task.early_stopping
    every: dict[str, Any] = {"eval_strategy": "no"}
    if stopping:
        every = {
            "eval_strategy": "steps", "eval_steps": stopping.every, "save_strategy": "steps",
            "save_steps": stopping.every, "load_best_model_at_end": True, "metric_for_best_model": "loss",
            "greater_is_better": False, "save_total_limit": 2,
        }  # fmt: skip
    elif task.save_every:
        every |= {"save_strategy": "steps", "save_steps": task.save_every, "save_total_limit": 1}
    else:
        every |= {"save_strategy": "no"}
    return trainer_arguments(
        training.folder,
        device,
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=task.batch_size // (micro_batch * training.processes),
        num_train_epochs=task.epochs,
        learning_rate=task.learning_rate,
        weight_decay=task.weight_decay,
        lr_scheduler_type=task.schedule,
        warmup_steps=task.warmup,
        # Clipping comes after the masks, in the optimiser's step.
        max_grad_norm=0.0,
        train_sampling_strategy="group_by_length" if task.batches == "by_length" else "random",
        bf16=task.precision == "bfloat16",
        fp16=task.precision == "float16",
        seed=training.seed,
        data_seed=training.seed,
        label_names=["labels"],
        **every,
    )


def adamw(model: nn.Module, task: Finetuning) -> torch.optim.AdamW:
    """Return AdamW with the paper's epsilon over the parameters that are trained.

    Fused where gradients need no scaling: fused steps would be given scaled ones, which cannot be clipped.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        trained, lr=task.learning_rate, eps=1e-8, weight_decay=task.weight_decay,
        fused=task.precision != "float16",
    )  # fmt: skip


def _checked(loss: Loss, where: str) -> Callable[..., Tensor]:
    """Return the loss as Trainer calls it; it stops the training where it is not finite."""

    def compute(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        # Divided by all rows of a step, so that parts of a batch add up to the whole.
        value = loss(outputs, labels, len(labels) if num_items_in_batch is None else int(num_items_in_batch))
        check_finite(value, where, "lower the task's `learning_rate`, or check the checkpoint's weights")
        return value

    return compute


# Returns the model on its device, in its first state, with its masks applied.
Build = Callable[[], tuple[nn.Module, AppliedMasks]]


def train(build: Build, data: Data, training: Training, where: str) -> tuple[nn.Module, AppliedMasks]:
    """Train a masked model; where memory does not suffice, with smaller batches whose gradients add up.

    Args:
        build: Builds the model; called again after a lack of memory.
        data: What it is trained on.
        training: What the training is; one that was cut off goes on from its last state.
        where: What is trained, for messages.

    Returns:
        The trained model and its masks.

    Raises:
        UserError: A loss that is not finite.
    """

    def attempt(micro_batch: int) -> tuple[nn.Module, AppliedMasks]:
        return train_from(build, data, training, last_state(training, micro_batch), micro_batch, where)

    return halving(training.task.micro_batch or training.task.batch_size, attempt, "fine-tuning")


def train_from(
    build: Build, data: Data, training: Training, state: str | None, micro_batch: int, where: str
) -> tuple[nn.Module, AppliedMasks]:
    """Train a masked model from its first state, or from one of a training that was cut off.

    Args:
        build: Builds the model.
        data: What it is trained on.
        training: What the training is; this process may be one of several that share each batch.
        state: The folder of the state to go on from; None for the first.
        micro_batch: Rows of a forward pass of this process.
        where: What is trained, for messages.

    Returns:
        The trained model and its masks.

    Raises:
        UserError: A loss that is not finite; or the process was told to end, and has saved its state.
    """
    task = training.task
    torch.manual_seed(training.seed)
    model, applied = build()
    optimiser = adamw(model, task)
    hold_in_step(optimiser, applied, task.clip)
    stopping = task.early_stopping
    trainer = MaskedTrainer(
        model=model,
        args=training_arguments(training, micro_batch),
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=lambda rows: data.collate(np.array(rows)),
        compute_loss_func=_checked(data.loss, where),
        optimizers=(optimiser, None),
        callbacks=[EarlyStoppingCallback(stopping.patience)] if stopping else [],
    )
    run_trainer(trainer, state, "fine-tuning", where)
    return model, applied


def last_state(training: Training, micro_batch: int) -> str | None:
    """Return the last state of a training that was cut off; states of another training are removed.

    Args:
        training: What the training is; None is returned where its task saves no states.
        micro_batch: Rows of a forward pass: sums are rounded by it.
    """
    if not saves_states(training.task):
        return None
    return state_of(f"{training.key} {micro_batch} x {training.processes}", training.folder)
