"""Evaluation: one job for each checkpoint x method x sparsity x task x seed; a rule for each kind of protocol.

Needs: results/checkpoints, results/masks. Makes: results/inputs, results/evaluations.
"""

from essential_sparsity.study.protocols import EVALUATIONS


def evaluation_path(e):
    """Return the file of one evaluation."""
    return f"results/evaluations/{e.model}/{e.checkpoint}/{e.method}/{e.sparsity}/{e.task}/{e.seed}.parquet"


def evaluation_inputs(wildcards):
    """Return what an evaluation reads: the checkpoint, the prepared inputs, and the mask unless the model is dense."""
    folder = f"results/checkpoints/{wildcards.model}/{wildcards.checkpoint}"
    inputs = {
        **checkpoint_inputs(folder),
        "manifest": f"results/matrices/{wildcards.model}.json",
    }
    if prepared := study.preparation(wildcards.task):
        inputs["inputs"] = f"results/inputs/{wildcards.model}/{wildcards.task}.arrow"
        if prepared["kind"] == "spans":
            # Answers that are text are read off the texts themselves.
            inputs["rows"] = rows_path(wildcards.task)
    else:
        # Files that are read as they are: those of a folder, or, by their index, of a download.
        files = dataset_inputs(study.tasks[wildcards.task].dataset)
        if study.dataset_of(wildcards.task).source.kind == "hub":
            inputs["index"], inputs["dataset"] = files
        else:
            inputs["files"] = files
    if wildcards.method != "dense":
        seed = study.mask_seed(wildcards.method, int(wildcards.seed))
        inputs["mask"] = mask_path(
            wildcards.model,
            wildcards.checkpoint,
            wildcards.method,
            seed,
            wildcards.sparsity,
        )
    return inputs


rule prepare_inputs:
    # Tokenised texts, or resized images: the same for all checkpoints of a model, which share its vocabulary.
    input:
        rows=lambda wildcards: rows_path(wildcards.task),
        companions=lambda wildcards: f"{last_checkpoint(wildcards.model)}/companions",
    output:
        inputs="results/inputs/{model}/{task}.arrow",
        cost="results/costs/inputs/{model}/{task}.json",
    log:
        "results/logs/prepare_inputs/{model}/{task}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("prepare_inputs"),
    params:
        code=code("prepare_inputs.py"),
        task=lambda wildcards: canonical(study.preparation(wildcards.task)),
        where=lambda wildcards: f"model {wildcards.model}, {study.where('tasks', wildcards.task)}",
    message:
        "Preparing {wildcards.task} for {wildcards.model}"
    script:
        "../scripts/prepare_inputs.py"


# What a rule's script is given besides.
OTHERS = {
    "evaluate_benchmark": {
        "source": lambda wildcards: canonical(
            plain(study.dataset_of(wildcards.task).source)
        ),
    },
    # States of a training that saves some: not an output, which Snakemake would remove when the job fails.
    "finetune_model": {
        "states": "results/states/finetuning/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}"
    },
}

for rule, begin in EVALUATIONS.items():

    rule:
        name:
            rule
        input:
            unpack(evaluation_inputs),
        output:
            row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
            examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
            cost="results/costs/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
        log:
            f"results/logs/{rule}/{{model}}/{{checkpoint}}/{{method}}/{{sparsity}}/{{task}}/{{seed}}.log",
        wildcard_constraints:
            task=one_of(study.tasks_by(rule)),
        conda:
            "../../envs/workflow.yaml"
        threads: 1
        resources:
            **needs(rule, of_task),
        params:
            **OTHERS.get(rule, {}),
            code=code(f"{rule}.py"),
            task=lambda wildcards: task_entry(wildcards.task),
            method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
        message:
            f"{begin} {{wildcards.model}}, {{wildcards.checkpoint}}, {{wildcards.method}} at {{wildcards.sparsity}} on {{wildcards.task}}, seed {{wildcards.seed}}"
        # Asked again by each job, to which Snakemake gives its rule's name as `rule`, too.
        script:
            f"../scripts/{rule}.py"


check_batches(
    "finetune_model", {*study.used_tasks()} & {*study.tasks_by("finetune_model")}
)
