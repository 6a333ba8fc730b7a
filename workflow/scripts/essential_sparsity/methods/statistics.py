"""Statistics of the inputs of linear layers over calibration tokens, what calibrated methods are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from essential_sparsity.errors import UserError

if TYPE_CHECKING:  # as in scores.py
    from torch import Tensor

# Numbers that the slots of a method take, by their names.
Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How statistics of the inputs are gathered, as a registry entry says.

    Attributes:
        dataset: A name of the registry; of one with a split, the texts of ``train``.
        sequences: How many are drawn.
        length: Tokens of a sequence.
        batch_size: Sequences of a forward pass.
        propagate: Whether a block sees what ``pruned`` blocks hand on, or the ``dense`` model's inputs.
        activations: Where they wait between blocks: ``memory`` or ``disk``.
        precision: Of the blocks' matrix products.
        seed: Of the draw.
        note: What a user should know; None in a job.
    """

    dataset: str
    sequences: int
    length: int
    batch_size: int
    propagate: str
    activations: str
    precision: str
    seed: int
    note: str | None = None


@dataclass
class Damping:
    """What the factor of a Hessian took: known for longer than the factor, which is large, is kept.

    Attributes:
        taken: As a fraction of the mean diagonal; None while nobody has asked for a factor.
    """

    taken: float | None = None


@dataclass
class InputStatistics:
    """Sums over the inputs X, (tokens, inputs), of one linear layer.

    Attributes:
        samples: Sequences seen.
        tokens: Tokens seen.
        squares: Sum of x_j^2 over the tokens, (inputs,), float64.
        totals: Sum of x_j, (inputs,), float64.
        gram: Sum of x x^T, (inputs, inputs), in the inputs' type but float32 at least; None if it is not needed.
        factor: The factor of the inverse Hessian, once a method has asked for it.
        damping: What a factor took, of these inputs whoever read them.
    """

    samples: int
    tokens: int
    squares: Tensor
    totals: Tensor
    gram: Tensor | None = None
    factor: Factor | None = None
    damping: Damping = field(default_factory=Damping)

    @classmethod
    def empty(cls, inputs: int, with_gram: bool, like: Tensor) -> InputStatistics:
        """Return sums over nothing, on the device of ``like``."""
        import torch

        wide = torch.promote_types(like.dtype, torch.float32)
        gram = torch.zeros(inputs, inputs, dtype=wide, device=like.device) if with_gram else None
        zeros = torch.zeros(inputs, dtype=torch.float64, device=like.device)
        return cls(0, 0, zeros, zeros.clone(), gram)

    def add(self, x: Tensor, samples: int) -> None:
        """Add inputs, (..., inputs), of so many sequences."""
        import torch

        from essential_sparsity.checkpoints.precision import full_precision

        rows = x.reshape(-1, x.shape[-1])
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        self.samples += samples
        self.tokens += len(rows)
        for part in wide.split(_TOKENS):
            # In the inputs' precision over a few thousand tokens, in double across them: a sum in double of single
            # inputs takes ten times as long as the sum itself.
            self.totals += part.sum(0).double()
            if self.gram is None:
                self.squares += part.square().sum(0).double()
        if self.gram is not None:
            with full_precision(wide.device):
                self.gram.addmm_(wide.T, wide)
            self.squares = self.gram.diagonal().double()

    def norm(self) -> Tensor:
        """Return ``sqrt(mean over samples of ||X_j||^2)``, (inputs,): the mean is over sequences, not tokens."""
        import torch

        wide = (self.squares / max(self.samples, 1)).sqrt()
        return wide.to(torch.float32 if self.gram is None else self.gram.dtype)

    def hessian(self) -> Tensor:
        """Return ``2/n sum x x^T`` with n the number of sequences (SparseGPT; only ratios matter)."""
        if self.gram is None:
            raise RuntimeError("the Hessian was asked of statistics that do not hold it")
        return self.gram * (2.0 / max(self.samples, 1))

    def mean(self) -> Tensor:
        """Return the mean of each input over the tokens, float64."""
        return self.totals / max(self.tokens, 1)

    def variance(self) -> Tensor:
        """Return the population variance of each input over the tokens, float64."""
        return (self.squares / max(self.tokens, 1) - self.mean().square()).clamp(min=0.0)


_TOKENS = 2048


def no_statistics(name: str) -> UserError:
    """Return the error of a matrix whose inputs calibration has not seen."""
    return UserError(
        where=f"matrix {name}",
        found="no statistics of its inputs: the calibration text did not pass through it as through a linear layer",
        expected="a linear layer that the model's forward calls, or an expert that some token is routed to",
        mend="calibrate on more text, exclude the matrix (`exclude` of the model), or use a score without calibration",
    )


Needs = Literal["nothing", "moments", "hessians"]


DAMPING = 0.01
_LARGEST_DAMPING = 1.0


@dataclass(frozen=True)
class Factor:
    """The upper Cholesky factor U of an inverse Hessian, ``inv(H) = U^T U``.

    Attributes:
        factor: U, (inputs, inputs).
        dead: Inputs that were always zero, (inputs,): their weights do nothing.
        damping: What was added to the diagonal, as a fraction of its mean.
    """

    factor: Tensor
    dead: Tensor
    damping: float


def damped_hessian(statistics: InputStatistics, damping: float) -> tuple[Tensor, Tensor]:
    """Return the Hessian with its diagonal raised by ``damping`` times its mean, and the mask of dead inputs.

    A dead input, which is always zero, gets 1 on the diagonal before the mean is taken (SparseGPT).
    """
    hessian = statistics.hessian()
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1.0
    diagonal += damping * diagonal.mean()
    return hessian, dead


def inverse_factor(statistics: InputStatistics, name: str, options: Options) -> Factor:
    """Return the factor of the inverse Hessian, with ten times the damping as often as the Hessian is singular.

    Kept with the statistics: matrices with the same inputs share it.

    Args:
        statistics: With the Gram matrix.
        name: The matrix's name, for messages.
        options: ``damping``, 0.01 as published.

    Raises:
        UserError: It stays singular.
    """
    import torch

    if statistics.factor is not None:
        return statistics.factor
    damping = min(float(options.get("damping", DAMPING)), _LARGEST_DAMPING)
    while True:
        hessian, dead = damped_hessian(statistics, damping)
        lower, fault = torch.linalg.cholesky_ex(hessian)
        if not int(fault) and bool(torch.isfinite(lower.diagonal()).all()):
            inverse = torch.cholesky_inverse(lower)
            upper, fault = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(fault) and bool(torch.isfinite(upper.diagonal()).all()):
                statistics.factor, statistics.damping.taken = Factor(upper, dead, damping), damping
                return statistics.factor
        if damping == _LARGEST_DAMPING:
            break
        damping = min(max(damping * 10, 1e-6), _LARGEST_DAMPING)
    raise UserError(
        where=f"matrix {name}",
        found=f"a singular Hessian, even with {_LARGEST_DAMPING:g} of its mean diagonal added",
        expected="inputs that are finite and not all zero",
        mend="calibrate on more text, or exclude the matrix (`exclude` of the model)",
    )
