"""Pre-training by a recipe, on transformers' Trainer: what all objectives share, with log-spaced checkpoints.

Every draw (order of the data, masks, augmentation, dropout) depends on the seed and the step alone, so a training that
was cut off goes on from its last state to the same weights.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from essential_sparsity.checkpoints.extract import held_weights, save_weights, without_tied
from essential_sparsity.checkpoints.steps import step_name
from essential_sparsity.files import atomic_path, canonical, sha256_of, write_json
from essential_sparsity.pretraining.causal_text import CausalLanguageModelling
from essential_sparsity.pretraining.corpus import withhold
from essential_sparsity.pretraining.labelled_images import SupervisedImages
from essential_sparsity.pretraining.masked_images import MaskedImageModelling
from essential_sparsity.pretraining.masked_text import MaskedLanguageModelling
from essential_sparsity.pretraining.objectives import Batch, Objective
from essential_sparsity.pretraining.recipe import AnyRecipe, Recipe
from essential_sparsity.records import plain
from essential_sparsity.training.trainer import StateTrainer, check_finite, run_trainer, state_of, trainer_arguments

INDEX = "index.json"
# A state is saved after such a share of the steps.
STATE_EVERY = 0.1
_CURVE = ("step", "loss", "held_out_loss", "held_out_accuracy", "learning_rate")

# A further objective is a module, a class of recipes, and an entry here and in the schema.
OBJECTIVES: dict[str, Callable[[pd.DataFrame, Any, str], Objective]] = {
    "masked-language-modelling": MaskedLanguageModelling,
    "causal-language-modelling": CausalLanguageModelling,
    "supervised-images": SupervisedImages,
    "masked-image-modelling": MaskedImageModelling,
}


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then linear decay to zero."""
    ramp = max(1, round(warmup * steps))
    return (step + 1) / ramp if step < ramp else max(0.0, (steps - step) / max(1, steps - ramp))


