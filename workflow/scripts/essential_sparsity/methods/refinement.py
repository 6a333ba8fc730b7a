"""Refinements: exchanging removed and kept weights of a mask that a score has chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from essential_sparsity.methods.statistics import Needs, Options

if TYPE_CHECKING:  # as in scores.py
    from torch import Tensor

    from essential_sparsity.methods.statistics import InputStatistics

CYCLES = 50
THRESHOLD = 0.1


def dsnot(weight: Tensor, keep: Tensor, statistics: InputStatistics, options: Options) -> Tensor:
    """Return the mask after growing and pruning one weight a row and cycle (Zhang et al., DSnoT, arXiv 2310.08915).

    A row's error is the sum of ``W_ij u_j`` over its removed weights, with ``u_j`` the mean over the sequences of the
    sum of input j over a sequence: the expected change of the output. While its size exceeds the threshold, the removed
    weight with the largest ``W_ij u_j / Var_j`` of the error's sign comes back, and the kept weight of the opposite
    sign with the smallest Wanda score goes; each weight moves once at most. The variance is over all tokens. A row
    stops where it has no weight left to exchange, so every row keeps its number of weights.

    Args:
        weight: (outputs, inputs).
        keep: The mask, of the same shape.
        statistics: Of the matrix's inputs.
        options: ``dsnot_cycles`` (50), ``dsnot_threshold`` (0.1).

    Returns:
        The new mask.
    """
    import torch

    wide = torch.promote_types(weight.dtype, torch.float32)
    samples = max(statistics.samples, 1)
    change = weight.to(wide) * (statistics.totals / samples).to(wide)
    variance = statistics.variance().to(wide).clamp(min=torch.finfo(wide).tiny)
    importance = weight.to(wide).abs() * statistics.norm().to(wide)
    error = (change * ~keep).sum(1)
    infinity = torch.inf
    # Candidates in order: removed weights by their growth towards either sign, kept ones by importance within a sign.
    growth = change / variance
    grow = {sign: _order(torch.where(~keep & (sign * change > 0), -sign * growth, infinity)) for sign in (1, -1)}
    prune = {sign: _order(torch.where(keep & (sign * change > 0), importance, infinity)) for sign in (1, -1)}
    taken = {key: torch.zeros(len(weight), dtype=torch.long, device=weight.device) for key in _KINDS}
    active = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    refined = keep.clone()
    rows = torch.arange(len(weight), device=weight.device)
    for _ in range(int(options.get("dsnot_cycles", CYCLES))):
        active &= error.abs() > float(options.get("dsnot_threshold", THRESHOLD))
        positive = error > 0
        grown, can_grow = _next(grow, taken, "grow", positive, rows)
        pruned, can_prune = _next(prune, taken, "prune", ~positive, rows)
        active &= can_grow & can_prune
        if not bool(active.any()):
            break
        moved = rows[active]
        refined[moved, grown[active]] = True
        refined[moved, pruned[active]] = False
        error = torch.where(active, error + change[rows, pruned] - change[rows, grown], error)
        for kind, sign in (("grow", positive), ("prune", ~positive)):
            taken[f"{kind}+"] += active & sign
            taken[f"{kind}-"] += active & ~sign
    return refined


_KINDS = ("grow+", "grow-", "prune+", "prune-")


def _order(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns of each row in ascending order of the key, ties by position, and how many are candidates."""
    values, columns = key.sort(dim=1, stable=True)
    return columns, (values < float("inf")).sum(1)


def _next(
    lists: Mapping[int, tuple[Tensor, Tensor]], taken: Mapping[str, Tensor], kind: str, positive: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each row's next candidate of the wanted sign, and whether there is one."""
    found, available = [], []
    for sign, mark in ((1, "+"), (-1, "-")):
        columns, count = lists[sign]
        at = taken[f"{kind}{mark}"]
        found.append(columns[rows, at.clamp(max=columns.shape[1] - 1)])
        available.append(at < count)
    return found[0].where(positive, found[1]), available[0].where(positive, available[1])


@dataclass(frozen=True)
class Refinement:
    """An entry of the registry.

    Attributes:
        apply: Takes weights, keep mask, statistics of the inputs and the method's options; returns the new mask.
        needs: Which statistics it uses.
        options: Names of the method's ``options`` that it reads.
    """

    apply: Callable[[Tensor, Tensor, InputStatistics, Options], Tensor]
    needs: Needs = "moments"
    options: tuple[str, ...] = ()


REFINEMENTS: dict[str, Refinement] = {"dsnot": Refinement(dsnot, options=("dsnot_cycles", "dsnot_threshold"))}
