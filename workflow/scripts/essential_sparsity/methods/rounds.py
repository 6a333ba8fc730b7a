"""The levels of iterative pruning: which round makes which, and which levels a study may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from essential_sparsity.errors import UserError, quoted
from essential_sparsity.methods.levels import sparsity_name


@dataclass(frozen=True)
class Rounds:
    """The rounds of a method that prunes iteratively.

    Attributes:
        task: What every round trains on: a name of the registry.
        levels: What rounds prune to, one after the other.
    """

    task: str
    levels: Sequence[float]


def check_rounds(rounds: Rounds, where: str) -> None:
    """Check what a method's entry says of its rounds.

    Args:
        rounds: Its key ``rounds``.
        where: The key, for messages.

    Raises:
        UserError: A level has more than three decimals or is not above the one before.
    """
    names = round_levels(rounds, where)
    for i, (name, following) in enumerate(pairwise(names), start=1):
        if following <= name:
            raise UserError(
                f"{where}.levels[{i}]", f"{following} after {name}", "levels that ascend",
                "order them: every round prunes further than the one before",
            )  # fmt: skip


def round_levels(rounds: Rounds, where: str = "rounds") -> list[str]:
    """Return the levels of rounds as they stand in paths."""
    return [sparsity_name(level, f"{where}.levels[{i}]") for i, level in enumerate(rounds.levels)]


def no_placing(method: str, rounds: Rounds, where: str) -> UserError:
    """Return the error that levels are to be placed for a method whose rounds say which there are."""
    return UserError(
        where, f"levels to be placed for the method '{method}', whose rounds say which levels there are",
        f"some of its levels: {quoted(round_levels(rounds))}",
        "write them as a list, in an entry of `curves` of its own",
    )  # fmt: skip


def check_levels(method: str, rounds: Rounds, asked: Sequence[str], where: str) -> None:
    """Check that a method has every level that a curve asks of it; the dense model, 0, is nobody's.

    Raises:
        UserError: Names the first that no round prunes to.
    """
    present = round_levels(rounds)
    for level in asked:
        if float(level) and level not in present:
            raise UserError(
                where, f"the level {level}, to which no round of the method '{method}' prunes",
                f"among its levels: {quoted(present)}",
                "add it to the method's `rounds.levels`, or give the method an entry of `curves` of its own",
            )  # fmt: skip


def level_before(rounds: Rounds, level: str, where: str) -> str | None:
    """Return the level whose mask the round that prunes to ``level`` trains under; None of the first: it is dense.

    Raises:
        UserError: No round prunes to the level.
    """
    present = round_levels(rounds)
    if level not in present:
        raise UserError(
            f"{where}.levels",
            f"no round that prunes to {level}",
            f"one of {quoted(present)}",
            "add the level, or ask for another",
        )
    place = present.index(level)
    return present[place - 1] if place else None
