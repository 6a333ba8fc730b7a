"""Evaluate one pruned model on a task of the lm-evaluation-harness."""

import json
from pathlib import Path
from typing import Any

from essential_sparsity.checkpoints.loading import load_tokenizer
from essential_sparsity.data.tasks import Benchmark
from essential_sparsity.evaluation.benchmark import evaluate_benchmark
from essential_sparsity.evaluation.evaluate import evaluate_to_files
from essential_sparsity.evaluation.outcomes import Outcome
from essential_sparsity.evaluation.perplexity import load_causal
from essential_sparsity.pruning.masks import Pruning
from essential_sparsity.records import record
from essential_sparsity.run.devices import choose_device
from essential_sparsity.run.job import run_job
from essential_sparsity.sources.kinds import DataSource, Hub, Local


def main(snakemake: Any) -> None:
    """Write the evaluation's row and its examples."""
    device = choose_device(snakemake.resources.gpu, snakemake.threads)
    task, method = record(Benchmark, json.loads(snakemake.params.task)), json.loads(snakemake.params.method)
    axes, inputs, outputs = (dict(part.items()) for part in (snakemake.wildcards, snakemake.input, snakemake.output))
    source = record(DataSource, json.loads(snakemake.params.source))
    folder = source.place if isinstance(source, Local) else Path(inputs["dataset"])
    repository = source.repository if isinstance(source, Hub) else None

    def protocol(checkpoint: Path, pruning: Pruning, where: str) -> tuple[Outcome, float]:
        model, tokenizer = load_causal(checkpoint, device, where), load_tokenizer(checkpoint, where)
        applied = pruning.apply(model)
        outcome = evaluate_benchmark(model, tokenizer, task, folder, repository, where)
        return outcome, applied.realised_sparsity()

    evaluate_to_files(axes, inputs, outputs, method, task, protocol, device)


if __name__ == "__main__":
    run_job(main, snakemake)
