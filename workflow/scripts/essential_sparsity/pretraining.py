"""Pre-training by a recipe: the loop that all objectives share, with log-spaced checkpoints.

Every draw (order of the data, masks, augmentation, dropout) depends on the seed and the step alone, so a training that
was cut off goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from essential_sparsity.checkpoints import held_weights, save_weights, without_tied
from essential_sparsity.digests import canonical
from essential_sparsity.errors import UserError
from essential_sparsity.files import atomic_path, sha256_of, write_json
from essential_sparsity.objectives import Objective
from essential_sparsity.pretraining_corpus import withhold
from essential_sparsity.progress import progress
from essential_sparsity.run.preemption import preempted, told_to_end
from essential_sparsity.trajectory import checkpoint_steps, measured_steps, step_name

INDEX = "index.json"


def masked_language_modelling(corpus: pd.DataFrame, recipe: Mapping[str, Any], where: str) -> Objective:
    """Prepare BERT's objective."""
    from essential_sparsity.pretraining_text import MaskedLanguageModelling

    return MaskedLanguageModelling(corpus, recipe, where)


def causal_language_modelling(corpus: pd.DataFrame, recipe: Mapping[str, Any], where: str) -> Objective:
    """Prepare GPT's objective."""
    from essential_sparsity.pretraining_causal import CausalLanguageModelling

    return CausalLanguageModelling(corpus, recipe, where)


def supervised_images(corpus: pd.DataFrame, recipe: Mapping[str, Any], where: str) -> Objective:
    """Prepare the classification of images."""
    from essential_sparsity.pretraining_images import SupervisedImages

    return SupervisedImages(corpus, recipe, where)


def masked_image_modelling(corpus: pd.DataFrame, recipe: Mapping[str, Any], where: str) -> Objective:
    """Prepare the reconstruction of masked patches of images."""
    from essential_sparsity.pretraining_masked_images import MaskedImageModelling

    return MaskedImageModelling(corpus, recipe, where)


