"""Evaluation: one job for each checkpoint x method x sparsity x task x seed; a rule for each kind of protocol."""


rule prepare_inputs:
    # Tokenised texts, or resized images: the same for all checkpoints of a model, which share its vocabulary.
    input:
        rows=lambda wildcards: rows_path(wildcards.task),
        provenance=lambda wildcards: f"{last_checkpoint(wildcards.model)}/provenance.json",
        companions=lambda wildcards: f"{last_checkpoint(wildcards.model)}/companions",
    output:
        inputs="results/inputs/{model}/{task}.arrow",
        cost="results/costs/prepare_inputs/{model}/{task}.json",
    log:
        "results/logs/prepare_inputs/{model}/{task}.log",
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        mem_mb=memory("prepare_inputs"),
        disk_mb=disk("prepare_inputs"),
        runtime=time_limit("prepare_inputs"),
    params:
        code=code("prepare_inputs.py"),
        task=lambda wildcards: canonical(study.preparation(wildcards.task)),
        where=lambda wildcards: f"model {wildcards.model}, {study.where('tasks', wildcards.task)}",
    message:
        "Preparing {wildcards.task} for {wildcards.model}"
    script:
        "../scripts/prepare_inputs.py"


# For each rule that evaluates: how its message begins, and what its script is given besides.
EVALUATIONS = {
    "evaluate_language_model": ("Language modelling of", {}),
    "evaluate_benchmark": (
        "Benchmark of",
        {
            "folder": lambda wildcards: source_of(wildcards.task).get("path", ""),
            "repository": lambda wildcards: source_of(wildcards.task).get(
                "repository", ""
            ),
        },
    ),
    "evaluate_representation": ("Representation of", {}),
    "finetune_model": (
        "Fine-tuning",
        # States of a training that saves some: not an output, which Snakemake would remove when the job fails.
        {
            "states": "results/finetuning/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}"
        },
    ),
}

for rule, (begin, others) in EVALUATIONS.items():

    rule:
        name:
            rule
        input:
            unpack(evaluation_inputs),
        output:
            row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
            examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
            cost=f"results/costs/{rule}/{{model}}/{{checkpoint}}/{{method}}/{{sparsity}}/{{task}}/{{seed}}.json",
        log:
            f"results/logs/{rule}/{{model}}/{{checkpoint}}/{{method}}/{{sparsity}}/{{task}}/{{seed}}.log",
        wildcard_constraints:
            task=evaluated_by(rule),
        conda:
            "../../envs/workflow.yaml"
        threads: 1
        resources:
            gpu=0,
            mem_mb=memory(rule),
            gpu_mem_mb=gpu_memory(rule),
            disk_mb=disk(rule),
            runtime=time_limit(rule),
        params:
            **others,
            code=code(f"{rule}.py"),
            task=lambda wildcards: task_entry(wildcards.task),
            method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
        message:
            f"{begin} {{wildcards.model}}, {{wildcards.checkpoint}}, {{wildcards.method}} at {{wildcards.sparsity}} on {{wildcards.task}}, seed {{wildcards.seed}}"
        # Asked again by each job, to which Snakemake gives its rule's name as `rule`, too.
        script:
            f"../scripts/{rule}.py"
