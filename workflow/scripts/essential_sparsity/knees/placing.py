"""Placing the levels of a curve: a search for the sparsity at which it leaves the tolerance, round by round.

The crossing lies between two neighbours of the levels known so far. Each round divides that bracket by the levels that
can be evaluated at once. Where the curve says where in the bracket to look, they gather there, as far as the pieces
allow: however wrong the guess, no more rounds are needed than by even division (the projection of Oliveira and
Takahashi's ITP, ACM TOMS 2021, for several points a round).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from essential_sparsity.inference import Floats
from essential_sparsity.knees.tolerance import tolerated_score
from essential_sparsity.methods.levels import ALL

# Levels are counted in thousandths: what a path can name.
_UNIT = len(ALL) + 1
# The last level that is tried, where everything before it still passes.
_HIGHEST = 990
# A loss below this share of the tolerance says nothing of where the curve will have lost all of it.
_LEAST_LOSS = 1 / 8

NARROW = "narrow enough"
SPENT = "budget spent"
CENSORED = "the highest level still passes"
NO_DENSE = "no dense value"
NOT_FINITE = "a value that is not finite"
NOTHING_TO_LOSE = "the dense model has nothing to lose"
NO_CHANCE = "chance is not known"
REASONS = (NARROW, SPENT, CENSORED, NO_DENSE, NOT_FINITE, NOTHING_TO_LOSE, NO_CHANCE)


@dataclass(frozen=True)
class Placing:
    """How the levels of a curve are placed.

    Attributes:
        tolerance: Largest loss that counts as none.
        loss: A key of :data:`knees.tolerance.LOSSES`: what the tolerance is a fraction of.
        start: The levels of the first round, as they stand in paths.
        budget: Known levels at most, the dense one among them.
        width: Of a bracket that is narrow enough.
        per_round: Levels that are evaluated at once.
    """

    tolerance: float
    loss: str
    start: Sequence[str]
    budget: int
    width: float
    per_round: int


@dataclass(frozen=True)
class Placement:
    """What is to be evaluated next.

    Attributes:
        levels: Sparsities, ascending, none of them known already; empty if the sweep is over.
        low: The last known level before the first that fails; None where nothing is known.
        high: The first known level that fails; None where there is none.
        reason: Why the sweep is over, of :data:`REASONS`; empty while there are levels.
    """

    levels: tuple[float, ...]
    low: float | None
    high: float | None
    reason: str = ""


def next_levels(sparsity: Floats, score: Floats, settings: Placing, chance: float | None = None) -> Placement:
    """Place the levels of the next round of a curve.

    Args:
        sparsity: The levels known so far, ascending, with at most three decimals; the first must be 0, the dense model.
        score: Performance at each, higher is better: the metric, or minus the logarithm of perplexity.
        settings: How levels are placed.
        chance: The score of a model that knows nothing, where ``loss`` asks for it.

    Returns:
        The levels, or why there are none. As in the rule ``tolerance``, the first level that fails counts.
    """
    if len(sparsity) == 0 or sparsity[0] != 0:
        return Placement((), None, None, NO_DENSE)
    if not np.isfinite(score).all():
        return Placement((), None, None, NOT_FINITE)
    known = [round(s * _UNIT) for s in sparsity]
    allowed = float(tolerated_score(score[:1], settings.tolerance, settings.loss, chance)[0])
    # Also where the threshold is NaN: nothing is left to lose, or chance is not known.
    if not allowed < score[0]:
        unknown = settings.loss == "above_chance" and (chance is None or not math.isfinite(chance))
        return Placement((), None, None, NO_CHANCE if unknown else NOTHING_TO_LOSE)
    failed = np.flatnonzero(score < allowed)
    left = settings.budget - len(known)
    if failed.size == 0:
        low, high = known[-1], None
        reason = CENSORED if low >= _HIGHEST else SPENT if left <= 0 else ""
        levels = [] if reason else _upwards(low, min(settings.per_round, left))
        return _placed(levels, low, high, reason)
    first = int(failed[0])
    low, high = known[first - 1], known[first]
    width = round(settings.width * _UNIT)
    reason = NARROW if high - low <= width else SPENT if left <= 0 else ""
    if reason:
        return _placed([], low, high, reason)
    guess = _guess(low, high, *(score[0] - s for s in (score[first - 1], score[first], allowed)))
    return _placed(_within(low, high, guess, width, left, settings.per_round), low, high, "")


def _placed(levels: Sequence[int], low: int, high: int | None, reason: str) -> Placement:
    return Placement(tuple(x / _UNIT for x in levels), low / _UNIT, None if high is None else high / _UNIT, reason)


def _upwards(low: int, count: int) -> list[int]:
    """Divide what lies above the last level, the highest one included."""
    gap = _HIGHEST - low
    count = min(count, gap)
    return [low + math.ceil(gap * k / count) for k in range(1, count + 1)]


def _guess(low: int, high: int, loss_low: float, loss_high: float, loss: float) -> float | None:
    """Return where in a bracket a loss that grows exponentially is as large as the tolerance.

    Losses begin slowly and grow ever faster: of their logarithms a line is drawn. None where the curve has not begun
    to fall, which says nothing.
    """
    if not _LEAST_LOSS * loss < loss_low < loss_high:
        return None
    return low + (high - low) * math.log(loss / loss_low) / math.log(loss_high / loss_low)


def _within(low: int, high: int, guess: float | None, width: int, left: int, per_round: int) -> list[int]:
    """Divide a bracket: evenly, or with levels gathered at a guess and no piece too large for the rounds to come."""
    gap = high - low
    count = min(per_round, left, gap - 1)
    rounds = next(n for n in range(1, _UNIT) if gap <= width * (per_round + 1) ** n)
    if rounds == 1:
        count = min(count, math.ceil(gap / width) - 1)
    # By rounding up, division ends below the width: that much the pieces of this round may be larger.
    later_rounds, rest = divmod(left - count, per_round)
    later = min((per_round + 1) ** (rounds - 1), (per_round + 1) ** later_rounds * (rest + 1))
    largest = max(math.ceil(gap / (count + 1)), width * later)
    if guess is None:
        return [low + math.floor(gap * k / (count + 1) + 0.5) for k in range(1, count + 1)]
    levels = []
    for k in range(1, count + 1):
        # A piece as wide as is wanted around the guess, and what the largest piece leaves on either side.
        near = math.floor(guess + (k - (count + 1) / 2) * width + 0.5)
        after = count + 1 - k
        levels.append(min(max(near, high - after * largest, low + k), low + k * largest, high - after))
    return levels
