"""Evaluation: one job for each checkpoint x method x sparsity x task x seed; a rule for each protocol."""


rule evaluate_perplexity:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
    log:
        "results/logs/evaluate_perplexity/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    benchmark:
        "results/benchmarks/evaluate_perplexity/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.jsonl"
    wildcard_constraints:
        task=one_of(study.tasks_with("perplexity")),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=lambda wildcards, input, attempt: attempt
        * (3000 + 3 * int(input.size_mb)),
        runtime=60,
    params:
        code=code("evaluate_perplexity.py"),
        task=lambda wildcards: canonical(study.task(wildcards.task)),
        method=lambda wildcards: canonical(study.slots(wildcards.method)),
    message:
        "Perplexity of {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} at {wildcards.sparsity} on {wildcards.task}, seed {wildcards.seed}"
    script:
        "../scripts/evaluate_perplexity.py"


rule finetune_model:
    input:
        unpack(evaluation_inputs),
    output:
        row="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.parquet",
        examples="results/evaluations/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.examples.parquet",
    log:
        "results/logs/finetune_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.log",
    benchmark:
        "results/benchmarks/finetune_model/{model}/{checkpoint}/{method}/{sparsity}/{task}/{seed}.jsonl"
    wildcard_constraints:
        task=one_of(study.tasks_with("finetune")),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=lambda wildcards, input, attempt: attempt
        * (3000 + 8 * int(input.size_mb)),
        runtime=240,
    params:
        code=code("finetune_model.py"),
        task=lambda wildcards: canonical(study.task(wildcards.task)),
        method=lambda wildcards: canonical(study.slots(wildcards.method)),
    message:
        "Fine-tuning {wildcards.model}, {wildcards.checkpoint}, {wildcards.method} at {wildcards.sparsity} on {wildcards.task}, seed {wildcards.seed}"
    script:
        "../scripts/finetune_model.py"
