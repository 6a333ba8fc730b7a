"""The tables of evaluations: a row each, and the examples that it was computed from."""

from __future__ import annotations

import pandas as pd

from essential_sparsity.tables import Schema, count, flag, fraction, number, text

EVALUATIONS = Schema(
    "evaluations",
    {
        "study": text(description="Name of the study."),
        "model": text(description="Name in the registry of models."),
        "source": text(description="Where the model's bytes came from."),
        "revision": text(nullable=True, description="Version of the package, digest of the file or of the training."),
        "checkpoint": text(description="`final` or the step of pre-training."),
        "step": count(nullable=True, description="Step of pre-training; null for `final`."),
        "method": text(description="Name in the registry of methods; `dense` for the unpruned model."),
        "score": text(nullable=True, description="How weights are ranked; null for `dense`, as the next ten."),
        "allocation": text(nullable=True, description="How the budget is divided over the layers."),
        "scope": text(nullable=True, description="The pool in which weights compete."),
        "pattern": text(nullable=True, description="`unstructured`, or N:M with N kept of every M."),
        "refinement": text(nullable=True, description="Exchanges of removed and kept weights, or `none`."),
        "update": text(nullable=True, description="How kept weights are changed, or `none`."),
        "compat": text(nullable=True, description="`exact`, or `published` for the references' rules of counting."),
        "calibration": text(nullable=True, description="Name in the registry of calibrations; null if not calibrated."),
        "propagate": text(
            nullable=True, description="Inputs that calibration saw: `dense`, or block by block of the `pruned` model."
        ),
        "options": text(nullable=True, description="Numbers that differ from the published ones, as JSON; or null."),
        "rounds": text(
            nullable=True,
            description="Task and levels, up to this one, of iterative pruning, as JSON; null for one shot.",
        ),
        "sparsity": fraction(description="Target: fraction of the prunable weights to remove."),
        "realised_sparsity": fraction(description="Zeros counted in the model that was evaluated."),
        "task": text(description="Name in the registry of tasks."),
        "protocol": text(description="How the task is evaluated, such as `perplexity` or `finetune`."),
        "metric": text(description="What `value` is."),
        "value": number(description="The metric, in its own unit (accuracy is a fraction)."),
        "higher_is_better": flag(description="Direction of the metric."),
        "chance": number(description="The metric of a model that knows nothing."),
        "other_metrics": text(nullable=True, description="Further metrics of the same predictions, as JSON; or null."),
        "flags": text(description="What should be doubted, such as `dense at chance`; empty if nothing."),
        "notes": text(description="What a reader should know, such as how many texts were cut; empty if nothing."),
        "n": count(least=1, description="Predictions that the metric is computed from."),
        "seed": count(description="Seed of the mask and of fine-tuning; 0 where nothing is drawn."),
        "seconds": number(description="Wall time of the evaluation without start-up."),
        "peak_memory_mb": number(description="Peak of the process, 10^6 bytes; of the allocator on a GPU."),
        "device": text(description="`cpu` or the name of the GPU."),
        "workflow_commit": text(nullable=True, description="Commit of the workflow; null outside a git clone."),
        "torch_version": text(description="Version of torch."),
        "transformers_version": text(description="Version of transformers."),
    },
    unique=["model", "checkpoint", "method", "sparsity", "task", "seed"],
)

EXAMPLES = Schema(
    "examples",
    {
        "id": count(description="Row of the prepared dataset, number of the window, or of the item in its group."),
        "group": text(description="Subset of the task, such as `mismatched` or a subject of MMLU; else empty."),
        "label": text(description="The true answer; empty where there is none, as for perplexity."),
        "prediction": text(description="The model's answer; empty for perplexity."),
        "score": number(nullable=True, description="What the example adds to a metric that is a mean; else null."),
        "loss": number(nullable=True, description="Negative log-likelihood in nats; of a window, the mean a token."),
        "n": count(least=1, description="Predictions behind the row: tokens of a window, words, or 1."),
    },
    unique=["group", "id"],
)


def evaluation_places(rows: pd.DataFrame) -> list[str]:
    """Return where evaluations' files lie, by rows with their axes: ``model/checkpoint/method/0.300/task/seed``."""
    axes = rows[["model", "checkpoint", "method", "sparsity", "task", "seed"]].itertuples(index=False)
    return [f"{e.model}/{e.checkpoint}/{e.method}/{e.sparsity:.3f}/{e.task}/{e.seed}" for e in axes]
