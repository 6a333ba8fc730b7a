"""The words of claims: what a statistic is of, which curves its parts name, and where a claim holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from essential_sparsity.knees.curves import Curve

ESSENTIAL, LAST = "essential", "last"

# The tables that a statistic reads; the others read curves, from the evaluations and their examples.
TABLES_OF = {
    "mask-similarity": "similarities", "abrupt-change": "changes", "weight-statistic-difference": "weights",
}  # fmt: skip
# The attributes of what a statistic is of that may be curves, in the order in which figures draw them.
_SIDES = ("one", "other", "reference")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Models, each at a checkpoint.

    Attributes:
        models: Names of the registry.
        checkpoint: A checkpoint's name, or ``last``.
    """

    models: Sequence[str]
    checkpoint: str

    def checkpoints(self, last: Mapping[str, str]) -> dict[str, str]:
        """Return the checkpoint of each model, with the last ones of all models."""
        return {name: last[name] if self.checkpoint == LAST else self.checkpoint for name in self.models}


@dataclass(frozen=True, kw_only=True)
class Part(Group):
    """Curves, one for each model: what a knee and a ratio of slopes are of.

    Attributes:
        method: A name of the registry; so is ``task``.
        rule: The rule that reads the knee; in a study's file perhaps empty, for that of the headline.
    """

    method: str
    task: str
    rule: str = ""

    def places(self, last: Mapping[str, str]) -> list[Curve]:
        """Return the curves, with the last checkpoints of all models."""
        return [(name, checkpoint, self.method, self.task) for name, checkpoint in self.checkpoints(last).items()]


@dataclass(frozen=True, kw_only=True)
class ValueDifference:
    """Performance of one curve minus that of another.

    Attributes:
        one: The first.
        other: The second; None for the dense value of the first.
        levels: Where they are compared; ``essential`` for the levels up to the knee of ``reference``.
        reference: None with levels of its own.
        over: ``mean`` over the levels, or the ``worst``.
        relative: Whether values are shares of the ``dense`` one; else ``none``.
        pairing: Whether models of two groups belong together ``in-order``; else ``none``.
    """

    one: Part
    other: Part | None = None
    levels: Sequence[float] | str
    reference: Part | None = None
    over: str
    relative: str
    pairing: str


@dataclass(frozen=True, kw_only=True)
class KneeDifference:
    """One knee minus another; ``pairing`` as in :class:`ValueDifference`."""

    one: Part
    other: Part
    pairing: str


@dataclass(frozen=True, kw_only=True)
class MaskSimilarity(Group):
    """How alike the masks of two methods are.

    Attributes:
        methods: The two.
        levels: At which levels.
        measure: A column of the table of similarities.
    """

    methods: Sequence[str]
    levels: Sequence[float]
    measure: str


@dataclass(frozen=True, kw_only=True)
class AbruptChange:
    """The share of the largest jump in the range of a statistic of the weights.

    Attributes:
        models: Whose trajectories.
        matrix: A matrix, or ``all`` for the whole model.
        column: A statistic of the table of weights.
        alpha: The largest p-value with which a change is told apart from smooth drift.
    """

    models: Sequence[str]
    matrix: str
    column: str
    alpha: float


@dataclass(frozen=True, kw_only=True)
class WeightDifference:
    """A statistic of the weights, ``column``, of one group minus that of another; ``pairing`` as above."""

    one: Group
    other: Group
    column: str
    pairing: str


@dataclass(frozen=True, kw_only=True)
class RankCorrelation(Group):
    """How the difficulty of tasks goes with their knees.

    Attributes:
        method: A name of the registry.
        difficulty: A number for each task, the larger the harder.
        rule: As in :class:`Part`.
    """

    method: str
    difficulty: Mapping[str, float]
    rule: str = ""

    @property
    def parts(self) -> list[Part]:
        """The curve of each task."""
        return [
            Part(models=self.models, checkpoint=self.checkpoint, method=self.method, task=task, rule=self.rule)
            for task in self.difficulty
        ]


@dataclass(frozen=True, kw_only=True)
class VarianceShare:
    """The share of a factor in the variance of knees.

    Attributes:
        factor: ``model, task, method`` or ``seed``.
        models: None for all of the study; likewise ``methods`` and ``tasks``.
        rule: As in :class:`Part`.
    """

    factor: str
    models: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    rule: str = ""


Of = (
    Part | ValueDifference | KneeDifference | MaskSimilarity | AbruptChange | WeightDifference | RankCorrelation
    | VarianceShare
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """Where a claim holds, in one of three ways.

    Attributes:
        above: At all values above this one.
        below: At all values below this one.
        within: At all values from the first to the second.
    """

    above: float | None = None
    below: float | None = None
    within: Sequence[float] | None = None


@dataclass(frozen=True)
class Claim:
    """A claim, as a study's file states it before the run.

    Attributes:
        finding: The finding's name, which several claims may share.
        claim: What is claimed, in a sentence.
        statistic: A key of ``findings.verdicts.STATISTICS``.
        of: What the statistic is taken of.
        holds: Where it holds.
    """

    finding: str
    claim: str
    statistic: str
    of: Of
    holds: Region


def parts_of(of: Of) -> list[Part]:
    """Return the parts of a claim that name curves."""
    if isinstance(of, Part):
        return [of]
    if isinstance(of, RankCorrelation):
        return of.parts
    return [part for name in _SIDES if isinstance(part := getattr(of, name, None), Part)]


def with_rule(of: Of, rule: str) -> Of:
    """Return what a statistic is of with a rule wherever it names none."""
    if isinstance(of, Part | RankCorrelation | VarianceShare):
        return replace(of, rule=of.rule or rule)
    sides = {name: getattr(of, name, None) for name in _SIDES}
    named: dict[str, Any] = {name: with_rule(part, rule) for name, part in sides.items() if isinstance(part, Part)}
    return replace(of, **named)
