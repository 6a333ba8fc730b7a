"""transformers' Trainer as all trainings here use it: states that hold, progress, SIGTERM."""

from __future__ import annotations

import logging
import math
import shutil
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import WEIGHTS_NAME

from essential_sparsity.errors import UserError
from essential_sparsity.files import read_json, write_json
from essential_sparsity.progress import Meter
from essential_sparsity.run.preemption import preempted, told_to_end

_KEY = "training.json"


class StateTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose states hold the weights under the names by which it loads them.

    The base class saves a model as ``save_pretrained`` does, which may rename weights (a ViT's), and leaves those alone
    whose names it does not find when it loads.
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), folder / WEIGHTS_NAME)


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Reports steps as every other stage does.

    Args:
        stage: What is reported of.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._meter: Meter | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._meter = Meter(self._stage, state.max_steps, "steps", state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._meter:
            self._meter.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._meter:
            self._meter.close()


class _EndWhenTold(TrainerCallback):  # type: ignore[misc]
    """Saves the state and ends the training once the process was told to end.

    Args:
        told: Says whether it was.
    """

    def __init__(self, told: Callable[[], bool]) -> None:
        self._told = told
        self.ended = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._told() and state.global_step < state.max_steps:
            self.ended = control.should_save = control.should_training_stop = True


def trainer_arguments(states: Path, device: torch.device, **settings: Any) -> TrainingArguments:
    """Return Trainer's arguments: the settings, and what is the same for every training.

    Args:
        states: Where states are saved.
        device: Where to compute.
        **settings: Of this training.
    """
    arguments = TrainingArguments(
        output_dir=str(states),
        use_cpu=device.type == "cpu",
        # Rows are numbers, which no model takes.
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type != "cpu",
        disable_tqdm=True,
        logging_strategy="no",
        report_to="none",
        **settings,
    )
    # A process has the device that it was given, not all that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def check_finite(loss: Tensor, where: str, mend: str) -> float:
    """Return a loss as a number.

    Raises:
        UserError: It is not finite.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise UserError(where=where, found=f"a loss of {value}", expected="a finite loss", mend=mend)
    return value


def run_trainer(trainer: Trainer, state: str | None, stage: str, where: str) -> None:
    """Train to the end.

    Args:
        trainer: What trains.
        state: The folder of the state to go on from; None for the first.
        stage: What is reported of.
        where: What is trained, for messages.

    Raises:
        UserError: The process was told to end, and has saved its state.
    """
    trainer.add_callback(_Progress(stage))
    # Several processes would have to agree on the step; they go on from the last state that they saved.
    caught = trainer.args.save_strategy != "no" and trainer.args.world_size == 1
    with told_to_end() if caught else nullcontext(bool) as told:
        end = _EndWhenTold(told)
        trainer.add_callback(end)
        trainer.train(resume_from_checkpoint=state)
    if end.ended:
        raise preempted(where, trainer.state.global_step, trainer.state.max_steps)
    logging.info("trained for %d steps", trainer.state.global_step)


def state_of(key: str, folder: Path) -> str | None:
    """Return the last whole state in a folder; one that belongs to another training is emptied.

    Args:
        key: What the training is of.
        folder: Where its states are.
    """
    note = folder / _KEY
    if note.is_file() and read_json(note).get("key") == key:
        for state in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if not _whole(state):
                logging.info("%s is not whole: going on without it", state)
                shutil.rmtree(state)
        return get_last_checkpoint(str(folder))  # type: ignore[no-any-return]
    shutil.rmtree(folder, ignore_errors=True)
    write_json(note, {"key": key})
    return None


def _whole(state: Path) -> bool:
    """Say whether a state was written to its end: Trainer's own file comes last, an archive ends in its directory."""
    try:
        read_json(state / TRAINER_STATE_NAME)
    except (OSError, ValueError):
        return False
    return all(map(zipfile.is_zipfile, [*state.glob("*.bin"), *state.glob("*.pt")]))
