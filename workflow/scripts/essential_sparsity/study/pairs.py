"""Which masks of a study are compared with each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

# Model, checkpoint, method, seed and sparsity, as in a mask's path.
Mask = tuple[str, str, str, int, str]


class MaskPair(NamedTuple):
    """Two masks of one checkpoint and level: a row of ``similarities``, and the seeds that the masks' paths have."""

    model: str
    checkpoint: str
    sparsity: str
    method: str
    other_method: str
    seed: int
    mask_seed: int
    other_seed: int

    @property
    def axes(self) -> dict[str, str | int]:
        """What the row says besides the level, which the masks say exactly."""
        return {
            "model": self.model, "checkpoint": self.checkpoint, "method": self.method,
            "other_method": self.other_method, "seed": self.seed,
        }  # fmt: skip

    @property
    def masks(self) -> tuple[Mask, Mask]:
        """The two masks."""
        return (
            (self.model, self.checkpoint, self.method, self.mask_seed, self.sparsity),
            (self.model, self.checkpoint, self.other_method, self.other_seed, self.sparsity),
        )


def pair_masks(
    masks: Iterable[Mask], entries: Iterable[tuple[Sequence[tuple[str, str]], Sequence[str]]],
    draws: Callable[[str], bool],
) -> list[MaskPair]:  # fmt: skip
    """Return all pairs of some methods' masks of one checkpoint, level and seed.

    A mask of a method that draws nothing is compared with the other's at every seed.

    Args:
        masks: Those that there are.
        entries: Pairs of model and checkpoint, and the methods to compare there.
        draws: Says whether a method's masks depend on the seed.
    """
    seeds: dict[tuple[str, str, str, str], set[int]] = defaultdict(set)
    levels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for model, checkpoint, method, seed, sparsity in masks:
        seeds[model, checkpoint, method, sparsity].add(seed)
        levels[model, checkpoint].add(sparsity)
    found: dict[tuple[str, str, str, frozenset[str], int], MaskPair] = {}
    for places, methods in entries:
        for place in places:
            for level in sorted(levels[place]):
                for one, other in combinations(dict.fromkeys(methods), 2):
                    own, others = (seeds.get((*place, method, level), set()) for method in (one, other))
                    for seed in _common(own, others, draws(one), draws(other)):
                        ends = (seed if draws(one) else 0, seed if draws(other) else 0)
                        pair = MaskPair(*place, level, one, other, seed, *ends)
                        found.setdefault((*place, level, frozenset((one, other)), seed), pair)
    return list(found.values())


def _common(own: set[int], others: set[int], draws: bool, other_draws: bool) -> list[int]:
    """Return the seeds of a pair: of both where both draw, else of the one that does."""
    if not own or not others:
        return []
    if draws and other_draws:
        return sorted(own & others)
    return sorted(own if draws else others)
