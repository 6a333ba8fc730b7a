"""Scores: how important a weight is. The weights with the smallest scores are removed first.

A score is a function of a matrix and its context, and an entry of :data:`SCORES`. Nothing else knows their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from essential_sparsity.methods.statistics import Needs, Options

if TYPE_CHECKING:  # the study looks names up here, and starts a second faster without torch
    from torch import Tensor

    from essential_sparsity.methods.statistics import InputStatistics


@dataclass(frozen=True)
class ScoreContext:
    """What a score may use besides the weights.

    Attributes:
        name: The matrix's name in the checkpoint.
        seed: The seed of a random score.
        start: Flat index of the first weight, where an elementwise score is asked for a part of a matrix.
        inputs: Statistics of the matrix's inputs over the calibration tokens; None unless the score needs them.
        options: The method's ``options``.
    """

    name: str = ""
    seed: int = 0
    start: int = 0
    inputs: InputStatistics | None = None
    options: Options = field(default_factory=dict)

    @property
    def statistics(self) -> InputStatistics:
        """The statistics of the inputs, where the score is declared to need them."""
        if self.inputs is None:
            raise RuntimeError(f"{self.name}: a score that needs statistics of the inputs was called without them")
        return self.inputs


@dataclass(frozen=True)
class Score:
    """An entry of the registry.

    Attributes:
        compute: Takes weights, (outputs, inputs), and the context; returns scores of the same shape, not negative.
        needs: Which statistics of the inputs it uses.
        elementwise: Whether a weight's score depends on no other weight: such a score is computed part by part, flat.
        stochastic: Whether it draws from the seed.
        options: Names of the method's ``options`` that it reads.
        published_from: Whether its reference counts the ``int(s n)``-th smallest, up to which it removes, from 0 or 1.
    """

    compute: Callable[[Tensor, ScoreContext], Tensor]
    needs: Needs = "nothing"
    elementwise: bool = False
    stochastic: bool = False
    options: tuple[str, ...] = ()
    published_from: int = 0


def magnitude(weight: Tensor, context: ScoreContext) -> Tensor:
    """Return ``|W|`` in the weights' own type, so exactly (the paper, section 3)."""
    return weight.abs()


def random(weight: Tensor, context: ScoreContext) -> Tensor:
    """Return one uniform draw from [0, 1) a weight: the same for every sparsity, so that levels are nested.

    The draws are those of a counter (Philox, Salmon et al. 2011): any part of a matrix can be drawn by itself, on any
    device, in any order. Matrices are independent: the generator's key is made of the seed and the name.
    """
    import torch

    key = hashlib.sha256(f"{context.seed}:{context.name}".encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(key[:16], "little"))
    # A counter yields four numbers of 64 bits, so eight draws of 32.
    first = context.start // 8
    generator.advance(first)
    skipped = context.start - first * 8
    count = -(-(skipped + weight.numel()) // 8) * 4
    draws = generator.random_raw(count).view(np.uint32)[skipped : skipped + weight.numel()]
    # 24 bits, what float32 holds exactly.
    uniform = (draws >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(uniform).to(weight.device).reshape(weight.shape)


def wanda(weight: Tensor, context: ScoreContext) -> Tensor:
    """Return ``|W_ij| * sqrt(mean over samples of ||X_j||^2)`` (Sun et al., arXiv 2306.11695, equation 1)."""
    norm = context.statistics.norm().to(weight.device)
    return weight.to(norm.dtype).abs() * norm


def sparsegpt(weight: Tensor, context: ScoreContext) -> Tensor:
    """Return ``W_ij^2 / U_jj^2`` with U the upper Cholesky factor of the inverse Hessian (arXiv 2301.00774, eq. 3, 4).

    Together with the update ``sparsegpt`` and the scope ``column-block``, or N:M, the score is taken block by block of
    weights that are already updated, as published; by itself, of the dense weights. Weights of an input that is always
    zero score zero, since the published method sets them to zero first.
    """
    from essential_sparsity.methods.statistics import inverse_factor

    found = inverse_factor(context.statistics, context.name, context.options)
    scores = (weight.to(found.factor.dtype) / found.factor.diagonal().to(weight.device)).square()
    return scores * ~found.dead.to(weight.device)


def ria(weight: Tensor, context: ScoreContext) -> Tensor:
    """Return ``(|W|/column sum + |W|/row sum) * norm_j^a`` (Zhang et al., ICLR 2024, relative importance, activations).

    ``a`` is the option ``ria_power``, 0.5 as published; an all-zero row or column contributes nothing.
    """
    norm = context.statistics.norm().to(weight.device)
    size = weight.to(norm.dtype).abs()
    columns, rows = size.sum(0, keepdim=True), size.sum(1, keepdim=True)
    tiny = float(np.finfo(np.float32).tiny)
    relative = size / columns.clamp(min=tiny) + size / rows.clamp(min=tiny)
    return relative * norm ** float(context.options.get("ria_power", 0.5))


def multiflow(weight: Tensor, context: ScoreContext) -> Tensor:
    """Return ``|W_ij|`` times the mean flow out of output i and of input j (Farina et al., arXiv 2404.05621).

    The flow of a weight is ``|W_ij| * norm_j``. The published method divides the budget over the matrices as global
    magnitude would: allocation ``magnitude``.
    """
    norm = context.statistics.norm().to(weight.device)
    size = weight.to(norm.dtype).abs()
    flow = size * norm
    return flow.mean(1, keepdim=True) * flow.mean(0, keepdim=True) * size


SCORES: dict[str, Score] = {
    "magnitude": Score(magnitude, elementwise=True),
    "random": Score(random, elementwise=True, stochastic=True),
    "wanda": Score(wanda, needs="moments"),
    "sparsegpt": Score(sparsegpt, needs="hessians", options=("damping", "block_size")),
    "ria": Score(ria, needs="moments", options=("ria_power",)),
    "multiflow": Score(multiflow, needs="moments", published_from=1),
}
