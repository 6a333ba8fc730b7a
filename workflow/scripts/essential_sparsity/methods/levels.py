"""Levels of sparsity: what they are called in paths, and how many weights they remove."""

from __future__ import annotations

from essential_sparsity.errors import UserError

# Every level that a study may name: three decimals, above 0 and below 1.
ALL = tuple(i / 1000 for i in range(1, 1000))


def level_index(sparsity: float) -> int:
    """Return the place of a level in :data:`ALL`."""
    return round(sparsity * 1000) - 1


def removed_count(sparsity: float, n: int) -> int:
    """Return ``round(s * n)``, as ``torch.nn.utils.prune`` counts (0.4 of 17 is 7)."""
    return round(sparsity * n)


def sparsity_name(sparsity: float, where: str) -> str:
    """Write a sparsity as it stands in paths: with three decimals, ``0.300``.

    Raises:
        UserError: It has more decimals than that.
    """
    name = f"{abs(sparsity):.3f}"  # -0.0 is 0.0
    # Written so that it also refuses NaN, which passes every bound of the schema.
    if not (abs(float(name) - sparsity) <= 1e-9 and float(name) < 1):
        near = "0.999" if name == "1.000" else "a number" if sparsity != sparsity else name
        raise UserError(where, repr(sparsity), "a sparsity in [0, 1) with at most three decimals", f"write {near}")
    return name
