"""Evaluate the frozen features of one pruned vision encoder by a linear probe or nearest neighbours."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import LinearProbe, NearestNeighbours, Probe
from essential_sparsity.evaluation.evaluate import evaluate_to_files
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.evaluation.probes import evaluate_probe, labelled_images, load_encoder
from essential_sparsity.pruning.masks import Pruning
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the evaluation's row and its examples."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    task: Probe = record(LinearProbe | NearestNeighbours, json.loads(snakemake.params.task))
    method = json.loads(snakemake.params.method)
    axes, inputs, outputs = (dict(part.items()) for part in (snakemake.wildcards, snakemake.input, snakemake.output))

    def protocol(checkpoint: Path, pruning: Pruning, where: str) -> tuple[Outcome, float]:
        model = load_encoder(checkpoint, where).to(device)
        applied = pruning.apply(model)
        train, test, settings = labelled_images(Prepared(Path(inputs["inputs"])), task, int(axes["seed"]))
        return evaluate_probe(model, train, test, settings, task, where), applied.realised_sparsity()

    evaluate_to_files(axes, inputs, outputs, method, task, protocol, device)


if __name__ == "__main__":
    run_job(main, snakemake)
