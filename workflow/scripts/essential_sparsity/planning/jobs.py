"""The jobs behind a study's results, by the files of their costs, which are called as the results are."""

from __future__ import annotations

from collections.abc import Iterator

from essential_sparsity.study.asked import Evaluation
from essential_sparsity.study.registries import DENSE
from essential_sparsity.study.study import Study


def measured_places(study: Study) -> list[str]:
    """Return where measurements of weights are: of one checkpoint, or of all steps of a pre-training."""
    own = study.measured_pretrainings()
    return sorted({model if model in own else f"{model}/{checkpoint}" for model, checkpoint in study.weights})


def _pruning(study: Study, e: Evaluation) -> Iterator[str]:
    """Yield the jobs behind the mask of an evaluation; none of the dense model."""
    if e.method == DENSE:
        return
    slots, seed = study.method(e.method), study.mask_seed(e.method, e.seed)
    for level in study.masks_behind(e.method, e.sparsity):
        yield f"masks/{e.model}/{e.checkpoint}/{e.method}/{seed}/{level}"
    if slots.planned:
        yield f"plans/{e.model}/{e.checkpoint}/{e.method}/{seed}"
    if slots.dense_needs != "nothing":
        yield f"statistics/{e.model}/{e.checkpoint}/{slots.calibration}/{slots.dense_needs}"


def evaluation_costs(study: Study) -> list[str]:
    """Return the costs of the study's evaluations."""
    return [
        f"results/costs/evaluations/{e.model}/{e.checkpoint}/{e.method}/{e.sparsity}/{e.task}/{e.seed}.json"
        for e in study.evaluations
    ]


def other_costs(study: Study) -> list[str]:
    """Return the costs of the jobs behind the study's evaluations, sorted; tables and plots have none."""
    jobs = {f"datasets/{name}" for name in study.used_rows()}
    jobs |= {f"inputs/{model}/{task}" for model, task in study.preparations()}
    for e in study.evaluations:
        jobs |= {*_pruning(study, e)}
    for model, checkpoint in study.used_checkpoints():
        jobs |= {f"checkpoints/{model}/{checkpoint}", f"matrices/{model}"}
    jobs |= {f"pretraining/{model}" for model in study.pretrained_models()}
    jobs |= {f"weights/{place}" for place in measured_places(study)}
    jobs |= {f"steps/{model}" for model in study.used_trajectories()}
    jobs |= {f"downloads/{place}" for place in study.used_downloads()}
    jobs |= {f"sources/{source.release}" for source in study.used_wheels()}
    return sorted(f"results/costs/{job}.json" for job in jobs)
