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


rule evaluate_language_model:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
        cost="results/costs/evaluate_language_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/evaluate_language_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=evaluated_by("evaluate_language_model"),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("evaluate_language_model"),
        gpu_mem_mb=gpu_memory("evaluate_language_model"),
        disk_mb=disk("evaluate_language_model"),
        runtime=time_limit("evaluate_language_model"),
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
        cost="results/costs/evaluate_benchmark/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/evaluate_benchmark/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=evaluated_by("evaluate_benchmark"),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("evaluate_benchmark"),
        gpu_mem_mb=gpu_memory("evaluate_benchmark"),
        disk_mb=disk("evaluate_benchmark"),
        runtime=time_limit("evaluate_benchmark"),
    params:
        code=code("evaluate_benchmark.py"),
        task=lambda wildcards: task_entry(wildcards.task),
        method=lambda wildcards: method_entry(wildcards.method, wildcards.sparsity),
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
        cost="results/costs/evaluate_representation/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/evaluate_representation/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=evaluated_by("evaluate_representation"),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("evaluate_representation"),
        gpu_mem_mb=gpu_memory("evaluate_representation"),
        disk_mb=disk("evaluate_representation"),
        runtime=time_limit("evaluate_representation"),
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
        cost="results/costs/finetune_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.json",
    log:
        "results/logs/finetune_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    wildcard_constraints:
        task=evaluated_by("finetune_model"),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=memory("finetune_model"),
        gpu_mem_mb=gpu_memory("finetune_model"),
        disk_mb=disk("finetune_model"),
        runtime=time_limit("finetune_model"),
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
