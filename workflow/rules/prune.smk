"""Pruning: a packed mask for each level of sparsity."""


rule prune_weights:
    input:
        weights="results/checkpoints/{model}/{checkpoint}/model.safetensors",
        manifest="results/matrices/{model}.json",
    output:
        mask="results/masks/{model}/{checkpoint}/{method}/{seed}/{sparsity}.safetensors",
    log:
        "results/logs/prune_weights/{model}/{checkpoint}/{method}/{seed}/{sparsity}.log",
    benchmark:
        "results/benchmarks/prune_weights/{model}/{checkpoint}/{method}/{seed}/{sparsity}.jsonl"
    wildcard_constraints:
        method=one_of(study.methods),
    conda:
        "../../envs/workflow.yaml"
    threads: 1
    resources:
        gpu=0,
        mem_mb=lambda wildcards, input, attempt: attempt
        * (1500 + 2 * int(input.size_mb)),
        runtime=60,
    params:
        code=code("prune_weights.py"),
        method=lambda wildcards: canonical(study.slots(wildcards.method)),
    message:
        "Pruning {wildcards.model}, {wildcards.checkpoint}, to {wildcards.sparsity} by {wildcards.method}, seed {wildcards.seed}"
    script:
        "../scripts/prune_weights.py"
