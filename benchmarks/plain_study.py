"""The evaluations of a study as a plain script would do them: one process, everything read once, and loops.

It computes by the library's functions, so that the arithmetic is the workflow's. It keeps masks in memory, prunes to
all levels of a method in one pass, loads a language model once and puts its weights back between levels, and keeps
nothing but the rows that it ends with. It knows what the default study asks for: models from wheels, from folders or
of a pre-training, language modelling and fine-tuning, methods that need no calibration.

    python benchmarks/plain_study.py STUDY.yaml FOLDER ROWS.json [WHEEL ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from harness import ROOT

from essential_sparsity.checkpoints.extract import empty_model, extract
from essential_sparsity.checkpoints.layers import list_matrices
from essential_sparsity.checkpoints.manifest import Matrix
from essential_sparsity.checkpoints.tensors import open_weights
from essential_sparsity.data.prepare import prepare_inputs
from essential_sparsity.data.prepared import Prepared, write_prepared
from essential_sparsity.data.rows import prepare_rows
from essential_sparsity.data.tasks import Finetuning, Windows
from essential_sparsity.evaluation.finetuned import evaluate_finetuned
from essential_sparsity.evaluation.perplexity import LANGUAGE_MODELLING
from essential_sparsity.files import write_json
from essential_sparsity.pretraining.loop import pretrain
from essential_sparsity.pruning.bits import Packed
from essential_sparsity.pruning.masks import Pruning, no_pruning, unpack
from essential_sparsity.pruning.prune import PrunableModel, measure, prune_levels
from essential_sparsity.sources.fetch import fetch, table_splits
from essential_sparsity.sources.kinds import Local, OwnStep, Source, Wheel
from essential_sparsity.study.asked import Evaluation
from essential_sparsity.study.registries import DENSE
from essential_sparsity.study.resolve import resolve
from essential_sparsity.study.study import Study
from essential_sparsity.study.validation import load_yaml
from essential_sparsity.training.loop import Training

CPU = torch.device("cpu")


class Script:
    """What the script holds on to between its loops.

    Args:
        study: What is evaluated.
        folder: For the files that libraries read: sources, checkpoints and prepared inputs.
        wheels: The packages that the study's sources are in.
    """

    def __init__(self, study: Study, folder: Path, wheels: list[Path]) -> None:
        self.study, self.folder, self.wheels = study, folder, wheels
        self.rows = {name: self.read_rows(name) for name in study.used_rows()}
        self.inputs: dict[tuple[str, str], Prepared] = {}

    def files_of(self, source: Source) -> list[Path]:
        """Return what the bytes of a source are taken from."""
        if isinstance(source, Wheel):
            return [wheel for wheel in self.wheels if wheel.name.startswith(source.release)]
        return [source.place] if isinstance(source, Local) else []

    def read_rows(self, name: str) -> Any:
        """Return the rows of a dataset."""
        dataset = self.study.datasets[name]
        files = table_splits(dataset.source, self.files_of(dataset.source), self.folder / "data" / name, name)
        return prepare_rows(files, dataset, name)

    def checkpoint(self, model: str, checkpoint: str) -> Path:
        """Return the folder of a checkpoint, which a model that the study trains is trained for."""
        source = self.study.source(model, checkpoint)
        files = self.files_of(source)
        if isinstance(source, OwnStep):
            trained, recipe = self.folder / "trained" / model, self.study.recipe(model)
            if not (trained / "index.json").is_file():
                pretrain(self.rows[recipe.corpus], recipe, trained, self.folder / "states", CPU, "", model)
            files = [trained / "index.json", trained]
        fetched = self.folder / "sources" / model / checkpoint
        fetched.parent.mkdir(parents=True, exist_ok=True)
        fetch(source, files, fetched, model)
        destination = self.folder / "checkpoints" / model / checkpoint
        destination.mkdir(parents=True)
        extract(fetched, destination, self.study.models[model].dtype, model)
        return destination

    def prepared(self, model: str, task: str, checkpoint: Path) -> Prepared:
        """Return a task's inputs for a model."""
        if (model, task) not in self.inputs:
            rows = self.rows[self.study.tasks[task].dataset]
            preparation = self.study.preparation(task)
            assert preparation is not None, "a task that is not read from files has one"
            columns, about = prepare_inputs(rows, checkpoint, task, **preparation)
            file = self.folder / "inputs" / model / f"{task}.arrow"
            write_prepared(columns, about, file)
            self.inputs[model, task] = Prepared(file)
        return self.inputs[model, task]

    def matrices(self, model: str, checkpoint: Path) -> list[Matrix]:
        """Return the prunable matrices of a model."""
        with open_weights(checkpoint / "model.safetensors") as files:
            shapes = {name: stored.shape for name, stored in files.tensors.items()}
        listed = list_matrices(empty_model(checkpoint), shapes, model, **self.study.patterns(model))
        return [matrix for matrix in listed if matrix.pruned]

    def masks(
        self, method: str, seed: int, levels: list[str], checkpoint: Path, matrices: list[Matrix]
    ) -> dict[str, dict[str, Packed]]:
        """Return the packed masks of all levels of a method, by level and matrix: a pass for all of them."""
        slots = self.study.method(method)
        sparsities = [slots.sparsity(float(level)) for level in levels]
        found: dict[str, dict[str, Packed]] = {level: {} for level in levels}
        with open_weights(checkpoint / "model.safetensors") as files:
            model = PrunableModel(files, matrices, CPU)
            shared = measure(model, slots, seed) if slots.planned else {}
            for name, of_levels in prune_levels(model, slots, sparsities, seed, shared):
                for level, result in zip(levels, of_levels, strict=True):
                    found[level][name] = result.packed
        return found

    def evaluate(self, model: str, name: str, wanted: list[Evaluation]) -> Iterator[tuple[Evaluation, float, float]]:
        """Yield each evaluation of a checkpoint with its value and the sparsity that was counted."""
        checkpoint = self.checkpoint(model, name)
        matrices = self.matrices(model, checkpoint)
        rows = {matrix.name: matrix for matrix in matrices}
        masks: dict[tuple[str, int], dict[str, dict[str, Packed]]] = {}
        for method, seed in {(e.method, self.study.mask_seed(e.method, e.seed)) for e in wanted if e.method != DENSE}:
            levels = sorted({e.sparsity for e in wanted if e.method == method})
            masks[method, seed] = self.masks(method, seed, levels, checkpoint, matrices)
        for task, evaluations in groupby(sorted(wanted, key=lambda e: e.task), key=lambda e: e.task):
            data = self.prepared(model, task, checkpoint)
            settings = self.study.tasks[task]
            if isinstance(settings, Finetuning):
                evaluate = self.trainer(settings, task, data, checkpoint)
            else:
                assert isinstance(settings, Windows)
                evaluate = self.reader(settings, task, data, checkpoint)
            for e in evaluations:
                pruning = no_pruning(matrices)
                if e.method != DENSE:
                    packed = masks[e.method, self.study.mask_seed(e.method, e.seed)][e.sparsity]
                    pruning = Pruning({n: unpack(bits, rows[n].shape) for n, bits in packed.items()}, rows)
                yield e, *evaluate(e, pruning)

    def reader(self, settings: Windows, task: str, data: Prepared, checkpoint: Path) -> Any:
        """Return what evaluates a language model, which is loaded once: its weights are put back each time."""
        load, evaluate = LANGUAGE_MODELLING[settings.protocol, settings.metric]
        model = load(checkpoint, CPU, task)
        weights = {name: value.clone() for name, value in model.state_dict().items()}

        def evaluated(e: Evaluation, pruning: Pruning) -> tuple[float, float]:
            model.load_state_dict(weights)
            applied = pruning.apply(model)
            return evaluate(model, data, settings, task).value, applied.realised_sparsity()

        return evaluated

    def trainer(self, settings: Finetuning, task: str, data: Prepared, checkpoint: Path) -> Any:
        """Return what fine-tunes and tests a model."""
        rows = self.rows[settings.dataset]

        def evaluated(e: Evaluation, pruning: Pruning) -> tuple[float, float]:
            training = Training(settings, e.seed, CPU, self.folder / "states", "")
            outcome, realised = evaluate_finetuned(checkpoint, pruning, data, lambda: rows, training, task)
            return outcome.value, realised

        return evaluated


def main() -> None:
    """Write a row for each evaluation: its axes, its value and the sparsity that was counted."""
    torch.set_num_threads(1)
    file, folder, output, *wheels = map(Path, sys.argv[1:])
    study = resolve(load_yaml(file), ROOT, str(file))
    script = Script(study, folder, wheels)
    checkpoints = groupby(study.evaluations, key=lambda e: (e.model, e.checkpoint))
    rows = [
        [e.model, e.checkpoint, e.method, e.sparsity, e.task, e.seed, value, realised]
        for (model, checkpoint), wanted in checkpoints
        for e, value, realised in script.evaluate(model, checkpoint, list(wanted))
    ]
    write_json(output, rows)


if __name__ == "__main__":
    main()
