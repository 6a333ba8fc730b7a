"""Claims of a study, checked against what it evaluates."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.findings.claims import CURVE_STATISTICS, ESSENTIAL, LAST, SIDES, checkpoints_of, places_of
from essential_sparsity.knees.curves import Curve
from essential_sparsity.methods.levels import sparsity_name
from essential_sparsity.study.study import Study

_NOT_STATISTICS = {"model", "checkpoint", "step", "position", "name", "n"}


def checked_claims(study: Study, weight_columns: Iterable[str]) -> list[dict[str, Any]]:
    """Return the study's claims with their rules filled in.

    Args:
        study: The study, with its evaluations.
        weight_columns: The columns of the table of weights.

    Returns:
        For each entry of ``findings``: ``finding, claim, statistic, of, holds``; in ``of`` every curve names its rule.

    Raises:
        UserError: A claim names something that the study does not evaluate, or contradicts itself.
    """
    found: list[dict[str, Any]] = []
    for i, entry in enumerate(study.config["findings"]):
        where = f"{study.file}, key findings[{i}]"
        _check_region(entry["holds"], f"{where}.holds")
        claim = {**entry, "of": copy.deepcopy(entry["of"])}
        _CHECKS[entry["statistic"]](_Checker(study, f"{where}.of", set(weight_columns) - _NOT_STATISTICS), claim["of"])
        for earlier in found:
            _check_pair(earlier, claim, where)
        found.append(claim)
    return found


def _check_region(holds: Mapping[str, Any], where: str) -> None:
    if len(holds) != 1:
        found = quoted(holds) if holds else "no key"
        raise UserError(where, found, "one of 'above', 'below' and 'within'", "say in one way where the claim holds")
    if "within" in holds and not holds["within"][0] < holds["within"][1]:
        raise UserError(
            f"{where}.within", str(holds["within"]), "two numbers, the smaller first", "put them in that order"
        )


def _check_pair(earlier: Mapping[str, Any], claim: Mapping[str, Any], where: str) -> None:
    if earlier["finding"] != claim["finding"]:
        return
    if earlier["claim"] != claim["claim"]:
        raise UserError(
            f"{where}.claim", f"another claim of '{claim['finding']}' than before", f"'{earlier['claim']}'",
            "write the same claim, or give the finding another name",
        )  # fmt: skip
    if (earlier["statistic"], earlier["of"]) == (claim["statistic"], claim["of"]):
        raise UserError(where, f"'{claim['finding']}' with the same `of` as before", "each once", "remove one of them")


def last_checkpoints(study: Study) -> dict[str, str]:
    """Return the last checkpoint of every model that the study touches."""
    models = {model for model, _ in study.used_checkpoints()}
    return {model: study.checkpoints_of(model)[-1] for model in sorted(models)}


class _Checker:
    """Checks what a statistic is taken of against what a study evaluates, and fills in rules, in place."""

    def __init__(self, study: Study, where: str, weight_columns: set[str]) -> None:
        self.study = study
        self.where = where
        self.weight_columns = weight_columns
        self.last = last_checkpoints(study)
        self.axes = sorted(
            {(e.model, e.checkpoint, e.method, e.task) for e in study.evaluations if e.method != "dense"}
        )
        self.default_rule: str = study.config["knees"]["rules"][0]

    def known(self, key: str, name: object, allowed: Iterable[object], of: str) -> None:
        """Refuse a name that the study does not have."""
        present = sorted(set(map(str, allowed)))
        if str(name) not in present:
            raise UserError(
                f"{self.where}.{key}", f"{of} '{name}', which this study does not evaluate",
                f"one of {quoted(present)}" if present else "one that it evaluates",
                did_you_mean(name, present) if present else "add it to the study",
            )  # fmt: skip

    def checkpoint(self, part: dict[str, Any], key: str) -> None:
        """Refuse models and checkpoints that there are not."""
        for name in part["models"]:
            self.known(f"{key}models", name, self.last, "the model")
            present = self.study.checkpoints_of(name)
            if part["checkpoint"] != LAST:
                self.known(f"{key}checkpoint", part["checkpoint"], present, f"of '{name}' the checkpoint")

    def curves(self, part: dict[str, Any], key: str) -> None:
        """Check the curves of a part, and give it its rule."""
        self.checkpoint(part, key)
        for place in places_of(part, self.last):
            known: Sequence[Curve] = self.axes
            labels = ("the model", "the checkpoint", "the method", "the task")
            # In the order of what a reader looks for: the name that fits none of those that fit so far.
            for axis, position in (("models", 0), ("task", 3), ("method", 2), ("checkpoint", 1)):
                self.known(f"{key}{axis}", place[position], (a[position] for a in known), labels[position])
                known = [a for a in known if a[position] == place[position]]
        part.setdefault("rule", self.default_rule)
        self.rule(part, key)

    def rule(self, part: Mapping[str, Any], key: str = "") -> None:
        """Refuse a rule that the study does not apply."""
        self.known(f"{key}rule", part["rule"], self.study.config["knees"]["rules"], "the rule")

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

    def groups(self, of: Mapping[str, Any]) -> None:
        """Refuse groups of different sizes that belong together by their places."""
        sizes = len(of["one"]["models"]), len(of.get("other", of["one"])["models"])
        if of["pairing"] == "in-order" and sizes[0] != sizes[1]:
            raise UserError(
                f"{self.where}.pairing", f"'in-order' of {sizes[0]} and {sizes[1]} models",
                "as many models in `other` as in `one`", "add the missing models, or write 'none'",
            )  # fmt: skip


def _check_curve(checker: _Checker, of: dict[str, Any]) -> None:
    checker.curves(of, "")


def _check_values(checker: _Checker, of: dict[str, Any]) -> None:
    sides = [of[name] for name in SIDES[:2] if name in of]
    for name in SIDES:
        if name in of:
            checker.curves(of[name], f"{name}.")
    tasks = sorted({side["task"] for side in sides})
    if len(tasks) > 1:
        raise UserError(
            f"{checker.where}.other.task", f"the tasks {quoted(tasks)}", "one task, whose values can be compared",
            "name the same task in `one` and `other`, or compare knees",
        )  # fmt: skip
    if of["levels"] == ESSENTIAL:
        if "reference" not in of or len(of["reference"]["models"]) > 1:
            raise UserError(
                f"{checker.where}.reference", "no curve of one model", "the curve whose knee ends the essential range",
                "add 'reference:' with models, method and task",
            )  # fmt: skip
    elif "reference" in of:
        raise UserError(
            f"{checker.where}.reference", "a reference beside levels", "`levels: essential`", "remove one of the two"
        )
    else:
        checker.levels(of["levels"], [place for side in sides for place in places_of(side, checker.last)])
    if of["over"] == "worst" and any(len(side["models"]) > 1 for side in sides):
        raise UserError(
            f"{checker.where}.over", "'worst' of groups of models", "'mean'",
            "take the mean over the levels, or compare single models",
        )  # fmt: skip
    checker.groups(of)


def _check_knee_difference(checker: _Checker, of: dict[str, Any]) -> None:
    checker.groups(of)
    for name in SIDES[:2]:
        checker.curves(of[name], f"{name}.")


def _check_similarity(checker: _Checker, of: dict[str, Any]) -> None:
    checker.checkpoint(of, "")
    pairs = [
        (name, set(entry.get("methods", ())))
        for entry in checker.study.config.get("similarities", ())
        for name in entry["models"]
    ]
    for model in of["models"]:
        methods = {method for name, known in pairs if name == model for method in known}
        for j, method in enumerate(of["methods"]):
            checker.known(f"methods[{j}]", method, methods, f"in `similarities` of '{model}' the method")
    for j, level in enumerate(of["levels"]):
        sparsity_name(level, f"{checker.where}.levels[{j}]")


def _check_change(checker: _Checker, of: dict[str, Any]) -> None:
    measured = {model for model, _ in checker.study.weights}
    for j, name in enumerate(of["models"]):
        checker.known(f"models[{j}]", name, measured, "in `weights` the model")


def _check_weights(checker: _Checker, of: dict[str, Any]) -> None:
    checker.known("column", of["column"], checker.weight_columns, "the statistic")
    for name in SIDES[:2]:
        checker.checkpoint(of[name], f"{name}.")
        for model, checkpoint in checkpoints_of(of[name], checker.last).items():
            measured = [c for m, c in checker.study.weights if m == model]
            checker.known(f"{name}.checkpoint", checkpoint, measured, f"in `weights` of '{model}' the checkpoint")
    checker.groups(of)


def _check_ranks(checker: _Checker, of: dict[str, Any]) -> None:
    of.setdefault("rule", checker.default_rule)
    for task in of["difficulty"]:
        checker.curves({**of, "task": task}, "")


def _check_shares(checker: _Checker, of: dict[str, Any]) -> None:
    for key, position in (("models", 0), ("methods", 2), ("tasks", 3)):
        for j, name in enumerate(of.get(key, ())):
            checker.known(f"{key}[{j}]", name, (a[position] for a in checker.axes), f"among the {key}")
    of.setdefault("rule", checker.default_rule)
    checker.rule(of)


_CHECKS = {
    **dict.fromkeys(CURVE_STATISTICS, _check_curve),
    "value-difference": _check_values,
    "knee-difference": _check_knee_difference,
    "mask-similarity": _check_similarity,
    "abrupt-change": _check_change,
    "weight-statistic-difference": _check_weights,
    "rank-correlation": _check_ranks,
    "variance-share": _check_shares,
}
