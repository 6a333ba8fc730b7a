"""Iterative magnitude pruning with rewinding to the pre-trained weights: the lottery tickets of pre-trained models.

A round trains the pre-trained checkpoint with the mask of the round before, removes the smallest of the trained weights
that are still kept, and rewinds: the new mask belongs to the pre-trained checkpoint (Frankle and Carbin, ICLR 2019;
Chen et al., NeurIPS 2020, arXiv 2007.12223, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from essential_sparsity.data.prepared import Prepared
from essential_sparsity.errors import UserError
from essential_sparsity.methods.levels import removed_count
from essential_sparsity.pruning.bits import Packed
from essential_sparsity.pruning.keys import Keys, KeySource, sortable
from essential_sparsity.pruning.masks import AppliedMasks, Pruning
from essential_sparsity.pruning.selection import find_cuts, keep_masks
from essential_sparsity.training.fit import train_masked
from essential_sparsity.training.loop import Training


def prune_round(
    checkpoint: Path, pruning: Pruning, data: Prepared, training: Training, sparsity: float, where: str
) -> Iterator[tuple[str, Packed]]:
    """Run one round: train a masked checkpoint, and yield the packed keep masks of the next level, by matrix.

    Args:
        checkpoint: The pre-trained checkpoint's folder.
        pruning: The masks of the round before; of the first round, those of the dense model.
        data: The prepared inputs of the task.
        training: How it is trained.
        sparsity: The level to prune to.
        where: What is trained, for messages.

    Raises:
        UserError: A loss or a trained weight that is not finite, or a pattern that freezes nothing.
    """
    _, applied = train_masked(checkpoint, pruning, data, training, where)
    yield from prune_trained(applied, sparsity, where)


def prune_trained(applied: AppliedMasks, sparsity: float, where: str) -> Iterator[tuple[str, Packed]]:
    """Yield, for each matrix of a trained model, which weights a level keeps, packed: never one that was removed.

    Removed are ``round(s * n)`` of all weights of all matrices together: those that were removed already, then the
    smallest of the others; ties go by position.

    Args:
        applied: The masks that the model was trained with, bound to its parameters.
        sparsity: The level, not below that of these masks.
        where: What was trained, for messages.

    Raises:
        UserError: A trained weight that is not finite.
        RuntimeError: A removed weight is not zero, or the masks already remove more than the level.
    """
    trained = {name: (weight.reshape(-1), keep.reshape(-1)) for name, weight, keep in applied.trained()}
    for name, (weight, _) in trained.items():
        if not bool(torch.isfinite(weight).all()):
            raise UserError(
                where=f"{where}, matrix {name}",
                found="trained weights that are NaN or infinite",
                expected="finite weights",
                mend="lower the task's `learning_rate`, or check the checkpoint's weights",
            )
    applied.realised_sparsity()
    goal = removed_count(sparsity, applied.size)
    if goal < applied.removed:
        raise RuntimeError(f"{where}: masks that remove {applied.removed} weights cannot be pruned to {goal}")
    keys, names = keys_of_kept(trained), list(trained)
    for name, (packed,) in keep_masks(keys, names, find_cuts(keys, names, [goal])):
        yield name, packed


def keys_of_kept(trained: dict[str, tuple[Tensor, Tensor]]) -> KeySource:
    """Return the magnitudes of weights as keys, where removed weights come before every kept one.

    A kept weight may be exactly zero as well, so that the magnitude alone does not tell them apart.

    Args:
        trained: The weights and the boolean keep mask of each matrix, both flat.
    """

    def load(name: str, start: int, stop: int) -> Keys:
        weight, keep = (part[start:stop] for part in trained[name])
        keys: Keys = (sortable(weight.abs(), name, 32) + 1) * keep.cpu().numpy()
        return keys

    return KeySource({name: weight.numel() for name, (weight, _) in trained.items()}, 32, load)
