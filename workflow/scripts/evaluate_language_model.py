"""Evaluate one pruned language model: perplexity of a causal one, or the loss of a masked one."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.data.prepared import Prepared
from essential_sparsity.data.tasks import MaskedTokens, Perplexity, Windows
from essential_sparsity.evaluation.evaluate import evaluate_to_files
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.evaluation.perplexity import LANGUAGE_MODELLING
from essential_sparsity.pruning.masks import Pruning
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job


def main(snakemake: Any) -> None:
    """Write the evaluation's row and its examples."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    method = json.loads(snakemake.params.method)
    task: Windows = record(Perplexity | MaskedTokens, json.loads(snakemake.params.task))
    load, evaluate = LANGUAGE_MODELLING[task.protocol, task.metric]

    def protocol(checkpoint: Path, pruning: Pruning, where: str) -> tuple[Outcome, float]:
        model = load(checkpoint, device, where)
        applied = pruning.apply(model)
        outcome = evaluate(model, Prepared(Path(snakemake.input.inputs)), task, where)
        return outcome, applied.realised_sparsity()

    axes, inputs, outputs = (dict(part.items()) for part in (snakemake.wildcards, snakemake.input, snakemake.output))
    evaluate_to_files(axes, inputs, outputs, method, task, protocol, device)


if __name__ == "__main__":
    run_job(main, snakemake)
