"""The words of claims: what a statistic is of, and which curves its parts name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from essential_sparsity.knees.curves import Curve

if TYPE_CHECKING:
    pass

ESSENTIAL, LAST = "essential", "last"

# The tables that a statistic reads; the others read curves, from the evaluations and their examples.
TABLES_OF = {
    "mask-similarity": "similarities", "abrupt-change": "changes", "weight-statistic-difference": "weights",
}  # fmt: skip
# The keys of `of` that hold curves, in the order in which figures draw them.
SIDES = ("one", "other", "reference")

CURVE_STATISTICS = ("knee", "slope-ratio")


def places_of(part: Mapping[str, Any], last: Mapping[str, str]) -> list[Curve]:
    """Return the curves of a part of a claim, one for each model.

    Args:
        part: As :func:`parts_of` yields it.
        last: The last checkpoint of every model.
    """
    checkpoints = checkpoints_of(part, last)
    return [(name, checkpoints[name], part["method"], part["task"]) for name in part["models"]]


def checkpoints_of(part: Mapping[str, Any], last: Mapping[str, str]) -> dict[str, str]:
    """Return the checkpoint of each model of a part of a claim."""
    named = part["checkpoint"]
    return {name: last[name] if named == LAST else named for name in part["models"]}


def parts_of(claim: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a claim that name curves: each has ``models, checkpoint, method, task, rule``."""
    of = claim["of"]
    if claim["statistic"] in CURVE_STATISTICS:
        yield of
    elif claim["statistic"] in ("value-difference", "knee-difference"):
        yield from (of[name] for name in SIDES if name in of)
    elif claim["statistic"] == "rank-correlation":
        yield from ({**of, "task": task} for task in of["difficulty"])
