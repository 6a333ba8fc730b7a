"""Evaluation: one job for each checkpoint x method x sparsity x task x seed; a rule for each kind of protocol."""


rule prepare_inputs:
    # Tokenised texts, or resized images: the same for all checkpoints of a model, which share its vocabulary.
    input:
        rows=lambda wildcards: rows_path(wildcards.task),
        provenance=lambda wildcards: f"{last_checkpoint(wildcards.model)}/provenance.json",
        config=lambda wildcards: f"{last_checkpoint(wildcards.model)}/config.json",
        beside=lambda wildcards: checkpoint_files(last_checkpoint(wildcards.model)),
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


rule evaluate_language_model:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
        cost="results/costs/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/evaluate_language_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=one_of(study.tasks_with("perplexity", "masked_tokens")),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("evaluate_language_model", of_task),
    params:
        code=code("evaluate_language_model.py"),
        task=lambda wildcards: task_entry(wildcards.task),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
    message:
        "Language modelling of {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} at {wildcards.sparsity} on {wildcards.task}, seed {wildcards.seed}"
    script:
        "../scripts/evaluate_language_model.py"


rule evaluate_benchmark:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
        cost="results/costs/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/evaluate_benchmark/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=one_of(study.tasks_with("lm_eval")),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("evaluate_benchmark", of_task),
    params:
        code=code("evaluate_benchmark.py"),
        task=lambda wildcards: task_entry(wildcards.task),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
        # Of a dataset of the hub they lie beside its index.
        folder=lambda wildcards: study.dataset_of(wildcards.task)["source"].get(
            "path", ""
        ),
        repository=lambda wildcards: study.dataset_of(wildcards.task)["source"].get(
            "repository", ""
        ),
    message:
        "Benchmark of {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} at {wildcards.sparsity} on {wildcards.task}, seed {wildcards.seed}"
    script:
        "../scripts/evaluate_benchmark.py"


rule evaluate_representation:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
        cost="results/costs/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/evaluate_representation/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=one_of(study.tasks_with("linear_probe", "knn")),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("evaluate_representation", of_task),
    params:
        code=code("evaluate_representation.py"),
        task=lambda wildcards: task_entry(wildcards.task),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
    message:
        "Representation of {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} at {wildcards.sparsity} on {wildcards.task}, seed {wildcards.seed}"
    script:
        "../scripts/evaluate_representation.py"


rule finetune_model:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
        cost="results/costs/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/finetune_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=one_of(study.tasks_with("finetune")),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        **needs("finetune_model", of_task),
    params:
        code=code("finetune_model.py"),
        task=lambda wildcards: task_entry(wildcards.task),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
        # States of a training that saves some: not an output, which Snakemake would remove when the job fails.
        states="results/finetuning/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}",
    message:
        "Fine-tuning {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} at {wildcards.sparsity} on {wildcards.task}, seed {wildcards.seed}"
    script:
        "../scripts/finetune_model.py"


check_batches("finetune_model", {*study.used_tasks()} & {*study.tasks_with("finetune")})