# Each imports what it alone needs; a further objective is a module and an entry here and in the schema.
OBJECTIVES: dict[str, Callable[[pd.DataFrame, Mapping[str, Any], str], Objective]] = {
    "masked-language-modelling": masked_language_modelling,
    "causal-language-modelling": causal_language_modelling,
    "supervised-images": supervised_images,
    "masked-image-modelling": masked_image_modelling,
}


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then linear decay to zero."""
    ramp = max(1, round(warmup * steps))
    return (step + 1) / ramp if step < ramp else max(0.0, (steps - step) / max(1, steps - ramp))


def _batches(n: int, batch_size: int, seed: int, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the step and the rows of its batch, for the steps ``first`` to ``last - 1``."""
    per_epoch = max(1, n // batch_size)
    epoch, order = -1, torch.empty(0)
    for step in range(first, last):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        start = (step % per_epoch) * batch_size
        yield step, order[start : start + batch_size]


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


def pretrain(
    corpus: pd.DataFrame, recipe: Mapping[str, Any], folder: Path, device: torch.device, code: str, where: str
) -> None:
    """Train a model by a recipe, or go on with a training of the same recipe, corpus and code that was cut off.

    Writes into ``folder``: the tokenizer or processor, ``config.json``, ``step000000.safetensors`` ... for each
    checkpoint and each step that is kept for measuring, ``loss.parquet`` (``step, loss, held_out_loss,
    learning_rate``; of images also ``held_out_accuracy``) and, last of all, ``index.json``, which lists those files
    with their SHA-256.

    Args:
        corpus: The prepared dataset; training sees only its split ``train``, or the recipe's ``corpus_share`` of it.
        recipe: The registry's recipe; ``objective`` says what is learnt, masked language modelling without it.
        folder: Where to write.
        device: Where to compute.
        code: Digest of the code: a training that other code began is not continued.
        where: The registry key, for messages.

    Raises:
        UserError: A loss that is not finite, or a corpus that the objective cannot learn from; or the process was told
            to end, and has saved its state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = canonical([code, dict(recipe), int(pd.util.hash_pandas_object(corpus).sum())])
    seen = withhold(corpus, recipe.get("corpus_share", 1.0), recipe["seed"])
    objective = OBJECTIVES[recipe.get("objective", "masked-language-modelling")](seen, recipe, where)
    for stale in folder.glob("*.json"):
        # An earlier recipe's: another model's tokenizer or processor must not become this one's.
        stale.unlink()
    objective.save(folder)

    torch.manual_seed(recipe["seed"])
    model = objective.build()
    model.config.save_pretrained(folder)
    model.to(device).train()
    optimiser = make_optimiser(model, recipe["learning_rate"], recipe["weight_decay"])

    steps = recipe["steps"]
    kept = checkpoint_steps(steps, recipe["checkpoints"], recipe["first_checkpoint"])
    measured = set(measured_steps(recipe))
    first, history, files, running = _resume(folder, identity, model, optimiser, device)

    def store(step: int) -> None:
        # Tied tensors are told by their shared memory, which a copy to the CPU would end.
        state = without_tied(model.state_dict(), model._tied_weights_keys)
        path = folder / f"{step_name(step)}.safetensors"
        save_weights(held_weights(state), path)
        files[step_name(step)] = {"file": path.name, "sha256": sha256_of(path)}

    def keep(step: int) -> None:
        figures = objective.held_out(model)
        history.append({"step": step, "loss": math.nan, **figures, "learning_rate": math.nan})
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
        logging.info("checkpoint %s: %s", step_name(step), shown)
        save(step)

    def save(step: int) -> None:
        resume = {
            "identity": identity, "step": step, "history": history, "files": files, "running": running,
            "model": model.state_dict(), "optimiser": optimiser.state_dict(),
        }  # fmt: skip
        with atomic_path(_state_path(folder)) as temporary:
            torch.save(resume, temporary)
            # Beside that of the state before, which stays the last one if the process ends here.
            sums = [sha256_of(temporary), *_checksums(folder)[:1]]
            with atomic_path(_checksums_path(folder)) as listed:
                listed.write_text(" ".join(sums), encoding="utf-8")

    def train_step(step: int, rows: Tensor) -> None:
        nonlocal running
        generator = torch.Generator().manual_seed(recipe["seed"] * 1_000_033 + step)
        inputs, labels = objective.draw(rows, generator)
        torch.manual_seed(recipe["seed"] * 1_000_033 + step)  # of dropout
        factor = learning_rate_factor(step, steps, recipe["warmup"])
        for group in optimiser.param_groups:
            group["lr"] = recipe["learning_rate"] * factor
        loss = objective.loss(model, (inputs.to(device), labels.to(device)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        running.append(_finite(float(loss.detach()), step, where))
        if (step + 1) % recipe["log_every"] == 0 or step + 1 in kept:
            mean, rate = sum(running) / len(running), recipe["learning_rate"] * factor
            history.append({"step": step + 1, "loss": mean, "learning_rate": rate})
            running = []

    if first == 0 and not history:
        store(0)
        keep(0)
    batches = _batches(objective.size, recipe["batch_size"], recipe["seed"], first, steps)
    with told_to_end() as must_end:
        for step, rows in progress(batches, "pre-training", total=steps, unit="steps", start=first):
            train_step(step, rows)
            if step + 1 in measured:
                store(step + 1)
            if step + 1 in kept:
                keep(step + 1)
            if must_end() and step + 1 < steps:
                save(step + 1)
                raise preempted(where, step + 1, steps)
    _finish(folder, files, history)


def _finite(loss: float, step: int, where: str) -> float:
    if not math.isfinite(loss):
        raise UserError(
            where=f"{where}, training step {step}",
            found=f"a loss of {loss}",
            expected="a finite loss",
            mend="lower `learning_rate` or raise `warmup`: the training diverged",
        )
    return loss


def _state_path(folder: Path) -> Path:
    return folder / "resume.pt"


def _checksums_path(folder: Path) -> Path:
    return folder / "resume.xxh3"


def _checksums(folder: Path) -> list[str]:
    """Return the checksums that the state may have; none where there is no state."""
    path = _checksums_path(folder)
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def _resume(
    folder: Path, identity: str, model: nn.Module, optimiser: torch.optim.Optimizer, device: torch.device
) -> tuple[int, list[dict[str, float]], dict[str, dict[str, str]], list[float]]:
    """Load the last state if it belongs to this training and its files are whole.

    Returns:
        The step to go on from, the history of the loss, the checkpoints that are written, and the losses since the
        history's last entry; zero and empty for a training that starts anew.
    """
    path = _state_path(folder)
    if path.is_file():
        try:
            # Torch does not look at the sums in its files.
            if sha256_of(path) not in _checksums(folder):
                raise ValueError("other bytes than were saved")
            state = torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
            state = {"identity": "unreadable", "files": {}}
        whole = all(
            (folder / f["file"]).is_file() and sha256_of(folder / f["file"]) == f["sha256"]
            for f in state["files"].values()
        )
        if state["identity"] == identity and whole:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            logging.info("going on from step %d", state["step"])
            return int(state["step"]), list(state["history"]), dict(state["files"]), list(state["running"])
        logging.info("%s is damaged or of another recipe, corpus or code, or its checkpoints are: starting anew", path)
    for stale in folder.glob("step*.safetensors"):
        stale.unlink()
    return 0, [], {}, []


def _finish(folder: Path, files: dict[str, dict[str, str]], history: list[dict[str, float]]) -> None:
    """Write the loss curve and, last, the index; then drop the state, so that a finished training is not continued."""
    frame = pd.DataFrame(history).groupby("step", as_index=False).max()
    with atomic_path(folder / "loss.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    companions = sorted(p.name for p in folder.glob("*.json") if p.name != INDEX)
    write_json(folder / INDEX, {"steps": files, "files": companions})
    for path in (_state_path(folder), _checksums_path(folder)):
        path.unlink(missing_ok=True)
