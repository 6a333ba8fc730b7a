"""What is asked: the evaluations, sweeps and measurements that a study file lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.knees.curves import Curve
from essential_sparsity.knees.placing import Placing
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


@dataclass(frozen=True)
class _Curves:
    """An entry of curves: its key, what it names, the levels that are known, and how others are placed."""

    key: str
    models: list[str]
    checkpoints: list[str]
    methods: list[str]
    tasks: list[str]
    seeds: list[int]
    levels: Sequence[str]
    placing: Placing | None


def _entries(known: Registries) -> Iterator[_Curves]:
    for i, entry in enumerate(known.config["curves"]):
        key = f"{known.file}, key curves[{i}]"
        where, sparsities = f"{key}.sparsities", entry["sparsities"]
        placing, levels = None, []
        if "adaptive" in sparsities:
            placing = checked_settings(sparsities["adaptive"], known.knees, f"{where}.adaptive")
        else:
            levels = [sparsity_name(s, f"{where}[{j}]") for j, s in enumerate(sparsities)]
        names = {name: entry[name] for name in ("models", "checkpoints", "methods", "tasks", "seeds")}
        found = _Curves(key, **names, levels=placing.start if placing else levels, placing=placing)
        if not any(map(float, found.levels)):
            raise UserError(where, "no sparsity above 0", "at least one", "add the levels to prune to")
        for method in found.methods:
            if rounds := known.method(method).rounds:
                if placing:
                    raise no_placing(method, rounds, where)
                check_levels(method, rounds, levels, where)
        yield found


def _curves_of(known: Registries, entry: _Curves) -> Iterator[Curve]:
    for model in entry.models:
        everything = known.checkpoints_of(model)
        for checkpoint in _chosen_checkpoints(known, model, entry.checkpoints, everything, f"{entry.key}.checkpoints"):
            for method, task in product(entry.methods, entry.tasks):
                yield model, checkpoint, method, task


def _enumerate(known: Registries) -> Iterator[Evaluation]:
    for entry in _entries(known):
        for curve in _curves_of(known, entry):
            for level in ["0.000", *_levels(known, curve[2], entry.levels)]:
                yield from evaluations_of(known, curve, level, entry.seeds)


def evaluations_of(known: Registries, curve: Curve, level: str, seeds: Iterable[int]) -> Iterator[Evaluation]:
    """Yield the evaluations of a level of a curve; at 0 of the dense model."""
    model, checkpoint, method, task = curve
    for seed in seeds:
        yield _dense(known, Evaluation(model, checkpoint, method, level, task, seed))


def _enumerate_sweeps(known: Registries) -> Iterator[Sweep]:
    """Yield the curves whose levels are placed; a method with a pattern N:M has one level, and none to place."""
    keys: dict[Curve, str] = {}
    for entry in _entries(known):
        if entry.placing is None:
            continue
        for curve in _curves_of(known, entry):
            if known.method(curve[2]).group is not None:
                continue
            if keys.setdefault(curve, entry.key) != entry.key:
                raise UserError(
                    f"{entry.key}.sparsities", f"levels to be placed for {'/'.join(curve)}, as in {keys[curve]}",
                    "each curve in one entry", "take it out of one of the two",
                )  # fmt: skip
            # Where nothing is drawn, all seeds are one evaluation.
            seeds = {e.seed for e in evaluations_of(known, curve, entry.levels[-1], entry.seeds)}
            yield Sweep(*curve, seeds=tuple(sorted(seeds)), settings=entry.placing)


def _levels(known: Registries, method: str, levels: Sequence[str]) -> Sequence[str]:
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
