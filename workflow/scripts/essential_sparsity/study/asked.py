"""What is asked: the evaluations, sweeps and measurements that a study file lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.knees.curves import Curve
from essential_sparsity.methods.levels import sparsity_name
from essential_sparsity.methods.rounds import check_levels, no_placing
from essential_sparsity.study.registries import DENSE, Registries
from essential_sparsity.study.sweeps import Sweep, checked_settings


@dataclass(frozen=True, order=True)
class Evaluation:
    """One number to be found: the axes of a row of ``evaluations.parquet``."""

    model: str
    checkpoint: str
    method: str
    sparsity: str
    task: str
    seed: int


@dataclass(frozen=True)
class Asked:
    """What a study file asks for, sorted.

    Attributes:
        sweeps: The curves whose levels are placed.
        evaluations: Those that are known before any job.
        weights: The pairs of model and checkpoint whose weights are measured.
    """

    sweeps: list[Sweep]
    evaluations: list[Evaluation]
    weights: list[tuple[str, str]]


def ask(known: Registries) -> Asked:
    """Return what the study of some registries asks for.

    Raises:
        UserError: An entry names a checkpoint or level that there is not, or contradicts another.
    """
    return Asked(
        sorted(set(_enumerate_sweeps(known))), sorted(set(_enumerate(known))), sorted(set(_enumerate_weights(known)))
    )


def _chosen_checkpoints(
    known: Registries, model: str, wanted: list[str], everything: list[str], where: str
) -> list[str]:
    present = known.measured_of(model)
    chosen: list[str] = []
    for name in wanted:
        if name == "all":
            chosen += everything
        elif name == "last":
            chosen.append(present[-1])
        elif name in present:
            chosen.append(name)
        else:
            allowed = [*present, "all", "last"]
            raise UserError(
                where, f"checkpoint '{name}' of model '{model}'", f"one of {quoted(allowed)}",
                did_you_mean(name, allowed),
            )  # fmt: skip
    return chosen


def _entries(known: Registries) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Yield the entries of curves: key, entry, and the levels that are known before any job."""
    for i, entry in enumerate(known.config["curves"]):
        key = f"{known.file}, key curves[{i}]"
        where, sparsities = f"{key}.sparsities", entry["sparsities"]
        if "adaptive" in sparsities:
            settings = checked_settings(sparsities["adaptive"], known.config["knees"]["tolerance"], f"{where}.adaptive")
            entry, levels = {**entry, "adaptive": settings}, settings["start"]
        else:
            levels = [sparsity_name(s, f"{where}[{j}]") for j, s in enumerate(sparsities)]
        if not any(map(float, levels)):
            raise UserError(where, "no sparsity above 0", "at least one", "add the levels to prune to")
        for method in entry["methods"]:
            if rounds := known.method(method).rounds:
                if "adaptive" in entry:
                    raise no_placing(method, rounds, where)
                check_levels(method, rounds, levels, where)
        yield key, entry, levels


def _curves_of(known: Registries, entry: Mapping[str, Any], key: str) -> Iterator[Curve]:
    for model in entry["models"]:
        everything = known.checkpoints_of(model)
        for checkpoint in _chosen_checkpoints(known, model, entry["checkpoints"], everything, f"{key}.checkpoints"):
            for method, task in product(entry["methods"], entry["tasks"]):
                yield model, checkpoint, method, task


def _enumerate(known: Registries) -> Iterator[Evaluation]:
    for key, entry, levels in _entries(known):
        for curve in _curves_of(known, entry, key):
            for level in ["0.000", *_levels(known, curve[2], levels)]:
                yield from evaluations_of(known, curve, level, entry["seeds"])


def evaluations_of(known: Registries, curve: Curve, level: str, seeds: Iterable[int]) -> Iterator[Evaluation]:
    """Yield the evaluations of a level of a curve; at 0 of the dense model."""
    model, checkpoint, method, task = curve
    for seed in seeds:
        yield _dense(known, Evaluation(model, checkpoint, method, level, task, seed))


def _enumerate_sweeps(known: Registries) -> Iterator[Sweep]:
    """Yield the curves whose levels are placed; a method with a pattern N:M has one level, and none to place."""
    keys: dict[Curve, str] = {}
    for key, entry, _ in _entries(known):
        if "adaptive" not in entry:
            continue
        for curve in _curves_of(known, entry, key):
            if known.method(curve[2]).group is not None:
                continue
            if keys.setdefault(curve, key) != key:
                raise UserError(
                    f"{key}.sparsities", f"levels to be placed for {'/'.join(curve)}, as in {keys[curve]}",
                    "each curve in one entry", "take it out of one of the two",
                )  # fmt: skip
            # Where nothing is drawn, all seeds are one evaluation.
            seeds = sorted(
                {e.seed for e in evaluations_of(known, curve, entry["adaptive"]["start"][-1], entry["seeds"])}
            )
            yield Sweep(*curve, seeds=tuple(seeds), settings=entry["adaptive"])


def _levels(known: Registries, method: str, levels: list[str]) -> list[str]:
    """Return a method's levels: those of the curve, or of N:M the only one that it has."""
    found = known.method(method)
    return levels if found.group is None else [f"{found.sparsity(0.0):.3f}"]


def _dense(known: Registries, e: Evaluation) -> Evaluation:
    """Map sparsity 0 to the dense model, and a seed that cannot matter to 0, so that nothing is computed twice."""
    method = DENSE if float(e.sparsity) == 0 else e.method
    seed = e.seed if known.seed_matters(method, e.task) else 0
    return Evaluation(e.model, e.checkpoint, method, e.sparsity, e.task, seed)


def similarities(known: Registries) -> Iterator[tuple[Mapping[str, Any], list[tuple[str, str]]]]:
    """Yield the entries of similarities, each with its pairs of model and checkpoint."""
    for i, entry in enumerate(known.config["similarities"]):
        where = f"{known.file}, key similarities[{i}].checkpoints"
        chosen = {
            model: _chosen_checkpoints(known, model, entry["checkpoints"], known.checkpoints_of(model), where)
            for model in entry["models"]
        }
        yield entry, [(model, checkpoint) for model, names in chosen.items() for checkpoint in names]


def _enumerate_weights(known: Registries) -> Iterator[tuple[str, str]]:
    for i, entry in enumerate(known.config["weights"]):
        for model in entry["models"]:
            where = f"{known.file}, key weights[{i}].checkpoints"
            everything = known.measured_of(model)
            for checkpoint in _chosen_checkpoints(known, model, entry["checkpoints"], everything, where):
                yield model, checkpoint