def make_optimiser(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices (and kernels) only: no biases, norms, and no learnt tokens or positions."""
    named = [(name.endswith(".weight") and p.ndim >= 2, p) for name, p in model.named_parameters()]
    return torch.optim.AdamW(
        [
            {"params": [p for decays, p in named if decays], "weight_decay": weight_decay},
            {"params": [p for decays, p in named if not decays], "weight_decay": 0.0},
        ],
        lr=learning_rate, betas=(0.9, 0.999), fused=True,
    )  # fmt: skip


class _Batches(Dataset):  # type: ignore[type-arg]
    """The batch of every step."""

    def __init__(self, objective: Objective, recipe: Recipe) -> None:
        self._objective, self._recipe = objective, recipe
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return self._recipe.steps

    def __getitem__(self, step: int) -> Batch:
        seed, size = self._recipe.seed, self._recipe.batch_size
        epoch, place = divmod(step, max(1, self._objective.size // size))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self._objective.size, generator=generator)
        rows = self._order[place * size : (place + 1) * size]
        return self._objective.draw(rows, torch.Generator().manual_seed(seed * 1_000_033 + step))


class _PreTrainer(StateTrainer):
    """A Trainer of an objective; the loss of every step is in its state's history, which a later run goes on with."""

    def __init__(self, objective: Objective, recipe: Recipe, folder: Path, where: str, **rest: Any) -> None:
        super().__init__(train_dataset=_Batches(objective, recipe), **rest)
        self._objective, self._folder, self._where = objective, folder, where
        self._checkpoints, self._measured = recipe.checkpoint_steps, set(recipe.measured_steps)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        step = self.state.global_step
        self.keep(step)
        torch.manual_seed(self.args.seed * 1_000_033 + step)  # of dropout
        loss = self._objective.loss(model, (inputs[self.model.main_input_name], inputs["predicted"]))
        where = f"{self._where}, training step {step}"
        value = check_finite(loss, where, "lower `learning_rate` or raise `warmup`: the training diverged")
        self.state.log_history.append({"step": step + 1, "loss": value})
        return loss

    def keep(self, step: int) -> None:
        """Write the weights after a step if they are kept, and note what they lose on held-out rows."""
        if step in self._measured:
            # Tied tensors are told by their shared memory, which a copy to the CPU would end.
            weights = without_tied(self.model.state_dict(), self.model._tied_weights_keys)
            save_weights(held_weights(weights), self._folder / f"{step_name(step)}.safetensors")
        if step in self._checkpoints:
            figures = self._objective.held_out(self.model)
            shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
            logging.info("checkpoint %s: %s", step_name(step), shown)
            self.state.log_history.append({"step": step, **figures})


def pretrain(
    corpus: pd.DataFrame, recipe: AnyRecipe, folder: Path, states: Path, device: torch.device, code: str, where: str
) -> None:
    """Train a model by a recipe, or go on with a training of the same recipe, corpus and code that was cut off.

    Writes into ``folder``: the tokenizer or processor, ``config.json``, ``step000000.safetensors`` ... for each
    checkpoint and each step that is kept for measuring, ``loss.parquet`` (``step, loss, held_out_loss,
    learning_rate``; of images also ``held_out_accuracy``) and, last of all, ``index.json``, which lists those files
    with their SHA-256.

    Args:
        corpus: The prepared dataset; training sees only its split ``train``, or the recipe's ``corpus_share`` of it.
        recipe: The registry's recipe; its ``objective`` says what is learnt.
        folder: Where to write, once the training has ended.
        states: Where the state and the weights of a training are until then; removed in the end.
        device: Where to compute.
        code: Digest of the code: a training that other code began is not continued.
        where: The registry key, for messages.

    Raises:
        UserError: A loss that is not finite, or a corpus that the objective cannot learn from; or the process was told
            to end, and has saved its state.
    """
    identity = canonical([code, plain(recipe), int(pd.util.hash_pandas_object(corpus).sum())])
    seen = withhold(corpus, recipe.corpus_share or 1.0, recipe.seed)
    objective = OBJECTIVES[recipe.objective](seen, recipe, where)
    for stale in (*folder.glob("*.json"), *folder.glob("step*.safetensors")):
        # An earlier recipe's: another model's tokenizer or processor must not become this one's.
        stale.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    objective.save(folder)
    torch.manual_seed(recipe.seed)
    model = objective.build()
    model.config.save_pretrained(folder)
    model.to(device)
    optimiser = make_optimiser(model, recipe.learning_rate, recipe.weight_decay)
    schedule = LambdaLR(optimiser, lambda step: learning_rate_factor(step, recipe.steps, recipe.warmup))
    # To Trainer a step's batch is one row.
    arguments = trainer_arguments(
        states / "trainer", device, seed=recipe.seed, num_train_epochs=1, per_device_train_batch_size=1,
        max_grad_norm=1.0, train_sampling_strategy="sequential", save_strategy="steps", save_steps=STATE_EVERY,
        save_total_limit=1,
    )  # fmt: skip
    trainer = _PreTrainer(
        objective, recipe, states, where, model=model, args=arguments, optimizers=(optimiser, schedule),
        data_collator=lambda rows: dict(zip((model.main_input_name, "predicted"), *rows, strict=True)),
    )  # fmt: skip
    run_trainer(trainer, state_of(identity, states / "trainer"), "pre-training", where)
    trainer.keep(recipe.steps)

    # A training whose weights are half moved is not to be continued.
    shutil.rmtree(states / "trainer")
    files = {}
    for step in recipe.measured_steps:
        name = f"{step_name(step)}.safetensors"
        shutil.move(states / name, folder / name)
        files[step_name(step)] = {"file": name, "sha256": sha256_of(folder / name)}
    shutil.rmtree(states)
    with atomic_path(folder / "loss.parquet") as temporary:
        loss_curve(trainer.state.log_history, recipe).to_parquet(temporary, index=False)
    write_json(folder / INDEX, {"steps": files, "files": sorted(path.name for path in folder.glob("*.json"))})


def loss_curve(history: list[dict[str, float]], recipe: Recipe) -> pd.DataFrame:
    """Return the curve of a training: the mean loss since the row before, and the figures of its checkpoints.

    Args:
        history: ``step`` and ``loss`` of every step in turn, and between them ``step, held_out_loss`` and so on.
        recipe: Says when the loss is logged.
    """
    steps, every = recipe.steps, recipe.log_every
    losses = [entry["loss"] for entry in history if "loss" in entry]
    rows = [entry for entry in history if "held_out_loss" in entry]
    for first, last in pairwise(sorted({*recipe.checkpoint_steps, *range(every, steps, every)})):
        rate = recipe.learning_rate * learning_rate_factor(last - 1, steps, recipe.warmup)
        rows.append({"step": last, "loss": sum(losses[first:last]) / (last - first), "learning_rate": rate})
    frame = pd.DataFrame(rows).groupby("step", as_index=False).max()
    return frame[[name for name in _CURVE if name in frame]]
