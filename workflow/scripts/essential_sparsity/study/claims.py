"""Claims of a study, checked against what it evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.findings.claims import (
    LAST,
    AbruptChange,
    Claim,
    Group,
    KneeDifference,
    MaskSimilarity,
    Part,
    RankCorrelation,
    Region,
    ValueDifference,
    VarianceShare,
    WeightDifference,
    with_rule,
)
from essential_sparsity.knees.curves import Curve
from essential_sparsity.methods.levels import sparsity_name
from essential_sparsity.records import plain, record
from essential_sparsity.study.study import Study

_NOT_STATISTICS = {"model", "checkpoint", "step", "position", "name", "n"}


def checked_claims(study: Study, weight_columns: Iterable[str]) -> list[Claim]:
    """Return the study's claims with their rules filled in.

    Args:
        study: The study, with its evaluations.
        weight_columns: The columns of the table of weights.

    Raises:
        UserError: A claim names something that the study does not evaluate, or contradicts itself.
    """
    found: list[Claim] = []
    for i, entry in enumerate(study.config["findings"]):
        where = f"{study.file}, key findings[{i}]"
        claim = record(Claim, entry)
        claim = replace(claim, of=with_rule(claim.of, study.knees.rules[0]))
        _check_region(claim.holds, f"{where}.holds")
        _CHECKS[claim.statistic](_Checker(study, f"{where}.of", set(weight_columns) - _NOT_STATISTICS), claim.of)
        for earlier in found:
            _check_pair(earlier, claim, where)
        found.append(claim)
    return found


def _check_region(holds: Region, where: str) -> None:
    given = plain(holds)
    if len(given) != 1:
        found = quoted(given) if given else "no key"
        raise UserError(where, found, "one of 'above', 'below' and 'within'", "say in one way where the claim holds")
    if holds.within is not None and not holds.within[0] < holds.within[1]:
        raise UserError(
            f"{where}.within", str(holds.within), "two numbers, the smaller first", "put them in that order"
        )


def _check_pair(earlier: Claim, claim: Claim, where: str) -> None:
    if earlier.finding != claim.finding:
        return
    if earlier.claim != claim.claim:
        raise UserError(
            f"{where}.claim", f"another claim of '{claim.finding}' than before", f"'{earlier.claim}'",
            "write the same claim, or give the finding another name",
        )  # fmt: skip
    if (earlier.statistic, earlier.of) == (claim.statistic, claim.of):
        raise UserError(where, f"'{claim.finding}' with the same `of` as before", "each once", "remove one of them")


def last_checkpoints(study: Study) -> dict[str, str]:
    """Return the last checkpoint of every model that the study touches."""
    models = {model for model, _ in study.used_checkpoints()}
    return {model: study.checkpoints_of(model)[-1] for model in sorted(models)}


class _Checker:
    """Checks what a statistic is taken of against what a study evaluates."""

    def __init__(self, study: Study, where: str, weight_columns: set[str]) -> None:
        self.study = study
        self.where = where
        self.weight_columns = weight_columns
        self.last = last_checkpoints(study)
        self.axes = sorted(
            {(e.model, e.checkpoint, e.method, e.task) for e in study.evaluations if e.method != "dense"}
        )

    def known(self, key: str, name: object, allowed: Iterable[object], of: str) -> None:
        """Refuse a name that the study does not have."""
        present = sorted(set(map(str, allowed)))
        if str(name) not in present:
            raise UserError(
                f"{self.where}.{key}", f"{of} '{name}', which this study does not evaluate",
                f"one of {quoted(present)}" if present else "one that it evaluates",
                did_you_mean(name, present) if present else "add it to the study",
            )  # fmt: skip

    def checkpoint(self, part: Group, key: str) -> None:
        """Refuse models and checkpoints that there are not."""
        for name in part.models:
            self.known(f"{key}models", name, self.last, "the model")
            present = self.study.checkpoints_of(name)
            if part.checkpoint != LAST:
                self.known(f"{key}checkpoint", part.checkpoint, present, f"of '{name}' the checkpoint")

    def curves(self, part: Part, key: str) -> None:
        """Refuse curves that there are not, and a rule that the study does not apply."""
        self.checkpoint(part, key)
        for place in part.places(self.last):
            known: Sequence[Curve] = self.axes
            labels = ("the model", "the checkpoint", "the method", "the task")
            # In the order of what a reader looks for: the name that fits none of those that fit so far.
            for axis, position in (("models", 0), ("task", 3), ("method", 2), ("checkpoint", 1)):
                self.known(f"{key}{axis}", place[position], (a[position] for a in known), labels[position])
                known = [a for a in known if a[position] == place[position]]
        self.rule(part.rule, key)

    def rule(self, name: str, key: str = "") -> None:
        """Refuse a rule that the study does not apply."""
        self.known(f"{key}rule", name, self.study.knees.rules, "the rule")

    def levels(self, levels: Sequence[float], places: Iterable[Curve]) -> None:
        """Refuse levels that a curve does not have; those that the workflow places are not known yet."""
        placed = {sweep.curve for sweep in self.study.sweeps}
        for place in places:
            present = {
                e.sparsity
                for e in self.study.evaluations
                if (e.model, e.checkpoint, e.method, e.task) == place and e.method != "dense"
            }
            for j, level in enumerate(levels):
                name = sparsity_name(level, f"{self.where}.levels[{j}]")
                if place not in placed:
                    self.known(f"levels[{j}]", name, present, f"of the curve {'/'.join(place)} the level")

    def groups(self, one: Group, other: Group, pairing: str) -> None:
        """Refuse groups of different sizes that belong together by their places."""
        sizes = len(one.models), len(other.models)
        if pairing == "in-order" and sizes[0] != sizes[1]:
            raise UserError(
                f"{self.where}.pairing", f"'in-order' of {sizes[0]} and {sizes[1]} models",
                "as many models in `other` as in `one`", "add the missing models, or write 'none'",
            )  # fmt: skip


def _check_curve(checker: _Checker, of: Part) -> None:
    checker.curves(of, "")


def _check_values(checker: _Checker, of: ValueDifference) -> None:
    sides = {name: part for name, part in (("one", of.one), ("other", of.other)) if part}
    for name, part in (*sides.items(), ("reference", of.reference)):
        if part:
            checker.curves(part, f"{name}.")
    tasks = sorted({part.task for part in sides.values()})
    if len(tasks) > 1:
        raise UserError(
            f"{checker.where}.other.task", f"the tasks {quoted(tasks)}", "one task, whose values can be compared",
            "name the same task in `one` and `other`, or compare knees",
        )  # fmt: skip
    if isinstance(of.levels, str):
        if of.reference is None or len(of.reference.models) > 1:
            raise UserError(
                f"{checker.where}.reference", "no curve of one model", "the curve whose knee ends the essential range",
                "add 'reference:' with models, method and task",
            )  # fmt: skip
    elif of.reference:
        raise UserError(
            f"{checker.where}.reference", "a reference beside levels", "`levels: essential`", "remove one of the two"
        )
    else:
        checker.levels(of.levels, [place for part in sides.values() for place in part.places(checker.last)])
    if of.over == "worst" and any(len(part.models) > 1 for part in sides.values()):
        raise UserError(
            f"{checker.where}.over", "'worst' of groups of models", "'mean'",
            "take the mean over the levels, or compare single models",
        )  # fmt: skip
    checker.groups(of.one, of.other or of.one, of.pairing)


def _check_knee_difference(checker: _Checker, of: KneeDifference) -> None:
    checker.groups(of.one, of.other, of.pairing)
    checker.curves(of.one, "one.")
    checker.curves(of.other, "other.")


def _check_similarity(checker: _Checker, of: MaskSimilarity) -> None:
    checker.checkpoint(of, "")
    pairs = [
        (name, set(entry.get("methods", ())))
        for entry in checker.study.config.get("similarities", ())
        for name in entry["models"]
    ]
    for model in of.models:
        methods = {method for name, known in pairs if name == model for method in known}
        for j, method in enumerate(of.methods):
            checker.known(f"methods[{j}]", method, methods, f"in `similarities` of '{model}' the method")
    for j, level in enumerate(of.levels):
        sparsity_name(level, f"{checker.where}.levels[{j}]")


def _check_change(checker: _Checker, of: AbruptChange) -> None:
    measured = {model for model, _ in checker.study.weights}
    for j, name in enumerate(of.models):
        checker.known(f"models[{j}]", name, measured, "in `weights` the model")


def _check_weights(checker: _Checker, of: WeightDifference) -> None:
    checker.known("column", of.column, checker.weight_columns, "the statistic")
    for name, group in (("one", of.one), ("other", of.other)):
        checker.checkpoint(group, f"{name}.")
        for model, checkpoint in group.checkpoints(checker.last).items():
            measured = [c for m, c in checker.study.weights if m == model]
            checker.known(f"{name}.checkpoint", checkpoint, measured, f"in `weights` of '{model}' the checkpoint")
    checker.groups(of.one, of.other, of.pairing)


def _check_ranks(checker: _Checker, of: RankCorrelation) -> None:
    for part in of.parts:
        checker.curves(part, "")


def _check_shares(checker: _Checker, of: VarianceShare) -> None:
    for key, names, position in (("models", of.models, 0), ("methods", of.methods, 2), ("tasks", of.tasks, 3)):
        for j, name in enumerate(names or ()):
            checker.known(f"{key}[{j}]", name, (a[position] for a in checker.axes), f"among the {key}")
    checker.rule(of.rule)


_CHECKS: dict[str, Callable[[_Checker, Any], None]] = {
    "knee": _check_curve,
    "slope-ratio": _check_curve,
    "value-difference": _check_values,
    "knee-difference": _check_knee_difference,
    "mask-similarity": _check_similarity,
    "abrupt-change": _check_change,
    "weight-statistic-difference": _check_weights,
    "rank-correlation": _check_ranks,
    "variance-share": _check_shares,
}
